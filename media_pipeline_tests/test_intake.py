from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from media_pipeline.errors import DiskFull
from media_pipeline.media import intake as module
from media_pipeline_tests._intake import OLD_S, Home, age, names


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    report = home.tick(limit_files=20_000)
    assert (report.new, report.known, report.complete) == ([], [], True)
