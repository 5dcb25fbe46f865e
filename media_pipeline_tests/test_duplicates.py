from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from media_pipeline.config import Settings
from media_pipeline.media.phash import phash
from media_pipeline.results.duplicates import update_duplicates
from media_pipeline.storage import schemas
from media_pipeline.storage.tables import Tables

SHARED = Path(__file__).resolve().parents[2] / "shared" / "media"
DISTANCE = 6

Hashes = Sequence[int | str | None]


class Library:
    """Tables with media made of hashes. Their ids are short names: only their order matters here."""

    def __init__(self, folder: Path) -> None:
        self.tables = Tables(folder / "tables", folder / "locks")
        self.tables.ensure("media", schemas.MEDIA)
        self.tables.ensure("frames", schemas.FRAMES)

    def add(self, name: str, kind: str, hashes: Hashes) -> None:
        self.add_all({name: (kind, hashes)})

    def add_all(self, media: Mapping[str, tuple[str, Hashes]]) -> None:
        rows = [{"media_id": name, "kind": kind} for name, (kind, _) in media.items()]
        self.tables.replace("media", pa.Table.from_pylist(rows), media)
        frames = [
            {"media_id": name, "frame_index": 10 * i, "phash": f"{h:016x}" if isinstance(h, int) else h}
            for name, (_, hashes) in media.items()
            for i, h in enumerate(hashes)
        ]
        schema = pa.schema([schemas.FRAMES.field(c) for c in ("media_id", "frame_index", "phash")])
        self.tables.replace("frames", pa.Table.from_pylist(frames, schema=schema), media)

    def update(self, *names: str) -> int:
        return update_duplicates(self.tables, names, max_distance=DISTANCE)

    def pairs(self) -> dict[tuple[str, str], tuple[float, float]]:
        rows = self.tables.read("duplicate_pairs").to_pylist()
        found = {(r["media_id"], r["other_id"]): (r["distance"], round(r["matched"], 3)) for r in rows}
        assert len(found) == len(rows), "a pair is stored twice"
        return found


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def far(count: int, seed: int = 0) -> list[int]:
    """Hashes of unrelated pictures: random ones are 32 bits apart, never within 12."""
    rng = random.Random(seed)
    return [rng.getrandbits(64) for _ in range(count)]


def near(value: int, bits: int) -> int:
    return value ^ ((1 << bits) - 1) << 20


def test_pictures_are_a_pair_up_to_the_distance_and_not_beyond(library: Library) -> None:
    (picture,) = far(1)
    for name, bits in (("a", 0), ("b", DISTANCE), ("c", DISTANCE + 1)):
        library.add(name, "image", [near(picture, bits)])
    assert library.update("a", "b", "c") == 2
    assert library.pairs() == {("b", "a"): (6.0, 1.0), ("c", "b"): (1.0, 1.0)}


def test_pictures_match_only_pictures_and_videos_only_videos(library: Library) -> None:
    scene = far(4)
    library.add("a", "image", [scene[0]])
    library.add("b", "video", [scene[0]])
    library.add("c", "video", scene)
    assert library.update("a", "b", "c") == 0


def test_plain_pictures_say_nothing(library: Library) -> None:
    library.add("a", "image", [None])
    library.add("b", "image", [None])
    library.add("c", "video", [None, None, None])
    library.add("d", "video", [None, None, None])
    assert library.update("a", "b", "c", "d") == 0


A, B, C, D, E, F, G, H = far(8, seed=1)
SEQUENCES = {
    "the same video": ([A, B, C, D], [A, B, C, D], 1.0),
    "compressed anew": ([A, B, C, D], [near(h, 4) for h in (A, B, C, D)], 1.0),
    "a part of the other": ([B, C, D], [A, B, C, D, E, F], 1.0),
    "plain frames in between": ([A, None, B, C], [None, A, B, None, C], 1.0),
    "seven tenths": ([*far(7, seed=2), *far(3, seed=3)], [*far(7, seed=2), *far(3, seed=4)], 0.7),
    "a static shot in the middle": ([A, B, B, B, C], [A, B, B, B, B, B, C], 1.0),
    "six tenths": ([*far(6, seed=2), *far(4, seed=3)], [*far(6, seed=2), *far(4, seed=4)], None),
    "only the first frame": ([A, B, C], [A, D, E], None),
    "one frame each": ([A], [A], None),
    "the same empty yard": ([A, near(A, 2), near(A, 3)], [A, A, A, A], None),
    "the reverse order": ([A, B, C, D, E], [E, D, C, B, A], None),
    "a shared frame that comes back": ([A, B, A, C, A], [A, D, A, E, A, F], None),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SEQUENCES)
@pytest.mark.parametrize("swapped", [False, True])
def test_videos_match_over_several_frames_in_order(library: Library, case: str, swapped: bool) -> None:
    left, right, share = SEQUENCES[case]
    library.add("a", "video", list(right if swapped else left))
    library.add("b", "video", list(left if swapped else right))
    assert library.update("b") == (share is not None)
    assert [matched for _, matched in library.pairs().values()] == ([] if share is None else [share])


