"""Nearest neighbours of a vector among the rows of a table: one faiss index per space.

The index mirrors the table's files. A Delta table is a set of immutable Parquet files, so a vector is known by its
file and its row in it; replacing or erasing media replaces files, and the difference of two lists of names says all
that has to be removed and added. An index is a cache: missing, stale or damaged, it is made again from the table.

Up to `exact_up_to` vectors every one is compared. Beyond that an inverted file over 8-bit scalar quantised vectors
compares those in the nearest cells (Jégou et al. 2011; `IVF,SQ8` of faiss): a quarter of the memory, and a score that
is off by some thousandths.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from media_pipeline.storage.disk import disk_full_explained
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

EXACT_UP_TO = 100_000  # vectors: 154 MB of 384 numbers, written after each batch and searched in 0.02 s
PROBES = 32  # cells compared per query
_TRAINING_PER_CELL = 64  # faiss warns below 39
_FORMAT = 1
_ROW_BITS = 32  # id = ordinal of the file << 32 | row in the file
_ROW_MASK = (1 << _ROW_BITS) - 1


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors that may be compared with each other."""

    name: str  # text, image, face, voice: also the name of the index's files
    table: str
    model: str  # rows of other models are left out; compared with the column `model`
    dimension: int
    column: str = "embedding"


@dataclass(frozen=True, slots=True)
class Neighbour:
    score: float  # inner product: the cosine of L2-normalised vectors
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _State:
    """The sidecar. It is renamed into place last, so it never names an index that is not complete."""

    format: int
    model: str
    metric: str
    dimension: int
    table_version: int
    index: str  # file name of the index beside it
    bytes: int  # of the index: a truncated one must not be mapped into memory
    trained_rows: int  # of which the cells were made; 0: every vector is compared
    vectors: int  # in the index: rows of the table but those without a vector or of another model
    next_ordinal: int
    files: dict[str, tuple[int, int]] = field(default_factory=dict)  # Parquet file -> (ordinal, rows)

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.files.values())


