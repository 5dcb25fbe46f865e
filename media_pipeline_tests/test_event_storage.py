"""Our event storage against Dagster's own: the same rows and answers, for less."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage, SqliteEventLogStorage

from media_pipeline.engine import event_storage
from media_pipeline.engine.event_storage import FastSqliteEventLogStorage, MediaPipelineStorage
from media_pipeline.engine.materializations import log_materializations, materialization
from media_pipeline.engine.partitions import MEDIA, announce, range_tags

SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
KEYS = [f"k{n}" for n in range(12)]


pytestmark = pytest.mark.slow  # each run with both storages


def open_with(home: Path, storage: type[DagsterSqliteStorage]) -> dg.DagsterInstance:
    custom = {"module": storage.__module__, "class": storage.__name__, "config": {"base_dir": str(home)}}
    overrides = {"storage": {"custom": custom}, "telemetry": {"enabled": False}}
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides))


@dg.op(out={"a": dg.Out(dg.Nothing, is_required=False), "b": dg.Out(dg.Nothing, is_required=False)})
def two_assets(context):
    """`a` of all media but the fifth, `b` of all, in batches; then a failure."""
    for asset, keys in (("a", KEYS[:4] + KEYS[5:]), ("b", KEYS)):
        events = [
            materialization(
                asset,
                partition_key=key,
                code_version="1",
                data_version=f"{asset}-{key}",
                inputs={"b": "1"} if asset == "a" else {},
                pointers={},
                metadata={"rows": 3},
            )
            for key in keys
        ]
        log_materializations(context, events)
    raise dg.Failure("the fifth", allow_retries=False)
    yield


@dg.graph(out={"a": dg.GraphOut(), "b": dg.GraphOut()})
def both():
    a, b = two_assets()
    return {"a": a, "b": b}


@pytest.fixture(scope="module")
def job() -> dg.JobDefinition:
    assets = dg.AssetsDefinition.from_graph(
        both,
        keys_by_output_name={"a": dg.AssetKey("a"), "b": dg.AssetKey("b")},
        internal_asset_deps={"a": {dg.AssetKey("b")}, "b": set()},
        partitions_def=MEDIA,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    return dg.Definitions(assets=[assets], jobs=[dg.define_asset_job("j", selection=["a", "b"])]).resolve_job_def("j")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, job: dg.JobDefinition):
    """The same two runs in both storages: (instance, run ids) by name."""
    made = {}
    for name, storage in (("stock", DagsterSqliteStorage), ("fast", MediaPipelineStorage)):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
            instance = open_with(tmp_path_factory.mktemp(name), storage)
            announce(instance, KEYS)
            ids = []
            for _ in range(2):
                result = job.execute_in_process(
                    instance=instance, run_config=SILENT, tags=range_tags(KEYS), raise_on_error=False
                )
                ids.append(result.run_id)
            made[name] = (instance, ids)
    yield made
    for instance, _ in made.values():
        instance.dispose()


def test_ours_is_in_use(twins) -> None:
    assert isinstance(twins["fast"][0].event_log_storage, FastSqliteEventLogStorage)
    assert type(twins["stock"][0].event_log_storage) is SqliteEventLogStorage


def statuses(instance: dg.DagsterInstance, _: list[str]) -> object:
    found = {}
    for asset in ("a", "b"):
        value = get_and_update_asset_status_cache_value(instance, dg.AssetKey(asset), MEDIA)
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            found[asset] = (
                sorted(value.deserialize_materialized_partition_subsets(MEDIA).get_partition_keys()),
                sorted(value.deserialize_failed_partition_subsets(MEDIA).get_partition_keys()),
            )
    return found


def event_types_of_runs(instance: dg.DagsterInstance, ids: list[str]) -> object:
    return [
        [(e.dagster_event_type, e.step_key, e.dagster_event.asset_key, e.dagster_event.partition) for e in logs]
        for logs in ([e for e in instance.all_logs(run_id) if e.is_dagster_event] for run_id in ids)
    ]


def records(instance: dg.DagsterInstance, _: list[str]) -> object:
    return {
        asset: [
            (r.storage_id, r.partition_key, r.event_log_entry.tags)
            for r in instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
        ]
        for asset in ("a", "b")
    }


def asset_rows(instance: dg.DagsterInstance, ids: list[str]) -> object:
    return [
        (r.asset_entry.asset_key, r.asset_entry.last_materialization_storage_id, ids.index(r.asset_entry.last_run_id))
        for r in sorted(instance.get_asset_records(), key=lambda r: str(r.asset_entry.asset_key))
    ]


def tags_of_events(instance: dg.DagsterInstance, _: list[str]) -> object:
    storage = instance.event_log_storage
    return [
        storage.get_latest_tags_by_partition(
            dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, ["dagster/data_version"]
        )
        for asset in ("a", "b")
    ]


@pytest.mark.parametrize("ask", [statuses, event_types_of_runs, records, asset_rows, tags_of_events])
def test_both_give_the_same_answers(twins, ask: Callable[[dg.DagsterInstance, list[str]], object]) -> None:
    fast, stock = (ask(*twins[name]) for name in ("fast", "stock"))
    assert fast == stock
    assert re.search(r"k\d|storage_id|\d", str(fast)), "there was something to compare"


def test_both_have_the_same_rows_on_disk(twins) -> None:
    counts = {}
    for name, (instance, ids) in twins.items():
        folder = Path(instance.event_log_storage._base_dir)
        counts[name] = []
        for shard in ("index", *ids):
            with sqlite3.connect(folder / f"{shard}.db") as db:
                tables = ("event_logs", "asset_keys", "asset_event_tags")
                counts[name].append([db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables])
    assert counts["fast"] == counts["stock"]


def test_an_unknown_version_of_dagster_gets_its_own_storage(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(event_storage, "WRITTEN_FOR", "0.0.1")
    with open_with(tmp_path, MediaPipelineStorage) as instance:
        assert type(instance.event_log_storage) is SqliteEventLogStorage


def test_few_connections_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(event_storage, "_KEPT_ENGINES", 2)
    storage = FastSqliteEventLogStorage(str(tmp_path))
    for number in range(4):
        with storage.run_connection(f"run{number}"):
            pass
    assert len(storage._engines) <= event_storage._KEPT_ENGINES
    open_files = [p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(p.resolve())]
    assert len(open_files) <= 3 * event_storage._KEPT_ENGINES
    storage.dispose()
    assert not [p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(p.resolve())]


def test_it_lies_in_the_home_of_the_settings_when_nothing_is_configured(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(tmp_path))
    storage = MediaPipelineStorage.from_config_value(None, {})
    assert Path(storage.base_dir) == tmp_path / "dagster"
    storage.dispose()
