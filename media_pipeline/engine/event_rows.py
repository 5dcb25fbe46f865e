"""Rows of Dagster's event log that say how partitions stand, read and changed in bulk, in SQLite and in PostgreSQL.

Dagster deletes an event with its run, one run and one partition at a time, and offers nothing in between. The tables
are the same in both databases. In SQLite each run has a file of its own besides; here it is the common index that
counts: what Dagster shows of assets and partitions it reads there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import DagsterEvent
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetEventTagsTable,
    AssetKeyTable,
    DynamicPartitionsTable,
    SqlEventLogStorageTable,
)
from dagster._serdes import deserialize_value, serialize_value
from sqlalchemy.engine import Connection

from media_pipeline.errors import UsageError
from media_pipeline.storage.sqlite import chunks

MATERIALIZED = dg.DagsterEventType.ASSET_MATERIALIZATION.value
PLANNED = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value
OBSERVED = dg.DagsterEventType.ASSET_OBSERVATION.value
KINDS = (MATERIALIZED, PLANNED, OBSERVED)

_EVENTS = SqlEventLogStorageTable


class EventRow(NamedTuple):
    """One event of an asset, without its content."""

    id: int  # storage id: grows with time
    run_id: str  # "" where it belongs to no run
    kind: str  # one of KINDS
    asset: str  # as Dagster stores keys: '["ocr"]'
    partition: str


def event_log(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    """The event log of this instance.

    Raises:
        UsageError: it is not in a database of ours.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise UsageError(
            f"the event log is a {type(storage).__name__}, of which nothing can be pruned",
            "use the storage of our dagster.yaml, or PostgreSQL",
        )
    return storage


def assets(connection: Connection) -> list[str]:
    """Every asset that ever had an event, as stored."""
    return [key for (key,) in connection.execute(sa.select(AssetKeyTable.c.asset_key))]


def partitions_of_runs(connection: Connection, run_ids: Collection[str]) -> list[str]:
    """The partitions that events of these runs are about, in the order of their keys."""
    query = sa.select(_EVENTS.c.partition).distinct().where(
        _EVENTS.c.run_id.in_(run_ids), _EVENTS.c.partition.is_not(None), _EVENTS.c.asset_key.is_not(None)
    )  # fmt: skip
    return sorted(key for (key,) in connection.execute(query))


def history(connection: Connection, partitions: Sequence[str]) -> list[EventRow]:
    """All there is of these partitions, in no particular order."""
    found: list[EventRow] = []
    for asset in assets(connection):
        for chunk in chunks(partitions):
            query = sa.select(_EVENTS.c.id, _EVENTS.c.run_id, _EVENTS.c.dagster_event_type, _EVENTS.c.partition).where(
                _EVENTS.c.asset_key == asset,
                _EVENTS.c.dagster_event_type.in_(KINDS),
                _EVENTS.c.partition.in_(chunk),
            )
            found += (EventRow(i, run, kind, asset, key) for i, run, kind, key in connection.execute(query))
    return found


def newest_without_partition(connection: Connection) -> dict[str, int]:
    """Id of the newest materialization of each asset that has no partitions."""
    query = (
        sa.select(_EVENTS.c.asset_key, sa.func.max(_EVENTS.c.id))
        .where(
            _EVENTS.c.asset_key.in_(assets(connection)),
            _EVENTS.c.dagster_event_type == MATERIALIZED,
            _EVENTS.c.partition.is_(None),
        )
        .group_by(_EVENTS.c.asset_key)
    )
    return dict(connection.execute(query).tuples().all())


def of_runs(connection: Connection, ids: Sequence[int], run_ids: Collection[str]) -> list[int]:
    """Those of the events that belong to one of these runs."""
    query = sa.select(_EVENTS.c.id).where(_EVENTS.c.id.in_(ids), _EVENTS.c.run_id.in_(run_ids))
    return [event_id for (event_id,) in connection.execute(query)]


def contents(connection: Connection, ids: Sequence[int]) -> Iterator[tuple[int, str]]:
    """(id, event as JSON) of these events, a few hundred in memory at a time."""
    for chunk in chunks(ids):
        yield from connection.execute(sa.select(_EVENTS.c.id, _EVENTS.c.event).where(_EVENTS.c.id.in_(chunk))).tuples()


