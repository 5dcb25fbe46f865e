"""Which of many vectors are near each other: faiss in memory, for computations that look at all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EXACT_UP_TO = 50_000  # beyond, vectors in the nearest cells only: comparing all with all is quadratic
_PROBES = 16
_TRAINING_PER_CELL = 64  # faiss warns below 39
_BLOCK = 4096


def nearest_pairs(vectors: Vectors, threshold: float, k: int, *, exact_up_to: int = EXACT_UP_TO) -> tuple[Ints, Ints]:
    """Pairs of positions in `vectors` (n, dimension) whose inner product is at least `threshold`.

    Of each vector only the `k` nearest others are looked at.
    """
    import faiss

    vectors = np.ascontiguousarray(vectors, np.float32)
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    if len(vectors) > exact_up_to:
        cells = int(np.sqrt(len(vectors)))
        index = faiss.index_factory(vectors.shape[1], f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = _PROBES
        index.train(vectors[:: max(1, len(vectors) // (cells * _TRAINING_PER_CELL))])
    index.add(vectors)
    left, right = [], []
    for start in range(0, len(vectors), _BLOCK):
        _, ids = index.search(vectors[start : start + _BLOCK], min(k + 1, len(vectors)))
        here = np.repeat(np.arange(start, start + len(ids)), ids.shape[1])
        there = ids.ravel()
        # Exactly, whatever the index rounded.
        near = (there >= 0) & (there != here)
        here, there = here[near], there[near]
        near = np.einsum("ij,ij->i", vectors[here], vectors[there]) >= threshold
        left.append(here[near])
        right.append(there[near])
    return np.concatenate(left), np.concatenate(right)
