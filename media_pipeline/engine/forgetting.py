"""Taking media out of Dagster: partitions, events with their thumbnails, tags of runs, ticks, backfills, caches.

What belongs to a medium alone is deleted. What names it beside others stays and names it no longer: a run over 64
media keeps the events of the 63, and its range of partitions begins or ends with the nearest one that is left. All of
it goes through Dagster's own table definitions, so SQLite and PostgreSQL are the same to it, and a running daemon sees
short transactions. At the end the tables are written anew, because a deleted row's bytes stay in its page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    DynamicPartitionsTable,
)
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Events
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.schema import BackfillTagsTable, BulkActionsTable, KeyValueStoreTable, RunsTable
from dagster._core.storage.runs.schema import DaemonHeartbeatsTable as Heartbeats
from dagster._core.storage.runs.schema import RunTagsTable as Tags
from dagster._core.storage.schedules.schema import (
    AssetDaemonAssetEvaluationsTable,
    InstigatorsTable,
    JobTable,
    JobTickTable,
)
from dagster._core.storage.tags import RUN_KEY_TAG
from dagster._serdes import deserialize_value, serialize_value
from sqlalchemy.engine import Connection, Engine

from media_pipeline.engine._redacting import ERASED, ROWS_AT_ONCE, Redactor
from media_pipeline.engine.instance import reconcile_dead_runs
from media_pipeline.engine.partitions import PARTITIONS_NAME, keys_of_run
from media_pipeline.engine.tags import BATCH_TAG
from media_pipeline.storage.contents import gathered
from media_pipeline.storage.sqlite import chunks, compact

_PARTITION_EVENTS = ("ASSET_MATERIALIZATION", "ASSET_MATERIALIZATION_PLANNED", "ASSET_OBSERVATION")
_RUN_TABLES = (RunsTable, Tags, BulkActionsTable, BackfillTagsTable, KeyValueStoreTable, Heartbeats)
_TICK_TABLES = (JobTable, InstigatorsTable, JobTickTable, AssetDaemonAssetEvaluationsTable)


class DagsterMemory:
    """What one Dagster instance knows of media."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._log: Any = instance.event_log_storage
        self._runs: Any = instance.run_storage
        self._ticks: Any = instance.schedule_storage

    def in_hand(self, partition_keys: Sequence[str]) -> list[str]:
        """Runs and backfills that work on these partitions, or are going to: "run 3f2a…"."""
        reconcile_dead_runs(self._instance)
        existing, wanted = self._partitions(), set(partition_keys)
        unfinished = self._instance.get_runs(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
        found = [f"run {r.run_id}" for r in unfinished if not wanted.isdisjoint(keys_of_run(existing, r.tags))]
        waiting = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING])
        for backfill in self._instance.get_backfills(filters=waiting):
            text = serialize_value(backfill)
            if any(key in text for key in partition_keys):
                found.append(f"backfill {backfill.backfill_id}")
        return found

    def count(self, partition_keys: Sequence[str]) -> dict[str, int]:
        """Events and runs that speak of these partitions."""
        runs = self._runs_over(partition_keys)
        return {"dagster events": self._event_count(partition_keys), "dagster runs": len(runs)}

    def forget(self, partition_keys: Sequence[str], words: Iterable[str] = (), *, thorough: bool = False) -> None:
        """Erases these partitions, and in everything else these words. May be repeated.

        Args:
            words: what names the media beside their keys: ids, file names, paths
            thorough: look for the words in the events of every run, not only of those over these partitions
        """
        runs = sorted(self._runs_over(partition_keys) | (self._all_runs() if thorough else set()))
        others = set(self._partitions()).difference(partition_keys)
        redactor = Redactor([*partition_keys, *words, *self._batch_names(runs)], spared=others)
        for run_id in runs:
            self._clean_run(run_id, partition_keys, redactor)
            if run_id:  # the events of no run have no log, and an empty prefix would mean every log
                self._instance.compute_log_manager.delete_logs(prefix=[run_id])
        self._clean_index(partition_keys, runs, redactor)
        self._clean_runs(partition_keys, redactor)
        with self._ticks.connect() as connection:
            for table in _TICK_TABLES:
                redactor.clean(connection, table)
        # Last: as long as a key is there, the neighbours of a range are known.
        with self._log.index_connection() as connection:
            for keys in chunks(partition_keys):
                connection.execute(
                    DynamicPartitionsTable.delete().where(
                        DynamicPartitionsTable.c.partitions_def_name == PARTITIONS_NAME,
                        DynamicPartitionsTable.c.partition.in_(keys),
                    )
                )
        self._rewrite(runs)

    def contents(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Every table of a database server, as blocks of bytes; none where Dagster's files lie in the home."""
        seen = set()
        for name, engine in self._engines().items():
            if engine.dialect.name == "sqlite":
                continue
            # A transaction, which a cursor of the server needs: a table need not fit into memory.
            with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
                metadata = db.MetaData()
                metadata.reflect(connection)
                for table in metadata.sorted_tables:
                    place = (str(engine.url), table.name)
                    if place not in seen:
                        seen.add(place)
                        yield f"{name}: {table.name}", gathered(_values(connection, table))

    # -- who is concerned ----------------------------------------------------------------------------------------

    def _partitions(self) -> Sequence[str]:
        return self._instance.get_dynamic_partitions(PARTITIONS_NAME)

    def _runs_over(self, partition_keys: Sequence[str]) -> set[str]:
        found: set[str] = set()
        with self._log.index_connection() as connection:
            for where in self._events_of(connection, partition_keys):
                found.update(run for (run,) in connection.execute(db.select(Events.c.run_id).where(where).distinct()))
        redactor = Redactor(partition_keys)
        with self._runs.connect() as connection:
            named = redactor.rows(connection, RunsTable, (RunsTable.c.run_body,))
            ids = [number for number, _ in named]
            for some in chunks(ids):
                query = db.select(RunsTable.c.run_id).where(RunsTable.c.id.in_(some))
                found.update(run for (run,) in connection.execute(query))
        return found

    def _all_runs(self) -> set[str]:
        with self._runs.connect() as connection:
            return {"", *(run for (run,) in connection.execute(db.select(RunsTable.c.run_id)))}

    def _events_of(self, connection: Connection, partition_keys: Sequence[str]) -> Iterator[Any]:
        """Conditions that together select the events of these partitions, each answered by an index."""
        assets = [key for (key,) in connection.execute(db.select(AssetKeyTable.c.asset_key))]
        for keys in chunks(partition_keys):
            yield db.and_(
                Events.c.asset_key.in_(assets),
                Events.c.dagster_event_type.in_(_PARTITION_EVENTS),
                Events.c.partition.in_(keys),
            )

    def _event_count(self, partition_keys: Sequence[str]) -> int:
        with self._log.index_connection() as connection:
            return sum(
                connection.execute(db.select(db.func.count()).select_from(Events).where(where)).scalar_one()
                for where in self._events_of(connection, partition_keys)
            )

    def _batch_names(self, runs: Sequence[str]) -> set[str]:
        """Names of the sensor's batches, which are made from the ids of their media."""
        found: set[str] = set()
        with self._runs.connect() as connection:
            for some in chunks(runs):
                rows = connection.execute(
                    db.select(Tags.c.value).where(Tags.c.run_id.in_(some), Tags.c.key.in_([BATCH_TAG, RUN_KEY_TAG]))
                )
                found.update(value for (value,) in rows)
        return {name for name in found if name != ERASED}

    # -- what is cleaned -----------------------------------------------------------------------------------------

    def _clean_run(self, run_id: str, partition_keys: Sequence[str], redactor: Redactor) -> None:
        with self._log.run_connection(run_id) as connection:
            for keys in chunks(partition_keys):
                connection.execute(Events.delete().where(Events.c.run_id == run_id, Events.c.partition.in_(keys)))
            redactor.clean(connection, Events, where=Events.c.run_id == run_id)

    def _clean_index(self, partition_keys: Sequence[str], runs: Sequence[str], redactor: Redactor) -> None:
        with self._log.index_transaction() as connection:
            for where in self._events_of(connection, partition_keys):
                events = db.select(Events.c.id).where(where)
                connection.execute(AssetEventTagsTable.delete().where(AssetEventTagsTable.c.event_id.in_(events)))
                connection.execute(Events.delete().where(where))
            for some in chunks(runs):
                redactor.clean(connection, Events, where=Events.c.run_id.in_(some))
            redactor.clean(connection, AssetCheckExecutionsTable)
            redactor.clean(connection, AssetEventTagsTable)
            self._clean_assets(connection, redactor)

    def _clean_assets(self, connection: Connection, redactor: Redactor) -> None:
        """The newest event of an asset is that of another medium now; which partitions it has is counted anew."""
        columns = (AssetKeyTable.c.last_materialization, AssetKeyTable.c.cached_status_data)
        for number, row in list(redactor.rows(connection, AssetKeyTable, columns)):
            values: dict[str, Any] = {"cached_status_data": None}
            if redactor.names(row["last_materialization"]):
                asset = connection.execute(
                    db.select(AssetKeyTable.c.asset_key).where(AssetKeyTable.c.id == number)
                ).scalar_one()
                values |= _newest(connection, asset)
            connection.execute(AssetKeyTable.update().where(AssetKeyTable.c.id == number).values(values))
        redactor.clean(connection, AssetKeyTable)

    def _clean_runs(self, partition_keys: Sequence[str], redactor: Redactor) -> None:
        existing, gone = self._partitions(), set(partition_keys)
        places = {key: number for number, key in enumerate(existing)}
        with self._runs.connect() as connection:
            for number, row in list(redactor.rows(connection, RunsTable, (RunsTable.c.run_body, RunsTable.c.run_id))):
                stand_ins = _stand_ins(deserialize_value(row["run_body"], dg.DagsterRun), existing, places, gone)
                redactor.clean(connection, RunsTable, where=RunsTable.c.id == number, stand_ins=stand_ins)
                redactor.clean(connection, Tags, where=Tags.c.run_id == row["run_id"], stand_ins=stand_ins)
            for table in _RUN_TABLES:
                redactor.clean(connection, table)

    # -- bytes ---------------------------------------------------------------------------------------------------

    def _engines(self) -> dict[str, Engine]:
        connects = {
            "events": self._log.index_connection,
            "runs": self._runs.connect,
            "schedules": self._ticks.connect,
        }
        engines = {}
        for name, connect in connects.items():
            with connect() as connection:
                engines[name] = connection.engine
        return engines

    def _rewrite(self, runs: Sequence[str]) -> None:
        """Writes what was changed anew: no byte of a deleted row stays in a page or a write-ahead log."""
        # All three storages may lie in one database of a server.
        for engine in {str(engine.url): engine for engine in self._engines().values()}.values():
            if engine.dialect.name == "sqlite":
                compact(Path(str(engine.url.database)))
            else:
                _vacuum(engine)
        if isinstance(self._log, SqliteEventLogStorage):
            for run_id in runs:
                compact(Path(self._log.path_for_shard(run_id)))


def _stand_ins(
    run: dg.DagsterRun, existing: Sequence[str], places: Mapping[str, int], gone: set[str]
) -> dict[str, str]:
    """For the ends of a run's range that are erased: the nearest partition of the range that is left."""
    keys = list(_span(run.tags, existing, places))
    left = [key for key in keys if key not in gone]
    if not left:
        return {}
    return {end: near for end, near in ((keys[0], left[0]), (keys[-1], left[-1])) if end in gone}


def _span(tags: Mapping[str, str], existing: Sequence[str], places: Mapping[str, int]) -> Sequence[str]:
    return keys_of_run(existing, tags) if not places.keys().isdisjoint(tags.values()) else ()


def _newest(connection: Connection, asset: str) -> dict[str, Any]:
    """Columns of an asset that show its newest materialization, of those that are left."""
    row = connection.execute(
        db.select(Events.c.id, Events.c.event, Events.c.run_id)
        .where(Events.c.asset_key == asset, Events.c.dagster_event_type == "ASSET_MATERIALIZATION")
        .order_by(Events.c.id.desc())
        .limit(1)
    ).fetchone()
    if row is None:
        return {"last_materialization": None}
    record = dg.EventLogRecord(storage_id=row[0], event_log_entry=deserialize_value(row[1], dg.EventLogEntry))
    return {"last_materialization": serialize_value(record), "last_run_id": row[2]}


def _values(connection: Connection, table: db.Table) -> Iterator[bytes]:
    result = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(db.select(table))
    for row in result:
        for value in row:
            if isinstance(value, str):
                yield value.encode(errors="replace")
            elif isinstance(value, bytes | memoryview):
                yield bytes(value)


def _vacuum(engine: Engine) -> None:
    """PostgreSQL: every table of Dagster's written anew. Its own log and its backups are the operator's."""
    tables = (Events, AssetKeyTable, AssetEventTagsTable, AssetCheckExecutionsTable, DynamicPartitionsTable)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        present = set(db.inspect(connection).get_table_names())
        for table in (*tables, *_RUN_TABLES, *_TICK_TABLES):
            if table.name in present:
                connection.execute(db.text(f'VACUUM FULL "{table.name}"'))
