"""A ledger as columns: what is known of each medium in each stage, found by position instead of by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]

ABSENT = -1  # of a row's number or a dictionary's code


class Names:
    """Fingerprints as numbers."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        found = self._numbers.setdefault(text, len(self.texts))
        if found == len(self.texts):
            self.texts.append(text)
        return found


class Grid:
    """A ledger's rows, found by medium and stage."""

    def __init__(self, ledger: pa.Table, media_ids: Sequence[str], stages: Sequence[str], names: Names) -> None:
        self._ledger, self._media = ledger, len(media_ids)
        self._stages = {name: number for number, name in enumerate(stages)}
        medium = _positions(ledger["media_id"], media_ids)
        stage = _positions(ledger["analyzer"], stages)
        rows = np.flatnonzero((medium >= 0) & (stage >= 0))
        self._rows = np.full(len(stages) * self._media, ABSENT, np.int64)
        self._rows[stage[rows] * self._media + medium[rows]] = rows
        codes, texts = dictionary(ledger["fingerprint"])
        self._fingerprint = looked_up(np.array([names.number(text) for text in texts], np.int64), codes)

    def row(self, stage: str) -> Numbers:
        """Of each medium in the ledger; -1 where there is none."""
        at = self._stages[stage] * self._media
        return self._rows[at : at + self._media]

    def fingerprint(self, stage: str) -> Numbers:
        return looked_up(self._fingerprint, self.row(stage))

    def column(self, name: str) -> npt.NDArray[Any]:
        """Numbers and times as they are, null as NaN or the earliest time."""
        column = self._ledger[name]
        if pa.types.is_timestamp(column.type):
            column = pc.fill_null(column.cast(pa.int64()), 0)
        found: npt.NDArray[Any] = column.to_numpy()
        return found

    def texts(self, name: str) -> tuple[Numbers, list[str]]:
        """A column of strings as codes (-1 for null) and what they mean."""
        return dictionary(self._ledger[name])

    def frames(self) -> Numbers:
        if "frames" not in self._stages or not self._ledger.num_rows:
            return np.zeros(self._media, np.int64)
        rows = self.row("frames")
        return np.where(rows >= 0, np.nan_to_num(self.column("rows"))[rows], 0).astype(np.int64)


def _positions(column: pa.ChunkedArray, wanted: Sequence[str]) -> Numbers:
    """Where each value of a column stands in `wanted`; -1 where it does not."""
    codes, texts = dictionary(column)
    found = pc.index_in(pa.array(texts, pa.string()), value_set=pa.array(wanted, pa.string()))
    return looked_up(pc.fill_null(found, ABSENT).to_numpy().astype(np.int64), codes)


def dictionary(column: pa.ChunkedArray) -> tuple[Numbers, list[str]]:
    """A column's codes (-1 for null) and what they mean."""
    array = column.unify_dictionaries().combine_chunks()
    codes = pc.fill_null(array.indices, ABSENT).to_numpy().astype(np.int64)
    return codes, array.dictionary.to_pylist()


def looked_up(values: Numbers, at: Numbers) -> Numbers:
    """values[at], and -1 where `at` is negative."""
    if not len(values):
        return np.full(len(at), ABSENT, np.int64)
    return np.where(at >= 0, values[at], ABSENT)


def meaning(texts: Sequence[str], code: int) -> str | None:
    return texts[code] if code >= 0 else None


def grouped(columns: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """The number of the group of each element, elements equal in all columns being one, and an element of each."""
    group = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        low = column.min(initial=0)
        group = group * (column.max(initial=0) - low + 1) + (column - low)
        _, group = np.unique(group, return_inverse=True)
    _, first = np.unique(group, return_index=True)
    return group, first
