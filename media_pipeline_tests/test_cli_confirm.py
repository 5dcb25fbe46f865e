"""Asking before something goes for good, also where nobody can answer."""

from __future__ import annotations

import os
import pty
import re
from pathlib import Path

import click
import pytest

import media_pipeline.cli as command_line
from media_pipeline.cli._confirm import confirm

SOURCES = sorted(Path(command_line.__file__).parent.glob("*.py"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that asks; what it went on to do."""
    done: list[str] = []

    @click.command()
    def ask() -> None:
        confirm("Remove it?")
        done.append("removed")

    monkeypatch.setattr(command_line, "cli", ask)
    return done


def ended(text: str, monkeypatch: pytest.MonkeyPatch, *, terminal: bool = False) -> int | str | None:
    """The exit code where this is what comes from a pipe, or is typed."""
    reading, writing = (pty.openpty()[::-1]) if terminal else os.pipe()
    os.write(writing, text.encode())
    if not terminal:
        os.close(writing)
    with os.fdopen(reading) as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(SystemExit) as end:
            command_line.main([])
    if terminal:
        os.close(writing)
    return end.value.code


@pytest.mark.parametrize(
    ("text", "terminal", "code", "done", "said"),
    [
        ("y\n", False, 0, ["removed"], ""),
        ("n\n", False, 130, [], "interrupted"),
        ("", False, 2, [], "nobody is there to answer; give --yes, or call it in a terminal"),
        ("y\n", True, 0, ["removed"], ""),
        ("n\n", True, 130, [], "interrupted"),
        ("\x04", True, 130, [], "interrupted"),
    ],
    ids=["piped yes", "piped no", "end of the input", "yes", "no", "Ctrl-D"],
)
def test_what_an_answer_does(
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    terminal: bool,
    code: int,
    done: list[str],
    said: str,
) -> None:
    assert ended(text, monkeypatch, terminal=terminal) == code
    assert asked == done
    assert capsys.readouterr().err.endswith(f"media-pipeline: {said}\n" if said else "Remove it? [y/N]: ")


def test_without_any_input_it_is_the_same(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit) as end:
        command_line.main([])
    assert (end.value.code, asked) == (2, [])
    assert "give --yes" in capsys.readouterr().err


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_command_asks_in_this_way_and_can_do_without(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    if source.name != "_confirm.py":
        assert not re.search(r"click\.(confirm|prompt)\(", text)
        assert not re.search(r"\bconfirm\(", text) or '"--yes"' in text
