"""From detected line boxes to lines in reading order.

Recursive XY-cut (Nagy & Seth, "Hierarchical representation of optically scanned documents", ICPR 1984) over text
lines instead of pixels: a stretch of the page that shares a vertical gutter is cut into columns, each read to its end.
A gutter alone does not make columns, a table has them too; see `_are_columns`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from media_pipeline.analyzers._ocr_onnx import Quads

_TALL = 1.5  # height / width from which a box is read along its height, as rapidocr has it
_OUT_EM = 0.25  # the detector lets boxes out by about that much beyond the ink, on every side
_GUTTER_EM = 0.4  # narrowest gutter between inks, in heights of a box; magazines have such
_JOIN_EM = 1.2  # boxes of one line nearer than this are one line
_PROSE_EM = 6.0  # width of a line of running text in its heights: below it, it is a cell
_ALIGNED = 0.6  # share of lines with a neighbour on the same height from which two stacks of lines are rows


@dataclass(frozen=True, slots=True)
class Line:
    """Text in a quadrilateral: corners x, y clockwise from the one where reading starts at the top left."""

    text: str
    score: float  # [0, 1]
    corners: tuple[tuple[float, float], ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The upright rectangle around it, xyxy."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def angle_deg(self) -> float:
        """Reading direction, clockwise from left to right, [-180, 180)."""
        (x1, y1), (x2, y2) = self.corners[:2]
        if is_tall(np.array([self.corners], dtype=np.float32))[0]:
            (x1, y1), (x2, y2) = self.corners[0], self.corners[3]
        degrees = math.degrees(math.atan2(y2 - y1, x2 - x1))
        return (degrees + 180.0) % 360.0 - 180.0


@dataclass(frozen=True, slots=True)
class _Item:
    """A line in the page's own axes: the skew of the page is taken out."""

    line: Line
    x1: float
    x2: float
    y: float  # middle
    em: float  # height of the letters' line
    tall: bool  # read along its height

    @property
    def top(self) -> float:
        return self.y - self.em / 4  # boxes are let out and overlap; their middle halves do not

    @property
    def bottom(self) -> float:
        return self.y + self.em / 4


def is_tall(quads: Quads) -> np.ndarray:
    """Which boxes are read along their height: bool, shape (n,)."""
    width, height = sides_px(quads)
    tall: np.ndarray = height >= _TALL * width
    return tall


def sides_px(quads: Quads) -> tuple[np.ndarray, np.ndarray]:
    """Width and height of each rotated rectangle."""
    return np.linalg.norm(quads[:, 1] - quads[:, 0], axis=1), np.linalg.norm(quads[:, 3] - quads[:, 0], axis=1)


def in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """Sorted as a person reads them; pieces of one printed line are joined with a space."""
    if not lines:
        return []
    tall = is_tall(np.array([line.corners for line in lines], dtype=np.float32))
    if tall.mean() > 0.5:
        return _vertical(lines)
    skew = median(_angle(line) for line, t in zip(lines, tall, strict=True) if not t)
    items = [_item(line, skew, bool(t)) for line, t in zip(lines, tall, strict=True)]
    return [_joined(row) for row in _ordered(items)]


def _vertical(lines: Sequence[Line]) -> list[Line]:
    """Japanese and Chinese vertical writing: columns from right to left."""
    return sorted(lines, key=lambda line: (-line.box[2], line.box[1]))


def _angle(line: Line) -> float:
    (x1, y1), (x2, y2) = line.corners[:2]
    return math.atan2(y2 - y1, x2 - x1)


def _item(line: Line, skew: float, tall: bool) -> _Item:
    cos, sin = math.cos(-skew), math.sin(-skew)
    turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in line.corners]
    xs, ys = zip(*turned, strict=True)
    x1, x2, y1, y2 = min(xs), max(xs), min(ys), max(ys)
    # A vertical word beside lines would tie all rows it touches together: it stands for its upper end only.
    em = min(x2 - x1, y2 - y1) if tall else math.dist(line.corners[0], line.corners[3])
    out = min(_OUT_EM * em, (x2 - x1) / 4)
    return _Item(line, x1 + out, x2 - out, y1 + em / 2 if tall else (y1 + y2) / 2, em, tall)


