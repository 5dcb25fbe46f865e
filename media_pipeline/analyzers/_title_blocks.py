"""What in one frame may be a title: blocks of lines, by their size and place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from media_pipeline.analyzers._spec import Options

Kind = Literal["title_card", "lower_third"]
Box = tuple[float, float, float, float]  # xyxy, shares of the frame's width and height

_LEVEL_DEG = 15.0  # titles lie level
_MAX_OTHER_LINES = 6  # beside a lower third; where there are more, the frame is a slide or a page


class Rules(Options):
    """Heights and places are shares of the frame's height, widths of its width."""

    min_score: float = Field(0.8, ge=0, le=1, description="mean OCR score of a title's lines")
    min_title_height: float = Field(0.05, gt=0, lt=1, description="height of the largest line of a title card")
    max_title_lines: int = Field(4, ge=1, description="large lines of a title card")
    min_third_top: float = Field(0.55, ge=0, lt=1, description="where lower thirds begin, from the top")
    max_third_width: float = Field(0.6, gt=0, le=1, description="widest line of a lower third")
    max_third_lines: int = Field(3, ge=1, description="lines of a lower third")
    max_third_height: float = Field(0.09, gt=0, le=1, description="highest line of a lower third")


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    score: float  # [0, 1]
    box: Box

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that belong together, from top to bottom."""

    kind: Kind
    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)

    @property
    def score(self) -> float:
        return sum(line.score for line in self.lines) / len(self.lines)

    @property
    def box(self) -> Box:
        return _around(self.lines)


def lines_of(rows: Sequence[dict[str, Any]], width: int, height: int) -> list[Line]:
    """Level lines of one frame with at least two letters or digits, from top to bottom."""
    found = [
        Line(
            row["text"],
            float(row["score"] or 0.0),
            (row["x1"] / width, row["y1"] / height, row["x2"] / width, row["y2"] / height),
        )
        for row in rows
        if abs(row["angle_deg"] or 0.0) <= _LEVEL_DEG and sum(c.isalnum() for c in row["text"]) >= 2
    ]
    return sorted(found, key=lambda line: (line.box[1], line.box[0]))


def title_card(lines: Sequence[Line], rules: Rules) -> Block | None:
    """Few large lines around the middle of the frame, and next to nothing else."""
    if not lines:
        return None
    largest = max(line.height for line in lines)
    large = [line for line in lines if line.height >= 0.4 * largest]
    x1, y1, x2, y2 = _around(large)
    centred = abs((x1 + x2) / 2 - 0.5) <= 0.1 and 0.25 <= (y1 + y2) / 2 <= 0.75
    few = len(large) <= rules.max_title_lines and len(lines) - len(large) <= 2
    return Block("title_card", tuple(large)) if largest >= rules.min_title_height and centred and few else None


def lower_thirds(lines: Sequence[Line], rules: Rules) -> Iterator[Block]:
    """Short lines above each other low in the frame, alone there: who speaks, and where."""
    for group in _stacked(lines):
        if (
            all(_is_low(line, rules) for line in group)
            and len(group) <= rules.max_third_lines
            and len(lines) - len(group) <= _MAX_OTHER_LINES
        ):
            yield Block("lower_third", tuple(group))


def _is_low(line: Line, rules: Rules) -> bool:
    x1, y1, x2, y2 = line.box
    low = rules.min_third_top <= y1 and y2 <= 0.98
    return low and x2 - x1 <= rules.max_third_width and line.height <= rules.max_third_height


def heading(lines: Sequence[Line], rules: Rules) -> Block | None:
    """The heading of a slide or a page: what is clearly larger than at least two other lines, in the upper half."""
    if not lines:
        return None
    largest = max(line.height for line in lines)
    large = [line for line in lines if line.height >= 0.75 * largest]
    group = next(group for group in _stacked(large) if any(line.height == largest for line in group))
    rest = sorted(line.height for line in lines if line not in group)
    stands_out = len(rest) >= 2 and largest >= 1.3 * rest[len(rest) // 2]
    fits = largest >= 0.5 * rules.min_title_height and len(group) <= rules.max_title_lines
    return Block("title_card", tuple(group)) if stands_out and fits and _around(group)[1] < 0.5 else None


def _stacked(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Groups of lines below each other: less than a line apart, and beginning, ending or centred alike."""
    groups: list[list[Line]] = []
    for line in lines:
        home = next((group for group in groups if _continues(group[-1], line)), None)
        if home is None:
            groups.append([line])
        else:
            home.append(line)
    yield from groups


def _continues(upper: Line, lower: Line) -> bool:
    gap = lower.box[1] - upper.box[3]
    near = -0.5 * lower.height < gap < max(upper.height, lower.height)
    (a1, _, a2, _), (b1, _, b2, _) = upper.box, lower.box
    return near and min(abs(a1 - b1), abs(a2 - b2), abs(a1 + a2 - b1 - b2) / 2) < 0.04


def _around(lines: Sequence[Line]) -> Box:
    x1, y1, x2, y2 = zip(*(line.box for line in lines), strict=True)
    return (min(x1), min(y1), max(x2), max(y2))
