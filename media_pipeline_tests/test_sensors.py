"""The watch folder on a real home: files in, run requests out, and never twice the same."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, RUN_KEY_TAG

from media_pipeline.assets.jobs import analyze_job
from media_pipeline.config import load_settings
from media_pipeline.definitions import defs
from media_pipeline.engine.instance import PROCESS_TAG, open_instance
from media_pipeline.engine.submit import ANALYZE_JOB
from media_pipeline.engine.tags import FORCE_TAG, STOPPED_TAG
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.media.intake import Intake, IntakeReport
from media_pipeline_tests._stages import STAGES
from resources.pipeline import PipelineResource
from sensors.watch_folders import MAX_ATTEMPTS, MAX_WAITING_RUNS, watch_folders

pytestmark = pytest.mark.slow  # real runs in a real Dagster instance


class World:
    """A home, its instance and the sensor, without a daemon."""

    def __init__(self, home: Path) -> None:
        self.inbox = home / "inbox"
        settings = load_settings(home=home)
        self.pipeline = Pipeline(settings)
        self.instance = open_instance(settings)
        self.sensor = watch_folders(analyze_job(STAGES))
        self.context = dg.build_sensor_context(
            instance=self.instance, resources={"pipeline": PipelineResource()}, definitions=defs
        )

    def drop(self, *names: str) -> None:
        for name in names:
            (self.inbox / name).write_bytes(name.encode())

    def tick(self) -> list[dg.RunRequest]:
        """What it asks for; a skip is an empty list, its reason in `said`."""
        result = self.sensor(self.context)
        self.said = result.skip_message if isinstance(result, dg.SkipReason) else ""
        return [] if isinstance(result, dg.SkipReason) else list(result.run_requests)

    def submit(
        self, request: dg.RunRequest, status: dg.DagsterRunStatus = dg.DagsterRunStatus.NOT_STARTED
    ) -> dg.DagsterRun:
        """What the daemon does with a request."""
        tags = {**request.tags, RUN_KEY_TAG: request.run_key}
        return self.instance.create_run_for_job(nothing, status=status, tags=tags)

    def keys(self, request: dg.RunRequest) -> list[str]:
        existing = self.instance.get_dynamic_partitions("media")
        first, last = (
            existing.index(request.tags[tag])
            for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
        )
        return list(existing[first : last + 1])


@dg.job
def nothing() -> None: ...


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("MEDIA_PIPELINE_SETTLE_S", "0")
    monkeypatch.setenv("MEDIA_PIPELINE_BATCH__MAX_MEDIA", "3")
    monkeypatch.setenv("MEDIA_PIPELINE_MIN_FREE_BYTES", "0")
    made = World(tmp_path)
    yield made
    made.pipeline.close()
    made.instance.dispose()


def test_new_files_become_partitions_and_one_run_per_batch(world: World) -> None:
    assert world.tick() == []
    assert world.said == "nothing new"
    world.drop("a b.txt", "ü.txt", "c.txt", "d.txt")
    first, second = world.tick()
    assert [len(world.keys(request)) for request in (first, second)] == [3, 1]
    assert {key.rpartition("~")[0] for key in world.keys(first) + world.keys(second)} == {"a-b", "ue", "c", "d"}
    assert first.tags[FORCE_TAG] == "false"


def test_what_a_run_has_in_hand_is_not_asked_for_again(world: World) -> None:
    world.drop("a.txt", "b.txt")
    [request] = world.tick()
    world.submit(request)
    assert world.tick() == []
    world.drop("c.txt", "again-a.txt")
    (world.inbox / "again-a.txt").write_bytes(b"a.txt")  # the same content under another name is the same medium
    [news] = world.tick()
    assert len(world.keys(news)) == 1


def test_what_ran_is_over_even_where_it_failed(world: World) -> None:
    world.drop("a.txt")
    [request] = world.tick()
    run = world.submit(request, dg.DagsterRunStatus.STARTED)
    world.pipeline.begin(world.keys(request))
    world.pipeline.end(world.keys(request))
    world.instance.report_run_failed(run)
    assert world.tick() == []


def test_a_request_that_was_lost_is_made_again_with_the_same_key(world: World) -> None:
    world.drop("a.txt")
    [request] = world.tick()
    [again] = world.tick()  # the daemon died before it made the run
    assert again.run_key == request.run_key, "Dagster starts one run per key, however often it is asked"


def test_a_run_that_could_not_start_is_tried_again_and_then_less_often(world: World, monkeypatch) -> None:
    world.drop("a.txt")
    keys = set()
    for _ in range(MAX_ATTEMPTS):
        [request] = world.tick()
        keys.add(request.run_key)
        world.instance.report_run_failed(world.submit(request, dg.DagsterRunStatus.STARTING))
    assert len(keys) == MAX_ATTEMPTS, "a key that Dagster has seen would start nothing"
    assert world.tick() == []
    assert "could not be started" in world.said
    monkeypatch.setattr("sensors.watch_folders.RESTART_AFTER_S", 0)
    [later] = world.tick()
    assert later.run_key not in keys


def test_a_run_that_was_stopped_with_the_server_is_no_failed_try(world: World) -> None:
    world.drop("a.txt")
    keys = set()
    for _ in range(MAX_ATTEMPTS + 1):
        [request] = world.tick()
        keys.add(request.run_key)
        run = world.submit(request, dg.DagsterRunStatus.STARTED)
        world.pipeline.begin(world.keys(request))
        world.pipeline.release(world.keys(request))
        world.instance.add_run_tags(run.run_id, {STOPPED_TAG: "true"})
        world.instance.report_run_failed(run)
    assert len(keys) == MAX_ATTEMPTS + 1


def test_what_a_person_cancelled_is_not_asked_for_again(world: World) -> None:
    world.drop("a.txt", "b.txt")
    [request] = world.tick()
    run = world.submit(request, dg.DagsterRunStatus.STARTED)
    world.pipeline.begin(world.keys(request))
    world.instance.report_run_canceling(run)
    world.instance.report_run_canceled(run)  # the monitoring, while the process still computes
    assert world.tick() == []
    assert world.pipeline.sources.interrupted() == []

    later = world.submit(request, dg.DagsterRunStatus.STARTED)  # a person starts it again, and it is killed
    world.pipeline.begin(world.keys(request))
    world.instance.report_run_failed(later)
    assert [len(world.keys(again)) for again in world.tick()] == [1, 1], "the cancellation was of another run"


def test_a_wrong_setting_holds_media_up_and_never_gives_them_up(world: World, monkeypatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_OPTIONS__OCR__LANGUAGES", "no such option")
    job = defs.resolve_job_def(ANALYZE_JOB)
    world.drop("a.txt", "b.txt")
    for _ in range(MAX_ATTEMPTS):
        [request] = world.tick()
        assert len(world.keys(request)) == 2, "they are not tried alone: it does not lie in them"
        tags = {**request.tags, RUN_KEY_TAG: request.run_key}
        assert not job.execute_in_process(instance=world.instance, tags=tags, raise_on_error=False).success
    assert world.tick() == []
    for text in ("could not be started: MEDIA_PIPELINE_OPTIONS__OCR__LANGUAGES", "options of ocr: ["):
        assert text in world.said
    assert world.pipeline.sources.given_up(max_attempts=MAX_ATTEMPTS) == []

    monkeypatch.delenv("MEDIA_PIPELINE_OPTIONS__OCR__LANGUAGES")
    monkeypatch.setattr("sensors.watch_folders.RESTART_AFTER_S", 0)
    [later] = world.tick()
    assert len(world.keys(later)) == 2


def test_media_whose_run_was_killed_are_asked_for_again_and_not_for_ever(world: World) -> None:
    world.drop("a.txt", "b.txt")
    dead = {PROCESS_TAG: "another-boot:1:1"}
    asked = []
    for _ in range(MAX_ATTEMPTS):
        requests = world.tick()
        asked.append([len(world.keys(request)) for request in requests])
        for request in requests:
            run = world.submit(request, dg.DagsterRunStatus.STARTED)
            world.pipeline.begin(world.keys(request))
            world.instance.add_run_tags(run.run_id, dead)
    assert asked == [[2], [1, 1], [1, 1]], "together first, then each alone"
    assert world.tick() == []
    statuses = {run.status for run in world.instance.get_runs()}
    assert statuses == {dg.DagsterRunStatus.FAILURE}


def test_it_waits_while_runs_wait(world: World) -> None:
    world.drop(*(f"{n}.txt" for n in range(20)))
    requests = world.tick()
    assert len(requests) == MAX_WAITING_RUNS
    for request in requests:
        run = world.submit(request)
    assert world.tick() == []
    assert f"{MAX_WAITING_RUNS} runs are waiting" in world.said
    world.instance.report_run_canceled(run)
    world.pipeline.begin(world.keys(requests[-1]))
    world.pipeline.end(world.keys(requests[-1]))
    [one_more] = world.tick()
    asked = [key for request in [*requests, one_more] for key in world.keys(request)]
    assert len(asked) == len(set(asked)) == 12


def test_a_file_that_is_still_being_copied_is_not_copied_a_second_time(world: World, monkeypatch) -> None:
    copying, copied = Event(), Event()
    real, calls = Intake.tick, []

    def slow(self: Intake, *where: object, **limits: object) -> IntakeReport:
        calls.append(where)
        if len(calls) == 1:
            copying.set()
            assert copied.wait(60)
        return real(self, *where, **limits)

    monkeypatch.setattr(Intake, "tick", slow)
    world.drop("large.txt")
    # Dagster gives up on a tick after a minute; its thread goes on.
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(world.sensor, world.context)
        assert copying.wait(60)
        second, said = world.tick(), world.said
        copied.set()
        [lost] = first.result().run_requests
    assert (second, said, len(calls)) == ([], "a large file is still being taken in", 1)
    [request] = world.tick()
    assert request.run_key == lost.run_key


def test_a_full_disk_stops_the_intake_with_cause_and_remedy(world: World, monkeypatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_MIN_FREE_BYTES", str(10**9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2, used=1, free=5 * 10**8))
    world.drop("a.txt")
    assert world.tick() == []
    assert "only 0.5 GB are free" in world.said
    assert "make room" in world.said
    assert world.pipeline.sources.count() == 0


def test_a_store_that_cannot_be_written_to_stops_the_intake_and_refuses_nothing(world: World, monkeypatch) -> None:
    world.drop("a.jpg")
    open_ = os.open

    def read_only(path, flags, *args, **kwargs):
        if ".incoming" in str(path) and flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return open_(path, flags, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        assert world.tick() == []
        assert "originals cannot be stored in" in world.said and "mend the disk" in world.said
    assert len(world.tick()) == 1
