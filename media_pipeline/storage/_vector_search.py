"""One state of a vector index, opened for comparing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from media_pipeline.storage._media_index import media_hashes
from media_pipeline.storage._vector_cells import FLAT, QUERIES, RECALL_AT, Cells, probes_for
from media_pipeline.storage._vector_files import CELLS, VECTORS, Ints, State, Vectors, open_rows

Mask = npt.NDArray[np.bool_]

# Vectors of chosen media up to which each is compared; beyond, cells are faster.
EXACT_SUBSET = 50_000
_DEPTH = 64  # candidates from the cells that are compared exactly, and four for each one wanted
_TIE = 1e-4  # scores that differ by less are the same: half precision, and texts that occur many times


class Opened:
    """The files of one state, mapped into memory. Threads may search at once.

    Raises:
        RuntimeError, ValueError, OSError: a file is damaged or gone.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self.state = state
        # By number, not by file: what is left of an old file got a new segment when it was rewritten.
        filled = [(name, segment) for name, segment in state.segments.items() if segment.vectors]
        named = sorted(filled, key=lambda item: item[1].first)
        self._names = [name for name, _ in named]
        self._firsts = np.array([segment.first for _, segment in named], np.int64)
        self._rows = [open_rows(folder / (segment.file + VECTORS)) for _, segment in named]
        self._cells = None
        if state.kind != FLAT:
            lists = [folder / (segment.file + CELLS) for _, segment in named]
            self._cells = Cells(folder / state.trained, lists, state.vectors)

    def nearest(
        self, query: Vectors, k: int, media_ids: Collection[str] | None = None, without: Collection[str] = ()
    ) -> list[tuple[float, tuple[str, int]]]:
        """The `k` best as (inner product, (Parquet file, row in it)), best first; of these media, all if None."""
        query = np.ascontiguousarray(query, np.float32).ravel()
        masks = None if media_ids is None and not without else self._masks(media_ids, without)
        if self._cells is None or (masks is not None and sum(int(m.sum()) for m in masks) <= EXACT_SUBSET):
            scores, numbers = self._compare_all(query, k, masks)
        else:
            numbers = self._from_cells(self._cells, query, k, masks)
            scores, numbers = _best(self._compare(query, numbers), numbers, k)
        places = zip(self._segments_of(numbers).tolist(), numbers.tolist(), strict=True)
        found = [(self._names[i], int(self._rows[i].rows[number - self._firsts[i]])) for i, number in places]
        return list(zip(scores.tolist(), found, strict=True))

    def tuned(self, recall: float) -> tuple[int, float]:
        """Cells to compare per query so that the best ten hold this share of the true best ten, and the share.

        The queries are vectors of the table, spread over it; that each finds itself is not counted.
        """
        assert self._cells is not None
        queries = self._sample()
        floors = self.floors(queries, RECALL_AT + 1)
        return probes_for(self._recall(queries, floors), self._cells.count, recall)

    # ------------------------------------------------------------------ comparing

    def _masks(self, media_ids: Collection[str] | None, without: Collection[str]) -> list[Mask]:
        """For each segment, which of its vectors are of these media, all if None, and of none of the others."""
        unwanted = media_hashes(without)
        if media_ids is None:
            return [~np.isin(rows.media, unwanted) for rows in self._rows]
        wanted = np.setdiff1d(media_hashes(media_ids), unwanted)
        return [np.isin(rows.media, wanted) for rows in self._rows]

    def _compare_all(self, query: Vectors, k: int, masks: list[Mask] | None) -> tuple[Vectors, Ints]:
        scores, numbers = np.zeros(0, np.float32), np.zeros(0, np.int64)
        for i, rows in enumerate(self._rows):
            at = np.flatnonzero(masks[i]) if masks is not None else np.arange(len(rows.rows))
            if len(at):
                # Of most of them: comparing the rest too is cheaper than a copy without it.
                few = len(at) < len(rows.rows) // 2
                vectors = rows.vectors[at] if few else rows.vectors
                here = vectors.astype(np.float32, copy=False) @ query
                here = here if few else here[at]
                scores, numbers = _best(
                    np.concatenate([scores, here]), np.concatenate([numbers, at + self._firsts[i]]), k
                )
        return scores, numbers

    def _from_cells(self, cells: Cells, query: Vectors, k: int, masks: list[Mask] | None) -> Ints:
        allowed, probes = None, self.state.probes
        if masks is not None:
            allowed = np.zeros(self.state.next_number, np.bool_)
            for first, mask in zip(self._firsts.tolist(), masks, strict=True):
                allowed[first : first + len(mask)] = mask
            # As many vectors are compared as without a choice: the fewer there are, the more cells are looked into.
            probes = -(-probes * self.state.vectors // int(allowed.sum()))
        numbers = cells.near(query[None], max(_DEPTH, 4 * k), probes, allowed)[0]
        found: Ints = numbers[numbers >= 0]
        return found

    def _compare(self, query: Vectors, numbers: Ints) -> Vectors:
        """The inner products of these vectors with the query, exactly."""
        scores = np.zeros(len(numbers), np.float32)
        at = self._segments_of(numbers)
        for i in np.unique(at).tolist():
            here = at == i
            scores[here] = self._rows[i].vectors[numbers[here] - self._firsts[i]].astype(np.float32) @ query
        return scores

    def _segments_of(self, numbers: Ints) -> Ints:
        found: Ints = np.searchsorted(self._firsts, numbers, side="right") - 1
        return found

    # ------------------------------------------------------------------ measuring

    def _sample(self) -> Vectors:
        step = max(1, self.state.vectors // QUERIES)
        taken, before = [], 0
        for rows in self._rows:
            taken.append(rows.vectors[(-before) % step :: step].astype(np.float32))
            before += len(rows.rows)
        return np.concatenate(taken)

    def floors(self, queries: Vectors, rank: int) -> Vectors:
        """For each query the score of the vector of this rank (from 1) when all are compared; shape (len(queries),)."""
        best = np.full((len(queries), rank), -np.inf, np.float32)
        for rows in self._rows:
            scores = queries @ rows.vectors.astype(np.float32).T
            best = np.partition(np.concatenate([best, scores], axis=1), -rank, axis=1)[:, -rank:]
        return np.asarray(best.min(axis=1))

    def _recall(self, queries: Vectors, floors: Vectors) -> Callable[[int], float]:
        cells = self._cells
        assert cells is not None

        def recall(probes: int) -> float:
            found = 0
            for query, floor, numbers in zip(queries, floors, cells.near(queries, _DEPTH, probes), strict=True):
                scores = self._compare(query, numbers[numbers >= 0])
                found += min(RECALL_AT, int((scores >= floor - _TIE).sum()) - 1)
            return found / (RECALL_AT * len(queries))

        return recall


def _best(scores: Vectors, numbers: Ints, k: int) -> tuple[Vectors, Ints]:
    """The `k` highest scores, best first; of equal ones the vector that came first."""
    if len(scores) > k:
        kept = np.argpartition(-scores, k - 1)[:k]
        scores, numbers = scores[kept], numbers[kept]
    order = np.lexsort((numbers, -scores))
    return scores[order], numbers[order]


__all__ = ["EXACT_SUBSET", "Opened"]
