"""Where a run computes, as people say it in Dagster: by configuration, by tag, by the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import pytest

from media_pipeline.assets.jobs import analyze_job
from media_pipeline.assets.results import results
from media_pipeline.assets.stages import stage_assets
from media_pipeline.config import load_settings
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import announce, range_tags
from media_pipeline.engine.submit import ANALYZE_JOB
from media_pipeline.execution.placement import Decision, Option
from media_pipeline_tests._stages import STAGES, ScriptedRunner
from resources.pipeline import BatchResource, PipelineResource
from resources.vast import VastResource

DECISION = Decision(
    "gpu", Option("gpu", "RTX 4090 in SE", 600, 0.25), (Option("cpu", "this machine", 9000, 0),), "faster"
)
RENTED = {"spent_usd": 0.21, "minutes": 9.0, "summary": "0.2100 USD in 9.0 minutes", "history": []}
KEYS = ["a", "b"]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with open_instance(load_settings(home=tmp_path_factory.mktemp("home"))) as made:
        announce(made, KEYS)
        yield made


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ScriptedRunner:
    made = ScriptedRunner()
    made.decision, made.rented = DECISION, RENTED
    monkeypatch.setattr(PipelineResource, "open", lambda *_: made)
    return made


@pytest.fixture(scope="module")
def job() -> dg.JobDefinition:
    pipeline, vast = PipelineResource(), VastResource.configure_at_launch()
    definitions = dg.Definitions(
        assets=[stage_assets(STAGES), results],
        jobs=[analyze_job(STAGES)],
        resources={"vast": vast, "batch": BatchResource(pipeline=pipeline, vast=vast)},
    )
    return definitions.resolve_job_def(ANALYZE_JOB)


def run(
    job: dg.JobDefinition, instance: dg.DagsterInstance, tags: Mapping[str, str] | None = None, **vast: Any
) -> dg.ExecuteInProcessResult:
    config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    if vast:
        config["resources"] = {"vast": {"config": vast}}
    return job.execute_in_process(
        instance=instance, run_config=config, tags={**range_tags(KEYS), **(tags or {})}, raise_on_error=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "tags", "config", "asked"),
    [
        ("", {}, {}, "place cpu"),
        ("auto", {}, {}, "place auto"),
        ("auto", {"media_pipeline/target": "gpu"}, {}, "place gpu"),
        ("auto", {"media_pipeline/target": "gpu"}, {"target": "cpu"}, "place cpu"),
    ],
)
def test_configuration_goes_before_tags_before_settings(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    runner: ScriptedRunner,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    tags: dict[str, str],
    config: dict[str, Any],
    asked: str,
) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_GPU__TARGET", setting)
    assert run(job, instance, tags, **config).success
    assert [entry for entry in runner.around if entry.startswith("place")] == [asked]


@pytest.mark.slow
def test_the_decision_and_its_price_stand_on_the_run(
    job: dg.JobDefinition, instance: dg.DagsterInstance, runner: ScriptedRunner
) -> None:
    found = run(job, instance, target="gpu", max_usd=0.5)
    tags = instance.get_run_by_id(found.run_id).tags
    assert tags["media_pipeline/placed"] == "RTX 4090 in SE"
    assert tags["media_pipeline/expected_usd"] == "0.2500"
    assert tags["media_pipeline/spent_usd"] == "0.2100"
    observed = {
        label: value.value
        for event in found.all_events
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION
        for label, value in event.asset_observation_data.asset_observation.metadata.items()
    }
    assert observed["placement"]["alternatives"][0]["where"] == "this machine"
    assert observed["rented"] == RENTED
    # Given back before the results over all media, which need no GPU.
    assert runner.around.index("give back") < runner.around.index("finish")


@pytest.mark.slow
@pytest.mark.parametrize("tags", [{"media_pipeline/target": "gpuu"}, {"media_pipeline/max_usd": "much"}])
def test_a_misspelt_tag_fails_the_run_before_anything_is_done(
    job: dg.JobDefinition, instance: dg.DagsterInstance, runner: ScriptedRunner, tags: dict[str, str]
) -> None:
    assert not run(job, instance, tags).success
    assert runner.calls == []
    assert runner.around == []


def test_a_misspelt_configuration_is_refused_before_there_is_a_run(
    job: dg.JobDefinition, instance: dg.DagsterInstance, runner: ScriptedRunner
) -> None:
    before = instance.get_runs_count()
    with pytest.raises(dg.DagsterInvalidConfigError, match="gpuu"):
        run(job, instance, target="gpuu")
    assert instance.get_runs_count() == before
    assert runner.calls == []


def test_the_key_stands_in_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAST_API_KEY", "a-secret-key")
    from media_pipeline.definitions import build

    definitions = build()
    schema = definitions.resolve_job_def(ANALYZE_JOB).run_config_schema
    assert "a-secret-key" not in repr(schema.config_type.__dict__)
    vast = VastResource(api_key=dg.EnvVar("VAST_API_KEY"))
    assert "a-secret-key" not in repr(vast)
