from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from media_pipeline.config import DecodeLimits, Settings
from media_pipeline.errors import DiskFull
from media_pipeline.media import intake as module
from media_pipeline.media import walk as walk_module
from media_pipeline.media.intake import Intake, IntakeReport
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sources import Sources

OLD_S = 3600.0  # nothing here takes an hour: what is younger is still being written, unless a test waits


class Home:
    """An intake over a folder `inbox`; files written by `drop` are complete, those by `write` are fresh."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.inbox = folder / "inbox"
        self.inbox.mkdir(exist_ok=True)
        self.layout = Layout(folder / "home")
        self.layout.create()
        self.sources = Sources(self.layout.sources)
        defaults: dict[str, object] = {"settle_s": 600.0, "min_free_bytes": 0}
        self.settings = Settings(home=folder / "home", **{**defaults, **settings})
        self.intake = Intake(self.layout, self.sources, self.settings)

    def write(self, name: str | bytes, content: bytes) -> Path:
        path = self.inbox / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def drop(self, name: str | bytes, content: bytes) -> Path:
        path = self.write(name, content)
        age(path)
        return path

    def tick(self, *, limit_files: int = 1000, limit_seconds: float = 60.0) -> IntakeReport:
        return self.intake.tick([self.inbox], limit_files=limit_files, limit_seconds=limit_seconds)

    def take(self, *paths: Path, wait: bool = False) -> IntakeReport:
        return self.intake.take(paths, wait=wait)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def age(path: Path) -> None:
    os.utime(path, (time.time() - OLD_S, time.time() - OLD_S))


def names(report: IntakeReport) -> list[str]:
    return [medium.name for medium in report.new]


# -- what is taken ------------------------------------------------------------------------------------------------


def test_a_dropped_file_becomes_a_medium_once(home: Home) -> None:
    home.drop("Käse.jpg", b"picture")
    first = home.tick()
    (medium,) = first.new
    assert medium.media_id == hashlib.sha256(b"picture").hexdigest()
    assert medium.partition_key == f"kaese~{medium.media_id[:12]}"
    assert medium.stored.read_bytes() == b"picture"
    assert medium.path == str(home.inbox / "Käse.jpg")
    second = home.tick()
    assert (second.new, second.known, second.refused, second.waiting, second.complete) == ([], [], [], [], True)


STRANGE = [
    b"with space.jpg",
    "umläüt ß.jpg".encode(),
    b"new\nline.jpg",
    b"-leading-dash.jpg",
    b"--help",
    b"undecodable \xff\xfe.jpg",
    b"$(touch x).jpg",
    b"'quotes\".jpg",
    b"a,b;c.jpg",
    b"no extension",
    b"tab\there.jpg",
    b"%2e%2e.jpg",
    b"deep/er/and deeper/\xe9/x.jpg",
    b"x" * 255,
]


def test_any_name_in_nested_folders(home: Home) -> None:
    for name in STRANGE:
        home.drop(name, name)
    report = home.take(home.inbox)
    assert Counter(m.media_id for m in report.new) == Counter(hashlib.sha256(n).hexdigest() for n in STRANGE)
    for medium in report.new:
        (medium.name + medium.path).encode()
    assert home.tick().complete
    assert home.sources.count() == len(STRANGE)


def test_the_same_content_twice_is_one_medium_with_both_names(home: Home) -> None:
    home.drop("a.jpg", b"same")
    home.drop("folder/b.jpg", b"same")
    report = home.tick()
    assert names(report) == ["a.jpg"]
    assert report.known == []  # a medium is new or known, not both
    home.drop("c.jpg", b"same")
    (known,) = home.tick().known
    assert known.names == ("a.jpg", "b.jpg", "c.jpg")


def test_a_file_changed_after_intake_is_a_new_medium_and_the_old_one_stays(home: Home) -> None:
    home.drop("a.jpg", b"first")
    (old,) = home.tick().new
    home.drop("a.jpg", b"later")
    (new,) = home.tick().new
    assert old.media_id != new.media_id
    assert old.stored.read_bytes() == b"first"
    assert home.sources.count() == 2


def test_empty_files_are_media(home: Home) -> None:
    home.drop("empty.mp4", b"")
    assert names(home.tick()) == ["empty.mp4"]


@pytest.mark.parametrize(
    "name", [".hidden.jpg", "~$doc.jpg", "a.part", "A.CRDOWNLOAD", "a.tmp", "Thumbs.db", ".DS_Store", "desktop.ini"]
)
def test_litter_is_ignored_in_folders_and_tried_when_named(home: Home, name: str) -> None:
    path = home.drop(name, b"content")
    home.drop(f"sub/{name}", b"content")
    assert home.tick().new == home.take(home.inbox).new == []
    assert names(home.take(path)) == [name]


def test_hidden_folders_are_not_entered(home: Home) -> None:
    home.drop(".git/objects/a.jpg", b"content")
    assert home.tick().new == []


def test_folders_nested_deeper_than_pythons_stack(home: Home) -> None:
    folder, depth = os.open(home.inbox, os.O_RDONLY), 1200
    for _ in range(depth):
        os.mkdir("d", dir_fd=folder)
        deeper = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.utime("a.jpg", (0, 0), dir_fd=folder)
    os.close(folder)
    try:
        assert names(home.tick()) == ["a.jpg"]
    finally:  # pytest's own clean-up is recursive
        subprocess.run(["rm", "-rf", home.inbox], check=True)


def test_taking_known_files_again_names_their_media(home: Home) -> None:
    home.drop("a.jpg", b"a")
    home.take(home.inbox)
    again = home.take(home.inbox)
    assert (again.new, [m.name for m in again.known]) == ([], ["a.jpg"])


def test_an_original_that_was_lost_is_stored_again(home: Home) -> None:
    path = home.drop("a.jpg", b"content")
    (medium,) = home.take(path).new
    medium.stored.unlink()
    (known,) = home.take(path).known
    assert known.stored.read_bytes() == b"content"


def test_progress_hears_of_each_file_once(home: Home) -> None:
    home.drop("a.jpg", b"a")
    home.drop("b.jpg", b"a")
    home.write("fresh.jpg", b"fresh")
    heard: list[tuple[str, str]] = []
    home.intake.take(
        [home.inbox, home.inbox / "nowhere"], wait=False, progress=lambda path, what: heard.append((path.name, what))
    )
    assert sorted(heard) == [("a.jpg", "new"), ("b.jpg", "known"), ("fresh.jpg", "waiting"), ("nowhere", "refused")]


def test_the_library_beside_the_media_is_not_taken_in(home: Home, tmp_path: Path) -> None:
    home.drop("a.jpg", b"a")
    home.take(home.inbox)
    (home.layout.cache / "frame.jpg").write_bytes(b"frame")
    (home.layout.inbox / "b.jpg").write_bytes(b"b")
    age(home.layout.inbox / "b.jpg")
    assert home.take(tmp_path).new == []
    (refusal,) = home.take(home.layout.home).refused
    assert "the library itself" in refusal[1]
    assert names(home.take(home.layout.inbox)) == ["b.jpg"]


# -- complete or not ----------------------------------------------------------------------------------------------


def test_a_fresh_file_waits_and_is_taken_when_it_rested_across_restarts(home: Home, tmp_path: Path) -> None:
    path = home.write("a.jpg", b"half")
    assert home.tick().waiting == [path]
    path.write_bytes(b"half and half")
    assert home.tick().waiting == [path]
    # The clock of a share may run ahead: then only what we see counts.
    os.utime(path, (time.time() + OLD_S, time.time() + OLD_S))
    restarted = Home(tmp_path, settle_s=0.3)
    assert restarted.tick().waiting == [path]
    time.sleep(0.35)
    assert names(Home(tmp_path, settle_s=0.3).tick()) == ["a.jpg"]


def test_a_file_moved_in_is_taken_at_once(home: Home, tmp_path: Path) -> None:
    (tmp_path / "made elsewhere.jpg").write_bytes(b"content")
    age(tmp_path / "made elsewhere.jpg")
    (tmp_path / "made elsewhere.jpg").rename(home.inbox / "a.jpg")
    assert names(home.tick()) == ["a.jpg"]


def test_take_waits_until_a_file_is_complete(tmp_path: Path) -> None:
    home = Home(tmp_path, settle_s=0.4)
    path = home.write("a.jpg", b"")
    script = f"import time\nfor i in range(4):\n open({str(path)!r}, 'ab').write(b'x'); time.sleep(.15)"
    writer = subprocess.Popen([sys.executable, "-c", script])
    (medium,) = home.take(path, wait=True).new
    assert medium.bytes == 4
    assert writer.wait() == 0


def test_a_file_open_for_writing_is_not_complete_however_long_it_paused(tmp_path: Path) -> None:
    home = Home(tmp_path, settle_s=0)
    path = home.write("a.jpg", b"first half")
    with path.open("ab") as writer:
        assert home.tick().waiting == [path]
        writer.write(b", second half")
    assert home.tick().new[0].bytes == 23


def test_patience_ends(tmp_path: Path) -> None:
    home = Home(tmp_path, settle_s=600)
    path = home.write("log.mp4", b"x")
    report = home.intake.take([path], wait=True, patience_s=0.3)
    assert report.waiting == [path]


def test_a_file_written_to_while_it_is_read_stays_waiting(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home.drop("a.jpg", b"x" * 100)
    store = home.intake.originals.store

    def meddled(handle: int, expected: os.stat_result) -> tuple[str, Path]:
        path.write_bytes(b"y" * 100)
        return store(handle, expected)

    with monkeypatch.context() as patch:
        patch.setattr(home.intake.originals, "store", meddled)
        report = home.tick()
    assert (report.new, report.waiting) == ([], [path])
    age(path)
    assert home.tick().new[0].stored.read_bytes() == b"y" * 100


# -- what is refused ----------------------------------------------------------------------------------------------


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


# -- limits, disk, linking ----------------------------------------------------------------------------------------


def test_a_tick_that_a_limit_ended_is_continued_by_the_next(home: Home, tmp_path: Path) -> None:
    paths = [home.drop(f"{folder}/{number}.jpg", f"{folder}{number}".encode()) for folder in "abc" for number in "012"]
    seen = []
    for _ in range(10):
        report = Home(tmp_path).tick(limit_files=2)
        seen.append([str(Path(m.path)) for m in report.new])
        if report.complete:
            break
    assert seen == [[str(p) for p in paths[i : i + 2]] for i in range(0, 9, 2)]


def test_known_files_do_not_starve_those_behind_them(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        home.drop(f"{number}.jpg", b"%d" % number)
    home.tick()
    home.drop("new.jpg", b"new")
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    reports = [home.tick(limit_seconds=4) for _ in range(4)]
    assert [names(report) for report in reports] == [[], [], ["new.jpg"], []]


def test_several_watched_folders_share_one_cursor(home: Home, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "b.jpg").write_bytes(b"b")
    age(second / "b.jpg")
    home.drop("a.jpg", b"a")
    roots = [home.inbox, second, tmp_path / "missing"]
    ticks = [home.intake.tick(roots, limit_files=1, limit_seconds=60) for _ in range(3)]
    assert [names(t) for t in ticks] == [["a.jpg"], ["b.jpg"], []]
    assert ticks[2].complete


def test_a_full_disk_says_so_and_goes_on_when_there_is_room(home: Home, tmp_path: Path) -> None:
    home.drop("a.jpg", b"a")
    with pytest.raises(DiskFull, match="must stay free"):
        Home(tmp_path, min_free_bytes=1 << 60).tick()
    assert home.sources.count() == 0
    assert names(home.tick()) == ["a.jpg"]


def test_linked_originals_stay_where_they_are_and_follow_a_move(tmp_path: Path) -> None:
    home = Home(tmp_path, link_originals=True, min_free_bytes=1 << 60)  # linking needs no room
    path = home.drop("a.jpg", b"content")
    (medium,) = home.tick().new
    assert (medium.stored, medium.linked_mtime_ns) == (path, path.stat().st_mtime_ns)
    assert list(home.layout.originals.rglob("*")) == [home.layout.originals / ".incoming"]
    path.rename(home.inbox / "moved.jpg")
    (known,) = home.tick().known
    assert known.stored == home.inbox / "moved.jpg"
    assert known.names == ("a.jpg", "moved.jpg")


# -- killed -------------------------------------------------------------------------------------------------------

_VICTIM = """
import sys
from pathlib import Path
from media_pipeline.config import Settings
from media_pipeline.media.intake import Intake
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sources import Sources
folder = Path(sys.argv[1])
layout = Layout(folder / "home")
layout.create()
sources = Sources(layout.sources)
intake = Intake(layout, sources, Settings(home=folder / "home", settle_s=0, min_free_bytes=0))
print("ready", flush=True)
while not intake.tick([folder / "inbox"], limit_files=7, limit_seconds=5).complete:
    sources.mark_announced([medium.media_id for medium in sources.unannounced(3)])
