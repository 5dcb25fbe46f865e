"""The nightly reprocessing: what became stale is made anew while nobody is waiting."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, DagsterRun

from media_pipeline.config import Reprocess
from media_pipeline.engine.partitions import PARTITIONS_NAME, keys_of_run, range_tags
from media_pipeline.engine.reprocess import Batch, next_batch
from media_pipeline.engine.tags import BATCH_TAG, BEHIND_UPLOADS, FORCE_TAG, NIGHT_TAG, REPROCESSING, SOURCE_TAG
from media_pipeline.errors import DiskFull
from resources.pipeline import PipelineResource

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

_IDLE_NOTE = "reprocessing: nothing left"


def nightly_reprocess(job: UnresolvedAssetJobDefinition, settings: Reprocess) -> dg.ScheduleDefinition:
    """The schedule that asks for one batch of this job at a time, in the night of these settings."""

    @dg.schedule(
        name="nightly_reprocess",
        description=f"From {settings.at} ({settings.timezone}) on, for {settings.window_minutes} minutes: makes stale "
        "results anew, the newest media first, one small batch at a time and only while no upload waits.",
        job=job,
        cron_schedule=cron(settings),
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.enabled else dg.DefaultScheduleStatus.STOPPED,
    )
    def schedule(context: dg.ScheduleEvaluationContext, pipeline: PipelineResource) -> dg.RunRequest | dg.SkipReason:
        home = pipeline.open()
        try:
            return _tick(context, home)
        finally:
            home.close()

    return schedule


def cron(settings: Reprocess) -> str:
    """Every minute of the hours that the window touches; the tick itself looks at the minutes."""
    first = int(settings.at[:2])
    last = (first * 60 + int(settings.at[3:]) + settings.window_minutes - 1) // 60
    hours = sorted({hour % 24 for hour in range(first, last + 1)})
    return f"* {','.join(map(str, hours))} * * *"


def night(settings: Reprocess, now: datetime) -> str | None:
    """The date on which the window began that this moment lies in; None outside of it."""
    local = now.astimezone(ZoneInfo(settings.timezone))
    begin = local.replace(hour=int(settings.at[:2]), minute=int(settings.at[3:]), second=0, microsecond=0)
    if begin > local:
        begin -= timedelta(days=1)
    # By the clock on the wall, as the settings are meant: on two nights of the year an hour more or less.
    return begin.date().isoformat() if local - begin < timedelta(minutes=settings.window_minutes) else None


def _tick(context: dg.ScheduleEvaluationContext, pipeline: Pipeline) -> dg.RunRequest | dg.SkipReason:
    settings, instance = pipeline.settings.reprocess, context.instance
    tonight = night(settings, context.scheduled_execution_time)
    if tonight is None:
        return dg.SkipReason(f"the next window begins at {settings.at}")
    own = instance.get_runs(dg.RunsFilter(tags={NIGHT_TAG: tonight}))
    if busy := _why_wait(instance, pipeline):
        return dg.SkipReason(busy)
    if settings.max_cpu_minutes is not None:
        spent = _minutes_of(pipeline, own)
        if spent >= settings.max_cpu_minutes:
            return dg.SkipReason(f"{spent:.1f} of {settings.max_cpu_minutes:g} minutes of this night are used up")
    try:
        pipeline.require_disk()
        batch = _next(instance, pipeline, own, tonight)
    except DiskFull as error:
        return dg.SkipReason(str(error))
    return _request(batch, tonight) if batch else dg.SkipReason("nothing stale is left for this night")


def _why_wait(instance: dg.DagsterInstance, pipeline: Pipeline) -> str | None:
    """Fresh uploads come first: a batch is asked for only when nothing else wants to run."""
    unfinished = instance.get_runs(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    if any(run.tags.get(SOURCE_TAG) == REPROCESSING for run in unfinished):
        return "a batch is still running"
    if unfinished:
        return f"{len(unfinished)} other runs are waiting or running"
    return "uploads are waiting" if pipeline.sources.unannounced(1) else None


def _minutes_of(pipeline: Pipeline, runs: Sequence[DagsterRun]) -> float:
    """What the ledger says that these runs computed."""
    entries = pipeline.ledger.scan(("run_id", "seconds"))
    ours = pc.is_in(entries["run_id"].cast(pa.string()), value_set=pa.array([r.run_id for r in runs], pa.string()))
    return float(pc.sum(entries.filter(ours)["seconds"]).as_py() or 0.0) / 60


def _next(instance: dg.DagsterInstance, pipeline: Pipeline, own: Sequence[DagsterRun], tonight: str) -> Batch | None:
    """The next batch of media that this night has not tried: a run that mends nothing must not hold up the others."""
    from media_pipeline.execution.recompute import plan  # table libraries take seconds to import

    # A plan of a hundred thousand media takes seconds; one that found nothing is not made again until something ran.
    state = f"{tonight} {_version(pipeline)}"
    if pipeline.sources.note(_IDLE_NOTE) == state:
        return None
    existing = instance.get_dynamic_partitions(PARTITIONS_NAME)
    tried = {key for run in own for key in keys_of_run(existing, run.tags)}
    batch = next_batch(
        instance, pipeline, plan(pipeline).by_medium(), is_excluded=tried.__contains__, beside_watch_folder=True
    )
    if batch is None:
        pipeline.sources.set_note(_IDLE_NOTE, state)
    return batch


def _version(pipeline: Pipeline) -> int:
    return pipeline.tables.version("analyses") if pipeline.tables.exists("analyses") else 0


def _request(batch: Batch, tonight: str) -> dg.RunRequest:
    # A tick that is repeated after a crash asks with the same key, and Dagster starts nothing twice.
    key = hashlib.sha256("\n".join([tonight, *batch.partition_keys, *sorted(batch.stages)]).encode()).hexdigest()[:16]
    return dg.RunRequest(
        run_key=key,
        asset_selection=[dg.AssetKey(name) for name in sorted(batch.stages)],
        tags={
            **range_tags(batch.partition_keys),
            **BEHIND_UPLOADS,
            BATCH_TAG: key,
            FORCE_TAG: "false",
            NIGHT_TAG: tonight,
            SOURCE_TAG: REPROCESSING,
        },
    )
