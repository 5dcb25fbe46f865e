"""Near neighbours among 64-bit perceptual hashes: a faiss binary index, made in memory when it is needed.

A million hashes are 8 MB: reading them from the table takes longer than indexing them, so nothing is kept on disk.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BITS = 64


def within(
    queries: npt.NDArray[np.uint64], hashes: npt.NDArray[np.uint64], max_distance: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All pairs (position in `queries`, position in `hashes`) at a Hamming distance of at most `max_distance`."""
    import faiss

    if not len(queries) or not len(hashes):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    index = faiss.IndexBinaryFlat(BITS)
    index.add(_bytes(hashes))
    limits, _, found = index.range_search(_bytes(queries), max_distance + 1)  # faiss's radius is exclusive
    return np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64))), found.astype(np.int64)


def _bytes(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, BITS // 8)
