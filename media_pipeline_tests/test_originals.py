from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from media_pipeline.errors import CorruptMedia, DiskFull, InputError, LimitExceeded, StorageUnavailable
from media_pipeline.media import originals as module
from media_pipeline.media.originals import ContentChangedError, Originals, content_hash, locate
from media_pipeline.storage.sources import KnownMedium


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    return Originals(tmp_path / "originals")


def store(originals: Originals, file: Path) -> tuple[str, Path]:
    handle = os.open(file, os.O_RDONLY)
    try:
        return originals.store(handle, os.fstat(handle))
    finally:
        os.close(handle)


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "originals" / ".incoming").iterdir())


@pytest.mark.parametrize("size", [0, 1, module.BLOCK - 1, module.BLOCK, 2 * module.BLOCK + 17])
def test_stored_by_hash_whole_and_read_only(originals: Originals, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    media_id, place = store(originals, tmp_path / "file")
    assert media_id == hashlib.sha256(content).hexdigest()
    assert place == tmp_path / "originals" / media_id[:2] / media_id == originals.path(media_id)
    assert place.read_bytes() == content
    assert stat.S_IMODE(place.stat().st_mode) == 0o444
    assert leftovers(tmp_path) == []


def test_the_same_content_again_is_left_alone_and_a_damaged_copy_is_replaced(
    originals: Originals, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    _, place = store(originals, tmp_path / "file")
    before = place.stat().st_ino
    store(originals, tmp_path / "file")
    assert place.stat().st_ino == before
    place.chmod(0o644)
    place.write_bytes(b"cont")
    store(originals, tmp_path / "file")
    assert place.read_bytes() == b"content"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("now", [b"longer than before", b"short", b"same len"])
def test_a_file_written_to_since_it_was_looked_at_is_not_stored(
    originals: Originals, tmp_path: Path, now: bytes
) -> None:
    (tmp_path / "file").write_bytes(b"8 octets")
    with (tmp_path / "file").open("rb") as file:
        before = os.fstat(file.fileno())
        (tmp_path / "file").write_bytes(now)
        with pytest.raises(ContentChangedError):
            originals.store(file.fileno(), before)
        with pytest.raises(ContentChangedError):
            content_hash(file.fileno(), before)
    assert leftovers(tmp_path) == []
    assert [p.name for p in (tmp_path / "originals").iterdir()] == [".incoming"]


def test_leftovers_of_the_dead_are_cleaned_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    incoming = tmp_path / "originals" / ".incoming"
    incoming.mkdir(parents=True)
    (incoming / "dead").write_bytes(b"half")
    with (incoming / "alive").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        Originals(tmp_path / "originals")
        assert leftovers(tmp_path) == [incoming / "alive"]
    assert Originals(tmp_path / "originals").clean() == 0
    assert leftovers(tmp_path) == []


def test_no_copy_begins_that_would_not_leave_the_room_wanted(tmp_path: Path) -> None:
    originals = Originals(tmp_path / "originals", min_free_bytes=1 << 60)
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(DiskFull, match="must stay free") as error:
        store(originals, tmp_path / "file")
    assert error.value.remedy
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_up_midway_leaves_nothing(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3 * module.BLOCK))
    write, written = os.write, []

    def full(handle: int, data: memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(handle, data))
        return written[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFull, match="no room left"):
            store(originals, tmp_path / "file")
    assert written == [module.BLOCK]
    assert leftovers(tmp_path) == []
    assert store(originals, tmp_path / "file")[1].exists()


def test_remove_erases_our_copy_once(originals: Originals, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    media_id, place = store(originals, tmp_path / "file")
    assert originals.remove(media_id)
    assert not place.exists()
    assert not originals.remove(media_id)


def test_locate_says_what_happened_to_an_original(tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"content")
    copy = KnownMedium("id", "key", "clip.mp4", str(file), file, 7, datetime.now(UTC), ("clip.mp4",), False, 0)
    linked = replace(copy, linked_mtime_ns=file.stat().st_mtime_ns)
    assert locate(copy) == locate(linked) == file

    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert locate(copy) == file
    with pytest.raises(InputError, match="has changed"):
        locate(linked)
    file.write_bytes(b"cont")
    with pytest.raises(CorruptMedia, match="damaged"):
        locate(copy)
    file.unlink()
    with pytest.raises(InputError, match="No such file"):
        locate(linked)


@pytest.mark.parametrize(("call", "code"), [("write", errno.EIO), ("fsync", errno.EIO), ("fchmod", errno.EROFS)])
def test_what_the_store_says_is_told_from_what_the_file_says(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setattr(module, "_cloned", lambda *_: False)

    def failing(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(StorageUnavailable, match=os.strerror(code)):
            store(originals, tmp_path / "file")
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing)
        with pytest.raises(OSError, match=os.strerror(code)):
            store(originals, tmp_path / "file")
    assert leftovers(tmp_path) == []


def test_a_file_too_large_for_the_file_system_is_refused_alone(
    originals: Originals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setattr(module, "_cloned", lambda *_: False)

    def too_large(*_: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "write", too_large)
    with pytest.raises(LimitExceeded, match="no file of this size"):
        store(originals, tmp_path / "file")
    assert leftovers(tmp_path) == []
