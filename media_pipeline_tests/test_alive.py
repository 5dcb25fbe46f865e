"""Health checks of the server's containers tell who answers from who does not."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from media_pipeline.server import alive


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def asked(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["alive", *map(str, arguments)])
        return alive.main(), capsys.readouterr().out

    return asked


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_http(ask, address: str) -> None:  # type: ignore[no-untyped-def]
    assert ask("http", f"{address}/well")[0] == 0
    code, told = ask("http", f"{address}/ill")
    assert code == 1 and "503" in told
    assert ask("http", "http://127.0.0.1:9/")[0] == 1


def test_grpc(ask) -> None:  # type: ignore[no-untyped-def]
    server = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        servicer.set("DagsterApi", health_pb2.HealthCheckResponse.SERVING)
        assert ask("grpc", f"127.0.0.1:{port}")[0] == 0
        servicer.set("DagsterApi", health_pb2.HealthCheckResponse.NOT_SERVING)
        code, told = ask("grpc", f"127.0.0.1:{port}")
        assert code == 1 and "NOT_SERVING" in told
    finally:
        server.stop(None)


def test_file(ask, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "alive"
    assert ask("file", path, 60)[0] == 1
    path.touch()
    assert ask("file", path, 60)[0] == 0
    os.utime(path, (time.time() - 100, time.time() - 100))
    code, told = ask("file", path, 60)
    assert code == 1 and "silent for 100 s" in told


@pytest.mark.slow
def test_daemon(ask, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Heartbeats as Dagster writes them, in its own table."""
    from datetime import UTC, datetime, timedelta

    import psycopg2
    from dagster._core.storage.runs.schema import DaemonHeartbeatsTable
    from sqlalchemy import create_engine

    from media_pipeline.server import postgres as own
    from media_pipeline_tests._postgres import postgres

    with postgres() as url:
        monkeypatch.setattr(own, "connected", lambda **_: _closing(psycopg2.connect(url)))
        engine = create_engine(url)
        DaemonHeartbeatsTable.create(engine)

        def sign(name: str, seconds_ago: float) -> None:
            at = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds_ago)
            with engine.begin() as connection:
                connection.execute(
                    DaemonHeartbeatsTable.insert().values(daemon_type=name, daemon_id="1", timestamp=at, body="{}")
                )

        assert "no daemon has ever signed" in ask("daemon")[1]
        sign("SENSOR", 10)
        sign("GONE_WITH_AN_OLDER_RELEASE", 90_000)
        assert ask("daemon")[0] == 0
        sign("SCHEDULER", 1000)
        code, told = ask("daemon")
        assert code == 1 and "SCHEDULER for 1000 s" in told
        engine.dispose()


def _closing(connection):  # type: ignore[no-untyped-def]
    from contextlib import closing

    return closing(connection)
