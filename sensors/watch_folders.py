"""The watch folder: files become media, media become partitions, partitions become runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, DagsterRun
from filelock import FileLock, Timeout

from media_pipeline.engine.instance import reconcile_dead_runs
from media_pipeline.engine.partitions import PARTITIONS_NAME, announce, contiguous_ranges, keys_of_run, range_tags
from media_pipeline.engine.tags import BATCH_TAG, FORCE_TAG, SOURCE_TAG, STOPPED_TAG
from media_pipeline.errors import DiskFull, StorageUnavailable
from media_pipeline.media.batching import batches
from media_pipeline.media.intake import Intake, IntakeReport
from media_pipeline.storage.sources import HELD_UP, MAX_ATTEMPTS, KnownMedium
from resources.pipeline import PipelineResource

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

MIN_INTERVAL_S = 2
TICK_LIMIT_S = 20.0  # Dagster gives up on a tick after a minute
TICK_LIMIT_FILES = 2_000
LOOK_LIMIT_S = 0.4  # some 30,000 known files; the next tick goes on behind them
MAX_WAITING_RUNS = 3
RESTART_AFTER_S = 1800.0  # between tries of a batch whose runs do not even start
SOURCE = "watch folder"
_CANCELLED_RUNS = 20  # the newest that are looked at, every two seconds


def watch_folders(job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """The sensor that starts runs of this job."""

    @dg.sensor(
        name="watch_folders",
        description="Takes complete files from the watched folders, makes a partition of each new medium, and asks "
        "for one run per batch. Asks again for media whose run was cut off.",
        job=job,
        minimum_interval_seconds=MIN_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult | dg.SkipReason:
        for run_id in reconcile_dead_runs(context.instance):
            context.log.warning(f"run {run_id} was cut off; what it left is asked for again")
        home = pipeline.open()
        try:
            return _tick(context, home)
        finally:
            home.close()

    return sensor


def _tick(context: dg.SensorEvaluationContext, pipeline: Pipeline) -> dg.SensorResult | dg.SkipReason:
    try:
        pipeline.require_disk()
        report = _take_in(pipeline)
    except (DiskFull, StorageUnavailable) as error:
        return dg.SkipReason(str(error))
    except Timeout:
        return dg.SkipReason("a large file is still being taken in")
    for path, reason in report.refused:
        context.log.warning(f"{path} was not taken: {reason}")
    unfinished = context.instance.get_runs(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    waiting = [run for run in unfinished if run.status != dg.DagsterRunStatus.STARTED]
    if len(waiting) >= MAX_WAITING_RUNS:
        return dg.SkipReason(f"{len(waiting)} runs are waiting; more are asked for when they have begun")
    todo = _open_batches(context.instance, pipeline, unfinished)
    requests = [request for batch in todo if (request := _request(context.instance, batch)) is not None]
    if requests:
        return dg.SensorResult(run_requests=requests[: MAX_WAITING_RUNS - len(waiting)])
    if todo:
        why = pipeline.sources.note(HELD_UP) or "look at the failed runs"
        return dg.SkipReason(
            f"{len(todo)} batches could not be started: {why}; tried again every {RESTART_AFTER_S / 60:.0f} minutes"
        )
    return dg.SkipReason(_nothing_to_do(report))


def _take_in(pipeline: Pipeline) -> IntakeReport:
    """Look through the watched folders, alone.

    A tick that copies a file for longer than Dagster waits is given up by it, and its thread copies on: the next one
    must not begin a second copy of the same file.

    Raises:
        DiskFull, StorageUnavailable: nothing can be stored.
        Timeout: an earlier tick is still at it, in this process or in another.
    """
    # A new object for each tick: one that holds the lock would let its thread in once more.
    with FileLock(pipeline.layout.locks / "intake.lock", fallback_to_soft=False, timeout=0):
        return Intake(pipeline.layout, pipeline.sources, pipeline.settings).tick(
            pipeline.settings.watched,
            limit_files=TICK_LIMIT_FILES,
            limit_seconds=TICK_LIMIT_S,
            look_seconds=LOOK_LIMIT_S,
        )


def _open_batches(
    instance: dg.DagsterInstance, pipeline: Pipeline, unfinished: Sequence[DagsterRun]
) -> list[list[KnownMedium]]:
    """Media that no run has in hand, the new ones and those whose run was cut off, in batches of one run each."""
    limits = pipeline.settings.batch
    existing = instance.get_dynamic_partitions(PARTITIONS_NAME)
    in_hand = {key for run in unfinished for key in keys_of_run(existing, run.tags)}
    new = pipeline.sources.unannounced(MAX_WAITING_RUNS * limits.max_media + len(in_hand))
    cut_off = pipeline.sources.interrupted(max_attempts=MAX_ATTEMPTS)
    cancelled = _cancelled(instance, existing, {medium.partition_key for medium in cut_off} - in_hand)
    if cancelled:
        pipeline.end(list(cancelled))
    again = [medium for medium in cut_off if medium.partition_key not in cancelled]
    if new:
        announce(instance, [medium.partition_key for medium in new])
        existing = instance.get_dynamic_partitions(PARTITIONS_NAME)
    found: list[list[KnownMedium]] = []
    for attempts in range(MAX_ATTEMPTS):
        media = {
            m.partition_key: m for m in [*again, *new] if m.attempts == attempts and m.partition_key not in in_hand
        }
        # Smaller each time, in the end alone: one medium that kills its run must not take the others with it.
        smaller = limits.model_copy(update={"max_media": max(1, limits.max_media // 8**attempts)})
        for adjacent in contiguous_ranges(existing, media):
            found += batches([media[key] for key in adjacent], smaller)
    return found


def _cancelled(instance: dg.DagsterInstance, existing: Sequence[str], keys: set[str]) -> set[str]:
    """Those of these media whose newest run was cancelled: a person's wish, that its process could not note itself."""
    if not keys:
        return set()
    found: set[str] = set()
    cancelled = dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELED])
    for record in instance.get_run_records(cancelled, limit=_CANCELLED_RUNS):
        hit = keys.intersection(keys_of_run(existing, record.dagster_run.tags))
        if hit:
            later = instance.get_runs(dg.RunsFilter(created_after=record.create_timestamp))
            found |= hit.difference(*(keys_of_run(existing, run.tags) for run in later))
    return found


