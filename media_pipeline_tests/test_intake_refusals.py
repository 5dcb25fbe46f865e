from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.config import DecodeLimits
from media_pipeline.errors import StorageUnavailable
from media_pipeline.media import intake as module
from media_pipeline.media import walk as walk_module
from media_pipeline_tests._intake import Home, age, names


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_links_that_leave_the_folder_are_refused_and_said_once(home: Home, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    age(secret)
    (home.inbox / "out.jpg").symlink_to(secret)
    (home.inbox / "relative.jpg").symlink_to("../secret.jpg")
    (home.inbox / "folder").symlink_to(tmp_path)
    report = home.tick()
    assert report.new == []
    assert [(path.name, "leaves" in reason) for path, reason in report.refused] == [
        ("folder", True),
        ("out.jpg", True),
        ("relative.jpg", True),
    ]
    assert home.tick().refused == []
    assert len(home.take(home.inbox).refused) == 3
    assert names(home.take(home.inbox / "out.jpg")) == ["out.jpg"]  # named by the user, who knows


def test_links_inside_the_folder_give_their_content_once(home: Home) -> None:
    home.drop("real/a.jpg", b"content")
    (home.inbox / "link.jpg").symlink_to("real/a.jpg")
    (home.inbox / "circle").symlink_to(".")
    (home.inbox / "real" / "up").symlink_to("..")
    (home.inbox / "dangling.jpg").symlink_to("nothing")
    report = home.tick()
    assert (len(report.new), report.refused, report.complete) == (1, [], True)
    assert set(home.sources.by_id([report.new[0].media_id])[report.new[0].media_id].names) == {"a.jpg", "link.jpg"}


def test_pipes_and_sockets_are_refused_without_being_opened(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(home.inbox / "pipe.mp4")
    monkeypatch.chdir(home.inbox)  # a socket's path is at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
    report = home.tick()
    assert [reason.split(";")[0].split(" is ")[1] for _, reason in report.refused] == [
        "a pipe, not a file",
        "a socket, not a file",
    ]
    (_, reason) = home.take(Path("/dev/null")).refused[0]
    assert "a device" in reason


def _swap_for_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _swap_for_link(path: Path) -> None:
    secret = path.parent.parent.parent / "secret"
    secret.write_bytes(b"secret")
    path.unlink()
    path.symlink_to(secret)


def _swap_folder_for_link(path: Path) -> None:
    elsewhere = path.parent.parent.parent / "elsewhere"
    path.parent.rename(elsewhere)
    path.parent.symlink_to(elsewhere)


@pytest.mark.parametrize("swap", [_swap_for_pipe, _swap_for_link, _swap_folder_for_link])
def test_what_is_swapped_between_check_and_open_is_not_read(home: Home, swap, monkeypatch) -> None:
    path = home.drop("folder/a.jpg", b"content")
    opened = walk_module.open_found

    def swapped(found: walk_module.Found) -> int:
        swap(path)
        return opened(found)

    monkeypatch.setattr(module, "open_found", swapped)
    report = home.tick()
    assert (report.new, len(report.refused)) == ([], 1)
    assert list(home.layout.originals.rglob("*")) == [home.layout.originals / ".incoming"]


def test_another_file_put_in_its_place_is_looked_at_again(home: Home, tmp_path: Path, monkeypatch) -> None:
    path = home.drop("a.jpg", b"checked")
    (tmp_path / "other").write_bytes(b"other")
    opened = walk_module.open_found

    def swapped(found: walk_module.Found) -> int:
        (tmp_path / "other").rename(path)
        return opened(found)

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_found", swapped)
        assert home.tick().waiting == [path]
    age(path)
    assert home.tick().new[0].stored.read_bytes() == b"other"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_tried_again_when_its_permissions_change(home: Home) -> None:
    path = home.drop("a.jpg", b"content")
    path.chmod(0)
    (_, reason) = home.tick().refused[0]
    assert "Permission denied" in reason and "read access" in reason
    assert home.tick().refused == []
    path.chmod(0o600)
    assert names(home.tick()) == ["a.jpg"]


def test_an_unreadable_file_has_a_reason_and_a_remedy(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home.drop("a.jpg", b"content")

    def denied(found: walk_module.Found) -> int:
        raise walk_module.unreadable(found.path, PermissionError(13, "Permission denied"))

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_found", denied)
        assert [(p, "Permission denied" in r and "read access" in r) for p, r in home.tick().refused] == [(path, True)]
    assert home.tick().new == []  # nothing has changed
    path.chmod(0o640)
    assert names(home.tick()) == ["a.jpg"]


def test_missing_paths_are_refused_with_the_remedy(home: Home) -> None:
    home.drop("a.jpg", b"a")
    report = home.take(home.inbox / "nowhere.jpg", home.inbox / "a.jpg" / "b", Path("nul\0byte"), home.inbox / "a.jpg")
    assert names(report) == ["a.jpg"]
    assert ["does not exist" in reason for _, reason in report.refused] == [True, True, False]
    assert home.sources.refused() == []


def test_files_beyond_the_limit_are_refused_not_copied(tmp_path: Path) -> None:
    home = Home(tmp_path, decode=DecodeLimits(max_file_bytes=100))
    home.drop("large.mp4", b"x" * 101)
    home.drop("small.mp4", b"x" * 100)
    report = home.tick()
    assert names(report) == ["small.mp4"]
    assert "MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES" in report.refused[0][1]


def test_an_endless_file_of_no_length_ends(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files of /proc say that they are empty and are not.
    report = home.intake.take([Path("/proc/self/status")], wait=True, patience_s=0)
    assert (report.new, len(report.waiting)) == ([], 1)


def _impatient(home: Home, monkeypatch: pytest.MonkeyPatch, between: Callable[[], None]) -> None:
    """Waiting for a file takes no time, and `between` happens meanwhile, once."""
    todo = [between]

    def meanwhile(_: float) -> None:
        for path in home.inbox.iterdir():
            age(path)
        if todo:
            todo.pop()()

    monkeypatch.setattr(module.time, "sleep", meanwhile)


@pytest.mark.parametrize("kind", ["a link in a named folder", "a named file"])
def test_what_is_swapped_for_a_link_while_it_is_waited_for_is_not_followed(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    age(secret)
    home.write("fresh.jpg", b"fresh")
    swapped = home.inbox / ("fresh.jpg" if kind == "a named file" else "link.jpg")
    if kind != "a named file":
        swapped.symlink_to("fresh.jpg")

    def swap() -> None:
        swapped.unlink()
        swapped.symlink_to(secret)

    _impatient(home, monkeypatch, swap)
    report = home.take(swapped if kind == "a named file" else home.inbox, wait=True)
    assert [medium.stored.read_bytes() for medium in report.new] == [b"fresh"] * (kind != "a named file")
    assert [(path, "leaves" in reason) for path, reason in report.refused] == [(swapped, True)]


def test_a_link_that_was_named_is_waited_for_where_it_leads(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.jpg"
    own.write_bytes(b"own")
    link = home.inbox / "link.jpg"
    link.symlink_to(own)
    _impatient(home, monkeypatch, lambda: age(own))
    assert names(home.take(link, wait=True)) == ["link.jpg"]


# -- disks and servers that do not answer -------------------------------------------------------------------------


def _failing(call: Callable[..., Any], code: int, concerns: Callable[..., bool]) -> Callable[..., Any]:
    def failing(*args: Any, **kwargs: Any) -> Any:
        if concerns(*args):
            raise OSError(code, os.strerror(code))
        return call(*args, **kwargs)

    return failing


@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO, errno.EACCES, errno.ENOENT])
def test_a_store_that_takes_nothing_ends_the_look_and_refuses_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = home.drop("a.jpg", b"content")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", _failing(os.open, code, lambda place, *_: ".incoming" in str(place)))
        for look in (home.tick, lambda: home.take(path)):
            with pytest.raises(StorageUnavailable, match=os.strerror(code)) as error:
                look()
            assert error.value.remedy and str(home.layout.originals) in error.value.cause
    assert home.sources.refused() == []
    assert names(home.tick()) == ["a.jpg"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE])
@pytest.mark.parametrize("call", ["open", "preadv"])
def test_a_file_whose_disk_does_not_answer_is_looked_at_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = home.drop("a.jpg", b"content")
    concerns = (lambda place, *_: place == "a.jpg") if call == "open" else (lambda *_: True)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _failing(getattr(os, call), code, concerns))
        for _ in range(2):
            [(refused, reason)] = home.tick().refused
            assert (refused, os.strerror(code) in reason, "looked at again" in reason) == (path, True, True)
    assert home.sources.refused() == []
    assert names(home.tick()) == ["a.jpg"]


def test_a_file_that_cannot_be_read_is_refused_until_it_changes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.drop("a.jpg", b"content")
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", _failing(os.preadv, errno.EACCES, lambda *_: True))
        assert [len(home.tick().refused) for _ in range(2)] == [1, 0]
    assert len(home.sources.refused()) == 1


def test_a_folder_whose_server_does_not_answer_ends_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.drop("a.jpg", b"content")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", _failing(os.open, errno.ENOTCONN, lambda place, *_: place == str(home.inbox)))
        assert len(home.tick().refused) == 1
    assert names(home.tick()) == ["a.jpg"]


def test_a_file_that_somebody_holds_just_now_waits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home.drop("a.jpg", b"content")  # a file server has lent it out: fcntl(2), leases
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", _failing(os.open, errno.EAGAIN, lambda place, *_: place == "a.jpg"))
        assert home.tick().waiting == [path]
    assert names(home.tick()) == ["a.jpg"]
