"""The service that takes uploads in this process, without nginx: for the tests of deploy/gateway."""

from __future__ import annotations

import base64
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from media_pipeline.media.walk import walk
from media_pipeline_tests._gateway import ROOT

sys.path.insert(0, str(ROOT / "deploy"))

from gateway import upload
from gateway.inbox import Inbox

TUS = {"Tus-Resumable": "1.0.0", "X-Auth-User": "olga"}
PATCH = TUS | {"Content-Type": "application/offset+octet-stream"}


class Service:
    """The service in this process."""

    def __init__(self, root: Path, **limits: int) -> None:
        limits = {"min_free_bytes": 0, "max_file_bytes": 1 << 30} | limits
        self.inbox = Inbox(root, **limits)
        self.inbox.prepare()
        self.server = upload.made(("127.0.0.1", 0), self.inbox)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.server.server_port}", timeout=30, trust_env=False)

    def begin(self, name: str, length: int, **headers: str) -> httpx.Response:
        encoded = base64.b64encode(name.encode(errors="surrogateescape")).decode()
        own = {"Upload-Length": str(length), "Upload-Metadata": f"filename {encoded}, filetype {encoded}"}
        return self.client.post("/upload/tus/", headers=TUS | own | headers)

    def send(self, address: str, offset: int, content: bytes, **headers: str) -> httpx.Response:
        return self.client.patch(address, content=content, headers=PATCH | {"Upload-Offset": str(offset)} | headers)

    def dav(self, method: str, path: str, **headers: str) -> httpx.Response:
        return self.client.request(method, f"/_dav/{path}", headers=headers)

    def files(self) -> list[str]:
        """As the watcher of the inbox would find them."""
        root = self.inbox.root
        return sorted(str(Path(found.path).relative_to(root)) for found in walk(str(root)))

    def close(self) -> None:
        self.client.close()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(name="service")
def service_fixture(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.close()