def _request(instance: dg.DagsterInstance, batch: Sequence[KnownMedium]) -> dg.RunRequest | None:
    """A run over this batch; None while it has to wait because it could not be started several times."""
    named = "".join(f"{medium.media_id}:{medium.attempts};" for medium in batch)
    name = hashlib.sha256(named.encode()).hexdigest()[:16]
    # Runs of this very batch that are over without having counted as an attempt: most could not start. A key that
    # Dagster has seen starts nothing, so each try has its own; the same try is never started twice.
    before = dg.RunsFilter(tags={BATCH_TAG: name})
    tries = instance.get_runs_count(before)
    latest = instance.get_run_records(before, limit=MAX_ATTEMPTS)
    failed = [record for record in latest if STOPPED_TAG not in record.dagster_run.tags]
    if len(failed) == MAX_ATTEMPTS and _age_s(latest[0]) < RESTART_AFTER_S:
        return None
    return dg.RunRequest(
        run_key=f"{name}-{tries}",
        tags={
            **range_tags([medium.partition_key for medium in batch]),
            BATCH_TAG: name,
            FORCE_TAG: "false",
            SOURCE_TAG: SOURCE,
        },
    )


def _age_s(record: dg.RunRecord) -> float:
    return time.time() - record.create_timestamp.replace(tzinfo=UTC).timestamp()


def _nothing_to_do(report: IntakeReport) -> str:
    if report.waiting:
        return f"{len(report.waiting)} files are still being written"
    return "nothing new" if report.complete else "still looking through the folders"
