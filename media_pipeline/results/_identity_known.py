"""The tracks that have an identity, read from their table block by block: memory does not grow with the library.

Looking for all tracks near to some new ones is one pass over the embeddings, 0.5 KB per track, multiplied with the
new ones as they are read. An index would be faster to ask, but has to be kept, and erased from; a pass over a million
tracks costs less than analysing one more video.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from media_pipeline.results._identity_kinds import Key, Kind, Vector
from media_pipeline.storage.tables import Tables

Floats = npt.NDArray[np.float32]
_QUERIES = 512  # compared with a block at once: 32 MB of similarities


@dataclass(frozen=True, slots=True)
class Settled:
    """A track, or a sample, whose identity is not in question."""

    identity: str
    vector: Vector
    media_id: str | None = None  # None: a sample
    key: Key | None = None
    apart: tuple[Key, ...] = ()


@dataclass(slots=True)
class Member:
    """A track of an identity, or a sample."""

    vector: Vector | None  # None where the identity has too many
    media_id: str | None = None  # None: a sample
    key: Key | None = None
    apart: Sequence[Key] = ()


@dataclass(slots=True)
class Group:
    """An identity as far as one model sees it."""

    identity: str
    total: Vector  # sum of the unit vectors of its tracks
    since: datetime | None = None  # when its first track came
    members: list[Member] = field(default_factory=list)
    settled: bool = False  # holds what is not in question

    @property
    def count(self) -> int:
        return len(self.members)

    @property
    def vectors(self) -> Floats:
        """Those of the members, or of some spread over them: shape (at least one, dimension)."""
        return np.stack([member.vector for member in self.members if member.vector is not None])

    def grow(self, member: Member, at_most: int) -> None:
        if member.vector is None:
            raise ValueError("a member comes with its vector")
        self.total += member.vector
        self.members.append(member)
        kept = [m for m in self.members if m.vector is not None] if self.count % at_most == 0 else []
        if len(kept) > at_most:
            for one in kept[1::2]:
                one.vector = None


def blocks(tables: Tables, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a table, some thousand at a time; a column that is younger than a file is null in it."""
    if not tables.exists(name):
        return
    declared = tables.schema(name)
    schema = pa.schema([declared.field(column) for column in columns])
    for path in tables.files(name):
        with pq.ParquetFile(path) as file:
            there = [column for column in columns if column in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=there)
                for field in schema:
                    if field.name not in there:
                        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
                yield rows.select(columns)


def present(tables: Tables, kind: Kind, ids: Collection[str], without: Collection[str] = ()) -> set[str]:
    """Those of the ids that have tracks in media other than `without`."""
    wanted, media = pa.array(sorted(ids), pa.string()), pa.array(sorted(without), pa.string())
    found: set[str] = set()
    for rows in blocks(tables, kind.table, [kind.identity, "media_id"]) if ids else ():
        hits = rows.filter(pc.and_(pc.is_in(rows[kind.identity], wanted), pc.invert(pc.is_in(rows["media_id"], media))))
        found.update(hits[kind.identity].unique().to_pylist())
    return found


class Known:
    """All tracks of one model but those of some media, and what is `settled` beside the table."""

    def __init__(
        self, tables: Tables, kind: Kind, model: str, without: Collection[str], settled: Sequence[Settled]
    ) -> None:
        self._tables, self._kind, self._model = tables, kind, model
        self._without = pa.array(sorted(without), pa.string())
        self._settled = settled

    def near(self, vectors: Floats, threshold: float) -> set[str]:
        """Identities with a track whose similarity to one of the vectors (n, dimension) reaches the threshold."""
        found = {s.identity for s in self._settled if float((vectors @ s.vector).max()) >= threshold}
        columns = [self._kind.identity, "model", "media_id", "embedding"]
        for rows in self._rows(columns):
            theirs = matrix(rows["embedding"], vectors.shape[1])
            hit = np.zeros(len(theirs), bool)
            for start in range(0, len(vectors), _QUERIES):
                hit |= (theirs @ vectors[start : start + _QUERIES].T).max(axis=1, initial=-1) >= threshold
            if hit.any():
                found.update(rows.filter(pa.array(hit))[self._kind.identity].unique().to_pylist())
        return found

    def groups(self, ids: Collection[str], dimension: int, at_most: int = 1000) -> list[Group]:
        """These identities, sorted by id, each with the vectors of no more than about twice `at_most` members."""
        found = {i: Group(i, np.zeros(dimension, np.float32)) for i in sorted(ids)}
        wanted, kind = pa.array(sorted(ids), pa.string()), self._kind
        columns = [kind.identity, "model", "media_id", kind.track, "apart", "added_at", "embedding"]
        for rows in self._rows(columns) if ids else ():
            rows = rows.filter(pc.is_in(rows[kind.identity], wanted))
            vectors = matrix(rows["embedding"], dimension)
            values: Any = zip(*(rows[name].to_pylist() for name in columns if name not in _NOT_LISTED), strict=True)
            for vector, (identity, media_id, key, apart, added_at) in zip(vectors, values, strict=True):
                group = found[identity]
                group.grow(Member(vector.copy(), media_id, key, apart or ()), at_most)
                group.since = min(filter(None, (group.since, added_at)), default=None)
        for s in self._settled:
            if s.identity in found:
                found[s.identity].grow(Member(s.vector, s.media_id, s.key, s.apart), at_most)
                found[s.identity].settled = True
        return [group for group in found.values() if group.count]

    def _rows(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        for rows in blocks(self._tables, self._kind.table, columns):
            ours = pc.and_(pc.equal(rows["model"], self._model), pc.invert(pc.is_in(rows["media_id"], self._without)))
            kept = rows if pc.all(ours).as_py() else rows.filter(ours)  # copying all is what a pass would cost most
            if kept.num_rows:
                yield kept


_NOT_LISTED = ("model", "embedding")


def matrix(column: pa.ChunkedArray, dimension: int) -> Floats:
    """Embeddings of one model, shape (n, dimension)."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(-1, dimension)
