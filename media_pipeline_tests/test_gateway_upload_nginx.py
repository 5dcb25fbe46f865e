"""Uploads through nginx, as browsers, file managers and rclone send them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from media_pipeline_tests._gateway import OPERATOR, ROOT, VIEWER, Stack, basic, needs_nginx, raw, stack, wait_for

sys.path.insert(0, str(ROOT / "deploy"))

from gateway.inbox import PARTS


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("u")) as made:
        yield made


def visible(gateway: Stack) -> list[str]:
    files = (path for path in gateway.inbox.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(gateway.inbox)) for path in files if PARTS not in path.parts)


@needs_nginx
@pytest.mark.slow
def test_names_through_nginx(gateway: Stack) -> None:
    with gateway.client(OPERATOR) as client:
        for path in (
            "/upload/.hidden.jpg",
            "/upload/a/.b/c.jpg",
            "/upload/%2ehidden",
            "/upload/~a",
            "/upload/.upload/x",
        ):
            assert client.put(path, content=b"x").status_code in (400, 403)
    for path in ("/upload/../x.jpg", "/upload/%2e%2e/x.jpg", "/upload/a/../../x.jpg", "/upload/..%2f..%2fx.jpg"):
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(OPERATOR)}\r\nConnection: close\r\n"
        raw(gateway.https, f"{head}Content-Length: 1\r\n\r\nx".encode(), patience=10)
    assert visible(gateway) == [] and not (gateway.inbox.parent / "x.jpg").exists()
    for service in gateway.upstreams.values():
        assert not [one for one in service.seen if one["headers"].get("authorization")]


@needs_nginx
@pytest.mark.slow
def test_an_interrupted_put_leaves_nothing(gateway: Stack) -> None:
    head = (
        f"PUT /upload/half.mov HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(OPERATOR)}\r\nContent-Length: 9000000\r\n"
    )
    raw(gateway.https, head.encode() + b"\r\n" + b"x" * 3_000_000, patience=1)
    wait_for(lambda: not list((gateway.inbox / PARTS).iterdir()), "what had arrived has gone")
    assert visible(gateway) == []


@needs_nginx
@pytest.mark.slow
def test_an_interrupted_tus_upload_goes_on(gateway: Stack) -> None:
    content = os.urandom(5_000_000)
    name = base64.b64encode("Film ü.mov".encode()).decode()
    with gateway.client(OPERATOR, headers={"Tus-Resumable": "1.0.0"}) as client:
        begun = client.post("/upload/tus/", headers={"Upload-Length": "5000000", "Upload-Metadata": f"filename {name}"})
        assert begun.status_code == 201 and begun.headers["Location"].startswith("/upload/tus/")
        address = begun.headers["Location"]
        head = f"PATCH {address} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(OPERATOR)}\r\nTus-Resumable: 1.0.0\r\n"
        head += "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\nContent-Length: 5000000\r\n\r\n"
        raw(gateway.https, head.encode() + content[:2_000_000], patience=2)
        offset = wait_for(lambda: int(client.head(address).headers["Upload-Offset"]), "some of it is kept")
        assert offset == 2_000_000
        with gateway.client(VIEWER, headers={"Tus-Resumable": "1.0.0"}) as viewer:
            assert viewer.head(address).status_code == 403
        sent = client.patch(
            address,
            content=content[offset:],
            headers={"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"},
        )
        assert sent.status_code == 204
    assert (gateway.inbox / "Film ü.mov").read_bytes() == content
    assert gateway.audited(method="PATCH", file="Film ü.mov")["who"] == "olga"
    (gateway.inbox / "Film ü.mov").unlink()


@needs_nginx
@pytest.mark.slow
def test_names_that_begin_like_tus_are_files(gateway: Stack) -> None:
    with gateway.client(OPERATOR) as client:
        for path in ("tuscany.mp4", "tus-2024/a.jpg"):
            assert client.put(f"/upload/{path}", content=b"x").status_code == 201
            assert client.get(f"/upload/{path}").content == b"x"
            assert client.delete(f"/upload/{path}").status_code == 204
        assert client.delete("/upload/tus-2024").status_code == 204
        for address in ("/upload/tus", "/upload/tus/"):
            assert client.options(address).headers["Tus-Version"] == "1.0.0"
            name = base64.b64encode(b"empty.mov").decode()
            begin = {"Tus-Resumable": "1.0.0", "Upload-Length": "0", "Upload-Metadata": f"filename {name}"}
            assert client.post(address, headers=begin).status_code == 201
        assert client.delete("/upload/empty.mov").status_code == 204
    with gateway.client(VIEWER) as client:
        assert client.post("/upload/tus", headers={"Tus-Resumable": "1.0.0"}).status_code == 403
    assert visible(gateway) == []


@needs_nginx
@pytest.mark.slow
def test_large_uploads_take_no_memory(gateway: Stack) -> None:
    size, block = 600_000_000, os.urandom(1_000_000)
    digest = hashlib.sha256()
    peak = 0

    def processes() -> list[psutil.Process]:
        parents = [psutil.Process(one.pid) for one in gateway.processes.values()]
        return parents + [child for one in parents for child in one.children(recursive=True)]

    before = sum(one.memory_info().rss for one in processes())

    def blocks() -> Iterator[bytes]:
        nonlocal peak
        for number in range(size // len(block)):
            digest.update(block)
            if number % 50 == 0:
                peak = max(peak, sum(one.memory_info().rss for one in processes()))
            yield block

    with gateway.client(OPERATOR) as client:
        answer = client.put("/upload/large.mov", content=blocks(), headers={"Content-Length": str(size)})
        assert answer.status_code == 201, answer.text
        large = gateway.inbox / "large.mov"
        with large.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hexdigest()
        assert peak - before < 60_000_000, f"{(peak - before) / 1e6:.0f} MB more"
        assert not any((gateway.folder / "run" / "body").rglob("*.?")), "nginx has kept nothing of it"
        assert client.delete("/upload/large.mov").status_code == 204


@needs_nginx
@pytest.mark.slow
def test_a_full_disk_is_told_of_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    """nginx hears the answer although the rest of the body is not read, and passes it on."""

    def blocks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 1_000_000

    with stack(tmp_path, MEDIA_PIPELINE_MIN_FREE_BYTES=str(9 * 10**14)) as full, full.client(OPERATOR) as client:
        for _ in range(3):
            answer = client.put("/upload/endless.mov", content=blocks())
            assert answer.status_code == 507 and "The disk of the server is full" in answer.text
        assert not list((full.inbox / PARTS).iterdir())


@needs_nginx
@pytest.mark.slow
def test_files_are_handed_out_as_files_only(gateway: Stack) -> None:
    """A picture that is a page with a script must not run in the name of this site."""
    with gateway.client(OPERATOR) as client:
        client.put("/upload/evil.svg", content=b"<svg onload='alert(1)'/>")
        answer = client.get("/upload/evil.svg")
        assert answer.headers["Content-Type"].startswith("application/octet-stream")
        assert answer.headers["Content-Disposition"] == "attachment"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        client.delete("/upload/evil.svg")


@needs_nginx
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("litmus"), reason="needs litmus")
def test_litmus(gateway: Stack, tmp_path: Path) -> None:
    """The test suite of WebDAV, as far as it is about files and folders."""
    done = subprocess.run(
        ["litmus", "-k", f"{gateway.url}/upload/", *OPERATOR],
        env=os.environ | {"TESTS": "basic http"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "16 passed, 0 failed" in done.stdout, done.stdout
    shutil.rmtree(gateway.inbox / "litmus", ignore_errors=True)


@needs_nginx
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("rclone"), reason="needs rclone")
def test_rclone(gateway: Stack, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "Ordner ü" / "tief").mkdir(parents=True)
    (source / "a.jpg").write_bytes(b"a" * 1000)
    (source / "Ordner ü" / "tief" / "b #1.jpg").write_bytes(b"b" * 2000)
    secret = subprocess.run(
        ["rclone", "obscure", OPERATOR[1]], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = os.environ | {
        "RCLONE_CONFIG": str(tmp_path / "none"),
        "RCLONE_WEBDAV_URL": f"{gateway.url}/upload/",
        "RCLONE_WEBDAV_USER": OPERATOR[0],
        "RCLONE_WEBDAV_PASS": secret,
        "RCLONE_NO_CHECK_CERTIFICATE": "true",
    }
    command = ["rclone", "copy", str(source), ":webdav:import", "--retries", "1"]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert visible(gateway) == ["import/Ordner ü/tief/b #1.jpg", "import/a.jpg"]
    puts = [one for one in gateway.audit() if one["method"] == "PUT" and one["path"].startswith("/upload/import/")]
    assert len(puts) == 2, json.dumps(puts)
    shutil.rmtree(gateway.inbox / "import")
