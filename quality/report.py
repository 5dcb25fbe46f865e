"""What was measured, as one line each, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quality.metrics import Interval

Unit = Literal["share", "count", "s", "score"]

NOT_MEASURED = "not measured"
FEW, SOME = 5, 30


@dataclass(frozen=True, slots=True)
class Maker:
    """What made the results, and what that cost."""

    model: str = ""  # name and digest, as in the view `analyses`
    cost: str = ""  # CPU per frame, or real-time factor


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of the table. Without a value it says why there is none."""

    metric: str
    value: float | None
    unit: Unit = "share"
    n: int = 0
    of: str = ""  # what n counts: "pictures", "pairs" …
    interval: Interval | None = None  # 95 %
    at_most: float | None = None
    at_least: float | None = None
    maker: Maker = Maker()
    remark: str = ""

    @property
    def shown(self) -> str:
        if self.value is None:
            return NOT_MEASURED
        text = _number(self.value, self.unit)
        if self.interval is not None:
            text += f" ({_number(self.interval[0], self.unit)} to {_number(self.interval[1], self.unit)})"
        return text

    @property
    def goal(self) -> str:
        if self.at_most is not None:
            return f"at most {_number(self.at_most, self.unit)}"
        return f"at least {_number(self.at_least, self.unit)}" if self.at_least is not None else ""

    @property
    def verdict(self) -> Literal["met", "missed", ""]:
        if self.value is None or not self.goal:
            return ""
        low = self.at_most is None or self.value <= self.at_most
        high = self.at_least is None or self.value >= self.at_least
        return "met" if low and high else "missed"

    @property
    def sample(self) -> str:
        return f"{self.n} {self.of}".strip() if self.n else ""

    @property
    def remarks(self) -> str:
        return "; ".join(part for part in (self.remark, _warning(self)) if part)


def absent(metric: str, reason: str) -> Measurement:
    return Measurement(metric, None, remark=reason)


def _number(value: float, unit: Unit) -> str:
    return {"share": f"{100 * value:.1f} %", "count": f"{value:g}", "s": f"{value:.3f} s", "score": f"{value:.3f}"}[
        unit
    ]


def _warning(line: Measurement) -> str:
    """How little a small sample says."""
    if line.value is None or line.n >= SOME or not line.n:
        return ""
    return f"n = {line.n}: says nothing about other media" if line.n < FEW else f"n = {line.n}: a hint, no proof"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: str = ""

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", *([self.notes, ""] if self.notes else [])]
        lines += [_line(self.columns), _line(["---"] * len(self.columns)), *(_line(row) for row in self.rows)]
        return "\n".join(lines)

    def print(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left")
        for column in self.columns:
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*(_coloured(cell) for cell in row))
        console.print(table)
        if self.notes:
            console.print(escape(self.notes), highlight=False)


def measurements_grid(title: str, lines: Iterable[Measurement], notes: str = "") -> Grid:
    rows = tuple(
        (m.metric, m.shown, m.goal, m.verdict, m.sample, m.maker.model, m.maker.cost, m.remarks) for m in lines
    )
    columns = ("metric", "value (95 % interval)", "goal", "", "sample", "model", "CPU", "remarks")
    return Grid(title, columns, rows, notes)


LEGEND = (
    "CPU: milliseconds of one core per frame, or seconds of one core per second of sound (RTF), learnt while the "
    "collection was analysed. Intervals of shares are Wilson's, those of error rates come from drawing the media "
    "again (bootstrap). Pairs share their members and are not independent: their intervals are too narrow."
)


def document(introduction: str, grids: Sequence[Grid]) -> str:
    """The whole of docs/quality.md."""
    return "\n\n".join(["# Quality", introduction, *(grid.markdown() for grid in grids)]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _coloured(cell: str) -> str:
    return {"met": "[green]met[/]", "missed": "[red]missed[/]", NOT_MEASURED: f"[yellow]{NOT_MEASURED}[/]"}.get(
        cell, escape(cell)
    )
