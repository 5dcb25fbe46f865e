"""Nearest neighbours of a vector among the rows of a table: one index per space.

The index mirrors the table's files. A Delta table is a set of immutable Parquet files, so there is one segment of the
index for each: a batch writes the segments of its own new files, and erasing media deletes those that held them. What
that costs depends on what changed, never on the size of the library. An index is a cache: missing, stale or damaged,
it is made again from the table.

Few vectors are all compared. Beyond `IndexLimits.exact_up_to` they lie in cells (`_vector_cells.py`), in codes that fit
into `IndexLimits.max_memory_bytes`, and are trained anew when the table has grown to `_RETRAIN_AT` times its size.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from media_pipeline.config import IndexLimits
from media_pipeline.storage._vector_cells import FLAT, Filler, kind_for, trained, training_size
from media_pipeline.storage._vector_files import (
    CELLS,
    FORMAT,
    TRAINED,
    VECTORS,
    Rows,
    Segment,
    Space,
    State,
    Vectors,
    read_rows,
    read_state,
    row_count,
    write_rows,
)
from media_pipeline.storage._vector_search import Opened
from media_pipeline.storage.disk import disk_full_explained
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

log = logging.getLogger(__name__)

DEFAULTS = IndexLimits()
_RETRAIN_AT = 4
_ATTEMPTS = 3
_SAMPLED_GROUPS = 8  # of so many row groups one is read for training
_READERS = 4  # files that found rows are read from at once
_FOOTERS = 1024  # of files with found rows, kept in memory: some ten kilobytes each


@dataclass(frozen=True, slots=True)
class Neighbour:
    score: float  # inner product: the cosine of L2-normalised vectors
    row: dict[str, Any]


class VectorIndex:
    """The index of one space. Threads and processes may refresh and search at once."""

    def __init__(self, tables: Tables, layout: Layout, space: Space, limits: IndexLimits = DEFAULTS) -> None:
        self.space = space
        self._tables = tables
        self._folder = layout.indexes
        self._lock = FileLock(layout.locks / f"index-{space.name}.lock", fallback_to_soft=False, poll_interval=0.01)
        self._limits = limits
        self._sidecar = self._folder / f"{space.name}.json"
        self._opened: Opened | None = None
        self._opening = threading.Lock()
        self._parsed: tuple[tuple[int, int, int], State] | None = None

    # ------------------------------------------------------------------ asking

    def search(
        self,
        vector: Vectors,
        k: int,
        columns: Sequence[str],
        media_ids: Collection[str] | None = None,
        *,
        without: Collection[str] = (),
        at_least: float = -math.inf,
    ) -> list[Neighbour]:
        """The `k` rows nearest to `vector` (shape (dimension,), L2-normalised), best first, with these columns.

        The index is brought up to date first.

        Args:
            media_ids: only rows of these media; None for all. Few of them are compared exactly, whatever the index.
            without: no rows of these media
            at_least: score below which a row is none of them: what is not read costs nothing
        """
        for attempt in range(_ATTEMPTS):
            state = self.refresh()
            if state.vectors == 0:
                return []
            try:
                near = self._open(state).nearest(vector, k, media_ids, without)
                return self._with_rows([hit for hit in near if hit[0] >= at_least], columns)
            except FileNotFoundError:
                # Files were replaced and removed while we looked; the next look finds the new ones.
                if attempt == _ATTEMPTS - 1:
                    raise
            except (RuntimeError, ValueError):
                # The index is damaged, or another process has replaced it.
                if attempt == _ATTEMPTS - 1:
                    raise
                self._forget(state)
        raise AssertionError("unreachable")

    def count(self) -> int:
        """Vectors of this space's model in the table. The index is brought up to date first."""
        return self.refresh().vectors

    def _with_rows(self, near: Sequence[tuple[float, tuple[str, int]]], columns: Sequence[str]) -> list[Neighbour]:
        wanted: dict[str, list[int]] = {}
        for _, (name, row) in near:
            wanted.setdefault(name, []).append(row)
        # Replaced files stay on the disk for readers like this one: the index and its rows are of one moment.
        folder = self._tables.folder(self.space.table)
        # A row here and a row there: nearly all of it is decompressing, which threads do at once.
        with ThreadPoolExecutor(_READERS) as pool:
            read = pool.map(lambda name: _read_rows(folder / name, wanted[name], columns), wanted)
            found = dict(zip(wanted, read, strict=True))
        return [Neighbour(score, found[name][row]) for score, (name, row) in near]

    def _files(self) -> dict[str, Path]:
        """The table's present files by name, in order of writing."""
        return {Path(path).name: Path(path) for path in self._tables.files(self.space.table)}

    # ------------------------------------------------------------------ keeping up

    def refresh(self) -> State:
        """Brings the index up to date with the table; costs a look at the table's log when it is.

        Afterwards nothing of rows that have gone from the table is left in the index's files.

        Raises:
            DiskFull: no room for the index; the old one is still there.
        """
        state = self._current()
        if state is not None:
            return state
        with self._locked():
            state = self._current()
            if state is not None:
                return state
            with disk_full_explained(self._folder):
                return self._update(self._whole())

    def _current(self) -> State | None:
        """The state on the disk, if it is that of the table, whole, and nothing else lies about."""
        state = self._read()
        names = {path.rpartition("/")[2] for path in self._tables.files(self.space.table)}
        if state is None or state.segments.keys() != names:
            return None
        return state if self._present() == state.files else None

    def _whole(self) -> State | None:
        """The state on the disk, of whichever version of the table, if its files are there."""
        state = self._read()
        return state if state is not None and state.files.items() <= self._present().items() else None

    def _read(self) -> State | None:
        """The sidecar as it is now. It is replaced, never changed, and read anew only then: it may name a thousand."""
        try:
            stat = self._sidecar.stat()
        except FileNotFoundError:
            return None
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._parsed is not None and self._parsed[0] == stamp:
            return self._parsed[1]
        state = read_state(self._sidecar, self.space)
        self._parsed = None if state is None else (stamp, state)
        return state

    def _update(self, state: State | None) -> State:
        files = self._files()
        if state is None or self._outgrown(state, files):
            state = self._trained(files)
        version = self._tables.version(self.space.table) if self._tables.exists(self.space.table) else -1
        filler = None if state.kind == FLAT else Filler(self._folder / state.trained)
        segments, number = {}, state.next_number
        for name, path in files.items():
            segments[name] = state.segments.get(name) or self._segment(path, filler, number)
            number = max(number, segments[name].first + segments[name].vectors)
        state = replace(state, table_version=version, next_number=number, segments=segments)
        if state.kind != FLAT and not state.probes:
            probes, recall = Opened(self._folder, state).tuned(self._limits.min_recall)
            state = replace(state, probes=probes, recall=recall)
            log.info("index %s: %d vectors as %s, recall@10 %.3f", self.space.name, state.vectors, state.kind, recall)
        state.write(self._sidecar)
        self._discard_others(state)
        return state

    def _outgrown(self, state: State, files: Mapping[str, Path]) -> bool:
        """Whether starting anew is right, or cheaper than going on."""
        rows = sum(state.segments[n].rows if n in state.segments else row_count(path) for n, path in files.items())
        kind = kind_for(rows, self.space.dimension, self._limits)
        if state.kind == FLAT or kind == FLAT:
            # Not for a few vectors around the limit: it would be trained again and again.
            return kind != state.kind and (state.kind == FLAT or rows <= self._limits.exact_up_to // 2)
        return kind != state.kind or rows > _RETRAIN_AT * state.trained_rows

    def _trained(self, files: Mapping[str, Path]) -> State:
        """The state of an index without segments, fit for these files."""
        rows = sum(row_count(path) for path in files.values())
        kind = kind_for(rows, self.space.dimension, self._limits)
        state = State(FORMAT, self.space.model, "inner_product", self.space.dimension, -1, kind, "", 0, 0, 0, None, 0)
        sample = self._sample(files, rows) if kind != FLAT else np.zeros((0, 0), np.float32)
        if not len(sample):
            return replace(state, kind=FLAT)
        path = self._new(TRAINED)
        faiss.write_index(trained(sample, rows, kind), str(path))
        return replace(state, trained=path.name, trained_bytes=path.stat().st_size, trained_rows=rows)

    def _sample(self, files: Mapping[str, Path], rows: int) -> Vectors:
        """Vectors spread over all files: what came first need not look like what came later."""
        step = max(1, rows // training_size(rows))
        parts = []
        for path in files.values():
            count, found = row_count(path), read_rows(path, self.space, min(step, _SAMPLED_GROUPS)).vectors
            # Of few groups all the more: as many as of all of them.
            within = max(1, step * len(found) // max(1, count))
            # Copies: a view would keep the whole file in memory.
            parts.append(found[::within].copy())
        return np.ascontiguousarray(np.concatenate(parts))

    def _segment(self, path: Path, filler: Filler | None, number: int) -> Segment:
        found = read_rows(path, self.space)
        target = self._new(VECTORS)
        # Beside codes that choose the candidates, half precision is near enough to put them in order.
        exact = found if filler is None else Rows(found.rows, found.media, found.vectors.astype(np.float16))
        write_rows(target, exact)
        written = {VECTORS: target}
        if filler is not None:
            written[CELLS] = target.with_suffix(CELLS)
            filler.write(written[CELLS], found.vectors, number)
        sizes = {ending: file.stat().st_size for ending, file in written.items()}
        return Segment(target.stem, number, len(found.rows), row_count(path), sizes)

    # ------------------------------------------------------------------ files

    def _new(self, ending: str) -> Path:
        return self._folder / f"{self.space.name}.{uuid.uuid4().hex[:12]}{ending}"

    def _present(self) -> dict[str, int]:
        """All files of this space, whatever its model, but for the sidecar: bytes by name."""
        found = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(f"{self.space.name}.") and entry.name != self._sidecar.name:
                    with suppress(FileNotFoundError):  # another process has just removed it
                        found[entry.name] = entry.stat().st_size
        return found

    def discard(self) -> None:
        """Removes every index of this space, whatever its model: for a table that has no vectors any more."""
        with self._locked():
            for name in [self._sidecar.name, *self._present()]:
                (self._folder / name).unlink(missing_ok=True)

    def _locked(self) -> FileLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        Path(self._lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        return self._lock

    def _discard_others(self, state: State) -> None:
        """Removes what belongs to no segment, be it of another model: nobody else would ever erase from it."""
        for name in self._present().keys() - state.files.keys():
            (self._folder / name).unlink(missing_ok=True)

    def _forget(self, state: State) -> None:
        """Makes the next refresh start anew, unless another process has already mended it."""
        with self._lock:
            if read_state(self._sidecar, self.space) == state:
                self._sidecar.unlink(missing_ok=True)

    def _open(self, state: State) -> Opened:
        with self._opening:
            if self._opened is None or self._opened.state != state:
                self._opened = Opened(self._folder, state)
            return self._opened


def models_in(tables: Tables, table: str) -> Counter[str]:
    """Rows of each model in the table's column `model`; from the statistics of its files where these suffice."""
    found: Counter[str] = Counter()
    for path in tables.files(table):
        found.update(_models_of(path))
    return found


@lru_cache(maxsize=4096)
def _models_of(path: str) -> Counter[str]:
    """Of one file, which never changes."""
    found: Counter[str] = Counter()
    with pq.ParquetFile(path, read_dictionary=["model"]) as file:
        place = next(i for i in range(len(file.schema)) if file.schema.column(i).path == "model")
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(place).statistics
            if statistics and statistics.has_min_max and statistics.min == statistics.max:
                found[statistics.min] += file.metadata.row_group(group).num_rows - (statistics.null_count or 0)
            else:
                found.update(m for m in file.read_row_group(group, ["model"])[0].to_pylist() if m is not None)
    return found


def dimension_of(tables: Tables, table: str, model: str, column: str = "embedding") -> int | None:
    """How many numbers the vectors of this model have; None where there are none. Reads no further than the first."""
    for path in tables.files(table):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(256, columns=["model", column]):
                ours = batch.filter(pc.and_(pc.equal(batch["model"], model), pc.is_valid(batch[column])))
                if ours.num_rows:
                    return len(ours[column][0])
    return None


def _read_rows(path: Path, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
    """These rows of a Parquet file by number; reads only the row groups they lie in."""
    footer = _footer(path)
    sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    ends = np.cumsum(sizes)
    wanted = np.unique(rows)
    groups, at = np.unique(np.searchsorted(ends, wanted, side="right"), return_inverse=True)
    before = np.cumsum([0, *(sizes[group] for group in groups)])  # rows that are read before those of each group
    places = wanted - (ends - sizes)[groups][at] + before[at]
    with pq.ParquetFile(path, metadata=footer) as file:
        # A few hundred kilobytes: threads for each column cost more than they spare, and files are read at once anyway.
        table = file.read_row_groups(groups.tolist(), columns=list(columns), use_threads=False)
    return dict(zip(wanted.tolist(), table.take(pa.array(places)).to_pylist(), strict=True))


@lru_cache(maxsize=_FOOTERS)
def _footer(path: Path) -> pq.FileMetaData:
    """Of a file, which never changes: with many row groups, reading it takes as long as reading one of them."""
    return pq.read_metadata(path)


__all__ = ["Neighbour", "Space", "VectorIndex", "dimension_of", "models_in"]
