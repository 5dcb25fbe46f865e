"""`status`: what holds the media up, with cause and remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from media_pipeline.cli import cli
from media_pipeline.config import load_settings
from media_pipeline.engine.batch_run import BatchRun
from media_pipeline.errors import UsageError
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.media.intake import Intake

WHY = "MEDIA_PIPELINE_OPTIONS__OCR__X: unknown; options of ocr: ['language']"


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    settings = load_settings(home=tmp_path / "home", settle_s=0.0, min_free_bytes=0, offline=True)
    with closing(Pipeline(settings)) as made:
        yield made


def take(pipeline: Pipeline, file: Path) -> list[str]:
    file.write_bytes(file.name.encode())
    report = Intake(pipeline.layout, pipeline.sources, pipeline.settings).take([file], wait=True)
    return [medium.partition_key for medium in report.new]


def status(pipeline: Pipeline, *options: str) -> str:
    finished = CliRunner().invoke(cli, ["--home", str(pipeline.layout.home), "status", *options], standalone_mode=False)
    assert finished.exception is None, finished.exception
    return finished.stdout


def hold_up(pipeline: Pipeline, keys: list[str]) -> None:
    """A run that a wrong setting stops."""
    batch = BatchRun(pipeline)
    batch.begin(keys)
    batch.give_up(UsageError(*WHY.split("; ")))


def test_what_holds_media_up_is_said_until_a_run_begins_on_them(pipeline: Pipeline, tmp_path: Path) -> None:
    keys = take(pipeline, tmp_path / "a.txt")
    assert "held up" not in status(pipeline)
    for _ in range(4):
        hold_up(pipeline, keys)
    said = status(pipeline)
    assert f"held up: {WHY}" in said
    assert "1 waiting" in said
    assert "given up" not in said
    assert json.loads(status(pipeline, "--format", "json"))["held_up"] == WHY
    pipeline.begin(keys)
    assert "held up" not in status(pipeline)


@pytest.mark.slow
def test_a_run_that_comes_through_ends_it_for_those_that_wait(pipeline: Pipeline, tmp_path: Path) -> None:
    hold_up(pipeline, take(pipeline, tmp_path / "a.txt"))
    pipeline.finish([])
    assert "held up" not in status(pipeline)


def test_erasing_a_medium_erases_what_was_said_of_its_run(pipeline: Pipeline, tmp_path: Path) -> None:
    hold_up(pipeline, take(pipeline, tmp_path / "a.txt"))
    take(pipeline, tmp_path / "b.txt")
    first, *_ = pipeline.sources.unannounced(2)
    pipeline.sources.forget(first.media_id)
    assert "held up" not in status(pipeline)
