"""Erasing media from Dagster: nothing of them is left, and what is said of the others stays as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, RUN_KEY_TAG

from media_pipeline.assets.jobs import analyze_job
from media_pipeline.assets.results import results
from media_pipeline.assets.stages import stage_assets
from media_pipeline.config import load_settings
from media_pipeline.engine.batch_run import handed_over
from media_pipeline.engine.forgetting import DagsterMemory
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import PARTITIONS_NAME, announce, range_tags
from media_pipeline.engine.submit import ANALYZE_JOB
from media_pipeline.engine.tags import BATCH_TAG
from media_pipeline.results._byte_scan import Needle, scan
from media_pipeline_tests._postgres import postgres
from media_pipeline_tests._stages import NAMES, STAGES, ScriptedRunner
from media_pipeline_tests.test_assets import run, shown

KEYS = [f"holiday-{n}~{n:012x}" for n in range(8)]
GONE = [KEYS[0], KEYS[3], KEYS[7]]
LEFT = [key for key in KEYS if key not in GONE]
ALONE = "alone~aaaaaaaaaaaa"
NAME = "Größte Feier.jpg"
BATCH = "0123456789abcdef"


@dataclass
class World:
    instance: dg.DagsterInstance
    home: Path
    job: dg.JobDefinition

    def run(self, keys: Sequence[str], runner: ScriptedRunner) -> dg.ExecuteInProcessResult:
        tags = {BATCH_TAG: BATCH, RUN_KEY_TAG: f"{BATCH}-0"}
        return run(self.job, self.instance, runner, keys, tags)

    def statuses(self, keys: Sequence[str]) -> dict[str, dict[str, str]]:
        return {name: shown(self.instance, name, keys) for name in NAMES}

    def hits(self, *words: str) -> list[str]:
        needles = [Needle("id", word.encode()) for word in words]
        report = scan(self.home, needles, elsewhere=DagsterMemory(self.instance).contents())
        return [hit.where for hit in report.hits]


@pytest.fixture(scope="module")
def job() -> dg.JobDefinition:
    definitions = dg.Definitions(
        assets=[stage_assets(STAGES), results],
        jobs=[analyze_job(STAGES)],
        resources={"batch": dg.ResourceDefinition(lambda _: handed_over())},
    )
    return definitions.resolve_job_def(ANALYZE_JOB)


@pytest.fixture
def sqlite_world(tmp_path: Path, job: dg.JobDefinition) -> Iterator[World]:
    with open_instance(load_settings(home=tmp_path)) as instance:
        yield World(instance, tmp_path, job)


def check_one_world(world: World) -> None:
    announce(world.instance, [*KEYS, ALONE])
    failing = ScriptedRunner(failed={("ocr", KEYS[3]), ("ocr", KEYS[4]), ("frames", NAME)})
    assert not world.run(KEYS, failing).success
    assert world.run([ALONE], ScriptedRunner()).success
    first = world.instance.get_runs(dg.RunsFilter(job_name=ANALYZE_JOB))[-1]
    message = f"{KEYS[0]}: /inbox/{NAME} looks odd"
    world.instance.report_engine_event(message, first)
    before = world.statuses(LEFT)
    assert {status for found in before.values() for status in found.values()} == {"done", "failed"}
    memory = DagsterMemory(world.instance)
    assert memory.count(GONE)["dagster runs"] == 1
    assert memory.count(GONE)["dagster events"] >= len(GONE) * len(NAMES) * 2 - 2
    assert world.hits(*GONE)
    for _ in range(2):  # a killed erasure repeats it
        memory.forget([*GONE, ALONE], [NAME, f"id-{ALONE}"])
        assert world.hits(*GONE, ALONE, NAME, BATCH, r"Gr\u00f6\u00dfte Feier") == []
        assert world.statuses(LEFT) == before
    assert world.instance.get_dynamic_partitions(PARTITIONS_NAME) == LEFT
    runs = world.instance.get_runs(dg.RunsFilter(job_name=ANALYZE_JOB))
    ranges = [[r.tags[t] for t in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)] for r in runs]
    assert ranges == [["erased", "erased"], [LEFT[0], LEFT[-1]]]
    # The newest event of each asset is one of a medium that is left, and can be read.
    for record in world.instance.get_asset_records([dg.AssetKey(name) for name in NAMES]):
        assert record.asset_entry.last_materialization.asset_materialization.partition in LEFT
    assert world.instance.all_logs(first.run_id)
    assert world.run(LEFT, ScriptedRunner()).success, "the others can be run again"


@pytest.mark.slow
def test_sqlite_forgets(sqlite_world: World) -> None:
    check_one_world(sqlite_world)


@pytest.mark.slow
def test_postgres_forgets(tmp_path: Path, job: dg.JobDefinition) -> None:
    with postgres() as address:
        storage = {"postgres": {"postgres_url": address}}
        reference = InstanceRef.from_dir(str(tmp_path), overrides={"storage": storage})
        with dg.DagsterInstance.from_ref(reference) as instance:
            world = World(instance, tmp_path, job)
            check_one_world(world)
            assert any("event_logs" in where for where in world.hits(LEFT[0])), "the scan does see the database"


@pytest.mark.slow
def test_runs_and_backfills_that_have_a_medium_in_hand_are_named(sqlite_world: World) -> None:
    instance, memory = sqlite_world.instance, DagsterMemory(sqlite_world.instance)
    announce(instance, KEYS)
    waiting = instance.create_run_for_job(sqlite_world.job, tags=range_tags(KEYS[2:5]))
    assert memory.in_hand([KEYS[3]]) == [f"run {waiting.run_id}"]
    assert memory.in_hand([KEYS[5]]) == []
    instance.report_run_canceled(waiting)
    assert memory.in_hand(KEYS) == []


@pytest.mark.slow
def test_events_of_no_run_are_forgotten_too(sqlite_world: World) -> None:
    announce(sqlite_world.instance, KEYS[:2])
    for key in KEYS[:2]:
        sqlite_world.instance.report_runless_asset_event(dg.AssetMaterialization("media", partition=key))
    DagsterMemory(sqlite_world.instance).forget(KEYS[:1])
    assert sqlite_world.hits(KEYS[0]) == []
    assert shown(sqlite_world.instance, "media", KEYS[1:2]) == {KEYS[1]: "done"}


@pytest.mark.slow
def test_a_name_that_is_part_of_another_mediums_key_leaves_that_medium_alone(sqlite_world: World) -> None:
    gone, stays = "interview~aaaaaaaaaaaa", "interview-2~bbbbbbbbbbbb"
    announce(sqlite_world.instance, [gone, stays])
    assert sqlite_world.run([gone, stays], ScriptedRunner()).success
    before = sqlite_world.statuses([stays])
    [first] = sqlite_world.instance.get_runs()
    sqlite_world.instance.report_engine_event("the file interview looks odd", first)
    DagsterMemory(sqlite_world.instance).forget([gone], ["interview"])
    assert sqlite_world.hits(gone, "file interview") == []
    assert sqlite_world.statuses([stays]) == before
    [run] = sqlite_world.instance.get_runs()
    assert {run.tags[ASSET_PARTITION_RANGE_START_TAG], run.tags[ASSET_PARTITION_RANGE_END_TAG]} == {stays}


@pytest.mark.slow
def test_a_person_who_is_forgotten_takes_no_waiting_run_its_partitions(sqlite_world: World) -> None:
    keys = ["christian-birthday~aaaaaaaaaaaa", "other~bbbbbbbbbbbb"]
    announce(sqlite_world.instance, keys)
    waiting = sqlite_world.instance.create_run_for_job(sqlite_world.job, tags=range_tags(keys))
    DagsterMemory(sqlite_world.instance).forget([], ["P-12345678", "christian"])
    found = sqlite_world.instance.get_run_by_id(waiting.run_id)
    assert found is not None
    assert [found.tags[t] for t in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)] == keys


@pytest.mark.slow
def test_thorough_finds_words_in_runs_over_other_media(sqlite_world: World) -> None:
    announce(sqlite_world.instance, KEYS)
    sqlite_world.run(KEYS[:1], ScriptedRunner())
    [first] = sqlite_world.instance.get_runs()
    sqlite_world.instance.report_engine_event(f"{NAME} resembles it", first)
    memory = DagsterMemory(sqlite_world.instance)
    memory.forget(KEYS[1:2], [NAME])
    assert sqlite_world.hits(r"Gr\u00f6\u00dfte Feier")
    memory.forget(KEYS[1:2], [NAME], thorough=True)
    assert sqlite_world.hits(r"Gr\u00f6\u00dfte Feier") == []
    assert shown(sqlite_world.instance, "ocr", KEYS[:1]) == {KEYS[0]: "done"}
