"""One Dagster instance per home, and runs whose process is gone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.run_coordinator import QueuedRunCoordinator

from media_pipeline.config import load_settings
from media_pipeline.engine.event_storage import FastSqliteEventLogStorage
from media_pipeline.engine.instance import (
    PROCESS_TAG,
    instance_template,
    open_instance,
    reconcile_dead_runs,
)
from media_pipeline.engine.partitions import announce, contiguous_ranges, keys_of_run, range_tags
from media_pipeline.storage import processes

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with open_instance(load_settings(home=tmp_path_factory.mktemp("home"))) as made:
        yield made


@pytest.mark.slow
def test_the_checkout_and_every_home_have_the_same_configuration(instance) -> None:
    assert (ROOT / "dagster.yaml").read_text() == instance_template()
    assert (Path(instance.root_directory) / "dagster.yaml").read_text() == instance_template()


def test_the_configuration_is_what_it_says(instance) -> None:
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    assert instance.run_monitoring_enabled
    assert not instance.run_retries_max_retries
    assert not instance.telemetry_enabled
    assert not instance.nux_enabled
    assert instance.get_settings("sensors")["use_threads"]
    assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
    assert "sensor" in instance.get_settings("retention")


@pytest.mark.slow
def test_it_lies_in_the_home_that_was_asked_for(tmp_path: Path, monkeypatch, instance) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(tmp_path / "elsewhere"))
    with open_instance(load_settings(home=tmp_path / "asked")) as asked:
        announce(asked, ["b", "a"])
    assert not (tmp_path / "elsewhere").exists()
    with open_instance(load_settings(home=tmp_path / "asked")) as again:
        assert again.get_dynamic_partitions("media") == ["b", "a"]
        assert isinstance(again.event_log_storage, FastSqliteEventLogStorage)


@pytest.mark.slow
def test_two_processes_may_open_a_new_home_at_the_same_instant(tmp_path: Path) -> None:
    code = (
        "import sys, time; from media_pipeline.config import load_settings;"
        "from media_pipeline.engine.instance import open_instance;"
        "from media_pipeline.engine.partitions import announce;"
        "print('ready', flush=True); sys.stdin.readline();"
        f"i = open_instance(load_settings(home={str(tmp_path)!r})); announce(i, sys.argv[1:])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"key{n}"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0, 0]
    with open_instance(load_settings(home=tmp_path)) as instance:
        assert sorted(instance.get_dynamic_partitions("media")) == ["key0", "key1", "key2"]


# --- dead runs ------------------------------------------------------------------------------------------------------


@dg.job
def nothing() -> None: ...


def started_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=tags)
    return run.run_id


def test_a_run_whose_process_is_gone_is_failed_with_the_cause(instance) -> None:
    child = subprocess.Popen(["sleep", "60"])
    dead = started_run(instance, {PROCESS_TAG: processes.signature(child.pid)})
    child.kill()
    child.wait()
    alive = started_run(instance, {PROCESS_TAG: processes.signature()})
    unsigned = started_run(instance, {})
    assert reconcile_dead_runs(instance) == [dead]
    assert instance.get_run_by_id(dead).status == dg.DagsterRunStatus.FAILURE
    assert any("is gone" in entry.message for entry in instance.all_logs(dead))
    for run_id in (alive, unsigned):
        assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED
    assert reconcile_dead_runs(instance) == []


def test_a_run_that_never_said_who_works_on_it_is_given_up_after_a_while(instance, monkeypatch) -> None:
    silent = started_run(instance, {})
    assert silent not in reconcile_dead_runs(instance)
    monkeypatch.setattr("media_pipeline.engine.instance._UNSIGNED_RUN_DEAD_AFTER_S", -1.0)
    assert silent in reconcile_dead_runs(instance)


@pytest.mark.slow
def test_a_run_that_waited_long_in_the_queue_has_all_its_time_to_say_so(tmp_path: Path) -> None:
    with open_instance(load_settings(home=tmp_path)) as instance:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.NOT_STARTED)
        asked_for = datetime.now(UTC) - timedelta(hours=1)
        with sqlite3.connect(tmp_path / "dagster" / "history" / "runs.db") as runs:
            runs.execute("UPDATE runs SET create_timestamp = ?", (asked_for.strftime("%Y-%m-%d %H:%M:%S.%f"),))
        runs.close()
        instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_START.value, run.job_name), run.run_id)
        assert reconcile_dead_runs(instance) == []
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED


# --- ranges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "ranges"),
    [
        ("", []),
        ("a", [["a"]]),
        ("cab", [["a", "b", "c"]]),
        ("ace", [["a"], ["c"], ["e"]]),
        ("edba", [["a", "b"], ["d", "e"]]),
        ("axb", [["a", "b"]]),
        ("aab", [["a", "b"]]),
    ],
)
def test_wanted_keys_fall_into_adjacent_ranges(wanted: str, ranges: list[list[str]]) -> None:
    assert contiguous_ranges("abcde", wanted) == ranges


def test_the_keys_of_a_run_are_read_from_its_tags() -> None:
    existing = ["a", "b", "c", "d"]
    assert keys_of_run(existing, range_tags(["b", "c"])) == ["b", "c"]
    assert keys_of_run(existing, {"dagster/partition": "d"}) == ["d"]
    assert not keys_of_run(existing, {"dagster/partition": "gone"})
    assert not keys_of_run(existing, {})


def test_the_workspace_names_our_definitions() -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    assert workspace["load_from"][0]["python_module"]["module_name"] == "media_pipeline.definitions"