def _ordered(items: Sequence[_Item]) -> list[list[_Item]]:
    """Groups of items, each one printed line."""
    result: list[list[_Item]] = []
    bands = _bands(sorted(items, key=lambda i: (i.y, i.x1)))
    start = 0
    while start < len(bands):
        end, columns = _widest_columns(bands, start)
        if columns:
            for column in columns:
                result += _ordered(column)
        else:
            result += _rows(bands[start])
        start = end
    return result


def _bands(items: Sequence[_Item]) -> list[list[_Item]]:
    """Cut at every height that no line crosses."""
    bands: list[list[_Item]] = []
    bottom = -math.inf
    for item in sorted(items, key=lambda i: i.top):
        if item.top >= bottom:
            bands.append([])
        bands[-1].append(item)
        bottom = max(bottom, item.bottom)
    return bands


def _widest_columns(bands: Sequence[list[_Item]], start: int) -> tuple[int, list[list[_Item]]]:
    """The longest run of bands from ``start`` that stands in columns: (index behind it, columns)."""
    best: tuple[int, list[list[_Item]]] = (start + 1, [])
    seen_columns = False
    run: list[_Item] = []
    for end in range(start, len(bands)):
        run += bands[end]
        columns = _columns(run)
        if len(columns) < 2 and seen_columns:
            break  # a line runs across what were gutters
        seen_columns = seen_columns or len(columns) > 1
        if len(columns) > 1 and _are_columns(columns):
            best = (end + 1, columns)
    return best


def _columns(items: Sequence[_Item]) -> list[list[_Item]]:
    """Cut at every x that no line crosses, where the gap is wide enough for a gutter."""
    gutter = _GUTTER_EM * median(i.em for i in items)
    columns: list[list[_Item]] = []
    right = -math.inf
    for item in sorted(items, key=lambda i: i.x1):
        if item.x1 - right >= gutter or not columns:
            columns.append([])
        columns[-1].append(item)
        right = max(right, item.x2)
    return columns


def _are_columns(columns: Sequence[Sequence[_Item]]) -> bool:
    """Columns of text, not of a table or of words strewn over a sign: running text, or lines that do not pair up."""
    fewest = min(len(c) for c in columns)
    if fewest >= 2 and all(median((i.x2 - i.x1) / i.em for i in c) >= _PROSE_EM for c in columns):
        return True
    return fewest >= 3 and all(_aligned(a, b) < _ALIGNED for a, b in pairwise(columns))


def _aligned(one: Sequence[_Item], other: Sequence[_Item]) -> float:
    few, many = sorted((one, other), key=len)
    pairs = sum(any(abs(a.y - b.y) < 0.35 * min(a.em, b.em) for b in many) for a in few)
    return pairs / len(few)


def _rows(items: Sequence[_Item]) -> list[list[_Item]]:
    """Row by row from the top, each from the left, near neighbours together."""
    rows: list[list[_Item]] = []
    for item in sorted(items, key=lambda i: (i.y, i.x1)):
        if rows and abs(item.y - rows[-1][0].y) < 0.5 * min(item.em, rows[-1][0].em):
            rows[-1].append(item)
        else:
            rows.append([item])
    return [group for row in rows for group in _neighbours(sorted(row, key=lambda i: i.x1))]


def _neighbours(row: Sequence[_Item]) -> list[list[_Item]]:
    groups = [[row[0]]]
    for left, right in pairwise(row):
        near = right.x1 - left.x2 < _JOIN_EM * min(left.em, right.em)
        alike = max(left.em, right.em) < 1.6 * min(left.em, right.em)
        if near and alike and not (left.tall or right.tall):
            groups[-1].append(right)
        else:
            groups.append([right])
    return groups


def _joined(items: Sequence[_Item]) -> Line:
    if len(items) == 1:
        return items[0].line
    lines = [i.line for i in items]
    text = lines[0].text
    for line in lines[1:]:
        text += ("" if _ideographic(text[-1:]) and _ideographic(line.text[:1]) else " ") + line.text
    characters = sum(len(line.text) for line in lines)
    score = sum(line.score * len(line.text) for line in lines) / characters
    first, last = lines[0].corners, lines[-1].corners
    return Line(text, score, (first[0], last[1], last[2], first[3]))


def _ideographic(character: str) -> bool:
    return bool(character) and unicodedata.east_asian_width(character) in "WF"
