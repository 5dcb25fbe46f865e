"""Pages of others do not operate the UI: what is let through to Dagster, and what is turned away with which words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from dagster_webserver import cli
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket

from media_pipeline.config import load_settings
from media_pipeline.server import webserver
from media_pipeline.server.webserver import Guard

HERE = "http://127.0.0.1:3000"
JSON = {"Content-Type": "application/json"}
FOREIGN = {"Origin": "https://evil.example"}
CROSS_SITE = {"Sec-Fetch-Site": "cross-site"}
LINK = CROSS_SITE | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


async def _echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("heard")
    await websocket.close()


def ui(base: str = HERE, host: str = "127.0.0.1", *names: str) -> TestClient:
    routes = [
        WebSocketRoute("/graphql", _echo),
        Route("/{path:path}", lambda _: PlainTextResponse("done"), methods=["GET", "POST"]),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(Guard, host=host, names=names)
    return TestClient(app, base_url=base)


def status(method: str, path: str, headers: dict[str, str] | None = None) -> int:
    return ui().request(method, path, headers=headers).status_code


# --- what a page can send without asking ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/graphql?query=mutation{x}", {}),
        ("GET", "/graphql?query=mutation{x}", {"Accept": "text/html"}),
        ("GET", "/graphql?query=mutation{x}", CROSS_SITE | {"Accept": "image/*"}),
        ("GET", "/graphql", LINK | {"Accept": "text/html"}),
        ("POST", "/graphql?query=mutation{x}", {}),
        ("POST", "/graphql?query=mutation{x}", {"Content-Type": "text/plain"}),
        ("POST", "/graphql", {"Content-Type": "text/plain; application/json"}),
        ("POST", "/graphql", {"Content-Type": "application/graphql"}),
        ("POST", "/graphql", JSON | FOREIGN),
        ("POST", "/graphql", JSON | {"Origin": "null"}),
        ("POST", "/graphql", JSON | {"Origin": "http://127.0.0.1:8080"}),
        ("POST", "/graphql", JSON | CROSS_SITE),
        ("POST", "/report_asset_materialization/ocr", FOREIGN),
        ("POST", "/report_asset_materialization/ocr", LINK),
        ("GET", "/logs/run/stdout", CROSS_SITE | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}),
        ("GET", "/runs", LINK | {"Sec-Fetch-Dest": "iframe"}),
    ],
)
def test_a_page_of_others_is_turned_away(method: str, path: str, headers: dict[str, str]) -> None:
    answer = ui().request(method, path, headers=headers)
    expected = 403 if "Origin" in headers or "Sec-Fetch-Site" in headers else 405
    assert answer.status_code == expected
    assert ("another site" if expected == 403 else "POST and application/json") in answer.text


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/graphql", JSON),
        ("POST", "/graphql", {"Content-Type": "application/json; charset=utf-8", "Origin": HERE}),
        ("POST", "/graphql?op=Runs", JSON | {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}),
        ("GET", "/graphql", {"Accept": "text/html,*/*"}),
        ("GET", "/runs/abc", {"Sec-Fetch-Site": "none"}),
        ("GET", "/runs/abc?focus=x", LINK),
        ("GET", "/server_info", {}),
        ("POST", "/report_asset_materialization/ocr", {}),
    ],
)
def test_the_ui_and_scripts_are_served(method: str, path: str, headers: dict[str, str]) -> None:
    assert status(method, path, headers) == 200


def test_subscriptions_are_for_the_ui_only() -> None:
    for headers in ({}, {"Origin": HERE}):
        with ui().websocket_connect(f"{HERE}/graphql".replace("http", "ws"), headers=headers) as socket:
            assert socket.receive_text() == "heard"
    for headers in (FOREIGN, {"Origin": "null"}, CROSS_SITE, {"Host": "evil.example"}):
        refused = pytest.raises(WebSocketDenialResponse)
        with refused as caught, ui().websocket_connect("ws://127.0.0.1:3000/graphql", headers=headers):
            pass
        assert caught.value.status_code == 403


# --- names that lead here -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listens", "names", "own", "others"),
    [
        (
            "127.0.0.1",
            (),
            ["127.0.0.1:3000", "localhost:3000", "LOCALHOST", "localhost.", "[::1]:3000", "127.0.0.2"],
            [
                "evil.example",
                "127.0.0.1.evil.example",
                "localhost.evil.example:3000",
                "192.168.1.5:3000",
                "x@localhost",
            ],
        ),
        ("localhost", (), ["127.0.0.1:3000", "localhost:3000"], ["evil.example"]),
        ("0.0.0.0", (), ["192.168.1.5:3000", "[fd00::5]:3000", "localhost"], ["evil.example", "nas:3000"]),
        ("192.168.1.5", (), ["192.168.1.5:3000", "127.0.0.1"], ["192.168.1.6", "evil.example"]),
        ("127.0.0.1", ("Media.example.org", "nas"), ["media.example.org", "nas:3000"], ["evil.example", "x.nas"]),
        ("0.0.0.0", ("*",), ["evil.example", "webserver:3000"], []),
    ],
)
def test_only_own_names_lead_here(listens: str, names: tuple[str, ...], own: list[str], others: list[str]) -> None:
    client = ui(HERE, listens, *names)
    for host in own:
        assert client.get("/server_info", headers={"Host": host}).status_code == 200, host
    for host in others:
        answer = client.get("/server_info", headers={"Host": host})
        assert answer.status_code == 403, host
        assert f"'{host}' is none of its names" in answer.text and "MEDIA_PIPELINE_UI_HOSTS" in answer.text


def test_the_origin_must_be_the_name_it_was_asked_by() -> None:
    """Also where any name will do: behind the gateway."""
    behind = ui(HERE, "0.0.0.0", "*")
    public = {"Host": "media.example.org:8443"}
    assert behind.get("/x", headers=public | {"Origin": "https://media.example.org:8443"}).status_code == 200
    assert behind.get("/x", headers=public | {"Origin": "https://media.example.org"}).status_code == 403
    assert behind.get("/x", headers=public | FOREIGN).status_code == 403


def test_names_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().ui_hosts == ()
    monkeypatch.setenv("MEDIA_PIPELINE_UI_HOSTS", "media.example.org, nas")
    assert load_settings().ui_hosts == ("media.example.org", "nas")


# --- Dagster's own command ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dagsters_command_serves_a_guarded_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are understood as before, and what it would serve turns away pages of others."""
    codes: list[int] = []

    def serve(app: Starlette, *, host: str, **_: Any) -> None:
        for name in (host, "nas", "evil.example"):
            client = TestClient(app, base_url=f"http://{name}:3000")
            codes.append(client.get("/media/server_info").status_code)
            codes.append(client.get("/media/graphql?query={version}").status_code)

    monkeypatch.setenv("MEDIA_PIPELINE_UI_HOSTS", "nas")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "configure_loggers", lambda **_: None)
    monkeypatch.setattr(cli.uvicorn, "run", serve)
    monkeypatch.setattr(cli, "create_app_from_workspace_process_context", cli.create_app_from_workspace_process_context)
    options = ["--host=10.0.0.5", "--port=3000", "--path-prefix=/media", "--empty-workspace"]
    monkeypatch.setattr(sys, "argv", ["webserver", *options])
    with pytest.raises(SystemExit):
        webserver.main()
    assert codes == [200, 405, 200, 405, 403, 403]
