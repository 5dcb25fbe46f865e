"""`retention` on the command line, in processes of its own."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from media_pipeline.config import load_settings
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import PARTITIONS_NAME, announce
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline_tests._cli import run
from media_pipeline_tests._retention_home import add

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three media of long ago and one of today, all in Dagster."""
    with closing(Pipeline(load_settings(home=tmp_path))) as pipeline:
        media = add(pipeline, "a.mp4", "b.jpg", "c[red].jpg", "today.mp4")
        with pipeline.sources._db.write() as db:
            db.execute("UPDATE media SET added_at = 0 WHERE media_id <> ?", (media[-1].media_id,))
        with open_instance(pipeline.settings) as instance:
            announce(instance, [medium.partition_key for medium in media])
    return tmp_path


TERMS = {
    "MEDIA_PIPELINE_RETENTION__ORIGINALS_DAYS__VIDEO": "90",
    "MEDIA_PIPELINE_RETENTION__RESULTS_DAYS__IMAGE": "365",
    "MEDIA_PIPELINE_RETENTION__HOT_PARTITIONS": "1",
}


def partitions(home: Path) -> list[str]:
    with open_instance(load_settings(home=home)) as instance:
        return [key.partition("~")[0] for key in instance.get_dynamic_partitions(PARTITIONS_NAME)]


def test_plan_run_and_recall(home: Path) -> None:
    plan = json.loads(run(home, "retention", "plan", "--format", "json", **TERMS).stdout)
    assert [row["name"] for row in plan["originals"]] == ["a.mp4"]
    assert [(row["name"], row["days"]) for row in plan["results"]] == [("b.jpg", 365), ("c[red].jpg", 365)]
    assert plan["dagster"] == {"runs": 0, "partitions": 3, "retired": 0}

    dry = run(home, "retention", "run", "--dry-run", **TERMS)
    assert "c[red].jpg" in dry.stdout
    asked = run(home, "retention", "run", **TERMS)  # nobody answers
    assert asked.returncode == 2
    assert "Let this go for good?" in asked.stderr and "give --yes" in asked.stderr
    assert len(partitions(home)) == 4

    done = run(home, "retention", "run", "--yes", "--format", "json", **TERMS)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["originals"]["removed"], report["results"]["media_removed"]) == (1, 2)
    assert report["hot window"] == {"partitions": 1, "events": 0, "left": 1}
    assert partitions(home) == ["today"]
    assert run(home, "retention", "run", "--yes", **TERMS).stdout == "nothing goes now\n"

    [original] = plan["originals"]
    back = run(home, "retention", "recall", original["media_id"][:12], **TERMS)
    assert back.stdout.strip() == original["partition_key"]
    assert partitions(home) == ["today", "a"]


def test_wrong_settings_are_an_error_of_use(home: Path) -> None:
    done = run(home, "retention", "plan", MEDIA_PIPELINE_RETENTION__ORIGINALS_DAYS="90")
    assert done.returncode == 2
    assert "__VIDEO" in done.stderr
