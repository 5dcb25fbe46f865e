"""Millions of vectors, like those of faces: written into a table, indexed and searched, in a process of its own.

python -m benchmarks._scale_vectors COUNT HOME OUT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks._scale_data import FACE_DIM, LATENT, SEED, Vectors, as_column, media_id
from benchmarks._scale_home import folder_bytes
from benchmarks._scale_measures import Figure, peak_memory, seconds, vector_search
from benchmarks._scale_one import collected
from media_pipeline.config import IndexLimits
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Space, VectorIndex

SPACE = Space("face", "tracks", "face@1", FACE_DIM)
COLUMNS = ("media_id", "track_index", "at_s")
PER_PERSON, PER_MEDIUM = 20, 4
BATCH = 20_000  # vectors per commit
_SPREAD = 0.05  # of each number around the person's own
NEW = 256  # vectors of one day's batch


class People:
    """As many people as there are vectors for, each a point, each sighting near one of them.

    The points lie in fewer dimensions than the vectors have, as those of real faces do.
    """

    def __init__(self, vectors: int) -> None:
        rng = np.random.default_rng([SEED, 4])
        latent = rng.standard_normal((max(1, vectors // PER_PERSON), LATENT), np.float32)
        self._own = latent @ rng.standard_normal((LATENT, FACE_DIM), np.float32)
        self._own /= np.linalg.norm(self._own, axis=1, keepdims=True)

    def sightings(self, rng: np.random.Generator, count: int) -> Vectors:
        """Shape (count, 128), L2-normalised."""
        seen = self._own[rng.integers(0, len(self._own), count)]
        seen = seen + np.float32(_SPREAD) * rng.standard_normal((count, FACE_DIM), np.float32)
        found: Vectors = seen / np.linalg.norm(seen, axis=1, keepdims=True)
        return found


def rows(people: People, start: int, count: int) -> pa.Table:
    """The vectors from this number on; the same ones always."""
    rng = np.random.default_rng([SEED, 5, start])
    numbers = np.arange(start, start + count)
    names = pa.array([media_id(n) for n in range(start // PER_MEDIUM, (start + count - 1) // PER_MEDIUM + 1)])
    return pa.table(
        {
            "media_id": names.take(pa.array(numbers // PER_MEDIUM - start // PER_MEDIUM)),
            "track_index": (numbers % PER_MEDIUM).astype(np.int32),
            "at_s": rng.random(count) * 40,
            "model": pa.repeat(pa.scalar(SPACE.model), count),
            "embedding": as_column(people.sightings(rng, count)),
        }
    )


def figures(count: int, home: Path) -> Iterator[Figure]:
    """Fills a home where that is not done yet, then measures it."""
    layout, memory, people = Layout(home), dict[str, int](), People(count)
    tables = Tables(layout.tables, layout.locks)
    index = VectorIndex(tables, layout, SPACE, IndexLimits())
    if not (layout.indexes / f"{SPACE.name}.json").exists():  # comes last; what was cut off is written over
        yield Figure("writing them into the table", seconds(partial(_fill, tables, people, count)), "s")
        with peak_memory(memory):
            yield Figure("building the index", seconds(index.refresh), "s")
        yield Figure("memory for that, peak", memory["own"] / 1e6, "MB")
        yield Figure("… mapped files counted", memory["all"] / 1e6, "MB")
    # Opened anew, as by a process that has just started.
    index = VectorIndex(tables, layout, SPACE, IndexLimits())
    queries = people.sightings(np.random.default_rng([SEED, 6]), 100)
    yield from vector_search("face", index, queries, COLUMNS)
    _put(tables, rows(people, count, NEW))
    yield Figure(f"index after {NEW} new ones", seconds(index.refresh), "s", constant=True)
    yield Figure("table on disk", folder_bytes(layout.tables) / 1e6, "MB")
    yield Figure("index on disk", folder_bytes(layout.indexes) / 1e6, "MB")


def _fill(tables: Tables, people: People, count: int) -> None:
    tables.ensure(SPACE.table, rows(people, 0, 1).schema)
    for start in range(0, count, BATCH):
        _put(tables, rows(people, start, min(BATCH, count - start)))


def _put(tables: Tables, found: pa.Table) -> None:
    tables.replace(SPACE.table, found, found["media_id"].unique().to_pylist())


if __name__ == "__main__":
    collected(figures(int(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]))
