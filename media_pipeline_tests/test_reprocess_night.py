"""The nightly schedule on a real home and instance: when it asks, for what, and when it waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from media_pipeline.assets.jobs import reprocess_job
from media_pipeline.config import Reprocess, load_settings
from media_pipeline.definitions import defs
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import PARTITIONS_NAME, announce, keys_of_run
from media_pipeline.engine.tags import NIGHT_TAG
from media_pipeline.errors import UsageError
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.execution.stages import effective_fingerprint
from media_pipeline.storage.ledger import Entry
from media_pipeline_tests._stages import STAGES
from resources.pipeline import PipelineResource
from sensors.reprocess import cron, night, nightly_reprocess

IN_THE_NIGHT = datetime(2026, 5, 6, 2, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "minutes", "expected"),
    [("02:00", 240, "2,3,4,5"), ("02:30", 240, "2,3,4,5,6"), ("23:00", 120, "0,23"), ("00:00", 1440, None)],
)
def test_the_clock_strikes_every_minute_of_the_hours_of_the_window(at: str, minutes: int, expected: str | None) -> None:
    hours = expected or ",".join(map(str, range(24)))
    assert cron(Reprocess(at=at, window_minutes=minutes)) == f"* {hours} * * *"


@pytest.mark.parametrize(
    ("hour", "minute", "expected"),
    [
        (22, 59, None),
        (23, 0, "2026-05-06"),
        (23, 59, "2026-05-06"),
        (0, 29, "2026-05-05"),
        (0, 30, None),
        (12, 0, None),
    ],
)
def test_a_night_has_the_date_on_which_it_began(hour: int, minute: int, expected: str | None) -> None:
    settings = Reprocess(at="23:00", window_minutes=90)
    assert night(settings, datetime(2026, 5, 6, hour, minute, tzinfo=UTC)) == expected


def test_the_window_is_told_in_the_time_of_the_place() -> None:
    settings = Reprocess(at="02:00", window_minutes=60, timezone="Europe/Berlin")
    assert night(settings, datetime(2026, 7, 6, 0, 30, tzinfo=UTC)) == "2026-07-06"
    assert night(settings, datetime(2026, 7, 6, 2, 30, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("name", "value"), [("AT", "25:00"), ("TIMEZONE", "Mars/Olympus"), ("TIMEZONE", "../etc/passwd")]
)
def test_a_wrong_time_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MEDIA_PIPELINE_REPROCESS__{name}", value)
    with pytest.raises(UsageError, match=f"MEDIA_PIPELINE_REPROCESS__{name}"):
        load_settings()


def test_it_runs_unless_it_was_switched_off() -> None:
    schedule = defs.resolve_schedule_def("nightly_reprocess")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == "reprocess"
    off = nightly_reprocess(reprocess_job(STAGES), Reprocess(enabled=False))
    assert off.default_status == dg.DefaultScheduleStatus.STOPPED


class World:
    """A home of eight media, all done but for what the test makes stale, its instance and the schedule."""

    def __init__(self, home: Path) -> None:
        settings = load_settings(home=home)
        self.pipeline = Pipeline(settings)
        self.instance = open_instance(settings)
        self.schedule = nightly_reprocess(reprocess_job(STAGES), settings.reprocess)
        self.keys = [f"m{number}" for number in range(8)]
        for number, key in enumerate(self.keys):
            path = home / "inbox" / key
            path.write_bytes(b"x")
            self.pipeline.sources.add(path, path.stat(), media_id=f"id{number}", partition_key=key, stored=path)
            self.pipeline.ledger.record(self._entries(f"id{number}"))
        self.pipeline.sources.mark_announced([f"id{number}" for number in range(8)])
        announce(self.instance, self.keys)

    def _entries(self, media_id: str) -> list[Entry]:
        """What a run would have recorded of a medium without picture or sound."""
        found: dict[str, Entry] = {}
        for name, stage in self.pipeline.judge.stages.items():
            own = self.pipeline.judge.own_fingerprint(name)
            if {"frames", "audio"} & set(stage.needs):
                own = "no input"
            inputs = {need: found[need].fingerprint for need in stage.needs}
            fingerprint = effective_fingerprint(str(own), inputs)
            found[name] = Entry(
                media_id, name, fingerprint, "done", None, 0, 60.0, "cpu", None, "first", IN_THE_NIGHT,
                stage.version, stage.options_digest,
            )  # fmt: skip
        return list(found.values())

    def outdate(self, *numbers: int) -> None:
        """The summaries of these media are of another version."""
        for number in numbers:
            entries = self._entries(f"id{number}")
            summary = next(entry for entry in entries if entry.analyzer == "summary")
            self.pipeline.ledger.record([replace(summary, fingerprint="0" * 16, version="0")])

    def tick(self, at: datetime = IN_THE_NIGHT) -> dg.RunRequest | None:
        """What it asks for; a skip is None, its reason in `said`."""
        # Closed at once: left to the garbage collector it would put back, long after, an instance that is gone.
        with dg.build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=at,
            resources={"pipeline": PipelineResource()},
            repository_def=defs.get_repository_def(),
        ) as context:
            found = self.schedule(context)
        self.said = found.skip_message if isinstance(found, dg.SkipReason) else ""
        return None if isinstance(found, dg.SkipReason) else found

    def submit(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        return self.instance.create_run_for_job(nothing, status=status, tags=request.tags)

    def keys_of(self, request: dg.RunRequest | None) -> list[str]:
        assert request is not None, self.said
        return list(keys_of_run(self.instance.get_dynamic_partitions(PARTITIONS_NAME), request.tags))


@dg.job
def nothing() -> None: ...


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("MEDIA_PIPELINE_REPROCESS__BATCH_MEDIA", "3")
    monkeypatch.setenv("MEDIA_PIPELINE_MIN_FREE_BYTES", "0")
    made = World(tmp_path)
    yield made
    made.pipeline.close()
    made.instance.dispose()


slow = pytest.mark.slow  # real instances


@slow
def test_the_newest_first_behind_uploads_and_one_batch_at_a_time(world: World) -> None:
    assert world.tick() is None and "nothing stale" in world.said
    world.outdate(1, 2, 4, 6, 7)
    first = world.tick()
    assert world.keys_of(first) == ["m4", "m5", "m6", "m7"], "one range, though m5 is current"
    assert first is not None
    assert [key.to_user_string() for key in first.asset_selection or ()] == ["summary"]
    assert (first.tags["dagster/priority"], first.tags["media_pipeline/force"]) == ("-10", "false")
    again = world.tick()
    assert again is not None and again.run_key == first.run_key, "the same question has the same key"
    world.submit(first, dg.DagsterRunStatus.STARTED)
    assert world.tick() is None and world.said == "a batch is still running"


@slow
def test_a_batch_that_mended_nothing_does_not_hold_up_the_others_of_the_night(world: World) -> None:
    world.outdate(0, 6, 7)
    world.pipeline.sources.start_attempt(["id0"])  # its run was cut off: that is for the watch folder
    request = world.tick()
    assert request is not None and world.keys_of(request) == ["m6", "m7"]
    world.submit(request, dg.DagsterRunStatus.FAILURE)
    assert world.tick() is None and "nothing stale" in world.said
    world.pipeline.sources.end_attempt(["id0"])
    world.outdate(0)
    assert world.keys_of(world.tick()) == ["m0"]
    assert world.keys_of(world.tick(datetime(2026, 5, 7, 2, 30, tzinfo=UTC))) == world.keys, "the next night"


@slow
def test_uploads_and_other_runs_come_first(world: World) -> None:
    world.outdate(7)
    path = world.pipeline.layout.inbox / "fresh"
    path.write_bytes(b"y")
    world.pipeline.sources.add(path, path.stat(), media_id="fresh", partition_key="fresh", stored=path)
    assert world.tick() is None and world.said == "uploads are waiting"
    world.pipeline.sources.mark_announced(["fresh"])
    run = world.instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.NOT_STARTED)
    assert world.tick() is None and "1 other runs" in world.said
    world.instance.report_run_canceled(run)
    assert world.keys_of(world.tick()) == ["m7"]
    assert world.tick(datetime(2026, 5, 6, 12, 0, tzinfo=UTC)) is None and "begins at 02:00" in world.said


@slow
def test_the_budget_of_a_night_counts_what_its_runs_computed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_REPROCESS__MAX_CPU_MINUTES", "2")
    world.outdate(0, 6, 7)
    request = world.tick()
    assert request is not None and request.tags[NIGHT_TAG] == "2026-05-06"
    run = world.submit(request, dg.DagsterRunStatus.SUCCESS)
    done = [entry for media_id in ("id6", "id7") for entry in world._entries(media_id)]
    world.pipeline.ledger.record([replace(e, run_id=run.run_id) for e in done if e.analyzer == "summary"])
    assert world.tick() is None and world.said == "2.0 of 2 minutes of this night are used up"
    assert world.keys_of(world.tick(datetime(2026, 5, 7, 2, 30, tzinfo=UTC))) == ["m0"]


@slow
def test_partitions_that_dagster_let_go_are_announced_again(world: World) -> None:
    world.outdate(0, 1, 7)
    for key in ("m0", "m1"):
        world.instance.delete_dynamic_partition(PARTITIONS_NAME, key)
    first = world.tick()
    assert first is not None and world.keys_of(first) == ["m7"]
    world.submit(first, dg.DagsterRunStatus.SUCCESS)
    assert world.keys_of(world.tick()) == ["m0", "m1"]
    assert world.instance.get_dynamic_partitions(PARTITIONS_NAME)[-2:] == ["m0", "m1"]
