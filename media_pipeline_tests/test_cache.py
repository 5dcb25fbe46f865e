"""The cache: complete or absent, limited, and gone without harm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.media.cache import FACTS_FILE, Cache
from media_pipeline.media.frames import FRAMES_FILE, FrameSink
from media_pipeline.media.types import MediaFacts
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


def test_leavings_of_killed_processes_are_removed_and_those_of_the_living_kept(cache: Cache) -> None:
    stray = cache.root / ".incoming" / f"99999999-0-{IDS[0]}"
    stray.mkdir(parents=True)
    os.utime(stray, (0, 0))
    mine = cache.incoming(IDS[1])
    os.utime(mine, (0, 0))
    cache.evict()
    assert not stray.exists()
    assert mine.exists()


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
