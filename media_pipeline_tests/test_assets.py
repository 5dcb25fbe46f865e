"""The graph on a runner that computes nothing: what Dagster shows afterwards is the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARENT_RUN_ID_TAG, RESUME_RETRY_TAG

from media_pipeline.assets.jobs import analyze_job, maintenance, refresh_job
from media_pipeline.assets.results import results
from media_pipeline.assets.stages import stage_assets
from media_pipeline.config import load_settings
from media_pipeline.engine.batch_run import BatchRun, handed_over, handing_over
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import MEDIA, PARTITIONS_NAME, announce, range_tags
from media_pipeline.engine.submit import ANALYZE_JOB, execute_batch
from media_pipeline.engine.tags import FORCE_TAG, STOPPED_TAG
from media_pipeline.errors import CorruptMedia, DiskFull, MediaPipelineError, StorageConflict, UsageError, WorkerLost
from media_pipeline.execution.outcome import Outcome
from media_pipeline_tests._stages import NAMES, STAGES, ScriptedRunner

SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with open_instance(load_settings(home=tmp_path_factory.mktemp("home"))) as made:
        yield made


def scripted() -> dg.Definitions:
    return dg.Definitions(
        assets=[stage_assets(STAGES), results],
        jobs=[analyze_job(STAGES), refresh_job(), maintenance],
        resources={"batch": dg.ResourceDefinition(lambda _: handed_over())},
    )


def scripted_job() -> dg.JobDefinition:
    return scripted().resolve_job_def(ANALYZE_JOB)


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return scripted()


@pytest.fixture(scope="module")
def job(definitions: dg.Definitions) -> dg.JobDefinition:
    return definitions.resolve_job_def(ANALYZE_JOB)


@pytest.fixture
def keys(instance: dg.DagsterInstance, request: pytest.FixtureRequest) -> list[str]:
    """Eight new adjacent partitions."""
    made = [f"{request.node.name.split('[')[0]}-{n}" for n in range(8)]
    announce(instance, made)
    return made


def run(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    runner: ScriptedRunner,
    keys: Sequence[str],
    tags: dict[str, str] | None = None,
    selection: Sequence[str] | None = None,
) -> dg.ExecuteInProcessResult:
    with handing_over(BatchRun(runner)):
        return job.execute_in_process(
            instance=instance,
            run_config=SILENT,
            tags={**range_tags(keys), **(tags or {})},
            asset_selection=[dg.AssetKey(name) for name in selection] if selection else None,
            raise_on_error=False,
        )


def shown(instance: dg.DagsterInstance, asset: str, keys: Sequence[str]) -> dict[str, str]:
    """What the UI shows of these partitions of an asset."""
    value = get_and_update_asset_status_cache_value(instance, dg.AssetKey(asset), MEDIA)
    if value is None:
        return dict.fromkeys(keys, "missing")
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        done = set(value.deserialize_materialized_partition_subsets(MEDIA).get_partition_keys())
        failed = set(value.deserialize_failed_partition_subsets(MEDIA).get_partition_keys())
        running = set(value.deserialize_in_progress_partition_subsets(MEDIA).get_partition_keys())
    assert not running & set(keys)
    return {key: "failed" if key in failed else "done" if key in done else "missing" for key in keys}


def stale_causes(instance: dg.DagsterInstance, definitions: dg.Definitions, asset: str, key: str | None) -> list[str]:
    graph = definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return [f"{asset} {cause.reason}" for cause in resolver.get_stale_causes(dg.AssetKey(asset), key)]


@pytest.mark.slow
def test_a_good_batch_is_done_and_nothing_of_it_reads_as_stale(instance, definitions, job, keys) -> None:
    runner = ScriptedRunner()
    assert run(job, instance, runner, keys).success
    assert runner.around == ["begin", "finish", "end"]
    for name in NAMES:
        assert set(shown(instance, name, keys).values()) == {"done"}
    assert [c for name in NAMES for k in keys[:2] for c in stale_causes(instance, definitions, name, k)] == []
    unpartitioned = ("duplicates", "persons", "voices", "search_index", "warehouse")
    assert [c for name in unpartitioned for c in stale_causes(instance, definitions, name, None)] == []


@pytest.mark.slow
def test_bad_media_are_failed_while_the_others_are_done(instance, job, keys) -> None:
    runner = ScriptedRunner(failed={("ocr", keys[2]), ("frames", keys[4])})
    result = run(job, instance, runner, keys, {FORCE_TAG: "false"})
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    text = failure.step_failure_data.user_failure_data.description
    assert failure.step_key == "analyze.image_embeddings"
    assert "2 of 8 media failed" in text
    assert f"{keys[2]}: ocr: ocr said no" in text
    assert f"{keys[4]}: frames: frames said no" in text
    good = dict.fromkeys(keys, "done")
    assert shown(instance, "audio", keys) == good
    assert shown(instance, "frames", keys) == good | {keys[4]: "failed"}
    assert shown(instance, "ocr", keys) == good | {keys[2]: "failed", keys[4]: "failed"}
    assert runner.around == ["begin", "finish", "end"]


@pytest.mark.slow
def test_a_lower_tier_is_said_once_per_stage_in_the_run(instance, job, keys, monkeypatch) -> None:
    plain = ScriptedRunner._outcome

    def lower(self: ScriptedRunner, name: str, *args: object) -> Outcome:
        return replace(plain(self, name, *args), warning="a smaller model was taken" if name == "ocr" else None)

    monkeypatch.setattr(ScriptedRunner, "_outcome", lower)
    result = run(job, instance, ScriptedRunner(), keys)
    said = [e.user_message for e in instance.all_logs(result.run_id) if "smaller" in (e.user_message or "")]
    assert said == ["ocr: a smaller model was taken"]


@pytest.mark.slow
def test_without_a_model_the_run_is_green_and_the_partition_missing(instance, job, keys) -> None:
    result = run(job, instance, ScriptedRunner(unavailable={("transcript", keys[1])}), keys)
    assert result.success
    assert shown(instance, "transcript", keys) == dict.fromkeys(keys, "done") | {keys[1]: "missing"}
    warnings = [e.message for e in instance.all_logs(result.run_id) if "left out" in (e.user_message or "")]
    assert len(warnings) == 1


@pytest.mark.slow
def test_without_a_model_it_stays_missing_even_when_the_run_fails(instance, job, keys) -> None:
    runner = ScriptedRunner(unavailable={("transcript", keys[1])}, failed={("ocr", keys[2])})
    assert not run(job, instance, runner, keys).success
    assert shown(instance, "transcript", keys) == dict.fromkeys(keys, "done") | {keys[1]: "missing"}
    assert shown(instance, "ocr", keys) == dict.fromkeys(keys, "done") | {keys[2]: "failed"}


@pytest.mark.slow
def test_a_partition_made_by_hand_is_failed_with_a_reason(instance, job, keys) -> None:
    result = run(job, instance, ScriptedRunner(unknown={keys[0]}), keys)
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert f"{keys[0]}: no medium of this home" in failure.step_failure_data.user_failure_data.description


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tags", "selection", "redone"),
    [
        ({}, ["ocr"], {"ocr"}),
        ({}, ["transcript", "ocr"], {"ocr", "transcript"}),
        ({FORCE_TAG: "false"}, None, set()),
        ({FORCE_TAG: "true"}, None, set(NAMES)),
        ({BACKFILL_ID_TAG: "abc"}, ["ocr"], {"ocr"}),
    ],
    ids=["one asset by hand", "two assets by hand", "sensor", "forced", "backfill of what is there"],
)
def test_what_stands_is_made_anew_only_where_asked_for(instance, job, keys, tags, selection, redone) -> None:
    runner = ScriptedRunner()
    run(job, instance, runner, keys[:2], {FORCE_TAG: "false"})
    before = len(instance.fetch_materializations(dg.AssetKey("frames"), limit=1000).records)
    runner.computed.clear()
    assert run(job, instance, runner, keys[:2], tags, selection).success
    assert {name for name, _ in runner.computed} == redone
    if selection:  # what was not selected found its result and said nothing
        assert len(instance.fetch_materializations(dg.AssetKey("frames"), limit=1000).records) == before
        assert {name for name, *_ in runner.calls[len(NAMES) :]} == redone | {
            need for name in redone for need in {"ocr": ("media", "frames"), "transcript": ("media", "audio")}[name]
        }


@pytest.mark.slow
def test_a_backfill_over_what_is_partly_there_asks_once_per_stage(instance, job, keys) -> None:
    runner = ScriptedRunner()
    run(job, instance, runner, keys[1:2], {FORCE_TAG: "false"})
    runner.calls.clear()
    runner.computed.clear()
    assert run(job, instance, runner, keys[:3], {BACKFILL_ID_TAG: "abc"}, ["media", "frames", "ocr"]).success
    # After a second call for the same stage a machine that was rented for it would be gone.
    assert runner.calls == [(name, tuple(keys[:3]), frozenset(keys[1:2]), True) for name in ("media", "frames", "ocr")]
    assert len(runner.computed) == 9


@pytest.mark.slow
@pytest.mark.parametrize("tags", [{BACKFILL_ID_TAG: "abc"}, {FORCE_TAG: "false", PARENT_RUN_ID_TAG: "abc"}])
def test_a_persons_second_try_repeats_failures_and_fills_gaps_from_the_ledger(instance, job, keys, tags) -> None:
    runner = ScriptedRunner(failed={("ocr", keys[0])})
    runner.run_stage("media", keys[1:2], run_id="another home")  # the ledger knows it, Dagster does not
    run(job, instance, runner, keys[:1], {FORCE_TAG: "false"})
    runner.failed.clear()
    runner.computed.clear()
    run(job, instance, runner, keys[:2], tags, ["media", "frames", "ocr"])
    assert ("ocr", keys[0]) in runner.computed
    assert ("media", keys[1]) not in runner.computed
    assert shown(instance, "ocr", keys[:2]) == dict.fromkeys(keys[:2], "done")


def from_failure(instance: dg.DagsterInstance, runner: ScriptedRunner, run_id: str) -> dg.JobExecutionResult:
    """What the UI's button on a failed run does."""
    tags = {**instance.get_run_by_id(run_id).tags, PARENT_RUN_ID_TAG: run_id, RESUME_RETRY_TAG: "true"}
    options = dg.ReexecutionOptions.from_failure(run_id, instance)
    with handing_over(BatchRun(runner)):
        return dg.execute_job(
            dg.reconstructable(scripted_job),
            instance=instance,
            run_config=SILENT,
            tags=tags,
            reexecution_options=options,
        )


