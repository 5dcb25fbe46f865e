"""Whether what a rented machine answered can be a result at all.

Its owner can change what it computes, and nobody would see it from the shape of the answer: types, lengths and the
UTF-8 of every string were checked when the message was read (`messages`). Here the values are held against the medium
that was sent. The words of the tables (docs, `AnalyzerSpec.schema`) mean the same in all of them, so that one set of
rules serves every analyzer, those of other packages too. What is merely wrong, and not impossible, is found by
computing some media again (`agreement`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.analyzers._spec import AnalyzerSpec, Medium
from media_pipeline.execution.messages import BadMessage

# Far more than the densest page of a scan, or the quickest talk: a bound on what is stored, not on what is likely.
MAX_ROWS_PER_FRAME = 1000
MAX_ROWS_PER_SECOND = 20
MAX_ROWS = 50  # of what has neither
MAX_TEXT = 10_000  # characters of one string
MAX_ITEMS = 10_000  # of one list
SLACK_S = 1.0  # sound and picture of a file end at different times, and windows of recognisers reach beyond both
SLACK_SIDE = 0.05  # of a picture's side, for boxes that reach out of it
NORM_SLACK = 1e-3

_NEVER_NULL = ("media_id", "frame_index", "read_frame_index", "pts_s")
_FRAME_INDEXES = ("frame_index", "read_frame_index")
_SCORES = ("score", "quality")
_TIMES = ("start_s", "end_s", "pts_s")
_BOX = ("x1", "y1", "x2", "y2")
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f\x{80}-\x{9f}]"  # all but tab and line feed


log = logging.getLogger(__name__)


class Implausible(BadMessage):
    """An answer that no honest worker gives."""


class Plausibility:
    """Checks the answers of one place in one run of an analyzer: what must be alike in all of them is remembered."""

    def __init__(self, spec: AnalyzerSpec) -> None:
        self._spec = spec
        self._dimensions: dict[str, int] = {}
        self._models: set[str] = set()

    def check(self, medium: Medium, rows: pa.Table) -> None:
        """
        Args:
            rows: of the analyzer's schema, all of this medium

        Raises:
            Implausible: says which value cannot be.
        """
        try:
            self._check(medium, rows.combine_chunks())
        except Implausible:
            raise
        except Exception as error:  # of values that nobody thought of: not a reason to believe them
            log.exception("rows of %s cannot be checked", self._spec.name)
            raise Implausible(f"answered for {self._spec.name} with what cannot be checked: {error}") from None

    def _check(self, medium: Medium, rows: pa.Table) -> None:
        pictures = _Pictures(medium)
        most = MAX_ROWS + MAX_ROWS_PER_FRAME * len(pictures.times)
        most += int(MAX_ROWS_PER_SECOND * (medium.audio.duration_s if medium.audio is not None else 0))
        if rows.num_rows > most:
            self._refuse(f"{rows.num_rows:,} rows of one medium")
        if rows.num_rows == 0:
            return
        for name in rows.column_names:
            for leaf in _leaves(rows.schema.field(name), rows.column(name).chunk(0)):
                self._check_leaf(*leaf, medium, pictures)
        self._check_rows(rows, pictures)

    def _check_leaf(self, field: pa.Field, values: pa.Array, medium: Medium, pictures: _Pictures) -> None:
        """One column, or one part of the items in its lists."""
        name, kind = field.name, field.type
        if pa.types.is_string(kind):
            self._at_most(pc.utf8_length(values), MAX_TEXT, f"{name} of so many characters")
            if pc.any(pc.match_substring_regex(values, _CONTROL)).as_py():
                self._refuse(f"a control character in {name}")
        elif _is_list(kind):
            self._at_most(pc.list_value_length(values), MAX_ITEMS, f"{name} of so many items")
            if _is_vector(field):
                self._check_vectors(name, values)
        elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
            self._check_numbers(field, pc.drop_null(values).to_numpy(zero_copy_only=False), medium, pictures)

    def _check_numbers(self, field: pa.Field, found: Any, medium: Medium, pictures: _Pictures) -> None:
        name = field.name
        if not np.isfinite(found).all():
            self._refuse(f"{name} that is no number")
        if name in _SCORES or _metadata(field, "range") == "[0, 1]":
            self._within(name, found, 0, 1)
        elif name.endswith("_index"):
            self._within(name, found, 0, 2**31)
        elif name in _TIMES:
            self._within(name, found, -SLACK_S, _end_s(medium, pictures) + SLACK_S)
        elif name in ("x", "y", *_BOX):
            # Points may lie outside of a picture that cuts a body or a logo off, but not anywhere.
            side = pictures.width if name.startswith("x") else pictures.height
            self._within(name, found, -side, 2 * side)

    def _check_vectors(self, name: str, values: pa.Array) -> None:
        vectors = pc.drop_null(values)
        lengths = set(pc.list_value_length(vectors).to_pylist())
        dimension = self._dimensions.setdefault(name, max(lengths, default=0)) if lengths else 0
        if lengths - {dimension}:
            self._refuse(f"{name} of {sorted(lengths)} numbers")
        numbers = np.asarray(vectors.flatten(), np.float64).reshape(len(vectors), dimension)
        if not (np.abs(np.linalg.norm(numbers, axis=1) - 1) <= NORM_SLACK).all():
            self._refuse(f"{name} that is not of length 1")

    def _check_rows(self, rows: pa.Table, pictures: _Pictures) -> None:
        columns = {name: rows.column(name) for name in rows.column_names}
        for name in (*_NEVER_NULL, *(n for n in columns if n.endswith("_index"))):
            if name in columns and columns[name].null_count:
                self._refuse(f"{name} without a value")
        for name in _FRAME_INDEXES:
            if name in columns and not set(columns[name].unique().to_pylist()) <= pictures.times.keys():
                self._refuse(f"{name} of a frame that was not sent")
        if "frame_index" in columns and "pts_s" in columns:
            told = zip(columns["frame_index"].to_pylist(), columns["pts_s"].to_pylist(), strict=True)
            if any(abs(pictures.times[index] - pts_s) > 1e-6 for index, pts_s in told):
                self._refuse("pts_s that is not its frame's")
        self._in_order(columns, "start_s", "end_s")
        if all(name in columns for name in _BOX):
            self._check_boxes(columns, pictures)
        if "model" in columns:
            self._models.update(columns["model"].unique().to_pylist())
            if len(self._models) > 1:
                self._refuse(f"several models: {sorted(map(str, self._models))}")
        plain = [name for name in columns if not pa.types.is_nested(columns[name].type)]
        if rows.select(plain).group_by(plain).aggregate([]).num_rows < rows.num_rows:
            self._refuse("the same row twice")

    def _check_boxes(self, columns: dict[str, pa.ChunkedArray], pictures: _Pictures) -> None:
        self._in_order(columns, "x1", "x2")
        self._in_order(columns, "y1", "y2")
        if len({tuple(columns[name].is_valid().to_pylist()) for name in _BOX}) > 1:
            self._refuse("half a box")
        if "frame_index" not in columns:
            return
        sizes = np.asarray([pictures.sizes[i] for i in columns["frame_index"].to_pylist()], np.float64)
        for name in _BOX:
            side = sizes[:, 0 if name.startswith("x") else 1]
            found = columns[name].cast(pa.float64()).fill_null(0.0).to_numpy()
            slack = 1 + SLACK_SIDE * side
            if ((found < -slack) | (found > side + slack)).any():
                self._refuse(f"{name} outside of the picture")

    def _in_order(self, columns: dict[str, pa.ChunkedArray], first: str, second: str) -> None:
        if first in columns and second in columns:
            one, other = columns[first], columns[second]
            if one.is_valid() != other.is_valid() or pc.any(pc.greater(one, other)).as_py():
                self._refuse(f"{first} after {second}")

    def _within(self, name: str, found: Any, least: float, most: float) -> None:
        if len(found) and (found.min() < least or found.max() > most):
            self._refuse(f"{name} from {found.min():g} to {found.max():g}, which is not in [{least:g}, {most:g}]")

    def _at_most(self, lengths: pa.Array, most: int, what: str) -> None:
        longest = pc.max(lengths).as_py() or 0
        if longest > most:
            self._refuse(f"{what}: {longest:,}")

    def _refuse(self, what: str) -> None:
        raise Implausible(f"answered for {self._spec.name} with {what}", "its work is done elsewhere")


class _Pictures:
    """The frames of a medium that was sent."""

    def __init__(self, medium: Medium) -> None:
        self.times: dict[int, float] = {}
        self.sizes: dict[int, tuple[int, int]] = {}
        for frame in medium.frames:
            self.times[frame.frame_index] = frame.pts_s
            self.sizes[frame.frame_index] = (frame.width, frame.height)
        self.width = max((width for width, _ in self.sizes.values()), default=0)
        self.height = max((height for _, height in self.sizes.values()), default=0)


def _leaves(field: pa.Field, values: pa.Array) -> Iterator[tuple[pa.Field, pa.Array]]:
    """The column itself, then what is in its lists and structs, without the numbers of vectors."""
    yield field, values
    if pa.types.is_struct(field.type):
        for part, within in zip(field.type, values.flatten(), strict=True):
            yield from _leaves(part, within)
    elif _is_list(field.type) and not _is_vector(field):
        yield from _leaves(field.type.value_field, values.flatten())


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_vector(field: pa.Field) -> bool:
    named = field.name == "embedding" or _metadata(field, "unit") == "L2-normalised"
    return named and _is_list(field.type) and bool(pa.types.is_floating(field.type.value_type))


def _metadata(field: pa.Field, name: str) -> str | None:
    value = (field.metadata or {}).get(name.encode())
    return value.decode() if value is not None else None


def _end_s(medium: Medium, pictures: _Pictures) -> float:
    known = [medium.duration_s or 0.0, medium.audio.duration_s if medium.audio is not None else 0.0]
    return max(*known, *pictures.times.values(), 0.0)
