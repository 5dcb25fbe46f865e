"""Near-duplicates: the same picture or video under another size, format or compression.

Pictures are compared by their 64-bit perceptual hash. Videos (and pages, and animations) are compared as sequences:
most frames of the shorter one must come again in the longer one, in the same order, and be more than one picture, so
that a common title card, or a camera that films an empty yard for hours, makes no pair. Whether two media are a pair
depends on these two alone, never on what came first or on what else is there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.storage import schemas
from media_pipeline.storage.hashes import within
from media_pipeline.storage.tables import Tables

TABLE = "duplicate_pairs"
MIN_SHARE = 0.7
MIN_DISTINCT = 2

Codes = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def update_duplicates(tables: Tables, media_ids: Collection[str], *, max_distance: int) -> int:
    """Bring the table `duplicate_pairs` up to date for these media.

    Reads the tables `media` and `frames`; may be repeated, and run beside itself, in any order.

    Args:
        tables: the library's
        media_ids: media that are new, or were decoded anew; those without frames lose their pairs
        max_distance: Hamming distance, 0 to 64, up to which two frames are the same picture

    Returns:
        the number of pairs that these media are part of now.
    """
    tables.ensure(TABLE, schemas.DUPLICATE_PAIRS)
    if not tables.exists("frames") or not tables.exists("media"):
        return 0
    given = set(media_ids)
    frames = _Frames.of(tables)
    pairs = list(_pairs(frames, given, max_distance))
    stale = tables.read(TABLE, columns=["media_id", "other_id"])
    touched = stale.filter(_involves(stale, given))
    affected = given.union(touched["media_id"].to_pylist(), (pair["media_id"] for pair in pairs))
    fresh = pa.Table.from_pylist(pairs, schema=schemas.DUPLICATE_PAIRS)
    decided = pa.array(frames.ids, pa.string())

    def change(old: pa.Table) -> pa.Table:
        # A partner whose frames were not there when they were read belongs to a run beside this one: its pair stays.
        ours = _involves(old, given)
        both = pc.and_(pc.is_in(old["media_id"], decided), pc.is_in(old["other_id"], decided))
        gone = _involves(old, given - set(frames.ids))
        kept = old.filter(pc.invert(pc.and_(ours, pc.or_(both, gone))))
        return _without(kept.select(fresh.column_names), fresh)

    tables.update(TABLE, affected, change)
    return len(pairs)


@dataclass(frozen=True, slots=True)
class _Frames:
    """All frames that have a hash, sorted by medium and position. `first[i]:first[i + 1]` are those of medium i."""

    ids: list[str]
    kinds: list[str]
    single: npt.NDArray[np.bool_]  # whether a medium has one frame, plain ones counted
    first: Codes
    medium: Codes  # one per frame
    hashes: Hashes

    @classmethod
    def of(cls, tables: Tables) -> _Frames:
        media = tables.read("media", columns=["media_id", "kind"])
        rows = tables.read("frames", columns=["media_id", "frame_index", "phash"])
        rows = rows.filter(pc.is_in(rows["media_id"], media["media_id"]))
        coded = rows["media_id"].combine_chunks().dictionary_encode()
        ids = coded.dictionary.to_pylist()
        medium = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        single = np.bincount(medium, minlength=len(ids)) == 1
        order = np.lexsort((rows["frame_index"].to_numpy(), medium))
        rows, medium = rows.take(pa.array(order)), medium[order]
        valid = rows["phash"].is_valid().to_numpy()
        medium = medium[valid]
        digits = "".join(rows["phash"].drop_null().to_pylist())
        hashes = np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64)
        first = np.searchsorted(medium, np.arange(len(ids) + 1))
        kind_of = dict(zip(media["media_id"].to_pylist(), media["kind"].to_pylist(), strict=True))
        return cls(ids, [kind_of[media_id] for media_id in ids], single, first, medium, hashes)

    def of_medium(self, code: int) -> Hashes:
        return self.hashes[self.first[code] : self.first[code + 1]]

    def comparable(self, left: int, right: int) -> bool:
        return self.kinds[left] == self.kinds[right] and bool(self.single[left] == self.single[right])

    def is_still(self, code: int) -> bool:
        return self.kinds[code] == "image" and bool(self.single[code])


def _pairs(frames: _Frames, given: set[str], max_distance: int) -> Iterator[dict[str, Any]]:
    wanted = np.array([media_id in given for media_id in frames.ids], dtype=bool)
    for left, right in _candidates(frames, wanted, max_distance):
        if not frames.comparable(left, right):
            continue
        if frames.is_still(left):
            distance = int(np.bitwise_count(frames.of_medium(left)[0] ^ frames.of_medium(right)[0]))
            found: tuple[float, float] | None = (float(distance), 1.0)
        else:
            found = _match(frames.of_medium(left), frames.of_medium(right), max_distance)
        if found:
            greater, lesser = sorted((frames.ids[left], frames.ids[right]), reverse=True)
            yield {"media_id": greater, "other_id": lesser, "distance": found[0], "matched": found[1]}


def _candidates(frames: _Frames, wanted: npt.NDArray[np.bool_], max_distance: int) -> list[tuple[int, int]]:
    """Codes (lower first) of media that share at least one frame, one of them wanted."""
    asked = wanted[frames.medium]
    query, hit = within(frames.hashes[asked], frames.hashes, max_distance)
    codes = np.sort(np.stack([frames.medium[asked][query], frames.medium[hit]], axis=1), axis=1)
    codes = np.unique(codes[codes[:, 0] != codes[:, 1]], axis=0)
    return [(int(left), int(right)) for left, right in codes]


def _match(left: Hashes, right: Hashes, max_distance: int) -> tuple[float, float] | None:
    """(mean distance, share of the shorter) of two sequences, or None when they are no pair."""
    shorter, longer = (left, right) if len(left) <= len(right) else (right, left)
    distances = np.bitwise_count(shorter[:, None] ^ longer[None, :])
    chain = _longest_chain(distances <= max_distance)
    share = len(chain) / len(shorter)
    if share < MIN_SHARE or _distinct([shorter[i] for i, _ in chain], max_distance) < MIN_DISTINCT:
        return None
    return float(np.mean([distances[i, j] for i, j in chain])), share


def _longest_chain(same: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The most matches (i, j) of which each lies behind the one before in both sequences."""
    ends: list[int] = []  # ends[n]: the lowest j that ends a chain of n + 1 matches
    nodes: list[tuple[int, int, int]] = []  # i, j, previous node
    last: list[int] = []  # last[n]: the node at ends[n]
    for i, row in enumerate(same):
        # From the right, so that no chain uses frame i twice.
        for j in np.flatnonzero(row)[::-1].tolist():
            n = bisect_left(ends, j)
            nodes.append((i, j, last[n - 1] if n else -1))
            ends[n:], last[n:] = [j, *ends[n + 1 :]], [len(nodes) - 1, *last[n + 1 :]]
    chain, node = [], last[-1] if last else -1
    while node >= 0:
        i, j, node = nodes[node]
        chain.append((i, j))
    return chain[::-1]


def _distinct(hashes: list[np.uint64], max_distance: int) -> int:
    """How many different pictures these frames show."""
    kept: list[np.uint64] = []
    for value in hashes:
        if all(np.bitwise_count(value ^ other) > max_distance for other in kept):
            kept.append(value)
    return len(kept)


def _involves(rows: pa.Table, media_ids: set[str]) -> pa.ChunkedArray:
    ids = pa.array(sorted(media_ids), pa.string())
    return pc.or_(pc.is_in(rows["media_id"], ids), pc.is_in(rows["other_id"], ids))


def _without(kept: pa.Table, fresh: pa.Table) -> pa.Table:
    """`kept` and `fresh` as one, where both have a pair that of `fresh`."""
    pair = zip(kept["media_id"].to_pylist(), kept["other_id"].to_pylist(), strict=True)
    new = set(zip(fresh["media_id"].to_pylist(), fresh["other_id"].to_pylist(), strict=True))
    mask = pa.array([one not in new for one in pair], pa.bool_())
    return pa.concat_tables([kept.filter(mask), fresh])