@pytest.mark.slow
@pytest.mark.parametrize("tags", [{FORCE_TAG: "false"}, {}], ids=["of the sensor", "by hand"])
def test_from_failure_tries_the_failed_media_again_and_says_what_fails_still(instance, job, keys, tags) -> None:
    runner = ScriptedRunner(failed={("ocr", keys[0]), ("faces", keys[1])})
    first = run(job, instance, runner, keys[:3], tags)
    assert not first.success
    runner.failed = {("faces", keys[1])}
    runner.computed.clear()
    second = from_failure(instance, runner, first.run_id)
    assert {("ocr", keys[0]), ("faces", keys[1])} <= set(runner.computed)
    assert {name for name, _ in runner.computed} <= {"ocr", "text_embeddings", "faces", NAMES[-1]}
    assert shown(instance, "ocr", keys[:3]) == dict.fromkeys(keys[:3], "done")
    assert not second.success, "a medium still fails"
    runner.failed = set()
    assert from_failure(instance, runner, second.run_id).success
    assert shown(instance, "faces", keys[:3]) == dict.fromkeys(keys[:3], "done")


@pytest.mark.slow
def test_only_retryable_errors_are_retried(instance, job, keys, monkeypatch) -> None:
    monkeypatch.setattr("media_pipeline.assets.stages.RETRY_WAIT_S", 0)
    conflict = StorageConflict("writers collided")
    runner = ScriptedRunner(errors={"ocr": [conflict, conflict]})
    result = run(job, instance, runner, keys[:1])
    assert result.success
    assert [name for name, *_ in runner.calls].count("ocr") == 3
    assert runner.around == ["begin", "finish", "end"]

    runner = ScriptedRunner(errors={"ocr": [DiskFull("no room left", "make room")]})
    result = run(job, instance, runner, keys[1:2])
    assert not result.success
    assert [name for name, *_ in runner.calls].count("ocr") == 1
    assert runner.around == ["begin", "release: no room left; make room"], "the sensor asks again"
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert failure.step_failure_data.user_failure_data.description == "no room left; make room"