class VectorIndex:
    """The index of one space. Threads and processes may refresh and search at once."""

    def __init__(self, tables: Tables, layout: Layout, space: Space, *, exact_up_to: int = EXACT_UP_TO) -> None:
        self.space = space
        self._tables = tables
        self._folder = layout.indexes
        self._lock = FileLock(layout.locks / f"index-{space.name}.lock", fallback_to_soft=False, poll_interval=0.01)
        self._exact_up_to = exact_up_to
        self._sidecar = self._folder / f"{space.name}.json"
        self._opened: tuple[str, Any] | None = None
        self._opening = threading.Lock()

    # ------------------------------------------------------------------ asking

    def search(self, vector: Vectors, k: int, columns: Sequence[str]) -> list[Neighbour]:
        """The `k` rows nearest to `vector` (shape (dimension,), L2-normalised), best first, with these columns.

        The index is brought up to date first.
        """
        for attempt in range(3):
            state = self.refresh()
            if state.vectors == 0:
                return []
            try:
                scores, ids = _nearest(self._open(state), vector, min(k, state.vectors))
                return self._rows(state, scores, ids, columns)
            except FileNotFoundError:
                # The table's files were replaced and removed while we looked; the next look finds the new ones.
                if attempt == 2:
                    raise
            except RuntimeError:
                # Another process has replaced the index, or it is damaged.
                if attempt == 2:
                    raise
                self._forget(state)
        raise AssertionError("unreachable")

    def count(self) -> int:
        """Vectors of this space's model in the table. The index is brought up to date first."""
        return self.refresh().vectors

    def _rows(
        self, state: _State, scores: Vectors, ids: npt.NDArray[np.int64], columns: Sequence[str]
    ) -> list[Neighbour]:
        paths = list(self._files().values())
        if not paths:
            return []  # emptied since the index was read
        # Replaced files stay on the disk for readers like this one: the index and its rows are of one moment.
        folder = paths[0].parent
        names = {ordinal: name for name, (ordinal, _) in state.files.items()}
        places = [(names[int(at) >> _ROW_BITS], int(at) & _ROW_MASK) for at in ids]
        wanted: dict[str, list[int]] = {}
        for name, row in places:
            wanted.setdefault(name, []).append(row)
        found = {name: _read_rows(folder / name, rows, columns) for name, rows in wanted.items()}
        return [Neighbour(float(score), found[name][row]) for score, (name, row) in zip(scores, places, strict=True)]

    def _files(self) -> dict[str, Path]:
        """The table's present files by name, in order of writing."""
        return {Path(path).name: Path(path) for path in self._tables.files(self.space.table)}

    # ------------------------------------------------------------------ keeping up

    def refresh(self) -> _State:
        """Brings the index up to date with the table; costs a look at the table's log when it is.

        Raises:
            DiskFull: no room for the index; the old one is still there.
        """
        state = self._read_state()
        if state is not None and self._is_current(state):
            return state
        with self._locked():
            state = self._read_state()
            if state is not None and self._is_current(state):
                return state
            with disk_full_explained(self._folder):
                return self._update(state)

    def _is_current(self, state: _State) -> bool:
        return state.files.keys() == self._files().keys()

    def _update(self, state: _State | None) -> _State:
        version = self._tables.version(self.space.table) if self._tables.exists(self.space.table) else -1
        files = self._files()
        index = self._load_for_update(state, files)
        if state is None or index is None:
            state = self._empty(version)
            index, trained_rows = self._new_index(files)
        else:
            trained_rows = state.trained_rows
            gone = [state.files[name] for name in state.files if name not in files]
            _remove(index, gone)
        known = {name: state.files[name] for name in files if name in state.files}
        ordinal = state.next_ordinal
        for name, path in files.items():
            if name not in known:
                known[name] = (ordinal, self._add(index, path, ordinal))
                ordinal += 1
        return self._publish(index, state, version, trained_rows, ordinal, known)

    def _load_for_update(self, state: _State | None, files: Mapping[str, Path]) -> Any:
        """The present index if going on with it is right and cheaper than starting anew, else None."""
        if state is None:
            return None
        rows = sum(state.files[n][1] if n in state.files else _row_count(path) for n, path in files.items())
        kept = sum(count for name, (_, count) in state.files.items() if name in files)
        outgrown = rows > (4 * state.trained_rows if state.trained_rows else self._exact_up_to)
        shrunk = state.trained_rows > 0 and rows <= self._exact_up_to // 2
        if outgrown or shrunk or kept < state.rows / 2:
            return None
        try:
            return faiss.read_index(str(self._folder / state.index))
        except RuntimeError as error:
            log.warning("the index %s is damaged and is made again: %s", state.index, error)
            return None

    def _new_index(self, files: Mapping[str, Path]) -> tuple[Any, int]:
        rows = sum(_row_count(path) for path in files.values())
        if rows <= self._exact_up_to:
            return faiss.index_factory(self.space.dimension, "IDMap2,Flat", faiss.METRIC_INNER_PRODUCT), 0
        cells = int(np.sqrt(rows))
        index = faiss.index_factory(self.space.dimension, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.train(self._sample(files, cells * _TRAINING_PER_CELL, rows))
        return index, rows

    def _sample(self, files: Mapping[str, Path], count: int, total: int) -> Vectors:
        """About `count` vectors, spread over all files: what came first need not look like what came later."""
        step = max(1, total // count)
        # Copies: a view would keep the whole row group in memory.
        parts = [vectors[::step].copy() for path in files.values() for vectors, _ in self._vectors(path)]
        return np.ascontiguousarray(np.concatenate(parts))

    def _add(self, index: Any, path: Path, ordinal: int) -> int:
        for vectors, rows in self._vectors(path):
            index.add_with_ids(vectors, rows + (ordinal << _ROW_BITS))
        return _row_count(path)

    def _vectors(self, path: Path) -> Iterator[tuple[Vectors, npt.NDArray[np.int64]]]:
        """Vectors (n, dimension) of our model in a file, and their rows in it, a row group at a time."""
        with pq.ParquetFile(path) as file:
            has_model = "model" in file.schema_arrow.names
            start = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[self.space.column, *(["model"] if has_model else [])])
                ours = np.asarray(table[self.space.column].is_valid())
                if has_model:
                    ours &= np.asarray(table["model"].to_numpy(zero_copy_only=False) == self.space.model)
                rows = np.flatnonzero(ours)
                lists = table[self.space.column].combine_chunks().take(pa.array(rows))
                flat = lists.flatten().to_numpy(zero_copy_only=False)
                yield flat.reshape(len(rows), self.space.dimension).astype(np.float32), rows + start
                start += table.num_rows

    # ------------------------------------------------------------------ files

    def _publish(
        self, index: Any, before: _State, version: int, trained_rows: int, ordinal: int, files: Mapping[str, Any]
    ) -> _State:
        path = self._folder / f"{self.space.name}.{uuid.uuid4().hex[:12]}.faiss"
        temporary = path.with_suffix(".tmp")
        try:
            faiss.write_index(index, str(temporary))
            temporary.replace(path)
            state = _State(
                format=_FORMAT,
                model=self.space.model,
                metric="inner_product",
                dimension=self.space.dimension,
                table_version=version,
                index=path.name,
                bytes=path.stat().st_size,
                trained_rows=trained_rows,
                vectors=index.ntotal,
                next_ordinal=ordinal,
                files=dict(files),
            )
            temporary.write_text(json.dumps(asdict(state)))
            temporary.replace(self._sidecar)
        finally:
            temporary.unlink(missing_ok=True)
        self._discard_others(state)
        return state

    def discard(self) -> None:
        """Removes every index of this space, whatever its model: for a table that has no vectors any more."""
        with self._locked():
            for path in self._folder.glob(f"{self.space.name}.*"):
                path.unlink(missing_ok=True)

    def _locked(self) -> FileLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        Path(self._lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        return self._lock

    def _discard_others(self, state: _State) -> None:
        """Removes older indexes of this space, those of other models too: nobody else would ever erase from them."""
        for path in self._folder.glob(f"{self.space.name}.*"):
            if path.name not in (state.index, self._sidecar.name):
                path.unlink(missing_ok=True)

    def _forget(self, state: _State) -> None:
        """Makes the next refresh start anew, unless another process has already mended it."""
        with self._lock:
            if self._read_state() == state:
                self._sidecar.unlink(missing_ok=True)

    def _empty(self, version: int) -> _State:
        return _State(_FORMAT, self.space.model, "inner_product", self.space.dimension, version, "", 0, 0, 0, 0)

    def _read_state(self) -> _State | None:
        """The sidecar, or None where it, or the index it names, is missing, damaged or of another kind."""
        try:
            known = json.loads(self._sidecar.read_text())
            files = {str(name): (int(at), int(rows)) for name, (at, rows) in known.pop("files").items()}
            state = _State(**known, files=files)
            size = (self._folder / state.index).stat().st_size
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return None
        ours = (_FORMAT, self.space.model, self.space.dimension, size)
        return state if ours == (state.format, state.model, state.dimension, state.bytes) else None

    def _open(self, state: _State) -> Any:
        with self._opening:
            if self._opened is None or self._opened[0] != state.index:
                path = str(self._folder / state.index)
                # Mapped: a search touches the pages it needs, and processes share them.
                self._opened = (state.index, faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC))
            return self._opened[1]


def models_in(tables: Tables, table: str) -> Counter[str]:
    """Rows of each model in the table's column `model`; from the statistics of its files where these suffice."""
    found: Counter[str] = Counter()
    for path in tables.files(table):
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


def _nearest(index: Any, vector: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    query = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
    if isinstance(index, faiss.IndexIVF):
        # faiss sets its parameters by name at run time, which its stubs do not know.
        scores, ids = index.search(query, k, params=faiss.SearchParametersIVF(nprobe=PROBES))  # type: ignore[call-arg]
    else:
        scores, ids = index.search(query, k)
    there = ids[0] >= 0  # fewer than k were found
    return scores[0][there], ids[0][there]


def _remove(index: Any, files: Sequence[tuple[int, int]]) -> None:
    if files:
        ids = np.concatenate([np.arange(rows, dtype=np.int64) + (ordinal << _ROW_BITS) for ordinal, rows in files])
        index.remove_ids(ids)


def _row_count(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def _read_rows(path: Path, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
    """These rows of a Parquet file by number; reads only the row groups they lie in."""
    found: dict[int, dict[str, Any]] = {}
    with pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = sorted({row for row in rows if start <= row < end})
            if inside:
                table = file.read_row_group(group, columns=list(columns)).take(pa.array([r - start for r in inside]))
                found.update(zip(inside, table.to_pylist(), strict=True))
            start = end
    return found


__all__ = ["Neighbour", "Space", "VectorIndex", "dimension_of", "models_in"]
