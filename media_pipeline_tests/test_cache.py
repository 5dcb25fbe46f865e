"""The cache: complete or absent, limited, and gone without harm."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.media.cache import FACTS_FILE, Cache
from media_pipeline.media.frames import FRAMES_FILE, FrameSink
from media_pipeline.media.types import MediaFacts
from media_pipeline.storage.processes import boot_id
from media_pipeline_tests import _synth

IDS = [f"{i:02x}" * 32 for i in range(4)]


def fill(cache: Cache, media_id: str, fingerprint: str = "f", frames: int = 1) -> None:
    folder = cache.incoming(media_id)
    sink = FrameSink(folder, Sampling(), DecodeLimits())
    sink.finish([sink.add(Image.fromarray(_synth.scene(i, 0)), index=i, size=(160, 120)) for i in range(frames)])
    cache.commit(folder, media_id, fingerprint, MediaFacts(kind="image", mime="image/png"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, 1 << 30)


def test_an_entry_is_found_with_its_fingerprint_only(cache: Cache) -> None:
    assert cache.get(IDS[0], "f") is None
    fill(cache, IDS[0])
    assert cache.get(IDS[0], "f") is not None
    assert cache.get(IDS[0], "other") is None


def test_decoding_again_replaces_and_old_readers_go_on(cache: Cache) -> None:
    fill(cache, IDS[0], frames=2)
    old = cache.get(IDS[0], "f")
    assert old is not None
    frames = iter(old.frames)
    first = next(frames)
    fill(cache, IDS[0], "g", frames=3)
    assert first.image().shape == (120, 160, 3)
    assert next(frames).frame_index == 1
    new = cache.get(IDS[0], "g")
    assert new is not None
    assert len(new.frames) == 3
    assert cache.get(IDS[0], "f") is None


@pytest.mark.parametrize("file", [FACTS_FILE, FRAMES_FILE])
def test_a_damaged_entry_counts_as_absent(cache: Cache, file: str) -> None:
    fill(cache, IDS[0])
    path = cache.root / IDS[0][:2] / IDS[0] / file
    path.write_bytes(path.read_bytes()[:50])
    assert cache.get(IDS[0], "f") is None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    roomy = Cache(tmp_path, 1 << 30)
    for age, media_id in enumerate(IDS):
        fill(roomy, media_id)
        stamp = time.time() - 1000 + age
        os.utime(roomy.root / media_id[:2] / media_id / FACTS_FILE, (stamp, stamp))
    assert roomy.evict() == 0
    size = sum(f.stat().st_size for f in (tmp_path / IDS[0][:2] / IDS[0]).iterdir())
    assert roomy.get(IDS[0], "f") is not None  # used: now the youngest

    small = Cache(tmp_path, int(size * 2.5))
    assert small.evict(keep={IDS[1]}) > 0
    left = [media_id for media_id in IDS if small.get(media_id, "f") is not None]
    assert left == [IDS[0], IDS[1]]


def test_discarding_is_repeatable(cache: Cache) -> None:
    fill(cache, IDS[0])
    cache.discard(IDS[0])
    cache.discard(IDS[0])
    assert cache.get(IDS[0], "f") is None
    assert not list((cache.root / ".incoming").iterdir())


WRITER = """\
import sys
from pathlib import Path
from media_pipeline.media.incoming import Incoming
print(Incoming(Path(sys.argv[1])).make(sys.argv[2]), flush=True)
sys.stdin.read()
"""
Start = Callable[[Cache, str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Processes that ask for a folder and go on living, behind a prefix that runs them."""
    started: list[subprocess.Popen[str]] = []

    def run(cache: Cache, prefix: str = "") -> subprocess.Popen[str]:
        command = [*prefix.split(), sys.executable, "-c", WRITER, str(cache.root / ".incoming"), IDS[len(started)]]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def folder_of(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def make_old(folder: Path, age_s: float) -> None:
    for path in (folder, folder.with_name(f"{folder.name}.lock"), *folder.iterdir()):
        if path.exists():
            os.utime(path, (time.time() - age_s,) * 2)


def left(cache: Cache) -> set[Path]:
    """Folders being written; whatever lies beside them must be theirs."""
    paths = set((cache.root / ".incoming").iterdir())
    folders = {path for path in paths if path.is_dir()}
    assert {path.with_suffix("") for path in paths - folders} <= folders
    return folders


def test_what_nobody_holds_is_removed_and_what_somebody_holds_is_kept(cache: Cache) -> None:
    # Named as if it were of a process that runs: this one, and the first of every container.
    for name in (f"{os.getpid()}-0-x", "1-0-x"):
        (cache.root / ".incoming" / name).mkdir(parents=True)
        (cache.root / ".incoming" / f"{name}.lock").touch()
    mine, again = cache.incoming(IDS[0]), Cache(cache.root, 1 << 30).incoming(IDS[0])
    for folder in (mine, again):
        make_old(folder, 1e6)
    Cache(cache.root, 1 << 30).evict()
    assert left(cache) == {mine, again}


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix", ["", "unshare --fork --kill-child --pid --mount-proc"], ids=["here", "in a container"]
)
def test_leavings_of_killed_processes_are_removed_and_those_of_the_living_kept(
    cache: Cache, start: Start, prefix: str
) -> None:
    if prefix and subprocess.run([*prefix.split(), "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace")
    # In containers of their own both are process 1, which exists here, too.
    first, second = start(cache, prefix), start(cache, prefix)
    killed, living = folder_of(first), folder_of(second)
    mine = cache.incoming(IDS[3])
    for folder in (killed, living, mine):
        make_old(folder, 1e6)
    cache.evict()
    assert left(cache) == {killed, living, mine}
    first.kill()
    first.wait()
    deadline = time.monotonic() + 5  # --kill-child takes a moment
    while killed.exists() and time.monotonic() < deadline:
        cache.evict()
    assert left(cache) == {living, mine}
    cache.abandon(mine)
    assert left(cache) == {living}


def test_where_locks_may_end_at_the_machine_only_what_is_certainly_dead_is_removed(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_pipeline.media.incoming.is_shared", lambda _: True)
    incoming = cache.root / ".incoming"

    def leave(name: str, boot: str, age_s: float) -> Path:
        folder = incoming / name
        folder.mkdir(parents=True)
        (folder / "audio.flac").touch()
        (incoming / f"{name}.lock").write_text(boot)
        make_old(folder, age_s)
        return folder

    leave("mine", boot_id(), 0)
    leave("forgotten", "of another machine", 90_000)
    elsewhere = leave("elsewhere", "of another machine", 80_000)
    busy = leave("busy", "of another machine", 90_000)
    (busy / "frames.arrow").touch()
    held = leave("held", "of another machine", 1e6)
    with (incoming / "held.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache.evict()
    assert left(cache) == {elsewhere, busy, held}


def test_folders_without_a_lock_go_after_a_day(cache: Cache) -> None:
    for name, age_s in (("1-0-old", 90_000), ("1-1-young", 80_000)):
        folder = cache.root / ".incoming" / name
        folder.mkdir(parents=True)
        (folder / FRAMES_FILE).touch()
        make_old(folder, age_s)
    cache.evict()
    assert left(cache) == {cache.root / ".incoming" / "1-1-young"}


def test_forgetting_removes_what_was_being_decoded(cache: Cache) -> None:
    fill(cache, IDS[0])
    other = cache.incoming(IDS[1])
    cache.incoming(IDS[0])
    shutil.rmtree(cache.incoming(IDS[0]))  # killed on its way out: the lock file remains
    cache.forget(IDS[0])
    assert left(cache) == {other}
    assert cache.get(IDS[0], "f") is None
    fill(cache, IDS[1])
    cache.abandon(other)
    assert not list((cache.root / ".incoming").iterdir())


@pytest.mark.slow
def test_it_stays_under_its_limit_while_two_processes_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_pipeline.media.cache._IN_USE_S", 0.0)
    fill(Cache(tmp_path, 1 << 30), IDS[0])
    size = Cache(tmp_path, 1 << 30).size()
    limit = 30 * size
    first, second = Cache(tmp_path, limit), Cache(tmp_path, limit)
    for number in range(40):
        for cache in (first, second):
            fill(cache, f"{number:02x}{id(cache) % 4096:03x}".ljust(64, "0"))
            assert cache.size() <= limit
    assert first.size() > limit / 2, "no more than needed goes"


def test_what_is_in_use_is_not_taken_to_make_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1)
    for media_id in IDS:
        fill(cache, media_id)
    assert all(cache.get(media_id, "f") is not None for media_id in IDS)
    old = tmp_path / IDS[1][:2] / IDS[1] / FACTS_FILE
    os.utime(old, (0, 0))
    cache.make_room()
    assert [media_id for media_id in IDS if cache.get(media_id, "f") is None] == [IDS[1]]
