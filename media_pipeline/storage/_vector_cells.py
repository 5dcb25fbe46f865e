"""Vectors in cells: an inverted file over quantised vectors, as faiss has it (Jégou, Douze and Schmid 2011).

A query is compared with the codes in the nearest cells only, and the best of these once more with the vectors
themselves. How many cells that takes depends on the data: it is measured, against comparing all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from media_pipeline.config import IndexLimits
from media_pipeline.storage._vector_files import Vectors

library: Any = faiss  # its stubs lack what it binds at run time

FLAT = "flat"
RECALL_AT = 10
QUERIES = 128  # vectors of the table for which recall is measured
_TRAINING_PER_CELL = 64  # faiss warns below 39
# A cell of few vectors has a centre that is nearly one of them, and which would outlive its erasure.
_LEAST_IN_CELL = 8
_UNGROUPED_CELLS = 2_048  # up to which a vector's cell is sought among all
_NEAREST_GROUPS = 8  # of cells in which it is sought else: hardly ever another one is nearer
_THREADS = 4  # that search at once, where there are so many segments
_NUMBER_BYTES = 8  # faiss keeps a vector's number beside its code


def kind_for(vectors: int, dimension: int, limits: IndexLimits) -> str:
    """How so many vectors are kept: as they are, or by the finest codes that fit into memory.

    Codes of one byte per number (SQ8), of half a byte (SQ4), or of one byte for four numbers (PQ).
    """
    if vectors <= limits.exact_up_to and vectors * dimension * 4 <= limits.max_memory_bytes:
        return FLAT
    kinds = {"SQ8": dimension, "SQ4": (dimension + 1) // 2}
    if dimension % 4 == 0:
        kinds[f"PQ{dimension // 4}"] = dimension // 4
    fitting = [kind for kind, size in kinds.items() if vectors * (size + _NUMBER_BYTES) <= limits.max_memory_bytes]
    return fitting[0] if fitting else list(kinds)[-1]


def cell_count(vectors: int) -> int:
    return max(1, math.isqrt(vectors))


def training_size(vectors: int) -> int:
    return cell_count(vectors) * _TRAINING_PER_CELL


def trained(sample: Vectors, vectors: int, kind: str) -> Any:
    """An empty index of this kind for so many vectors.

    Args:
        sample: shape (n, dimension), of all kinds of vectors there will be
    """
    dimension = sample.shape[1]
    # The clustering of faiss logs when it has too few; a table of one vector repeated is no reason to fail.
    cells = min(cell_count(vectors), max(1, len(sample) // _TRAINING_PER_CELL))
    kmeans = library.Kmeans(dimension, cells, niter=10, spherical=True, seed=1)
    kmeans.train(sample)
    centres = kmeans.centroids
    _, nearest = kmeans.index.search(sample, 1)
    members = np.bincount(nearest.ravel(), minlength=len(centres))
    kept = members >= min(_LEAST_IN_CELL, members.max())
    index = library.index_factory(dimension, f"IVF{int(kept.sum())},{kind}", library.METRIC_INNER_PRODUCT)
    index.quantizer.add(np.ascontiguousarray(centres[kept]))
    index.train(sample)  # the codes only: the cells are there
    return index


class Filler:
    """Fills the cells of a trained index with the codes of one segment at a time.

    Cells grow with the root of the vectors. To compare each vector with the centre of each cell would make filling grow
    beyond proportion, so many cells are put into groups: compared are those of the groups that are nearest.
    """

    def __init__(self, trained_at: Path) -> None:
        self._index: Any = library.read_index(str(trained_at))
        self._centres: Any = self._index.quantizer
        if self._index.nlist > _UNGROUPED_CELLS:
            dimension, groups = self._index.d, math.isqrt(self._index.nlist)
            centres = self._centres.reconstruct_n()
            self._centres = library.index_factory(dimension, f"IVF{groups},Flat", library.METRIC_INNER_PRODUCT)
            self._centres.train(centres)
            self._centres.add(centres)
            self._centres.nprobe = _NEAREST_GROUPS

    def cells_of(self, vectors: Vectors) -> npt.NDArray[np.int64]:
        """The nearest cell to each, or very nearly so; shape (len(vectors),)."""
        return np.ascontiguousarray(self._centres.search(vectors, 1)[1].ravel(), np.int64)

    def write(self, path: Path, vectors: Vectors, first: int) -> None:
        """The codes of one segment's vectors, numbered from `first`, sorted into cells."""
        segment = library.clone_index(self._index)
        arrays = (vectors, np.arange(first, first + len(vectors)), self.cells_of(vectors))  # faiss holds no reference
        segment.add_core(len(vectors), *map(library.swig_ptr, arrays))
        writer = library.FileIOWriter(str(path))
        library.write_InvertedLists(segment.invlists, writer)
        del writer  # closes the file


class Cells:
    """The cells of all segments. Mapped: a search reads the cells it needs, and processes share them.

    Segments are dealt out to a few indexes that are searched at once: to compare a query with its cells is most of what
    a search costs, and threads of faiss itself share out queries only.

    Raises:
        RuntimeError: a file is damaged or gone.
    """

    def __init__(self, trained_at: Path, segments: Sequence[Path], vectors: int) -> None:
        count = max(1, min(_THREADS, len(segments)))
        self._parts = [_Part(trained_at, segments[at::count], vectors) for at in range(count)]
        self._pool = ThreadPoolExecutor(count, "cells")

    @property
    def count(self) -> int:
        return int(self._parts[0].index.nlist)

    def near(
        self, queries: Vectors, depth: int, probes: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.int64]:
        """Numbers of vectors near to each query, shape (len(queries), depth); -1 where there are fewer.

        Args:
            allowed: by number, which vectors may be found
        """
        parameters: dict[str, Any] = {"nprobe": min(probes, self.count)}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            parameters["sel"] = library.IDSelectorBitmap(bits)
        chosen = library.SearchParametersIVF(**parameters)
        found = list(self._pool.map(lambda part: part.index.search(queries, depth, params=chosen), self._parts))
        scores, numbers = (np.concatenate([each[i] for each in found], axis=1) for i in (0, 1))
        best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        return np.asarray(np.take_along_axis(numbers, best, axis=1), np.int64)


class _Part:
    """Some of the segments, as one index."""

    def __init__(self, trained_at: Path, segments: Sequence[Path], vectors: int) -> None:
        self.index: Any = library.read_index(str(trained_at))
        self._lists = [_mapped(path) for path in segments]
        pointers = library.InvertedListsPtrVector()
        for lists in self._lists:
            pointers.push_back(lists)
        self._stack = library.HStackInvertedLists(pointers.size(), pointers.data())
        self.index.replace_invlists(self._stack, False)
        self.index.ntotal = vectors


def _mapped(path: Path) -> Any:
    reader = library.FileIOReader(str(path))
    lists = library.downcast_InvertedLists(library.read_InvertedLists(reader, library.IO_FLAG_MMAP))
    lists.prefetch_nthread = 0  # else each query starts 32 threads per segment
    return lists


def probes_for(recall: Callable[[int], float], cells: int, wanted: float) -> tuple[int, float]:
    """The least power of two of cells that reaches this recall, or all of them, and the recall it has.

    Not fewer, although they might do: what people ask is less like the table's vectors than these are like each other.
    """
    probes = 4
    while True:
        probes = min(probes, cells)
        reached = recall(probes)
        if reached >= wanted or probes == cells:
            return probes, reached
        probes *= 2
