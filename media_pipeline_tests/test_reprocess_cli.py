"""`reprocess` as a person and a script meet it: real processes, real analyzers, an option changed back and forth."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.config import load_settings
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline_tests import _cli

pytestmark = pytest.mark.slow  # each command is a process of its own

STRICT = {"MEDIA_PIPELINE_OPTIONS__OCR__MIN_SCORE": "0.9999"}
ONE_BY_ONE = {"MEDIA_PIPELINE_REPROCESS__BATCH_MEDIA": "1"}
WORDS = ("Rechnung", "Quittung", "Mahnung", "Angebot")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides, read and searched for titles."""
    from demo.pictures import render_slide, write_picture

    folder = tmp_path_factory.mktemp("pictures")
    for number, word in enumerate(WORDS):
        write_picture(folder / f"{number}.png", render_slide((f"Betrag {number} Euro",), title=word))
    home = tmp_path_factory.mktemp("reprocess") / "home"
    finished = _cli.run(home, "analyze", folder, "--analyzers", "titles")
    assert finished.returncode == 0, finished.stderr
    return home


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home, tmp_path / "home")
    return tmp_path / "home"


def asked(home: Path, *args: str, **env: str) -> dict[str, Any]:
    finished = _cli.run(home, "reprocess", "--analyzers", "titles", "--format", "json", *args, **env)
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def texts(home: Path) -> list[str]:
    pipeline = Pipeline(load_settings(home=home))
    try:
        return sorted(pipeline.tables.read("ocr")["text"].to_pylist())
    finally:
        pipeline.close()


def made_by(home: Path) -> dict[tuple[str, str], str | None]:
    """Which run made each result."""
    pipeline = Pipeline(load_settings(home=home))
    try:
        return {pair: entry.run_id for pair, entry in pipeline.ledger.entries().items()}
    finally:
        pipeline.close()


def made_anew(home: Path, runs: dict[tuple[str, str], str | None]) -> set[tuple[str, str]]:
    return {pair for pair, run_id in made_by(home).items() if run_id != runs[pair]}


def test_an_option_back_and_forth_touches_exactly_its_pairs_and_computes_once(copy: Path) -> None:
    assert asked(copy, "--dry-run")["pairs"] == []
    before, runs = texts(copy), made_by(copy)
    plan = asked(copy, "--dry-run", **STRICT)
    assert {(p["analyzer"], p["reason"]) for p in plan["pairs"]} == {
        ("ocr", "options changed"),
        ("titles", "ocr is computed anew"),
    }
    assert (plan["count"], plan["media"], plan["unmeasured"]) == (8, 4, [])
    assert plan["cpu_minutes"] > 0
    assert made_by(copy) == runs, "a dry run changes nothing"
    done = asked(copy, **STRICT)
    assert (done["reprocessed"], done["computed_pairs"], done["restored_pairs"]) == (4, 8, 0)
    assert made_anew(copy, runs) == {(p["media_id"], p["analyzer"]) for p in plan["pairs"]}
    assert texts(copy) != before
    back = asked(copy)
    assert (back["reprocessed"], back["computed_pairs"], back["restored_pairs"]) == (4, 0, 8)
    assert texts(copy) == before


def test_killed_it_goes_on_where_it_stopped(copy: Path) -> None:
    runs = made_by(copy)
    process = _cli.start(copy, "reprocess", "--analyzers", "titles", **STRICT, **ONE_BY_ONE)
    deadline = time.monotonic() + 240
    while not made_anew(copy, runs) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = made_anew(copy, runs)
    assert kept
    rest = asked(copy, **STRICT)
    assert rest["computed_pairs"] <= 8 - len(kept)
    assert asked(copy, "--dry-run", **STRICT)["pairs"] == []
    assert len(made_anew(copy, runs)) == 8


def test_a_limit_and_a_sample_and_the_words_for_people(copy: Path) -> None:
    assert asked(copy, "--dry-run", "--limit", "1", **STRICT)["count"] == 2
    compared = _cli.run(copy, "reprocess", "--analyzers", "titles", "--sample", "2", "--format", "json", **STRICT)
    found = {d["analyzer"]: d for d in json.loads(compared.stdout)}
    assert found["ocr"]["lost"] > 0 and found["ocr"]["media"] == 2
    told = _cli.run(copy, "reprocess", "--dry-run", "--analyzers", "titles", **STRICT)
    assert "options changed (4)" in told.stdout and "8 results of 4 media are stale" in told.stdout
    assert _cli.run(copy, "reprocess", "--analyzers", "nonsense").returncode == 2