def test_scanned_pages_are_compared_as_a_sequence(library: Library) -> None:
    library.add("a", "image", [A, B, C])
    library.add("b", "image", [A, B, C])
    library.add("c", "image", [A])
    library.update("a", "b", "c")
    assert set(library.pairs()) == {("b", "a")}


@pytest.mark.slow
def test_neither_order_nor_batches_nor_repetition_matter(tmp_path: Path) -> None:
    rng = random.Random(7)
    base = far(3, seed=9)
    media: dict[str, tuple[str, Hashes]] = {
        name: ("image", [near(rng.choice(base), rng.randrange(8))]) for name in "abcdefghij"
    }
    media |= {name: ("video", [near(h, rng.randrange(9)) for h in (A, B, C, D)]) for name in "klmnop"}
    results = []
    for size in (3, 7, len(media)):
        library = Library(tmp_path / str(size))
        order = rng.sample(sorted(media), len(media))
        while order:
            batch, order = order[:size], order[size:]
            library.add_all({name: media[name] for name in batch})
            library.update(*batch)
        before = library.pairs()
        library.update(*media)
        assert library.pairs() == before
        assert all(greater > lesser for greater, lesser in before)
        results.append(before)
    assert len(results[0]) > 10
    assert results[0] == results[1] == results[2]


def test_a_medium_decoded_anew_or_gone_loses_its_old_pairs_on_either_side(library: Library) -> None:
    for name in "abc":
        library.add(name, "image", [A])
    library.update("a", "b", "c")
    assert set(library.pairs()) == {("b", "a"), ("c", "a"), ("c", "b")}
    library.add("b", "image", [B])
    library.update("b")
    assert set(library.pairs()) == {("c", "a")}
    for table in ("media", "frames"):
        library.tables.delete(table, ["a"])
    library.update("a")
    assert library.pairs() == {}


def test_pairs_that_a_run_beside_this_one_found_stay(library: Library) -> None:
    library.add("a", "image", [A])
    library.tables.ensure("duplicate_pairs", schemas.DUPLICATE_PAIRS)
    other = {"media_id": "z", "other_id": "a", "distance": 0.0, "matched": 1.0}
    library.tables.replace("duplicate_pairs", pa.Table.from_pylist([other], schema=schemas.DUPLICATE_PAIRS), ["z"])
    library.update("a")  # had not seen the frames of z when it began
    assert set(library.pairs()) == {("z", "a")}


def test_nothing_to_compare_is_no_error(tmp_path: Path) -> None:
    tables = Tables(tmp_path / "tables", tmp_path / "locks")
    assert update_duplicates(tables, ["a"], max_distance=DISTANCE) == 0
    library = Library(tmp_path / "empty")
    assert library.update("a") == library.update() == 0
    library.add("sound", "audio", [])
    assert library.update("sound") == 0


def test_a_picture_is_found_again_after_scaling_and_compression(library: Library, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for number in range(3):
        rough = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        picture = rough.resize((640, 480), Image.Resampling.BICUBIC)
        picture.resize((160, 120)).save(tmp_path / "small.jpg", quality=60)
        library.add(f"{number}-whole", "image", [phash(picture)])
        library.add(f"{number}-small", "image", [phash(Image.open(tmp_path / "small.jpg"))])
    library.update(*(f"{n}-{size}" for n in range(3) for size in ("whole", "small")))
    assert set(library.pairs()) == {(f"{n}-whole", f"{n}-small") for n in range(3)}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the media collection ../shared/media is not there")
def test_precision_and_recall_on_real_pictures(library: Library) -> None:
    truth = json.loads((SHARED / "MANIFEST.json").read_text())["files"]
    groups: dict[str, str] = {}
    media: dict[str, tuple[str, Hashes]] = {}
    for entry in truth:
        name = entry["file"]
        if not name.startswith(("faces/", "ocr/", "scenes/", "formats/")):
            continue
        try:
            with Image.open(SHARED / name) as picture:
                value = phash(ImageOps.exif_transpose(picture).convert("RGB"))
        except (OSError, ValueError):
            continue
        media[name] = ("image", [value])
        groups[name] = (entry.get("ground_truth") or {}).get("near_duplicate_group") or name
    library.add_all(media)
    update_duplicates(library.tables, groups, max_distance=Settings().duplicate_max_distance)
    found = set(library.pairs())
    wanted = {(b, a) for a, b in itertools.combinations(sorted(groups), 2) if groups[a] == groups[b]}
    assert found <= wanted
    # The one that is missed is a 16 px icon, 10 bits away from each of the others.
    assert {pair for pair in wanted - found if "formats/hopper.ico" not in pair} == set()
    assert len(found) >= 70
