"""A model hub on a loopback port, with the faults of a real one."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from media_pipeline.analyzers._model_catalog import CatalogEntry, ModelFile

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
CONFIG = b'{"layers": 1}'
REVISION = "0123456789abcdef0123456789abcdef01234567"


def entry(name: str = "toy", **changed: object) -> CatalogEntry:
    fields: dict[str, object] = {
        "name": name,
        "purpose": "tests",
        "analyzer": "transcript",
        "tier": "standard",
        "licence": "MIT",
        "repository": f"someone/{name}",
        "revision": REVISION,
        "files": (
            ModelFile("config.json", len(CONFIG), hashlib.sha256(CONFIG).hexdigest()),
            ModelFile("onnx/weights.bin", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()),
        ),
    }
    return CatalogEntry(**{**fields, **changed})  # type: ignore[arg-type]


class Hub:
    """What it serves, what it was asked, and how it misbehaves."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files = {"config.json": CONFIG, "onnx/weights.bin": WEIGHTS}
        self.asked: list[tuple[str, str | None]] = []  # (path below the revision, Range)
        self.cut_after: list[int] = []  # bytes of the weights after which each next answer breaks off
        self.statuses: list[int] = []  # of the next answers, instead of the file
        self.ignores_ranges = False
        self.silence_s = 0.0  # before any answer
        self.pause_s = 0.0  # between the pieces of an answer: a slow line
        self.stalls: list[float] = []  # seconds of silence in the middle of each next answer


@contextmanager
def serving() -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split(f"/resolve/{REVISION}/")[-1]
            hub.asked.append((path, self.headers.get("Range")))
            time.sleep(hub.silence_s)
            status = hub.statuses.pop(0) if hub.statuses else 200
            body = hub.files.get(path)
            if status != 200 or body is None:
                self.send_error(404 if body is None else status)
                return
            start = 0
            if self.headers.get("Range") and not hub.ignores_ranges:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = len(body)
            if path == "onnx/weights.bin" and hub.cut_after:
                end = min(end, start + hub.cut_after.pop(0))
            if path == "onnx/weights.bin" and hub.stalls:
                self.wfile.write(body[start : (start + end) // 2])
                time.sleep(hub.stalls.pop(0))
                start = (start + end) // 2
            for piece in range(start, end, len(WEIGHTS) // 8):
                self.wfile.write(body[piece : min(piece + len(WEIGHTS) // 8, end)])
                time.sleep(hub.pause_s)
            self.close_connection = end < len(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # clients that hang up are part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
