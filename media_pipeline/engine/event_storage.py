"""Dagster's SQLite storage with the event log made cheap.

Three costs of the stock event log were found by profiling: it makes a new SQLAlchemy engine for every connection, so
that every statement is compiled anew; it closes every connection, and closing the last one of a database in WAL mode
writes everything back and syncs it; and every event is a transaction of its own in two databases. Here engines keep
one connection each, used by one thread at a time, and a batch of asset events is one transaction per database. What
is stored is the same, row for row.

PostgreSQL's storage batches by itself; this one is for a single machine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster
from dagster._core.events import ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage, _event_logs_directory
from dagster._serdes import ConfigurableClassData
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

from media_pipeline.config import load_settings, set_environment_default

# The parts of Dagster overridden here are private: with any other version its own storage is used, slower and right.
WRITTEN_FOR = "1.13.27"
EVENTS_PER_TRANSACTION = 1000
_KEPT_ENGINES = 16  # one per run database, and the index


class FastSqliteEventLogStorage(SqliteEventLogStorage):
    """The stock event log, row for row, with engines kept and asset events written in batches."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._present_tables: set[str] = set()
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            if len(self._engines) >= _KEPT_ENGINES:
                self._engines.popitem(last=False)[1].dispose()
            self._engines[shard] = create_engine(
                self.conn_string_for_shard(shard),
                poolclass=QueuePool,
                pool_size=1,
                max_overflow=1,  # Dagster opens a second connection while it makes the tables
                connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
            )
        self._engines.move_to_end(shard)
        return self._engines[shard]

    def _close_engines(self) -> None:
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()

    def wipe(self) -> None:
        self._close_engines()
        super().wipe()

    def dispose(self) -> None:
        super().dispose()
        self._close_engines()

    def has_table(self, table_name: str) -> bool:
        # Asked for every stored event; tables of a database that is in use do not go away.
        if table_name not in self._present_tables and super().has_table(table_name):
            self._present_tables.add(table_name)
        return table_name in self._present_tables

    def delete_events(self, run_id: str) -> None:
        # The stock storage empties the run's database row by row and leaves the file.
        with self._db_lock:
            if (engine := self._engines.pop(run_id, None)) is not None:
                engine.dispose()
            self._initialized_dbs.discard(run_id)
        with self.index_connection() as connection:
            self.delete_events_for_run(connection, run_id)
        self.free_concurrency_slots_for_run(run_id)
        for suffix in ("", "-wal", "-shm"):
            Path(self.path_for_shard(run_id) + suffix).unlink(missing_ok=True)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        one_run = len({event.run_id for event in events}) == 1
        if not one_run or any(event.dagster_event_type not in ASSET_EVENTS for event in events):
            super().store_event_batch(events)
            return
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        insert = SqlEventLogStorageTable.insert().returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
        with self.index_transaction() as connection:
            ids = [row[0] for row in connection.execute(insert, rows)]
            self._store_asset_event_tags(connection, events, ids)
            # The row of an asset shows its newest event of each kind; the others would be overwritten at once.
            newest = {
                (event.get_dagster_event().asset_key, event.dagster_event_type): (event, event_id)
                for event, event_id in zip(events, ids, strict=True)
            }
            for event, event_id in newest.values():
                self._store_asset_event(connection, event, event_id)


class MediaPipelineStorage(DagsterSqliteStorage):
    """`storage: custom` of `dagster.yaml`; without configuration it lies in `<home>/dagster`.

    The default lets `serve`, `analyze` and `dagster dev` in a clone share one instance without naming a path.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        if dagster.__version__ == WRITTEN_FOR:
            self._event_log_storage = FastSqliteEventLogStorage(_event_logs_directory(base_dir))
            # Dagster hands events over in batches only when told so in the environment of each of its processes.
            set_environment_default("DAGSTER_EVENT_BATCH_SIZE", str(EVENTS_PER_TRANSACTION))

    @classmethod
    def config_type(cls) -> Any:
        return {"base_dir": dagster.Field(dagster.StringSource, is_required=False)}

    @classmethod
    def from_config_value(  # type: ignore[override]  # Dagster's base class demands the key we make optional
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, str]
    ) -> MediaPipelineStorage:
        base_dir = config_value.get("base_dir") or str(load_settings().dagster_home)
        return cls.from_local(base_dir, inst_data=inst_data)
