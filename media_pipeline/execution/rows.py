"""Cutting tables of many media into one table per medium."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa


def by_medium(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each medium, in the order they have in `table` (column ``media_id``: string)."""
    if table.num_rows == 0:
        return {}
    ids = table["media_id"].combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        table, codes = table.take(pa.array(order)), codes[order]
    starts = np.concatenate(([0], np.flatnonzero(np.diff(codes)) + 1, [len(codes)]))
    names = ids.dictionary.to_pylist()
    return {names[codes[a]]: table.slice(a, b - a) for a, b in pairwise(starts)}
