"""The service that takes uploads: tus and WebDAV, without nginx."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import pytest

from media_pipeline_tests._gateway import ROOT, wait_for
from media_pipeline_tests._upload import PATCH, TUS, Service, service_fixture  # noqa: F401

sys.path.insert(0, str(ROOT / "deploy"))

from gateway import inbox as inbox_module
from gateway.inbox import PARTS, Inbox

# -- tus -------------------------------------------------------------------------------------------------------------


def test_a_file_appears_when_it_is_complete(service: Service) -> None:
    content = os.urandom(300_000)
    begun = service.begin("Urlaub/Tag 1/Ü 1.mov", len(content))
    assert begun.status_code == 201 and begun.headers["Tus-Resumable"] == "1.0.0" and begun.headers["Upload-Expires"]
    address = begun.headers["Location"]
    for at in range(0, len(content), 100_000):
        assert service.files() == []
        told = service.client.head(address, headers=TUS)
        assert (told.headers["Upload-Offset"], told.headers["Upload-Length"]) == (str(at), "300000")
        sent = service.send(address, at, content[at : at + 100_000])
        assert (sent.status_code, sent.headers["Upload-Offset"]) == (204, str(at + 100_000))
    assert service.files() == ["Urlaub/Tag 1/Ü 1.mov"]
    assert (service.inbox.root / "Urlaub/Tag 1/Ü 1.mov").read_bytes() == content
    assert service.client.head(address, headers=TUS).headers["Upload-Offset"] == "300000", "who lost the answer may ask"
    assert [path.suffix for path in (service.inbox.root / PARTS).iterdir()] == [".json"]


def test_what_is_there_is_never_replaced(service: Service) -> None:
    for content in (b"first", b"second", b"first", b"second"):
        address = service.begin("a.jpg", len(content)).headers["Location"]
        assert service.send(address, 0, content).status_code == 204
    assert service.files() == ["a (2).jpg", "a.jpg"], "the same content again is no other file"
    assert (service.inbox.root / "a.jpg").read_bytes() == b"first"


def test_two_that_end_at_once_are_both_kept(service: Service) -> None:
    addresses = [service.begin("a.jpg", 1000).headers["Location"] for _ in range(8)]

    def send(number: int) -> None:
        assert service.send(addresses[number], 0, bytes([number]) * 1000).status_code == 204

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((service.inbox.root / name).read_bytes()[0] for name in service.files()) == list(range(8))


def partial(service: Service, address: str, offset: int, announced: int, content: bytes, chunked: bool = False) -> None:
    """A PATCH whose connection breaks before its end."""
    with socket.create_connection(("127.0.0.1", service.server.server_port)) as connection:
        size = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {announced}"
        head = "".join(f"{key}: {value}\r\n" for key, value in PATCH.items())
        connection.sendall(
            f"PATCH {address} HTTP/1.1\r\nHost: x\r\n{head}Upload-Offset: {offset}\r\n{size}\r\n\r\n".encode()
        )
        connection.sendall(b"%x\r\n%s" % (announced, content) if chunked else content)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_connection_goes_on_where_it_stopped(service: Service, chunked: bool) -> None:
    content = os.urandom(200_000)
    address = service.begin("a.mov", len(content)).headers["Location"]
    partial(service, address, 0, len(content), content[:70_000], chunked)
    offset = wait_for(
        lambda: int(service.client.head(address, headers=TUS).headers["Upload-Offset"]), "some has arrived"
    )
    assert offset == 70_000 and service.files() == []
    assert service.send(address, 0, content).status_code == 409, "not from the beginning"
    assert service.send(address, offset, content[offset:]).status_code == 204
    assert (service.inbox.root / "a.mov").read_bytes() == content


def test_a_dead_connection_gives_way_to_its_successor(service: Service) -> None:
    """Whoever comes back after a break of the network must not wait until the server has noticed it, too."""
    address = service.begin("a.mov", 1000).headers["Location"]
    with socket.create_connection(("127.0.0.1", service.server.server_port)) as dead:
        head = "".join(f"{key}: {value}\r\n" for key, value in PATCH.items())
        request = f"PATCH {address} HTTP/1.1\r\nHost: x\r\n{head}Upload-Offset: 0\r\nContent-Length: 1000\r\n\r\n"
        dead.sendall(request.encode() + b"a" * 400)
        part = next((service.inbox.root / PARTS).glob("*.part"))
        wait_for(lambda: part.stat().st_size == 400, "the first bytes have arrived")
        began = time.monotonic()
        assert service.client.head(address, headers=TUS).headers["Upload-Offset"] == "400"
        assert time.monotonic() - began < 10
        assert service.send(address, 400, b"b" * 600).status_code == 204
    assert (service.inbox.root / "a.mov").read_bytes() == b"a" * 400 + b"b" * 600


def test_all_had_arrived_when_the_service_ended(service: Service) -> None:
    address = service.begin("a.mov", 5).headers["Location"]
    next((service.inbox.root / PARTS).glob("*.part")).write_bytes(b"whole")
    assert service.client.head(address, headers=TUS).headers["Upload-Offset"] == "5"
    assert service.files() == ["a.mov"]


def test_uploads_belong_to_who_has_begun_them(service: Service) -> None:
    address = service.begin("a.mov", 5).headers["Location"]
    other = {"X-Auth-User": "otto"}
    assert service.client.head(address, headers=TUS | other).status_code == 404
    assert service.send(address, 0, b"12345", **other).status_code == 404
    assert service.client.delete(address, headers=TUS | other).status_code == 404
    assert service.client.delete(address, headers=TUS).status_code == 204
    assert service.client.head(address, headers=TUS).status_code == 404
    assert list((service.inbox.root / PARTS).iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("../a.jpg", "a/../../b.jpg", "/../a", ".a.jpg", "a/.b/c.jpg", ".upload/x", "a//b", "/", "a\0b", "a\nb", "~a"),
        *("a\\b", "..", ".", "x" * 256, "/".join("a" * 40), "a/" * 600 + "b", "ü" * 128, "\udcff"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(service: Service, name: str) -> None:
    assert service.begin(name, 5).status_code in (400, 403)
    if name.isascii() and name.isprintable() and name.strip("/"):
        assert service.client.put("/_dav/" + quote(name).replace(".", "%2E"), content=b"x").status_code in (
            400,
            403,
            405,
            409,
        )
    assert service.files() == [] and list((service.inbox.root / PARTS).iterdir()) == []


def test_links_are_not_followed(service: Service, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept.jpg").write_bytes(b"kept")
    (service.inbox.root / "link").symlink_to(outside)
    (service.inbox.root / "file.jpg").symlink_to(outside / "kept.jpg")
    assert service.begin("link/a.jpg", 5).status_code == 403
    for method, path in (
        ("GET", "file.jpg"),
        ("GET", "link/kept.jpg"),
        ("DELETE", "link/kept.jpg"),
        ("MKCOL", "link/x"),
    ):
        assert service.dav(method, path).status_code == 403
    assert service.client.put("/_dav/file.jpg", content=b"x").status_code == 403
    assert service.client.put("/_dav/link/new.jpg", content=b"x").status_code == 403
    assert [path.name for path in outside.iterdir()] == ["kept.jpg"] and (outside / "kept.jpg").read_bytes() == b"kept"
    assert b"link" not in service.dav("PROPFIND", "", Depth="1").content


def test_abandoned_parts_go(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, min_free_bytes=0, max_file_bytes=1000, keep_s=100)
    inbox.prepare()
    old, new = inbox.begin("old.mov", 10, "olga"), inbox.begin("new.mov", 10, "olga")
    crash = inbox.scratch()
    inbox._write(inbox_module.replace(old, expires=time.time() - 1))
    os.utime(crash, (time.time() - 200, time.time() - 200))
    assert inbox.expire() == 2
    assert {path.stem for path in (tmp_path / PARTS).iterdir()} == {new.id}
    with pytest.raises(inbox_module.Refused) as caught:
        inbox.find(old.id, "olga")
    assert caught.value.status == HTTPStatus.NOT_FOUND


def test_the_protocol_is_spoken_properly(service: Service) -> None:
    told = service.client.options("/upload/tus/")
    assert told.headers["Tus-Version"] == "1.0.0" and told.headers["Tus-Max-Size"] == str(1 << 30)
    assert set(told.headers["Tus-Extension"].split(",")) == {"creation", "expiration", "termination"}
    address = service.begin("a.mov", 5).headers["Location"]
    assert service.client.head(address, headers={"X-Auth-User": "olga"}).status_code == 412
    assert service.client.post("/upload/tus/", headers=TUS).status_code == 400
    assert service.client.post("/upload/tus/", headers=TUS | {"Upload-Length": "5"}).status_code == 400
    bad = {"Upload-Length": "5", "Upload-Metadata": "filename !!!"}
    assert service.client.post("/upload/tus/", headers=TUS | bad).status_code == 400
    assert service.send(address, 0, b"12345", **{"Content-Type": "text/plain"}).status_code == 415
    for elsewhere in ("/upload/tus/../x", "/upload/tus/x", "/upload/tus/" + "A" * 22, "/upload/tus/../../etc/passwd"):
        assert service.client.head(elsewhere, headers=TUS).status_code in (404, 405)
    assert service.client.get("/somewhere").status_code == 405
    assert service.begin("empty.mov", 0).status_code == 201 and service.files() == ["empty.mov"]


# -- WebDAV ----------------------------------------------------------------------------------------------------------


def test_webdav(service: Service) -> None:
    assert service.dav("OPTIONS", "").headers["DAV"] == "1, 2"
    assert service.dav("MKCOL", "Urlaub%20%C3%BC").status_code == 201
    assert service.dav("MKCOL", "Urlaub%20%C3%BC/").status_code == 405
    assert service.dav("MKCOL", "no/where").status_code == 409
    assert service.client.put("/_dav/Urlaub%20%C3%BC/1%20%251.jpg", content=b"one").status_code == 201
    assert service.client.put("/_dav/Urlaub%20%C3%BC/1%20%251.jpg", content=b"two").status_code == 204
    assert service.client.put("/_dav/new/2.jpg", content=b"x", headers={"If-None-Match": "*"}).status_code == 201
    assert service.client.put("/_dav/new/2.jpg", content=b"x", headers={"If-None-Match": "*"}).status_code == 412
    assert service.files() == ["Urlaub ü/1 %1.jpg", "new/2.jpg"]
    assert service.dav("GET", "Urlaub%20%C3%BC/1%20%251.jpg").content == b"two"
    assert service.dav("HEAD", "Urlaub%20%C3%BC/1%20%251.jpg").headers["Content-Length"] == "3"
    assert service.dav("GET", "new").status_code == 405
    listed = service.dav("PROPFIND", "", Depth="1")
    assert listed.status_code == 207
    names = [one.text for one in ET.fromstring(listed.content).iter("{DAV:}href")]
    assert names == ["/upload/", "/upload/Urlaub%20%C3%BC/", "/upload/new/"], "no hidden folder"
    assert service.dav("PROPFIND", "nothing").status_code == 404
    assert service.dav("PROPFIND", ".upload").status_code == 403
    target = {"X-Destination": f"{service.client.base_url}/upload/moved"}
    assert service.dav("MOVE", "new/", **target).status_code == 201
    assert service.dav("COPY", "moved/2.jpg", **{"X-Destination": "/upload/copy.jpg"}).status_code == 201
    assert service.files() == ["Urlaub ü/1 %1.jpg", "copy.jpg", "moved/2.jpg"]
    assert service.dav("DELETE", "moved").status_code == 204 and service.dav("DELETE", "moved").status_code == 404
    assert service.dav("DELETE", "").status_code in (400, 403), "never the inbox itself"


def test_moving_stays_inside(service: Service) -> None:
    service.client.put("/_dav/a.jpg", content=b"a")
    service.client.put("/_dav/b.jpg", content=b"b")
    service.client.put("/_dav/d/c.jpg", content=b"c")
    for wrong in ("", "/etc/passwd", "/upload/../x", "/upload/.hidden", "http://evil.example/upload/x", "/upload/"):
        assert service.dav("MOVE", "a.jpg", **{"X-Destination": wrong}).status_code in (400, 403)
        assert service.dav("COPY", "a.jpg", **{"X-Destination": wrong}).status_code in (400, 403)
    assert service.dav("MOVE", "a.jpg", **{"X-Destination": "/upload/b.jpg", "Overwrite": "F"}).status_code == 412
    assert service.dav("COPY", "a.jpg", **{"X-Destination": "/upload/b.jpg", "Overwrite": "F"}).status_code == 412
    assert service.dav("MOVE", "a.jpg", **{"X-Destination": "/upload/d"}).status_code == 409, "no folder at one stroke"
    assert service.dav("MOVE", "d", **{"X-Destination": "/upload/d/e"}).status_code == 403
    assert service.dav("MOVE", "a.jpg", **{"X-Destination": "/upload/b.jpg"}).status_code == 204
    assert service.files() == ["b.jpg", "d/c.jpg"]


def test_finder_and_explorer_begin_with_nothing(service: Service) -> None:
    """PUT of no bytes, LOCK, PROPPATCH, and then the file: no empty medium may be taken in meanwhile."""
    assert service.client.put("/_dav/film.mov", content=b"").status_code == 201
    assert service.files() == []
    assert b"<D:getcontentlength>0<" in service.dav("PROPFIND", "film.mov", Depth="0").content
    assert b"film.mov" in service.dav("PROPFIND", "", Depth="1").content
    assert service.dav("HEAD", "film.mov").status_code == 200
    question = b'<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope></D:lockinfo>'
    locked = service.client.request("LOCK", "/_dav/film.mov", content=question)
    token = locked.headers["Lock-Token"]
    assert locked.status_code == 200 and token.strip("<>").encode() in locked.content
    assert service.dav("LOCK", "film.mov", If=f"({token})").headers["Lock-Token"] == token, "renewed"
    times = b'<D:propertyupdate xmlns:D="DAV:" xmlns:Z="urn:schemas-microsoft-com:"><D:set><D:prop>'
    times += b"<Z:Win32CreationTime>x</Z:Win32CreationTime></D:prop></D:set></D:propertyupdate>"
    patched = service.client.request("PROPPATCH", "/_dav/film.mov", content=times)
    assert patched.status_code == 207 and b"Win32CreationTime" in patched.content and b"200 OK" in patched.content

    def chunks() -> Iterator[bytes]:
        yield b"some "
        assert service.files() == []
        yield b"bytes"

    sent = service.client.put(
        "/_dav/film.mov", content=chunks(), headers={"X-Expected-Entity-Length": "10", "If": token}
    )
    assert sent.status_code == 204 and service.files() == ["film.mov"]
    assert service.dav("UNLOCK", "film.mov", **{"Lock-Token": token}).status_code == 204
    assert (service.inbox.root / "film.mov").read_bytes() == b"some bytes"


def test_questions_are_short(service: Service) -> None:
    assert service.client.request("PROPFIND", "/_dav/", content=b"x" * 100_000).status_code == 413
    assert service.client.request("PROPPATCH", "/_dav/", content=b"<x").status_code == 400
    assert service.dav("PROPFIND", "", Depth="infinity").status_code == 403
