"""Renting for runs: what becomes of results that were believed, and of a quote when an original has changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from media_pipeline.config import load_settings
from media_pipeline.execution import workload
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.media.intake import Intake
from media_pipeline_tests._reprocess_home import MEDIA, SCHEMA, Home

KEYS = [f"{media_id}~0" for media_id in MEDIA]
RIGHT = [float(ord(media_id[0])) for media_id in MEDIA]


def current(pipeline: Pipeline, stage: str) -> list[str]:
    return [o.media_id for o in pipeline.run_stage(stage, KEYS, run_id="next") if o.current]


def test_what_was_made_from_a_lie_is_made_again_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rented machine was believed for one medium, and found lying after another stage had read that."""
    pipeline = Home(tmp_path, monkeypatch).open()
    for stage in ("media", "first"):
        pipeline.run_stage(stage, KEYS, run_id="r")
    lie = pa.Table.from_pylist([{"media_id": "bonobo", "value": 666.0}], schema=SCHEMA)
    pipeline.tables.replace("first", lie, ["bonobo"])
    pipeline.run_stage("second", KEYS, run_id="r")
    assert 666.0 in Home.values(pipeline)

    pool: Any = SimpleNamespace(suspects={"first": ["bonobo"]}, close=lambda: None)
    pipeline.placements._pool = pool
    pipeline.placements.give_back()
    assert current(pipeline, "first") == ["aardvark", "cheetah"]
    assert current(pipeline, "second") == ["aardvark", "cheetah"]
    assert Home.values(pipeline) == RIGHT


def test_a_lie_is_forgotten_with_the_stage_that_it_was_found_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the end: a run that is killed before that would leave it as done."""
    home = Home(tmp_path, monkeypatch)
    pipeline = home.run()
    pool: Any = SimpleNamespace(suspects={"first": ["bonobo"]}, close=lambda: None)
    pipeline.placements._pool = pool
    pipeline.placements.stage_is_through("first")
    pipeline.placements._pool = None
    assert set(pipeline.ledger.entries(["bonobo"])) == {("bonobo", "media")}
    assert current(home.open(), "first") == ["aardvark", "cheetah"]


def test_machines_are_given_back_whatever_fails_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Home(tmp_path, monkeypatch).open()
    closed: list[str] = []

    def fail() -> None:
        raise RuntimeError("the worker hangs")

    pool: Any = SimpleNamespace(suspects={}, close=fail)
    fleet: Any = SimpleNamespace(close=lambda: closed.append("fleet"))
    pipeline.placements._pool, pipeline.placements._fleet = pool, fleet
    with pytest.raises(RuntimeError, match="hangs"):
        pipeline.placements.give_back()
    assert closed == ["fleet"]


@pytest.mark.slow
def test_an_original_that_has_changed_is_left_out_of_the_work(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", link_originals=True, min_free_bytes=0, settle_s=0)
    pipeline = Pipeline(settings)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        Image.new("RGB", (64, 64), (number * 9, 1, 7)).save(file)
    media = Intake(pipeline.layout, pipeline.sources, pipeline.settings).take(files, wait=True).new
    Image.new("RGB", (80, 80), (1, 1, 7)).save(files[1])
    found = workload.of_media(pipeline, media, ["media", "frames", "ocr"])
    pipeline.close()
    assert found.total.media == 2
    assert list(found.unreadable) == [media[1].media_id]
