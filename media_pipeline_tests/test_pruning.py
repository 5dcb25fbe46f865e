"""Old runs go; what Dagster says of every partition stays exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.runs.schema import RunTagsTable
from dagster._core.storage.tags import BACKFILL_ID_TAG

from media_pipeline.config import load_settings
from media_pipeline.engine import pruning
from media_pipeline.engine.event_rows import MATERIALIZED, OBSERVED, PLANNED, EventRow, remove_partitions
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import PARTITIONS_NAME, announce
from media_pipeline.engine.pruning import prunable, prune_runs, verdict
from media_pipeline.engine.tags import FORCE_TAG
from media_pipeline_tests._postgres import postgres
from media_pipeline_tests._stages import ScriptedRunner
from media_pipeline_tests._standing import Graph

LATER = datetime.now(UTC) + timedelta(days=100)
KEYS = [f"k{n}" for n in range(6)]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(load_settings(home=tmp_path)) as made:
        announce(made, KEYS)
        yield made


# --- what stays ------------------------------------------------------------------------------------------------------


def rows(*events: tuple[int, str, str]) -> list[EventRow]:
    return [EventRow(event_id, run, kind, '["a"]', "k") for event_id, run, kind in events]


def test_the_newest_materialization_stays() -> None:
    found = verdict(rows((1, "old", MATERIALIZED), (2, "old", MATERIALIZED)), {"old": False}, {""}, {})
    assert (found.freed, found.failed, found.superseded) == ([2], [], [])


def test_an_older_one_stays_only_while_somebody_was_made_from_it() -> None:
    events = rows((1, "old", MATERIALIZED), (4, "old", MATERIALIZED), (9, "new", MATERIALIZED))
    for pointer, kept in ((3, [1]), (4, [4]), (8, [4]), (9, [])):
        for partition in ("k", None):
            assert verdict(events, {"old": False}, {""}, {('["a"]', partition): [pointer]}).freed == kept


def test_what_an_earlier_pruning_kept_goes_when_it_is_superseded() -> None:
    events = rows((1, "", MATERIALIZED), (2, "failures", PLANNED), (3, "", OBSERVED), (4, "new", MATERIALIZED))
    assert verdict(events, {}, {"", "failures"}, {}).superseded == [1, 2, 3]


@pytest.mark.parametrize(("is_failed", "freed", "failed"), [(True, [], [5]), (False, [5], [])])
def test_a_plan_that_came_to_nothing_stays_with_the_failures_if_its_run_failed(is_failed, freed, failed) -> None:
    events = rows((1, "x", PLANNED), (2, "x", MATERIALIZED), (5, "old", PLANNED))
    found = verdict(events, {"old": is_failed}, {""}, {})
    assert (found.freed, found.failed, found.superseded) == (freed, failed, [])


def test_a_plan_that_was_carried_out_goes_with_its_run() -> None:
    events = rows((1, "old", PLANNED), (2, "old", OBSERVED), (3, "old", MATERIALIZED))
    found = verdict(events, {"old": True}, {""}, {})
    assert (found.freed, found.failed) == ([3], [])


# --- with Dagster ----------------------------------------------------------------------------------------------------


def history(graph: Graph, instance: dg.DagsterInstance) -> None:
    """Runs of every kind: good, failed, made anew, made anew in part, cancelled, without a model."""
    runner = ScriptedRunner(failed={("ocr", "k1"), ("frames", "k2")}, unavailable={("transcript", "k3")})
    unforced = {FORCE_TAG: "false"}
    graph.run(instance, runner, KEYS[:4], tags=unforced)
    graph.run(instance, runner, KEYS[:4], tags={FORCE_TAG: "true"})
    graph.run(instance, runner, ["k0"], selection=["media"])  # frames of k0 were made from the older one
    graph.run(instance, ScriptedRunner(), ["k4"], tags=unforced)
    failing = ScriptedRunner(failed={("speakers", "k4")})
    graph.run(instance, failing, ["k4"], selection=["speakers"], tags={BACKFILL_ID_TAG: "b"})  # good before, failed now
    cancelled = graph.run(instance, ScriptedRunner(interrupt_at="media"), ["k1"], selection=["media", "ocr"])
    assert instance.get_run_by_id(cancelled).status == dg.DagsterRunStatus.FAILURE
    instance.report_run_canceled(instance.get_run_by_id(cancelled))


def index(instance: dg.DagsterInstance, sql: str) -> list[tuple[str, ...]]:
    with instance.event_log_storage.index_connection() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]


def run_files(instance: dg.DagsterInstance) -> set[str]:
    return {path.stem for path in (Path(instance.root_directory) / "history" / "runs").glob("*-*.db")}


@pytest.mark.slow
def test_every_partition_stands_as_before(graph: Graph, instance: dg.DagsterInstance) -> None:
    history(graph, instance)
    before = graph.standing(instance, KEYS)
    assert {found.status for found in before.values()} == {"done", "failed", "missing"}
    assert {found.reason for found in before.values()} >= {"ocr said no", None}
    assert not [pair for pair, found in before.items() if pair[1] and found.causes]
    old = {run.run_id for run in instance.get_runs()}

    done = prune_runs(instance, days=30, keep=1000, now=LATER)

    assert done.runs == len(old) == 6
    assert graph.standing(instance, KEYS) == before
    [kept] = instance.get_runs()
    assert kept.tags == {"media_pipeline/pruned": "failures"}
    assert run_files(instance) == {kept.run_id}
    with instance.run_storage.connect() as connection:
        assert {row.run_id for row in connection.execute(RunTagsTable.select())} == {kept.run_id}
    named = {run for row in index(instance, "SELECT run_id FROM event_logs") for run in row}
    named |= {run for row in index(instance, "SELECT last_run_id FROM asset_keys") for run in row}
    assert named == {"", kept.run_id}
    for asset in ("ocr", "warehouse"):
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert (event.run_id, event.step_key, event.job_name) == ("", None, "")


@pytest.mark.slow
def test_a_reader_of_an_older_version_stays_as_stale_or_fresh_as_it_was(graph: Graph, instance) -> None:
    runner = ScriptedRunner()
    graph.run(instance, runner, KEYS[:2])
    graph.run(instance, runner, KEYS[:2], selection=["media"])  # the same version once more
    tags = {"dagster/data_version": "another", "dagster/data_version_is_user_provided": "true"}
    instance.report_runless_asset_event(dg.AssetMaterialization("frames", partition="k1", tags=tags))
    before = graph.standing(instance, KEYS[:2])
    assert before["ocr", "k1"].causes == ["has a new dependency data version"]
    assert before["frames", "k0"].causes == before["ocr", "k0"].causes == []
    prune_runs(instance, days=30, keep=1000, now=LATER)
    assert graph.standing(instance, KEYS[:2]) == before


@pytest.mark.slow
def test_life_goes_on_after_it_and_what_it_kept_goes_when_it_is_superseded(graph: Graph, instance) -> None:
    runner = ScriptedRunner(failed={("ocr", "k1")})
    graph.run(instance, runner, KEYS[:2])
    prune_runs(instance, days=30, keep=1000, now=LATER)
    runner.failed.clear()
    graph.run(instance, runner, KEYS[:2], tags={FORCE_TAG: "true"})
    before = graph.standing(instance, KEYS)
    assert {found.status for (_, key), found in before.items() if key in KEYS[:2]} == {"done"}
    done = prune_runs(instance, days=30, keep=1000, now=LATER + timedelta(days=100))
    assert (done.runs, done.events_superseded > 20) == (1, True)
    before["ocr", "k1"] = replace(before["ocr", "k1"], reason=None)  # why it failed once
    assert graph.standing(instance, KEYS) == before
    kinds = index(instance, "SELECT dagster_event_type FROM event_logs WHERE partition IS NOT NULL")
    assert set(kinds) == {(MATERIALIZED,)}
    assert len(kinds) == 2 * 10, "one event for each asset and partition, no more"


@pytest.mark.slow
def test_killed_at_any_step_nothing_is_lost_and_the_next_one_ends_it(graph: Graph, instance, monkeypatch) -> None:
    history(graph, instance)
    before = graph.standing(instance, KEYS)
    steps = [
        (pruning.rows_of, "free_asset_rows"),
        (pruning.rows_of, "delete_events_of_run"),
        (type(instance.event_log_storage), "delete_events"),
        (type(instance.run_storage), "delete_run"),
    ]
    for where, name in steps:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, _killed)
            with pytest.raises(KeyboardInterrupt):
                prune_runs(instance, days=30, keep=1000, now=LATER)
        assert graph.standing(instance, KEYS) == before
    assert prune_runs(instance, days=30, keep=1000, now=LATER).runs == 6
    assert graph.standing(instance, KEYS) == before


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_postgres_too(graph: Graph, tmp_path: Path) -> None:
    with postgres() as address:
        storage = {"postgres": {"postgres_url": address}}
        overrides = {"storage": storage, "telemetry": {"enabled": False}}
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path), overrides=overrides)) as instance:
            announce(instance, KEYS)
            runner = ScriptedRunner(failed={("ocr", "k1")})
            graph.run(instance, runner, KEYS[:3])
            graph.run(instance, runner, ["k0"], selection=["media"])
            before = graph.standing(instance, KEYS)
            assert {found.status for found in before.values()} == {"done", "failed", "missing"}
            assert prune_runs(instance, days=30, keep=1000, now=LATER).runs == 2
            assert graph.standing(instance, KEYS) == before
            assert len(instance.get_runs()) == 1
            events = remove_partitions(instance, PARTITIONS_NAME, KEYS[:2])
            assert events > 20
            left = graph.standing(instance, KEYS)
            assert {pair: f for pair, f in left.items() if pair[1] in KEYS[2:]} == {
                pair: f for pair, f in before.items() if pair[1] in KEYS[2:]
            }
            assert instance.get_dynamic_partitions(PARTITIONS_NAME) == KEYS[2:]


# --- which runs ------------------------------------------------------------------------------------------------------


@dg.job
def nothing() -> None: ...


@pytest.mark.slow
def test_old_runs_and_those_beyond_the_newest_go_but_never_todays_or_unfinished_ones(instance, monkeypatch) -> None:
    made = [instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.SUCCESS).run_id for _ in range(4)]
    instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    pruning.failures_run(instance)
    now = datetime.now(UTC)
    assert prunable(instance, days=30, keep=0, limit=9, now=now) == []
    assert prunable(instance, days=30, keep=3, limit=9, now=now + timedelta(days=2)) == made[:1]
    assert prunable(instance, days=30, keep=9, limit=9, now=now + timedelta(days=29)) == []
    assert prunable(instance, days=30, keep=9, limit=9, now=now + timedelta(days=31)) == made
    assert prunable(instance, days=30, keep=9, limit=2, now=now + timedelta(days=31)) == made[:2]
