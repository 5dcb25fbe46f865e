"""What of the disk uploads take, and what they leave: the service without nginx."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from media_pipeline_tests._gateway import ROOT, wait_for
from media_pipeline_tests._upload import TUS, Service, service_fixture  # noqa: F401

sys.path.insert(0, str(ROOT / "deploy"))

from gateway import inbox as inbox_module
from gateway import room
from gateway.inbox import PARTS, Inbox


def test_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(tmp_path, max_file_bytes=1000, min_free_bytes=500)
    try:
        refused = service.begin("a.mov", 1001)
        assert refused.status_code == 413 and "MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES" in refused.text
        assert service.client.put("/_dav/a.mov", content=b"x" * 1001).status_code == 413
        address = service.begin("a.mov", 1000).headers["Location"]
        assert service.send(address, 0, b"x" * 1001).status_code == 413
        disk = shutil.disk_usage(tmp_path)
        # 1,700 bytes are free, 500 stay so, and 1,000 are promised to the one that has begun.
        monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=1700))
        refused = service.begin("b.mov", 201)
        assert refused.status_code == 507 and "disk of the server is full" in refused.text
        assert service.client.put("/_dav/b.mov", content=b"x" * 201).status_code == 507
        assert service.begin("b.mov", 200).status_code == 201
        assert service.files() == []
    finally:
        service.close()


def test_a_disk_that_gets_full_on_the_way(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    address = service.begin("a.mov", 10).headers["Location"]

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert service.send(address, 0, b"12345").status_code == 507
        assert service.client.put("/_dav/b.mov", content=b"x").status_code == 507
    assert service.files() == []
    offset = int(service.client.head(address, headers=TUS).headers["Upload-Offset"])
    assert service.send(address, offset, b"1234567890"[offset:]).status_code == 204, "it goes on when there is room"
    assert service.files() == ["a.mov"]


@pytest.fixture
def disk(service: Service, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk of 1,100,000 bytes with the inbox on it, of which 100,000 must stay free; uploads are looked at often."""
    made = SimpleNamespace(of_others=0)
    real = shutil.disk_usage(service.inbox.root)

    def usage(path: Path) -> Any:
        own = 0
        for file in service.inbox.root.rglob("*"):
            with suppress(FileNotFoundError):
                own += file.stat().st_size if file.suffix in (".mov", ".part") else 0
        return real._replace(free=1_100_000 - own - made.of_others)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(room, "STEP_BYTES", 50_000)
    service.inbox.room._min_free_bytes = 100_000
    return made


