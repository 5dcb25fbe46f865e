"""The files of a vector index: its sidecar, and one segment per Parquet file of the table.

A segment holds the vectors of one Parquet file as NumPy arrays that are mapped into memory: the row of each vector in
its file, a hash of its medium, the vectors themselves. In a large index there are their codes, sorted into cells, in a
second file beside it. Segments never change: one whose Parquet file has gone is deleted, and with it every number of
an erased medium.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from media_pipeline.storage._media_index import media_hashes

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FORMAT = 3
VECTORS, CELLS, TRAINED = ".vectors", ".cells", ".trained"


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors that may be compared with each other."""

    name: str  # text, image, face, voice: also the name of the index's files
    table: str
    model: str  # rows of other models are left out; compared with the column `model`
    dimension: int
    column: str = "embedding"


@dataclass(frozen=True, slots=True)
class Segment:
    """The vectors of one Parquet file. Those of all segments are numbered through; removed numbers stay unused."""

    file: str  # name of its files beside the sidecar, without the ending
    first: int  # number of its first vector
    vectors: int
    rows: int  # of the Parquet file, those without a vector or of another model counted
    sizes: dict[str, int]  # bytes by ending: a truncated file must not be mapped into memory


@dataclass(frozen=True, slots=True)
class State:
    """The sidecar. It is renamed into place last, so it never names a file that is not complete."""

    format: int
    model: str
    metric: str
    dimension: int
    table_version: int
    kind: str  # flat: every vector is compared; else how faiss codes those in cells: SQ8, SQ4, PQ96
    trained: str  # file of the cells' centres; empty where flat
    trained_bytes: int
    trained_rows: int  # rows of the table when it was trained; 0 where flat
    probes: int  # cells compared per query; 0 where flat
    recall: float | None  # recall@10 against comparing all, measured when it was trained
    next_number: int
    segments: dict[str, Segment] = field(default_factory=dict)  # by name of the Parquet file, in order of writing

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments.values())

    @property
    def vectors(self) -> int:
        return sum(segment.vectors for segment in self.segments.values())

    @property
    def files(self) -> dict[str, int]:
        """Every file it needs, and its size in bytes."""
        sizes = {s.file + ending: size for s in self.segments.values() for ending, size in s.sizes.items()}
        return sizes | ({self.trained: self.trained_bytes} if self.trained else {})

    def write(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


def read_state(path: Path, space: Space) -> State | None:
    """The sidecar, or None where it is missing, damaged or of another kind; of the files it names nothing is asked."""
    try:
        known = json.loads(path.read_text())
        segments = {str(name): Segment(**segment) for name, segment in known.pop("segments").items()}
        state = State(**known, segments=segments)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    ours = (FORMAT, space.model, space.dimension) == (state.format, state.model, state.dimension)
    return state if ours else None


@dataclass(frozen=True, slots=True)
class Rows:
    """The vectors of one file."""

    rows: Ints  # shape (n,): in the Parquet file, ascending
    media: Ints  # shape (n,): hash of the medium, see `media_hashes`
    vectors: npt.NDArray[Any]  # shape (n, dimension), float32 or float16


def read_rows(path: Path, space: Space, every: int = 1) -> Rows:
    """The vectors of the space's model in a Parquet file, or in one of so many of its row groups; some ten MB."""
    parts = list(_row_groups(path, space, every))
    empty = Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, space.dimension), np.float32))
    parts = parts or [empty]
    return Rows(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.media for part in parts]),
        np.ascontiguousarray(np.concatenate([part.vectors for part in parts])),
    )


def _row_groups(path: Path, space: Space, every: int) -> Iterator[Rows]:
    with pq.ParquetFile(path, read_dictionary=["media_id", "model"]) as file:
        model = ["model"] if "model" in file.schema_arrow.names else []
        starts = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))])
        for group in range(0, file.num_row_groups, every):
            table = file.read_row_group(group, columns=["media_id", space.column, *model])
            ours = np.asarray(table[space.column].is_valid())
            if model:
                ours &= np.asarray(pc.equal(table["model"], space.model).fill_null(False))
            rows = np.flatnonzero(ours)
            lists = table[space.column].combine_chunks().take(pa.array(rows))
            vectors = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
            media = table["media_id"].combine_chunks()
            hashes = media_hashes(media.dictionary)[media.indices.to_numpy()[rows]]
            yield Rows(rows + starts[group], hashes, vectors.reshape(len(rows), space.dimension))


def write_rows(path: Path, found: Rows) -> None:
    with path.open("wb") as sink:
        for array in (found.rows, found.media, found.vectors):
            np.save(sink, array, allow_pickle=False)


def open_rows(path: Path) -> Rows:
    """The arrays of `write_rows`, mapped into memory: only what is looked at is read.

    Raises:
        ValueError, OSError: the file is damaged or gone.
    """
    layout: Any = np.lib.format  # untyped
    arrays = []
    with path.open("rb") as file:
        for _ in range(3):
            if layout.read_magic(file) != (1, 0):
                raise ValueError(f"{path} has an unknown format")
            shape, _, kind = layout.read_array_header_1_0(file)
            size = int(np.prod(shape))
            # An empty array cannot be mapped.
            array = np.memmap(path, kind, "r", file.tell(), shape) if size else np.zeros(shape, kind)
            file.seek(size * kind.itemsize, 1)
            arrays.append(np.asarray(array))
    return Rows(*arrays)


def row_count(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)