"""


def _kill_at_random_instants(tmp_path: Path, kills: int) -> None:
    rng = random.Random(4711)
    home = Home(tmp_path, settle_s=0)
    contents = {rng.randbytes(rng.choice([0, 10, 50_000, 400_000])) for _ in range(20 * kills)}
    for number, content in enumerate(contents):
        home.write(f"{number % 5}/{number}.bin", content)
        if number % 10 == 0:
            home.write(f"copies/{number}.bin", content)
    killed = 0
    for _ in range(kills):
        with subprocess.Popen([sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE) as victim:
            assert victim.stdout and victim.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.05))
            victim.kill()
            killed += victim.wait() == -signal.SIGKILL
        for medium in home.sources.all_media():  # whatever can be seen is whole
            assert hashlib.sha256(medium.stored.read_bytes()).hexdigest() == medium.media_id
        for original in home.layout.originals.glob("??/*"):
            assert hashlib.sha256(original.read_bytes()).hexdigest() == original.name
    assert killed >= kills // 2

    final = Home(tmp_path, settle_s=0)
    while not final.tick().complete:
        pass
    expected = {hashlib.sha256(content).hexdigest() for content in contents}
    media = list(final.sources.all_media())
    assert len(media) == len(expected) and {m.media_id for m in media} == expected
    assert {p.name for p in final.layout.originals.glob("??/*")} == expected
    assert list((final.layout.originals / ".incoming").iterdir()) == []
    files = final.sources.table()
    assert Counter(files["state"].to_pylist()) == {"taken": sum(1 for p in home.inbox.rglob("*.bin"))}
    assert all(len(m.names) >= 1 for m in media)


@pytest.mark.slow
def test_killed_at_any_instant_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    _kill_at_random_instants(tmp_path, kills=3)


@pytest.mark.slow
def test_killed_at_twenty_instants_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    _kill_at_random_instants(tmp_path, kills=20)


@pytest.mark.slow
def test_two_processes_over_the_same_folder_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path, settle_s=0)
    for number in range(30):
        home.write(f"{number}.bin", b"%d" % (number % 25))
    workers = [subprocess.Popen([sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE) for _ in "ab"]
    for worker in workers:
        worker.communicate(timeout=60)
    assert [worker.returncode for worker in workers] == [0, 0]
    while not home.tick().complete:
        pass
    assert home.sources.count() == 25
    assert len(list(home.layout.originals.glob("??/*"))) == 25


@pytest.mark.slow
def test_ten_thousand_files_and_a_tick_without_news(home: Home) -> None:
    for number in range(10_000):
        home.drop(f"{number % 97}/{number}.jpg", b"%d" % number)
    assert len(home.tick(limit_files=20_000, limit_seconds=300).new) == 10_000
    begin = time.process_time()
    report = home.tick(limit_files=20_000)
    assert (report.new, report.known, report.complete) == ([], [], True)
    assert time.process_time() - begin < 1.0