class Sending:
    """An upload under way: its head and some of its body are sent, the rest when the test says so."""

    def __init__(self, service: Service, start: str, content: bytes, **headers: object) -> None:
        self._connection = socket.create_connection(("127.0.0.1", service.server.server_port), timeout=30)
        head = "".join(f"{key}: {value}\r\n" for key, value in (TUS | headers).items())
        self._connection.sendall(f"{start} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + content)
        parts = service.inbox.root / PARTS
        wait_for(lambda: any(len(content) == one.stat().st_size for one in parts.glob("*.part")), "it has arrived")

    def go_on(self, content: bytes) -> int:
        """The status of the answer."""
        with suppress(ConnectionError):
            self._connection.sendall(content)
        return int(self._connection.recv(65536).split()[1])

    def close(self) -> None:
        self._connection.close()


def test_uploads_at_once_share_what_is_free(service: Service, disk: SimpleNamespace) -> None:
    """As of `rclone --transfers 4`: what the first has not sent yet is nobody else's."""
    first = Sending(service, "PUT /_dav/1.mov", b"x" * 1000, **{"Content-Length": 800_000})
    refused = service.client.put("/_dav/2.mov", content=b"x" * 300_000)
    assert refused.status_code == 507 and "200000 bytes are left" in refused.text
    assert service.begin("2.mov", 300_000).status_code == 507
    assert b"available-bytes>200000<" in service.dav("PROPFIND", "", Depth="0").content
    assert service.client.put("/_dav/3.mov", content=b"x" * 200_000).status_code == 201
    assert first.go_on(b"x" * 799_000) == 201
    first.close()
    assert service.files() == ["1.mov", "3.mov"] and service.inbox.room.free() == 0


def test_an_upload_that_breaks_off_gives_its_room_back(service: Service, disk: SimpleNamespace) -> None:
    Sending(service, "PUT /_dav/1.mov", b"x" * 1000, **{"Content-Length": 800_000}).close()
    wait_for(lambda: service.inbox.room.free() == 1_000_000, "its room is free")
    assert service.client.put("/_dav/2.mov", content=b"x" * 1_000_000).status_code == 201


def test_an_upload_of_unknown_length_leaves_what_must_stay_free(service: Service, disk: SimpleNamespace) -> None:
    def blocks(size: int) -> Iterator[bytes]:
        for _ in range(size // 10_000):
            yield b"x" * 10_000

    held = service.begin("promised.mov", 400_000).headers["Location"]
    assert service.client.put("/_dav/large.mov", content=blocks(900_000)).status_code == 507
    assert service.files() == [] and len(list((service.inbox.root / PARTS).glob("*.part"))) == 1
    assert service.client.put("/_dav/small.mov", content=blocks(500_000)).status_code == 201
    lying = {"X-Expected-Entity-Length": "10"}
    assert service.client.put("/_dav/lying.mov", content=blocks(900_000), headers=lying).status_code == 507
    assert service.send(held, 0, b"x" * 400_000).status_code == 204
    assert service.inbox.room.free() == 100_000


def test_others_fill_the_disk_meanwhile(service: Service, disk: SimpleNamespace) -> None:
    put = Sending(service, "PUT /_dav/put.mov", b"x" * 1000, **{"Content-Length": 400_000})
    address = service.begin("tus.mov", 400_000).headers["Location"]
    disk.of_others = 1_050_000
    assert put.go_on(b"x" * 399_000) == 507
    put.close()
    assert service.send(address, 0, b"x" * 400_000).status_code == 507
    assert service.files() == [] and len(list((service.inbox.root / PARTS).glob("*.part"))) == 1
    disk.of_others = 0
    offset = int(service.client.head(address, headers=TUS).headers["Upload-Offset"])
    assert service.send(address, offset, b"x" * (400_000 - offset)).status_code == 204
    assert service.files() == ["tus.mov"]


def test_an_upload_costs_the_same_after_many_others(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        service.inbox.finish(service.inbox.begin(f"{number}.jpg", 0, "olga"))
    read: list[Path] = []
    read_text = Path.read_text

    def counted(path: Path, *given: Any, **named: Any) -> str:
        read.append(path)
        return read_text(path, *given, **named)

    monkeypatch.setattr(Path, "read_text", counted)
    address = service.begin("a.jpg", 5).headers["Location"]
    assert service.client.put("/_dav/b.jpg", content=b"12345").status_code == 201
    assert service.dav("COPY", "b.jpg", **{"X-Destination": "/upload/c.jpg"}).status_code == 201
    assert service.dav("PROPFIND", "", Depth="0").status_code == 207
    assert read == [], "no note of another upload"
    assert service.send(address, 0, b"12345").status_code == 204
    assert {path.stem for path in read} == {address.rpartition("/")[2]}


def test_what_was_promised_stays_so_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)

    def opened() -> Inbox:
        inbox = Inbox(tmp_path, min_free_bytes=1000, max_file_bytes=1 << 30)
        inbox.prepare()
        return inbox

    inbox = opened()
    begun, done, dropped = (inbox.begin(f"{number}.mov", 1000, "olga") for number in range(3))
    inbox.bytes_file(begun).write_bytes(b"x" * 400)
    inbox.bytes_file(done).write_bytes(b"x" * 1000)
    inbox.finish(done)
    inbox.drop(dropped)
    assert inbox.room.free() == opened().room.free() == 10_000 - 1000 - 600
    inbox._write(inbox_module.replace(begun, expires=time.time() - 1))
    assert inbox.expire() == 1
    assert inbox.room.free() == opened().room.free() == 10_000 - 1000
