"""Old runs go, what they say of partitions stays.

Deleting a run deletes its events, and partitions that were made by it read as missing. So before a run goes, the
events by which partitions stand are taken out of it, where they are: their ids, tags and times stay, so every pointer
into the event log still points at what it pointed at, and nothing reads as stale that did not before.

* The newest materialization of each (asset, partition) belongs to no run from then on. An older one does so too where
  something was made from it: Dagster compares that version with the newest one.
* The newest plan that no materialization followed makes a partition read as failed if its run failed. Such plans move
  to one run that stands for all failed runs that were pruned; others belong to no run, and stay only so that an older
  failure does not come to light again.
* The newest observation after that (why it failed) belongs to no run.

Killed at any instant, a run is whole, or has lost events that now stand by themselves, or is gone.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg
from dagster._core.definitions.data_version import extract_data_provenance_from_entry
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.storage.dagster_run import FINISHED_STATUSES, RunRecord
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunTagsTable
from dagster._core.utils import make_new_run_id
from dagster._serdes import deserialize_value
from sqlalchemy.engine import Connection

from media_pipeline.engine import event_rows as rows_of
from media_pipeline.engine.event_rows import MATERIALIZED, PLANNED, EventRow
from media_pipeline.engine.tags import PRUNED_TAG

# Of a run whose start failed the sensor counts the tries, and a person looks at what happened today.
MIN_AGE = timedelta(days=1)
_RUNS_AT_ONCE = 20
_PARTITIONS_AT_ONCE = 1000  # one transaction each: other writers of the event log wait meanwhile
_WORTH_SHRINKING = 0.25  # share of unused pages in the index from which it is written anew
_PRUNED_JOB = "pruned_runs"

Pointers = Mapping[tuple[str, str | None], Sequence[int]]  # by (upstream asset, partition): how far readers had seen


@dataclass(slots=True)
class Pruned:
    """What a pruning came to."""

    runs: int = 0
    events_kept: int = 0  # taken out of their runs
    failures_kept: int = 0  # partitions of assets that still read as failed
    events_superseded: int = 0  # kept by an earlier pruning and not needed any more
    bytes_freed: int = 0


@dataclass(slots=True)
class Verdict:
    """What becomes of events: ids."""

    freed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    superseded: list[int] = field(default_factory=list)


def prunable(
    instance: dg.DagsterInstance, *, days: int, keep: int, limit: int, now: datetime | None = None
) -> list[str]:
    """The oldest runs that may go, at most `limit`: finished, and older than `days` or beyond the newest `keep`."""
    return [record.dagster_run.run_id for record in _prunable(instance, days, keep, limit, now or datetime.now(UTC))]


def prune_runs(
    instance: dg.DagsterInstance,
    *,
    days: int,
    keep: int,
    now: datetime | None = None,
    on_runs: Callable[[int], None] = lambda _: None,
) -> Pruned:
    """Delete old runs with their events, files and tags. May be stopped and repeated at any time.

    Args:
        days: finished runs older than this go.
        keep: of the younger ones the newest so many stay; all of the last day do.
        on_runs: told now and then how many more are gone.

    Raises:
        UsageError: the event log is not in a database of ours.
    """
    now, done = now or datetime.now(UTC), Pruned()
    while records := _prunable(instance, days, keep, _RUNS_AT_ONCE, now):
        failed = {r.dagster_run.run_id: r.dagster_run.status == dg.DagsterRunStatus.FAILURE for r in records}
        _take_out(instance, failed, done)
        for run_id in failed:
            _delete(instance, run_id)
        done.runs += len(failed)
        on_runs(len(failed))
    if done.runs:
        rows_of.forget_runless_copies(instance)
        done.bytes_freed = _shrink(instance)
    return done


def failures_run(instance: dg.DagsterInstance) -> str:
    """The run that stands for the failed runs that are gone; made when there is none."""
    found = _failures_runs(instance)
    if found:
        return min(found)
    run = dg.DagsterRun(
        job_name=_PRUNED_JOB,
        run_id=make_new_run_id(),
        status=dg.DagsterRunStatus.FAILURE,
        tags={PRUNED_TAG: "failures"},
    )
    instance.add_run(run)
    instance.report_engine_event(
        "This run stands for failed runs that were pruned, so that what failed in them still reads as failed. "
        "The reasons are on the partitions' pages and in `media-pipeline status --all`.",
        run,
    )
    return run.run_id


def verdict(rows: Iterable[EventRow], doomed: Mapping[str, bool], ours: Collection[str], pointers: Pointers) -> Verdict:
    """What becomes of the events of some partitions, given all there are of them.

    Args:
        doomed: runs that are to be deleted, and whether each failed.
        ours: runs that hold what earlier prunings kept.
    """
    found = Verdict()
    by_partition: dict[tuple[str, str], list[EventRow]] = defaultdict(list)
    for row in rows:
        by_partition[row.asset, row.partition].append(row)
    for (asset, partition), own in by_partition.items():
        own.sort()
        made = [row.id for row in own if row.kind == MATERIALIZED]
        newest = made[-1] if made else 0
        standing = {row.kind: row.id for row in own if row.kind != MATERIALIZED and row.id > newest}
        seen = sorted([*pointers.get((asset, partition), ()), *pointers.get((asset, None), ())])
        needed = {*standing.values(), newest, *_compared(made, seen)}
        for row in own:
            if row.id not in needed:
                if row.run_id in ours:
                    found.superseded.append(row.id)
            elif row.run_id in doomed:
                (found.failed if row.kind == PLANNED and doomed[row.run_id] else found.freed).append(row.id)
    return found


def _compared(made: Sequence[int], seen: Sequence[int]) -> Iterable[int]:
    """Those that are the newest from the view of a reader: with ids up to a pointer of his."""
    for older, newer in pairwise(made):
        at = bisect_left(seen, older)
        if at < len(seen) and seen[at] < newer:
            yield older


# --- inside ---------------------------------------------------------------------------------------------------------


def _prunable(instance: dg.DagsterInstance, days: int, keep: int, limit: int, now: datetime) -> list[RunRecord]:
    finished = dg.RunsFilter(statuses=list(FINISHED_STATUSES))
    ours = _failures_runs(instance)
    excess = instance.get_runs_count(finished) - len(ours) - keep
    oldest = instance.get_run_records(finished, limit=limit + len(ours), ascending=True)
    candidates = [record for record in oldest if record.dagster_run.run_id not in ours][:limit]
    found = []
    for place, record in enumerate(candidates):
        age = now - record.create_timestamp.replace(tzinfo=UTC)
        if age < MIN_AGE or (place >= excess and age < timedelta(days=days)):
            break
        found.append(record)
    return found


def _failures_runs(instance: dg.DagsterInstance) -> list[str]:
    return [run.run_id for run in instance.get_runs(dg.RunsFilter(tags={PRUNED_TAG: "failures"}))]


def _take_out(instance: dg.DagsterInstance, doomed: Mapping[str, bool], done: Pruned) -> None:
    """Let what must stay of these runs stand by itself."""
    storage = rows_of.event_log(instance)
    with storage.index_connection() as connection:
        partitions = rows_of.partitions_of_runs(connection, doomed)
    for start in range(0, len(partitions), _PARTITIONS_AT_ONCE):
        portion = partitions[start : start + _PARTITIONS_AT_ONCE]
        ours = {RUNLESS_RUN_ID, *_failures_runs(instance)}
        with storage.index_connection() as connection:
            rows = rows_of.history(connection, portion)
            found = verdict(rows, doomed, ours, _pointers(connection, rows))
        failures = failures_run(instance) if found.failed else None
        with storage.index_transaction() as connection:
            rows_of.hand_over(connection, found.freed, RUNLESS_RUN_ID, RUNLESS_JOB_NAME)
            if failures is not None:
                rows_of.hand_over(connection, found.failed, failures, _PRUNED_JOB)
            rows_of.delete_events(connection, found.superseded)
        done.events_kept += len(found.freed)
        done.failures_kept += len(found.failed)
        done.events_superseded += len(found.superseded)
    with storage.index_transaction() as connection:
        newest = list(rows_of.newest_without_partition(connection).values())
        lost = rows_of.of_runs(connection, newest, doomed)
        rows_of.hand_over(connection, lost, RUNLESS_RUN_ID, RUNLESS_JOB_NAME)
        rows_of.free_asset_rows(connection, doomed)
        done.events_kept += len(lost)


def _pointers(connection: Connection, rows: Sequence[EventRow]) -> Pointers:
    """How far the readers of these partitions had seen; empty where each asset was made once."""
    made: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        if row.kind == MATERIALIZED:
            made[row.partition, row.asset].append(row.id)
    again = {partition for (partition, _), ids in made.items() if len(ids) > 1}
    if not again:
        return {}
    newest: dict[int, str | None] = {max(ids): partition for (partition, _), ids in made.items() if partition in again}
    newest |= dict.fromkeys(rows_of.newest_without_partition(connection).values())
    pointers: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for event_id, text in rows_of.contents(connection, list(newest)):
        provenance = extract_data_provenance_from_entry(deserialize_value(text, EventLogEntry))
        for asset, pointer in (provenance.input_storage_ids if provenance else {}).items():
            if pointer is not None:
                pointers[asset.to_string(), newest[event_id]].append(pointer)
    return pointers


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    # Events first: a run without events is found again by the next pruning, events without a run by nobody.
    storage = rows_of.event_log(instance)
    with storage.index_transaction() as connection:
        rows_of.delete_events_of_run(connection, run_id)
    storage.delete_events(run_id)
    if isinstance(instance.run_storage, SqlRunStorage):
        with instance.run_storage.connect() as connection:
            connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id == run_id))
    instance.run_storage.delete_run(run_id)


def _shrink(instance: dg.DagsterInstance) -> int:
    """Give unused pages of the SQLite index back to the disk; PostgreSQL does so by itself.

    Returns:
        bytes; 0 too where others write just now, and the next pruning has to do it.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        return 0
    index = Path(storage.path_for_shard("index"))
    before = index.stat().st_size
    with closing(sqlite3.connect(index, timeout=5)) as db:
        pages, unused = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        if unused < pages * _WORTH_SHRINKING:
            return 0
        try:
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError:
            return 0
    return max(0, before - index.stat().st_size)