def hand_over(connection: Connection, ids: Sequence[int], run_id: str, job_name: str) -> None:
    """Let these events belong to another run, or to none: the rows keep their ids, content and place in time.

    A copy of an event would be a newer event, and whoever was made from the older one would read as out of date.
    """
    change = _EVENTS.update().where(_EVENTS.c.id == sa.bindparam("event_id"))
    change = change.values(run_id=run_id, step_key=None, event=sa.bindparam("content"))
    for chunk in chunks(ids):
        moved = []
        for event_id, text in contents(connection, chunk):
            entry = _moved(deserialize_value(text, EventLogEntry), run_id, job_name)
            moved.append({"event_id": event_id, "content": serialize_value(entry)})
        if moved:
            connection.execute(change, moved)


def free_asset_rows(connection: Connection, run_ids: Collection[str]) -> None:
    """Let the overview of the assets, which holds a copy of each newest event, name none of these runs."""
    columns = (AssetKeyTable.c.id, AssetKeyTable.c.last_materialization, AssetKeyTable.c.last_run_id)
    for row_id, last, last_run_id in connection.execute(sa.select(*columns)).fetchall():
        record = deserialize_value(last) if last else None
        if isinstance(record, dg.EventLogRecord) and record.event_log_entry.run_id in run_ids:
            entry = _moved(record.event_log_entry, RUNLESS_RUN_ID, RUNLESS_JOB_NAME)
            fresh = serialize_value(record._replace(event_log_entry=entry))
            # Only as long as nobody has materialized the asset meanwhile.
            same = sa.and_(AssetKeyTable.c.id == row_id, AssetKeyTable.c.last_materialization == last)
            connection.execute(AssetKeyTable.update().where(same).values(last_materialization=fresh))
        if last_run_id in run_ids:
            same = sa.and_(AssetKeyTable.c.id == row_id, AssetKeyTable.c.last_run_id == last_run_id)
            connection.execute(AssetKeyTable.update().where(same).values(last_run_id=RUNLESS_RUN_ID))


def delete_events(connection: Connection, ids: Sequence[int]) -> None:
    """Remove these events with their tags."""
    for chunk in chunks(ids):
        connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(chunk)))
        connection.execute(_EVENTS.delete().where(_EVENTS.c.id.in_(chunk)))


def delete_events_of_run(connection: Connection, run_id: str) -> None:
    """Remove what is left of a run. Dagster's own way names every event in one statement, which large runs outgrow."""
    own = sa.select(_EVENTS.c.id).where(_EVENTS.c.run_id == run_id)
    connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(own)))
    connection.execute(_EVENTS.delete().where(_EVENTS.c.run_id == run_id))


def forget_runless_copies(instance: dg.DagsterInstance) -> None:
    """In SQLite events without a run lie in the index and once more in a file that nobody reads them from."""
    storage = event_log(instance)
    if isinstance(storage, SqliteEventLogStorage) and Path(storage.path_for_shard(RUNLESS_RUN_ID)).exists():
        with storage.run_connection(RUNLESS_RUN_ID) as connection:
            connection.execute(_EVENTS.delete().where(_EVENTS.c.dagster_event_type.in_(KINDS)))


def remove_partitions(instance: dg.DagsterInstance, name: str, keys: Sequence[str]) -> int:
    """Take keys out of a dynamic partitions definition, and their events out of the log; the number of events.

    Each portion is one transaction; the order of the other keys stays.
    """
    removed = 0
    for chunk in chunks(keys):
        with event_log(instance).index_transaction() as connection:
            ids = [row.id for row in history(connection, chunk)]
            delete_events(connection, ids)
            here = sa.and_(
                DynamicPartitionsTable.c.partitions_def_name == name, DynamicPartitionsTable.c.partition.in_(chunk)
            )
            connection.execute(DynamicPartitionsTable.delete().where(here))
            removed += len(ids)
    return removed


def _moved(entry: EventLogEntry, run_id: str, job_name: str) -> EventLogEntry:
    """As an event of that run which no step has logged: what the UI shows of steps is gone with their run."""
    event = entry.get_dagster_event()
    plain = DagsterEvent(
        event_type_value=event.event_type_value,
        job_name=job_name,
        event_specific_data=event.event_specific_data,
        message=event.message,
    )
    return dg.EventLogEntry(  # type: ignore[no-untyped-call]  # Dagster's
        error_info=entry.error_info,
        level=entry.level,
        user_message=entry.user_message,
        run_id=run_id,
        timestamp=entry.timestamp,
        step_key=None,
        job_name=job_name,
        dagster_event=plain,
    )
