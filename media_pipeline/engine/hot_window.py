"""The hot window: Dagster holds the media that came last, the tables hold them all.

Dagster's pages freeze above some ten thousand partitions, and a range run slows down with their number. So the oldest
partitions are retired: taken out of Dagster with their events. Results, ledger and originals stay as they are, nothing
sees a retired medium as new, and it comes back at the end when it is to be computed again: with the events that Dagster
would have had of it, told from the ledger, so that its partitions stand right at once.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa
from dagster._core.events import (
    AssetMaterializationPlannedData,
    DagsterEvent,
    DagsterEventBatchMetadata,
    StepMaterializationData,
)
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from media_pipeline.engine.event_rows import remove_partitions
from media_pipeline.engine.materializations import materialization, newest_event_ids, outcome_metadata
from media_pipeline.engine.partitions import PARTITIONS_NAME, announce, keys_of_run
from media_pipeline.engine.pruning import failures_run
from media_pipeline.execution.outcome import Outcome, StageInfo
from media_pipeline.execution.stages import stage_infos
from media_pipeline.storage.ledger import Entry
from media_pipeline.storage.sources import KnownMedium
from media_pipeline.storage.sqlite import chunks

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

Entries = dict[tuple[str, str], Entry]
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Retired:
    """What a look at the window came to."""

    partitions: int = 0
    events: int = 0
    left: int = 0  # partitions that Dagster holds now
    waits_for: str | None = None  # why nothing was retired although there are too many


def retirable(instance: dg.DagsterInstance, pipeline: Pipeline, limit: int) -> list[str]:
    """The partitions to retire so that at most `limit` are left: the oldest that nobody has in hand.

    Partitions that belong to no medium of this home go first: they were made by hand, or their medium was removed.
    """
    existing = instance.get_dynamic_partitions(PARTITIONS_NAME)
    ages = pipeline.sources.ages()
    known, settled = set(ages["partition_key"].to_pylist()), set(_settled(ages))
    busy = in_hand(instance)
    strangers = [key for key in existing if key not in known and key not in busy]
    excess = max(0, len(existing) - len(strangers) - limit)
    return strangers + [key for key in existing if key in settled and key not in busy][:excess]


def retire(instance: dg.DagsterInstance, pipeline: Pipeline, limit: int) -> Retired:
    """Retire what is beyond the window. May be stopped and repeated at any time."""
    waiting = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING])
    if instance.get_backfills(filters=waiting, limit=1):  # what it is going to take is not written on any run yet
        return Retired(left=_count(instance), waits_for="a backfill is going on")
    keys = retirable(instance, pipeline, limit)
    events = remove_partitions(instance, PARTITIONS_NAME, keys)
    return Retired(len(keys), events, _count(instance))


def recall(instance: dg.DagsterInstance, pipeline: Pipeline, partition_keys: Sequence[str]) -> list[str]:
    """Bring media back into Dagster, at the end, with what the ledger knows of them; those that are there stay put.

    Returns:
        the keys that came back; keys of no medium are left out.
    """
    existing = set(instance.get_dynamic_partitions(PARTITIONS_NAME))
    absent = [key for key in dict.fromkeys(partition_keys) if key not in existing]
    known = pipeline.sources.by_partition(absent)
    back = [known[key] for key in absent if key in known]
    for some in chunks(back):
        # Events first: a partition that is there already would not be looked at by the next try.
        _tell(instance, pipeline, some)
        announce(instance, [medium.partition_key for medium in some])
    return [medium.partition_key for medium in back]


def in_hand(instance: dg.DagsterInstance) -> set[str]:
    """Partitions of runs that are not over."""
    existing = instance.get_dynamic_partitions(PARTITIONS_NAME)
    unfinished = instance.get_runs(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    return {key for run in unfinished for key in keys_of_run(existing, run.tags)}


def retired_count(instance: dg.DagsterInstance, pipeline: Pipeline) -> int:
    """How many media Dagster does not hold any more."""
    ages = pipeline.sources.ages()
    return len(set(_settled(ages)).difference(instance.get_dynamic_partitions(PARTITIONS_NAME)))


# --- inside ---------------------------------------------------------------------------------------------------------


def _settled(ages: pa.Table) -> list[str]:
    keys: list[str] = ages.filter(ages["is_settled"])["partition_key"].to_pylist()
    return keys


def _count(instance: dg.DagsterInstance) -> int:
    return len(instance.get_dynamic_partitions(PARTITIONS_NAME))


def _tell(instance: dg.DagsterInstance, pipeline: Pipeline, media: Sequence[KnownMedium]) -> None:
    """Report what stands of these media: what is done as materialized, what failed as failed."""
    entries = pipeline.ledger.entries([medium.media_id for medium in media])
    stages = stage_infos()
    for stage in stages:
        pointers = newest_event_ids(instance, stage.needs)
        done = [
            (_materialized(stage, medium, entry, entries, pointers), entry.at.timestamp())
            for medium in media
            if (entry := entries.get((medium.media_id, stage.name))) and entry.status == "done"
        ]
        _report(instance, done, RUNLESS_RUN_ID)
        failed = [
            (_planned(stage, medium), entry.at.timestamp())
            for medium in media
            if (entry := entries.get((medium.media_id, stage.name))) and entry.status == "failed"
        ]
        if failed:
            _report(instance, failed, failures_run(instance))


def _materialized(
    stage: StageInfo, medium: KnownMedium, entry: Entry, entries: Entries, pointers: dict[str, int | None]
) -> DagsterEvent:
    inputs = {need: entries.get((medium.media_id, need)) for need in stage.needs}
    outcome = Outcome(
        media_id=medium.media_id,
        partition_key=medium.partition_key,
        status="done",
        fingerprint=entry.fingerprint,
        rows=entry.rows,
        seconds=entry.seconds,
        device=entry.device or "cpu",
        model=entry.model,
    )
    made = materialization(
        stage.name,
        partition_key=medium.partition_key,
        code_version=entry.version or _UNKNOWN,
        data_version=entry.fingerprint,
        inputs={n: e.fingerprint if e and e.status == "done" else "none" for n, e in inputs.items()},
        pointers=pointers,
        metadata=outcome_metadata(outcome),
    )
    return DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=RUNLESS_JOB_NAME,
        event_specific_data=StepMaterializationData(made),
    )


def _planned(stage: StageInfo, medium: KnownMedium) -> DagsterEvent:
    return DagsterEvent.build_asset_materialization_planned_event(
        RUNLESS_JOB_NAME,
        step_key="",
        asset_materialization_planned_data=AssetMaterializationPlannedData(
            dg.AssetKey(stage.name), partition=medium.partition_key
        ),
    )


def _report(instance: dg.DagsterInstance, events: Sequence[tuple[DagsterEvent, float]], run_id: str) -> None:
    """Write these events with their times, in batches of one transaction where the storage has such."""
    batch_id = uuid.uuid4().hex
    for position, (event, at) in enumerate(events, start=1):
        batch = DagsterEventBatchMetadata(batch_id, is_end=position == len(events))
        instance.report_dagster_event(event, run_id=run_id, batch_metadata=batch, timestamp=at)
