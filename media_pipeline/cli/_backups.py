"""What `backup` and `restore` share: bars, sizes, lists of problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from media_pipeline import wording

EXIT_SOME_FAILED = 3
PROBLEMS_SHOWN = 20
SNAPSHOT = click.option(
    "--snapshot", metavar="ID", help="Beginning of an id that `backup list` shows. [default: newest]"
)


@contextmanager
def bytes_bar(console: Console, what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar in bytes with their rate; nothing where nobody watches."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    shown = console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(what, total=None)

        def show(path: str, done: int, total: int) -> None:
            name = escape(printable(path)[-40:])
            progress.update(task, completed=done, total=total, description=f"{what}: {name}")

        yield show


def print_problems(console: Console, problems: Mapping[str, str], what: str) -> None:
    for path, reason in list(problems.items())[:PROBLEMS_SHOWN]:
        line = f"[red]{what}:[/] {escape(printable(path))}: {escape(reason)}"
        console.print(line, highlight=False, soft_wrap=True)
    if len(problems) > PROBLEMS_SHOWN:
        console.print(f"{len(problems) - PROBLEMS_SHOWN} more: --format json lists them")


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def printable(text: str) -> str:
    """Foreign names never command the terminal, and undecodable bytes do not stop it."""
    return wording.printable(text.encode("utf-8", "backslashreplace").decode())
