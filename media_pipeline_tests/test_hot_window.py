"""Partitions leave Dagster and come back; media never do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from media_pipeline.assets import jobs
from media_pipeline.config import load_settings
from media_pipeline.engine import hot_window, maintenance
from media_pipeline.engine.batch_run import BatchRun, handed_over, handing_over
from media_pipeline.engine.hot_window import recall, retirable, retire, retired_count
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import PARTITIONS_NAME, announce, range_tags
from media_pipeline.errors import StorageConflict
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline_tests._retention_home import STAGES, add, analysed, opened
from media_pipeline_tests._stages import NAMES, ScriptedRunner
from media_pipeline_tests._standing import SILENT, Graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph()


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    made = opened(tmp_path)
    yield made
    made.close()


@pytest.fixture
def instance(pipeline: Pipeline) -> Iterator[dg.DagsterInstance]:
    with open_instance(pipeline.settings) as made:
        yield made


@pytest.fixture
def keys(pipeline: Pipeline, instance: dg.DagsterInstance) -> list[str]:
    """Six media that were announced, the oldest first."""
    made = [medium.partition_key for medium in add(pipeline, *(f"{n}.jpg" for n in range(6)))]
    announce(instance, made)
    return made


def present(instance: dg.DagsterInstance) -> list[str]:
    return list(instance.get_dynamic_partitions(PARTITIONS_NAME))


def event_count(instance: dg.DagsterInstance, keys: list[str]) -> int:
    sql = f"SELECT count(*) FROM event_logs WHERE partition IN ({', '.join(map(repr, keys))})"
    with instance.event_log_storage.index_connection() as connection:
        return int(connection.exec_driver_sql(sql).scalar())


@dg.job
def nothing() -> None: ...


@pytest.mark.slow
def test_the_oldest_leave_with_their_events_and_their_results_stay(graph, pipeline, instance, keys) -> None:
    graph.run(instance, ScriptedRunner(failed={("ocr", keys[1])}), keys)
    before = graph.standing(instance, keys[2:])
    done = retire(instance, pipeline, 4)
    assert (done.partitions, done.left, done.waits_for) == (2, 4, None)
    assert done.events > 2 * len(NAMES)
    assert present(instance) == keys[2:]
    assert event_count(instance, keys[:2]) == 0
    after = graph.standing(instance, keys[2:])
    assert {pair: found for pair, found in after.items() if pair[1]} == {p: f for p, f in before.items() if p[1]}
    assert pipeline.tables.read("ocr").num_rows == 6
    assert retired_count(instance, pipeline) == 2
    assert pipeline.sources.unannounced(9) == [], "the sensor sees nothing new"
    assert retire(instance, pipeline, 4).partitions == 0


@pytest.mark.slow
def test_who_is_in_hand_or_not_through_stays(pipeline, instance, keys) -> None:
    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.NOT_STARTED, tags=dict(range_tags(keys[:2])))
    media = pipeline.sources.by_partition(keys)
    pipeline.sources.start_attempt([media[keys[2]].media_id])
    assert retirable(instance, pipeline, 1) == keys[3:]
    instance.report_run_canceled(run)
    assert retirable(instance, pipeline, 1) == [*keys[:2], *keys[3:]]
    assert retirable(instance, pipeline, 6) == []


@pytest.mark.slow
def test_partitions_of_no_medium_leave(pipeline, instance, keys) -> None:
    announce(instance, ["made-by-hand"])
    assert retirable(instance, pipeline, 6) == ["made-by-hand"]
    assert retirable(instance, pipeline, 5) == ["made-by-hand", keys[0]]


@pytest.mark.slow
def test_it_waits_for_backfills(pipeline, instance, keys) -> None:
    backfill = PartitionBackfill(
        "b", BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=0.0, asset_selection=[]
    )
    instance.add_backfill(backfill)
    assert retire(instance, pipeline, 1).waits_for == "a backfill is going on"
    assert present(instance) == keys
    instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))
    assert retire(instance, pipeline, 1).left == 1


@pytest.mark.slow
def test_a_retired_medium_comes_back_as_it_stands_in_the_ledger(graph, pipeline, instance, keys) -> None:
    known = pipeline.sources.by_partition(keys)
    analysed(pipeline, [known[keys[1]]], failed=["ocr"])
    graph.run(instance, ScriptedRunner(failed={("ocr", keys[1])}), keys)
    retire(instance, pipeline, 3)
    assert recall(instance, pipeline, [keys[1], keys[0], keys[5], "unknown"]) == [keys[1], keys[0]]
    assert present(instance) == [*keys[3:], keys[1], keys[0]]
    standing = graph.standing(instance, keys[:2])
    found = {pair: (shown.status, shown.causes) for pair, shown in standing.items() if pair[0] in STAGES}
    assert found == dict.fromkeys(found, ("done", [])) | {("ocr", keys[1]): ("failed", [])}
    _, at, made = standing["ocr", keys[0]].newest
    entry = pipeline.ledger.entries([known[keys[0]].media_id])[known[keys[0]].media_id, "ocr"]
    assert (at, made.tags["dagster/data_version"]) == (pytest.approx(entry.at.timestamp()), entry.fingerprint)
    assert (made.metadata["rows"].value, made.metadata["media_id"].value) == (1, entry.media_id)
    assert recall(instance, pipeline, keys[:2]) == []
    graph.run(instance, ScriptedRunner(), [keys[1], keys[0]])
    assert {shown.status for (_, key), shown in graph.standing(instance, keys[:2]).items() if key} == {"done"}


@pytest.mark.slow
def test_a_recall_that_was_killed_is_repeated(graph, pipeline, instance, keys, monkeypatch) -> None:
    retire(instance, pipeline, 5)
    with monkeypatch.context() as patch:
        patch.setattr(hot_window, "announce", _killed)
        with pytest.raises(KeyboardInterrupt):
            recall(instance, pipeline, keys)
    assert recall(instance, pipeline, keys) == [keys[0]]
    found = graph.standing(instance, [keys[0]])
    assert {found[name, keys[0]].status for name in STAGES} == {"done"}


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


# --- the nightly job -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_step_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("MEDIA_PIPELINE_RETENTION__HOT_PARTITIONS", "2")
    monkeypatch.setenv("MEDIA_PIPELINE_RETENTION__RESULTS_DAYS__VIDEO", "1")
    settings = load_settings()
    pipeline = Pipeline(settings)
    media = add(pipeline, "a.mp4", "b.jpg", "c.jpg", "d.jpg")
    resources = {"batch": dg.ResourceDefinition(lambda _: handed_over())}
    job = dg.Definitions(jobs=[jobs.maintenance], resources=resources).resolve_job_def("maintenance")
    with open_instance(settings) as instance:
        announce(instance, [medium.partition_key for medium in media])
        monkeypatch.setattr(maintenance.pruning, "prune_runs", _conflict)
        with handing_over(BatchRun(pipeline)):
            result = job.execute_in_process(instance=instance, run_config=SILENT, raise_on_error=False)
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
        failed = [event.step_key for event in result.all_events if event.is_step_failure]
        left = present(instance)
    pipeline.close()
    assert failed == ["prune_runs"]
    assert left == [medium.partition_key for medium in media[2:]]
    steps = (
        "originals: removed 0, bytes freed 0",
        "hot window: partitions 2",
        "tables: files removed",
        "cache: bytes freed",
    )
    found = [next((n for n, text in enumerate(said) if text.startswith(start)), None) for start in steps]
    assert None not in found
    assert found == sorted(found), "what deletes comes before what compacts"


def _conflict(*_: object, **__: object) -> None:
    raise StorageConflict("the event log is busy", "try again")
