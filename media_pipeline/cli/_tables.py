"""Lists on the screen: a table where it fits, else one record below the other; never cells of three characters.

Where standard output is no terminal, nobody's window is too narrow: lines are as long as they have to be, so that
`grep` and `less -S` find a row on one line.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

MIN_WRAPPED = 24  # characters of the column that may wrap; narrower ones cannot be read
_GAP = 2  # blanks between columns
_ENDLESS = 10_000  # columns; wider than any table


def output(console: Console | None = None) -> Console:
    """Standard output: as wide as the terminal, and without an edge where it is none."""
    console = console or Console()
    return console if console.is_terminal else Console(file=console.file, width=_ENDLESS)


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    wraps: str | None = None,
    right: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Prints rows of plain text.

    Args:
        wraps: heading of the column that may take several lines
        right: headings of the columns of numbers
    """
    console = output(console)
    if not rows or _fits(headings, rows, wraps, console.width):
        console.print(_table(headings, rows, wraps, right), crop=False)
    else:
        _print_records(console, headings, rows)


def _fits(headings: Sequence[str], rows: Sequence[Sequence[str]], wraps: str | None, room: int) -> bool:
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    if wraps is not None:
        widths[list(headings).index(wraps)] = min(MIN_WRAPPED, widths[list(headings).index(wraps)])
    return sum(widths) + _GAP * (len(widths) - 1) <= room


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], wraps: str | None, right: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading != wraps,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _print_records(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Each row as its first cell and, indented, the others that say something."""
    for row in rows:
        console.print(Text(row[0], "bold"), overflow="fold")
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            if cell:
                console.print(Text(f"  {heading.lower()}: {cell}"), overflow="fold")
