"""`make demo` shows what is in the samples, and notices when the product does not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demo import run
from demo.samples import Sample

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = (Sample(Path("page.png"), "image", texts=("Größe",), language="de"), Sample(Path("broken.mp4"), None))
FAILED = [{"file": "broken.mp4", "reason": "cut off"}]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(record=True, width=100, file=io.StringIO())
    monkeypatch.setattr(run, "console", console)
    return console


@pytest.mark.parametrize(
    ("answers", "failures", "code", "said"),
    [
        ({"read": [1]}, FAILED, 0, ""),
        ({"read": []}, FAILED, 1, "read: no answer"),
        ({"read": [1]}, [], 1, "broken on purpose: ['broken.mp4']"),
        ({"read": [1]}, [*FAILED, {"file": "page.png", "reason": "?"}], 1, "failed: ['broken.mp4', 'page.png']"),
    ],
)
def test_verdict(
    screen: Console, answers: dict[str, Any], failures: list[dict[str, str]], code: int, said: str
) -> None:
    assert run.verdict(SAMPLES, answers, failures) == code
    assert said in screen.export_text()


def test_foreign_text_is_shown_as_it_is(screen: Console) -> None:
    """What was read in a picture may look like markup."""
    run.show(
        [{"file": "a.png", "text": "[bold]50 %[/bold]", "at_s": 1.239}, {"file": "a.png", "text": None, "at_s": 2}]
    )
    shown = screen.export_text()
    assert "[bold]50 %[/bold]" in shown
    assert "1.24" in shown
    assert shown.count("a.png") == 1, "the name of a group stands once"


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    """The whole of it, through the real command line: every line, sentence and cut of the samples is on the screen."""
    # A user's settings must not change what the demo shows.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MEDIA_PIPELINE_LANGUAGE": "fr", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "demo.run"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read = done.stdout.partition("What was read")[2].partition("Where scenes begin")[0]
    from demo.samples import INVOICE, LETTER, OPENING_HOURS, REPORT, TOUR_TITLES

    expected = [*INVOICE, *OPENING_HOURS, *REPORT, *LETTER, *TOUR_TITLES]
    assert [line for line in expected if line not in read] == []
    said = done.stdout.partition("What was said")[2].partition("What was read")[0]
    assert "museum yesterday afternoon" in said
    assert "concert in the garden" in said
    assert "united states" in said
    scenes = done.stdout.partition("Where scenes begin")[2].partition("Near-duplicates")[0]
    assert [cut for cut in ("2.40", "4.40", "7.00") if scenes.count(cut) < 2] == []
    assert "hills" in done.stdout.partition("Near-duplicates")[2].partition("Which models")[0]
    assert "monday morning" in done.stdout.partition("Search: When is the contract")[2].partition("Search: Rechnung")[0]
    assert "Rechnung 4711" in done.stdout.partition("Search: Rechnung")[2]