@pytest.mark.slow
def test_media_are_not_blamed_for_writers_that_collide_each_time(instance, job, keys, monkeypatch) -> None:
    monkeypatch.setattr("media_pipeline.assets.stages.RETRY_WAIT_S", 0)
    runner = ScriptedRunner(errors={"ocr": [StorageConflict("writers collided") for _ in range(3)]})
    result = run(job, instance, runner, keys[:1])
    assert not result.success
    assert runner.around == ["begin", "release: writers collided"]
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert failure.step_failure_data.user_failure_data.description == "writers collided"


@pytest.mark.parametrize(
    ("error", "around"),
    [
        (UsageError("no such option", "see --help"), ["begin", "release: no such option; see --help"]),
        (DiskFull("no room left"), ["begin", "release: no room left"]),
        (StorageConflict("writers collided"), ["begin", "release: writers collided"]),
        (CorruptMedia("cannot be read"), ["begin"]),
        (WorkerLost("it died"), ["begin"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_only_what_lies_in_a_medium_counts_as_its_attempt(error: MediaPipelineError, around: list[str]) -> None:
    runner = ScriptedRunner()
    batch = BatchRun(runner)
    batch.begin(["a"])
    batch.give_up(error)
    assert runner.around == around
    assert batch.error is error


def test_a_disk_too_full_to_note_it_does_not_hide_the_cause(monkeypatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise DiskFull("no room for the note")

    runner = ScriptedRunner()
    monkeypatch.setattr(runner, "release", no_room)
    batch = BatchRun(runner)
    batch.begin(["a"])
    batch.give_up(DiskFull("no room left"))
    assert str(batch.error) == "no room left"


@pytest.mark.slow
def test_materializations_show_what_a_person_likes(instance, job, keys) -> None:
    run(job, instance, ScriptedRunner(), keys[:1])
    [record] = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("media"), asset_partitions=keys[:1]), limit=1
    ).records
    metadata = record.asset_materialization.metadata
    assert metadata["thumbnail"].value.startswith("![](data:image/webp;base64,")
    assert len(metadata["thumbnail"].value) < 1000, "the UI hides longer Markdown behind a link"
    assert metadata["larger"].value.startswith("![](data:image/jpeg;base64,")
    assert metadata["preview"].value == "first line"
    assert (metadata["rows"].value, metadata["seconds"].value) == (3, 0.25)
    assert "tier" not in metadata, "nothing is shown that is not known"
    assert len(str(record.event_log_entry)) < 20_000


# --- submitting in process ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scattered_keys_are_run_in_adjacent_pieces(instance, job, keys) -> None:
    seen: list[tuple[str, Outcome]] = []
    runner = ScriptedRunner(failed={("ocr", keys[5])})
    wanted = [keys[5], keys[0], keys[1], keys[4]]
    begun: list[int] = []
    ran = execute_batch(
        instance, runner, wanted, on_outcome=lambda *what: seen.append(what), job=job,
        before_last=lambda: begun.append(len(seen)),
    )  # fmt: skip
    assert begun == [2 * len(NAMES)], "once, between the first run and the second"
    assert [list(r.partition_keys) for r in ran] == [keys[:2], keys[4:6]]
    assert [dict(r.failed) for r in ran] == [{}, {keys[5]: "ocr: ocr said no"}]
    assert len(seen) == len(wanted) * len(NAMES)
    assert shown(instance, "ocr", keys) == dict.fromkeys(keys, "missing") | {
        keys[0]: "done", keys[1]: "done", keys[4]: "done", keys[5]: "failed",
    }  # fmt: skip


@pytest.mark.slow
def test_new_keys_become_partitions_in_their_order(instance, job) -> None:
    fresh = ["b-new", "a-new"]
    [ran] = execute_batch(instance, ScriptedRunner(), fresh, stages=["media"], job=job)
    assert list(ran.partition_keys) == fresh
    assert instance.get_dynamic_partitions(PARTITIONS_NAME)[-2:] == fresh
    assert shown(instance, "frames", fresh) == dict.fromkeys(fresh, "missing")


def test_an_interrupted_run_gives_its_media_back(instance, job, keys) -> None:
    runner = ScriptedRunner(interrupt_at="ocr")
    with pytest.raises(KeyboardInterrupt):
        execute_batch(instance, runner, keys[:1], job=job)
    assert runner.around == ["begin", "release"]
    [run_record] = instance.get_run_records(limit=1)
    assert run_record.dagster_run.status == dg.DagsterRunStatus.CANCELED


@pytest.mark.slow
@pytest.mark.parametrize(("status", "around"), [("CANCELING", "end"), ("CANCELED", "end"), ("STARTED", "release")])
def test_only_a_run_that_nobody_cancelled_goes_on_later(instance, job, keys, monkeypatch, status, around) -> None:
    runner = ScriptedRunner()

    def stop(name: str, *_: object, run_id: str, **__: object) -> list[Outcome]:
        run = instance.get_run_by_id(run_id)
        if status != "STARTED":
            instance.report_run_canceling(run)
        if status == "CANCELED":  # the monitoring did not wait for the process
            instance.report_run_canceled(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_stage", stop)
    with suppress(KeyboardInterrupt, DagsterExecutionInterruptedError):
        run(job, instance, runner, keys[:1], {FORCE_TAG: "false"})
    assert runner.around == ["begin", around]
    [newest] = instance.get_runs(limit=1)
    assert (STOPPED_TAG in newest.tags) is (around == "release"), "a stopped server is no failed try"


def test_what_stops_a_run_is_raised(instance, job, keys) -> None:
    runner = ScriptedRunner(errors={"frames": [DiskFull("no room left", "make room")]})
    with pytest.raises(DiskFull, match="make room"):
        execute_batch(instance, runner, keys[:1], job=job)


def test_results_run_by_themselves(instance, definitions) -> None:
    with handing_over(BatchRun(ScriptedRunner())):
        result = definitions.resolve_job_def("refresh_results").execute_in_process(instance=instance, run_config=SILENT)
    assert result.success
    assert stale_causes(instance, definitions, "search_index", None) == []
