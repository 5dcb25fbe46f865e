"""Lists on the screen: readable at every width."""

from __future__ import annotations

import io

from click.testing import CliRunner
from rich.console import Console

from media_pipeline.cli import cli
from media_pipeline.cli._tables import output, print_table

HEADINGS = ("MODEL", "MB", "WHAT")
ROWS = [
    ("faster-whisper-large", "1,600", "speech to text in many languages, slow and good"),
    ("yunet", "0", "[bold]finds[/] faces"),
]


def printed(width: int, *, terminal: bool = True) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, color_system=None)
    print_table(HEADINGS, ROWS, wraps="WHAT", right=("MB",), console=console)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_wide_terminal_shows_a_table() -> None:
    assert printed(100) == [
        "MODEL                    MB  WHAT",
        "faster-whisper-large  1,600  speech to text in many languages, slow and good",
        "yunet                     0  [bold]finds[/] faces",
    ]


def test_a_narrower_one_wraps_one_column_only() -> None:
    lines = printed(60)
    assert lines[1].startswith("faster-whisper-large  1,600  speech to text")
    assert all(len(line) <= 60 for line in lines)
    assert len(lines) == 4


def test_where_no_table_fits_rows_are_records() -> None:
    assert printed(40) == [
        "faster-whisper-large",
        "  mb: 1,600",
        "  what: speech to text in many",
        "languages, slow and good",
        "yunet",
        "  mb: 0",
        "  what: [bold]finds[/] faces",
    ]


def test_a_pipe_gets_whole_rows() -> None:
    assert printed(20, terminal=False) == printed(100)
    assert output(Console(file=io.StringIO(), width=20)).width > 1000


def test_the_list_of_models_is_a_line_per_model() -> None:
    result = CliRunner().invoke(cli, ["models", "list"], standalone_mode=False)
    assert result.exception is None
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["MODEL", "HERE", "MB", "FOR", "LICENCE", "WHAT"]
    assert all(row.split()[1] in ("yes", "no") for row in rows)
