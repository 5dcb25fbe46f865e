"""`make demo` shows what is in the samples, and notices when the product does not."""

from __future__ import annotations

import io
import json
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


def test_what_the_command_line_prints_is_returned_and_its_failure_ends_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = run.output_of(("--home", str(tmp_path), "sql", "SELECT 'Größe' AS s", "--format", "json"))
    assert json.loads(answer) == [{"s": "Größe"}]
    with pytest.raises(SystemExit, match="ended with"):
        run.output_of(("--home", str(tmp_path), "sql", "SELECT nothing"))
    assert "nothing" in capsys.readouterr().err, "the cause is on the screen"


def test_long_queries_are_shortened_unless_they_are_the_point(screen: Console) -> None:
    query = "SELECT " + ", ".join(["name"] * 40) + " FROM media"
    run.show_command(("sql", query, "--format", "json"))
    run.show_command(("sql", query), in_full=True)
    short, whole = screen.export_text().split("$")[1:]
    assert "FROM media" not in short
    assert "--format" not in short
    assert "FROM media" in " ".join(whole.split())


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    """The whole of it, through the real command line: every line, sentence and cut of the samples is on the screen."""
    # A user's settings must not change what the demo shows.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MEDIA_PIPELINE_LANGUAGE": "fr", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "demo.run"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {heading: _section(done.stdout, heading) for heading in HEADINGS}
    from demo.samples import INVOICE, LETTER, OPENING_HOURS, REPORT, TOUR_CAPTION, TOUR_TITLES

    for heading, expected in {
        "What was read": [*INVOICE, *OPENING_HOURS, *REPORT, *LETTER],
        "Key sentences": ["scanned-letter-turned.jpg"],
        "Scenes of the video": [*TOUR_TITLES, ", ".join(TOUR_CAPTION), "2.00", "6.40", "11.20", "lower_third"],
        "Where the logo is": ["museum tour.mp4", "quarterly-report.jpg", "Pharos Museum"],
        "Near-duplicates": ["hills.jpg", "hills-for-the-web.jpg"],
        "Who is that?": ["(Anna Berg): 3 tracks in 3 media", "(Anna Berg): 2 tracks in 2 media"],
        "Who is where": [
            "Anna Berg seen museum tour.mp4, portrait.jpg, team.jpg",
            "heard meeting.wav, museum tour.mp4",
        ],
        "Who said what": [
            "Anna Berg the government will pay",
            "museum yesterday afternoon",
            "concert at the museum",
            "united states",
        ],
        "When is Anna Berg": ["museum tour.mp4 concert 2.", "Anna Berg Anna Berg"],
        "Search: When is the contract": ["monday morning"],
        "Search: Rechnung": ["Rechnung 4711"],
    }.items():
        assert [line for line in expected if line not in parts[heading]] == [], heading
    near = parts["Near-duplicates"]
    assert "portrait.jpg" not in near
    assert "team.jpg" not in near
    assert "left out: image_embeddings" in done.stdout


HEADINGS = (
    "What was read",
    "Key sentences",
    "Scenes of the video",
    "Where the logo is",
    "Near-duplicates",
    "Who is that?",
    "Who is where",
    "Who said what",
    "When is Anna Berg",
    "Search: When is the contract",
    "Search: Rechnung",
    "What could not be used",
)


def _section(screen: str, heading: str) -> str:
    """What stands below a heading, as one line: tables wrap."""
    below = screen.partition(f"\n{heading}")[2]
    return " ".join(below.partition("\n\n")[0].split())
