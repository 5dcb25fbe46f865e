"""The gateway as a whole: real nginx before servers that say who they are."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from media_pipeline_tests._gateway import (
    HASHES,
    OPERATOR,
    VIEWER,
    Echo,
    Stack,
    basic,
    children,
    free_port,
    needs_nginx,
    prepare,
    raw,
    stack,
    start,
    stop,
    wait_for,
)

pytestmark = [pytest.mark.slow, needs_nginx]

ROUTES = (
    "/",
    "/runs",
    "/graphql",
    "/server_info",
    "/logs/x",
    "/report_asset_materialization/x",
    "/healthz",
    "/grafana/",
    "/grafana/api/health",
    "/prometheus/",
    "/prometheus/api/v1/query",
    "/alertmanager/",
    "/upload",
    "/upload/",
    "/upload/a.jpg",
    "/upload/tus/",
    "/upload/tus/AAAAAAAAAAAAAAAAAAAAAA",
    "/gateway/upload.js",
    "/oauth2/start",
    "/metrics",
    "/.env",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "MOVE", "COPY", "LOCK")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # Wrong passwords have a test of their own; the others of this file must not be stopped by them.
    with stack(tmp_path_factory.mktemp("g"), GATEWAY_FAILURES="1000") as made:
        yield made


def test_nothing_without_sign_in(gateway: Stack) -> None:
    def reached() -> int:
        return sum(len(one.seen) for one in gateway.upstreams.values())

    before = reached()
    with gateway.client() as client:
        for path in ROUTES:
            for method in METHODS:
                for headers in ({}, {"Authorization": basic(("olga", "wrong")), "X-Auth-User": "olga"}):
                    answer = client.request(method, path, headers=headers)
                    assert answer.status_code in (401, 302), f"{method} {path}: {answer.status_code}"
                    assert answer.headers.get("Strict-Transport-Security")
                    assert "service" not in answer.text and len(answer.content) < 500
                    if answer.status_code == 401:
                        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert reached() == before, "no upstream heard of it"
    assert [path.name for path in gateway.inbox.iterdir()] == [".upload"]


def test_internal_places_cannot_be_asked_for(gateway: Stack) -> None:
    with gateway.client(OPERATOR) as client:
        for path in ("/_sign_in/any", "/_sign_in/operator", "/_dav/x", "/_page"):
            assert client.get(path).status_code == 404


def test_roles_decide_which_webserver(gateway: Stack) -> None:
    for who, service, role in ((OPERATOR, "webserver", "operator"), (VIEWER, "viewer", "viewer")):
        with gateway.client(who) as client:
            for path in ("/", "/runs/abc?x=1", "/asset-groups/a%20b/"):
                told = client.get(path).json()
                assert (told["service"], told["path"]) == (service, path)
                headers = told["headers"]
                assert (headers["x-auth-user"], headers["x-auth-role"]) == (who[0], role)
                assert headers["x-forwarded-proto"] == "https"
                assert "authorization" not in headers, "no upstream needs a password"
            told = client.post("/graphql", json={"query": "{ version }"}).json()
            assert told["service"] == service


def test_a_client_cannot_say_who_it_is(gateway: Stack) -> None:
    lies = {"X-Auth-User": "olga", "X-Auth-Role": "operator", "X-WEBAUTH-USER": "admin", "X-WEBAUTH-ROLE": "Admin"}
    with gateway.client(VIEWER) as client:
        told = client.get("/", headers=lies).json()
        assert told["service"] == "viewer" and told["headers"]["x-auth-user"] == "victor"
        assert "x-webauth-user" not in told["headers"]
        told = client.get("/grafana/", headers=lies).json()
        assert told["headers"]["x-webauth-user"] == "victor" and told["headers"]["x-webauth-role"] == "Viewer"
    with gateway.client(OPERATOR) as client:
        assert client.get("/grafana/").json()["headers"]["x-webauth-role"] == "Editor"


def test_services_behind_their_paths(gateway: Stack) -> None:
    with gateway.client(OPERATOR) as operator, gateway.client(VIEWER) as viewer:
        for path, service, for_all in (
            ("/healthz", "metrics", True),
            ("/grafana/d/x", "grafana", True),
            ("/prometheus/graph", "prometheus", False),
            ("/alertmanager/x", "alertmanager", False),
        ):
            assert operator.get(path).json()["service"] == service
            answer = viewer.get(path)
            assert answer.status_code == (200 if for_all else 403)
            assert for_all or "operators" in answer.text
        assert viewer.get("/upload/").status_code == 403
        assert viewer.put("/upload/a.jpg", content=b"x").status_code == 403
        assert not (gateway.inbox / "a.jpg").exists()


def test_graphql_is_asked_in_the_way_of_the_ui_only(gateway: Stack) -> None:
    """Dagster would run what is in the query string: a picture in a foreign page could start runs."""
    webserver = gateway.upstreams["webserver"]
    mutation = "mutation{launchRun{__typename}}"
    with gateway.client(OPERATOR) as client:
        before = len(webserver.seen)
        assert client.get("/graphql", params={"query": mutation}).status_code == 405
        assert client.get("/graphql", params={"%71uery": mutation}, headers={"Accept": "image/*"}).status_code == 405
        assert client.post("/graphql", params={"query": mutation}, content=b"x").status_code == 405
        assert client.post("/graphql", content=mutation, headers={"Content-Type": "text/plain"}).status_code == 405
        tricky = {"Content-Type": "text/plain;application/json"}
        assert client.post("/graphql", content=mutation, headers=tricky).status_code == 405
        assert len(webserver.seen) == before
        assert client.get("/graphql", headers={"Accept": "text/html"}).status_code == 200, "GraphiQL"


def test_a_page_of_another_site_does_nothing(gateway: Stack) -> None:
    own = f"https://127.0.0.1:{gateway.https}"
    with gateway.client(OPERATOR) as client:
        body = {"query": "mutation A { x }"}
        assert client.post("/graphql", json=body, headers={"Origin": own}).status_code == 200
        for origin in ("https://evil.example", "null", f"http://127.0.0.1:{gateway.https}", own + ".evil.example"):
            assert client.post("/graphql", json=body, headers={"Origin": origin}).status_code == 403
            assert client.put("/upload/x.jpg", content=b"x", headers={"Origin": origin}).status_code == 403
        assert gateway.audited(status=403, path="/graphql", method="POST")
    assert b"403" in websocket(gateway, OPERATOR, origin="https://evil.example")


def websocket(gateway: Stack, who: tuple[str, str], origin: str = "") -> bytes:
    text = b"hello"
    request = (
        (
            f"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:{gateway.https}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Authorization: {basic(who)}\r\nSec-WebSocket-Key: {base64.b64encode(b'0' * 16).decode()}\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: graphql-ws\r\n"
            + (f"Origin: {origin}\r\n" if origin else "")
            + "\r\n"
        ).encode()
        + bytes([0x81, 0x80 | len(text), 0, 0, 0, 0])
        + text
    )
    return raw(gateway.https, request, patience=5)


def test_websockets_reach_the_webserver_of_the_role(gateway: Stack) -> None:
    own = f"https://127.0.0.1:{gateway.https}"
    answer = websocket(gateway, OPERATOR, own)
    assert b"101 Switching" in answer and b"webserver heard hello" in answer
    assert b"viewer heard hello" in websocket(gateway, VIEWER)
    assert b"401" in websocket(gateway, ("olga", "wrong"))


def test_headers_and_redirect(gateway: Stack) -> None:
    with gateway.client(OPERATOR) as client:
        answer = client.get("/")
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert answer.headers["Server"] == "nginx", "no version"
        assert "Content-Security-Policy" not in answer.headers, "Dagster has one of its own"
        page = client.get("/upload/")
        assert "script-src 'self'" in page.headers["Content-Security-Policy"] and "<script" in page.text
    plain = httpx.get(f"http://127.0.0.1:{gateway.http}/runs?a=b", trust_env=False)
    assert plain.status_code == 301
    assert plain.headers["Location"] == f"https://127.0.0.1:{gateway.https}/runs?a=b"
    assert (
        httpx.get(f"http://127.0.0.1:{gateway.http}/.well-known/acme-challenge/x", trust_env=False).status_code == 404
    )
    traversal = raw(gateway.http, b"GET /.well-known/acme-challenge/../../secrets/users HTTP/1.0\r\n\r\n", tls=False)
    assert b"$2y$" not in traversal


def test_bodies_are_small_but_for_uploads(gateway: Stack) -> None:
    with gateway.client(OPERATOR) as client:
        assert client.post("/graphql", json={"query": "x" * 9_000_000}).status_code == 413
        assert client.put("/upload/nine.jpg", content=b"x" * 9_000_000).status_code == 201
        (gateway.inbox / "nine.jpg").unlink()


def test_many_requests_of_a_page_are_not_limited(gateway: Stack) -> None:
    with gateway.client(VIEWER, limits=httpx.Limits(max_connections=60)) as client, ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda number: client.get(f"/asset/{number}").status_code, range(300)))
    assert answers == [200] * 300


def test_wrong_passwords_are_limited(tmp_path: Path) -> None:
    with stack(tmp_path, GATEWAY_FAILURES="3", GATEWAY_FAILURE_SECONDS="4") as gateway:
        with gateway.client(VIEWER) as signed_in:
            assert signed_in.get("/").status_code == 200
            with gateway.client() as client:
                for number in range(3):
                    wrong = {"Authorization": basic(("olga", f"guess{number}"))}
                    assert client.get("/", headers=wrong).status_code == 401
                answer = client.get("/", headers={"Authorization": basic(("olga", "guess"))})
                assert answer.status_code == 429 and "try again in" in answer.text
                assert 1 <= int(answer.headers["Retry-After"]) <= 4
                assert client.get("/", headers={"Authorization": basic(OPERATOR)}).status_code == 429
                assert client.get("/").status_code == 401, "a browser without a password is asked for one"
            assert signed_in.get("/").status_code == 200, "people at the same address go on"
        with gateway.client(OPERATOR) as client:
            wait_for(lambda: client.get("/").status_code == 200, "the address may try again", 20)
        assert gateway.audited(status=429)["who"] == "olga"
        assert gateway.audited(status=401, who="olga"), "a known name with a wrong password"


def test_audit_log(gateway: Stack) -> None:
    query = {"operationName": "Peaceful", "variables": {}, "query": "query Peaceful { runs { id } }"}
    change = {
        "operationName": "LaunchRuns",
        "variables": {"secret": "hidden-value"},
        "query": "mutation LaunchRuns {x}",
    }
    with gateway.client(OPERATOR) as client:
        client.post("/graphql", json=query)
        client.post("/graphql?token=tok-in-query", json=change)
        client.post(
            "/graphql",
            content=json.dumps({"query": "mut\\u0061tion X { y }"}).replace("\\\\", "\\"),
            headers={"Content-Type": "application/json"},
        )
        client.post("/graphql", json={"query": "mutation Large { x }", "variables": {"x": "y" * 400_000}})
        client.get("/runs?token=tok-in-query", headers={"Referer": f"{gateway.url}/?token=tok-in-query"})
        client.put('/upload/Urlaub ü "1".jpg?token=tok-in-query', content=b"picture")
    line = gateway.audited(operation="LaunchRuns")
    assert line == line | {
        "who": "olga",
        "role": "operator",
        "method": "POST",
        "path": "/graphql",
        "status": 200,
        "address": "127.0.0.1",
    }
    assert line["bytes_in"] > 100 and line["bytes_out"] > 100 and "T" in line["time"] and line["seconds"] >= 0
    upload = gateway.audited(method="PUT", status=201, file='Urlaub ü "1".jpg')
    assert upload["who"] == "olga"
    lines = [
        one for one in gateway.audit() if one["path"] == "/graphql" and one["status"] == 200 and one["who"] == "olga"
    ]
    assert any(one["bytes_in"] > 400_000 for one in lines), "what cannot be read counts as a change"
    assert any(one["operation"] == "" and one["bytes_in"] < 1000 for one in lines), "nor can what hides itself"
    assert not [one for one in gateway.audit() if one["operation"] == "Peaceful"]
    assert not [one for one in gateway.audit() if one["path"].startswith("/runs") and one["status"] == 200]


def test_no_log_holds_a_secret(gateway: Stack) -> None:
    """After everything above: passwords, their base64, hashes, bodies, tokens in addresses and referrers."""
    with gateway.client(OPERATOR) as client:
        client.get("/?token=tok-in-query", headers={"Referer": f"{gateway.url}/?token=tok-in-query"})
        # An error of nginx, which quotes the request.
        gateway.upstreams["metrics"].close()
        assert client.get("/healthz?token=tok-in-query").status_code == 502
    port = gateway.upstreams["metrics"].port
    gateway.upstreams["metrics"] = Echo("metrics", port)
    wait_for(lambda: "/healthz?…" in gateway.log(), "the error is logged", 10)
    text = gateway.log() + (gateway.folder / "upload.log").read_text()
    text += "".join(path.read_text() for path in (gateway.folder / "logs").iterdir())
    for secret in ("tok-in-query", "hidden-value", OPERATOR[1], VIEWER[1], HASHES["olga"][7:30]):
        assert secret not in text
    for who in (OPERATOR, VIEWER):
        assert basic(who).split()[1] not in text


def test_an_absent_service_is_named_and_comes_back(tmp_path: Path) -> None:
    """By name, as Docker gives them: unknown while the container is away."""
    port = free_port()
    with (
        stack(tmp_path, GATEWAY_WEBSERVER=f"webserver:{port}", GATEWAY_GRAFANA="grafana:3000") as gateway,
        gateway.client(OPERATOR) as client,
    ):
        answer = client.get("/")
        assert answer.status_code == 502
        assert f"'webserver:{port}' does not answer" in answer.text and "docker compose logs" in answer.text
        answer = client.get("/grafana/")
        assert answer.status_code == 502 and "MONITORING=1 make up" in answer.text
        gateway.names.known["webserver"] = "127.0.0.1"
        webserver = Echo("webserver", port)
        wait_for(lambda: client.get("/").status_code == 200, "the service is found when it is there", 30)
        webserver.close()
        assert wait_for(lambda: client.get("/").status_code == 502, "the service has gone", 30)
        again = Echo("webserver again", port)
        wait_for(lambda: client.get("/").json()["service"] == "webserver again", "the restarted one is found", 30)
        again.close()
        stop(gateway.processes.pop("upload"))
        answer = client.put("/upload/a.jpg", content=b"x")
        assert answer.status_code == 502 and "does not answer" in answer.text


def test_users_change_while_it_runs(tmp_path: Path) -> None:
    with stack(tmp_path) as gateway, gateway.client(VIEWER) as client:
        assert client.get("/").json()["service"] == "viewer"
        (gateway.secrets / "operators").write_text("olga\nvictor\n")
        assert client.get("/").json()["service"] == "webserver"
        (gateway.secrets / "users").write_text(f"olga:{HASHES['olga']}\n")
        assert client.get("/").status_code == 401


def test_the_audit_log_is_rotated(tmp_path: Path) -> None:
    with stack(tmp_path, GATEWAY_AUDIT_BYTES="2000", GATEWAY_AUDIT_FILES="2") as gateway:
        logs = gateway.folder / "logs"
        seen: set[str] = set()
        with gateway.client(OPERATOR) as client:

            def rotated() -> bool:
                for _ in range(10):
                    assert client.delete("/upload/nothing.jpg").status_code == 404
                seen.update(path.name for path in logs.glob("audit-*.gz"))
                return len(seen) >= 4

            def noted() -> bool:
                logged = (
                    gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in logs.iterdir()
                )
                return any(b"last.jpg" in text for text in logged)

            wait_for(rotated, "four full logs")
            assert client.delete("/upload/last.jpg").status_code == 404
            wait_for(noted, "nothing is lost on the way")
        wait_for(lambda: len(list(logs.glob("audit-*"))) <= 3, "the oldest go")
        assert gateway.processes["run"].poll() is None


def test_wrong_settings_end_the_start(tmp_path: Path) -> None:
    for number, (name, value) in enumerate(
        (
            ("MEDIA_PIPELINE_SERVER__TLS", "letsencrypt"),
            ("MEDIA_PIPELINE_SERVER__DOMAIN", "https://x"),
            ("GATEWAY_LOGS", "/proc/nowhere"),
        )
    ):
        made = prepare(tmp_path / str(number), **{name: value})
        try:
            log = made.folder / "gateway.log"
            process = start("run", made.environment, log)
            assert process.wait(timeout=60) == 2
            said = log.read_text()
            assert (name if name.startswith("MEDIA") else value) in said and ("mend" in said or "mount" in said)
            assert "Traceback" not in said
        finally:
            made.close()


def test_health_and_orderly_end(tmp_path: Path) -> None:
    with stack(tmp_path) as gateway:
        log = tmp_path / "healthy.log"
        assert start("healthy", gateway.environment, log).wait(timeout=30) == 0
        began = time.monotonic()
        assert stop(gateway.processes.pop("run")) == 0
        assert time.monotonic() - began < 15
        assert start("healthy", gateway.environment, log).wait(timeout=30) != 0
        assert "Traceback" not in gateway.log()


def test_nginx_that_ends_ends_the_container(tmp_path: Path) -> None:
    """So that Docker starts it anew."""
    with stack(tmp_path) as gateway:
        pid = int((gateway.folder / "run" / "nginx.pid").read_text())
        workers = children(pid)
        os.kill(pid, 9)
        try:
            assert gateway.processes["run"].wait(timeout=30) == 1
            wait_for(lambda: "nginx has ended" in gateway.log(), "it says so", 10)
        finally:
            # In a container they end with the first process.
            for worker in workers:
                os.kill(worker, 9)


def test_old_tls_is_refused(gateway: Stack) -> None:
    def shake(**limits: ssl.TLSVersion) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = limits["least"]
        context.maximum_version = limits["most"]
        plain = socket.create_connection(("127.0.0.1", gateway.https), timeout=20)
        with plain, context.wrap_socket(plain) as connection:
            return f"{connection.version()} {connection.cipher()}"

    v = ssl.TLSVersion
    assert shake(least=v.TLSv1_3, most=v.TLSv1_3).startswith("TLSv1.3")
    assert "ECDHE" in shake(least=v.TLSv1_2, most=v.TLSv1_2)
    with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, OSError)):
        shake(least=v.TLSv1, most=v.TLSv1_1)
