"""DuckDB views over the Delta tables: in memory for our own queries, as `warehouse.duckdb` for the user's own tools.

Views name the current Parquet files one by one; nothing is copied and no extension is needed. DuckDB is never the
store: one process that writes to a DuckDB file locks all others out of it.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import duckdb
import pyarrow as pa
from filelock import FileLock

from media_pipeline.config import SqlLimits
from media_pipeline.storage._files import dimension_of
from media_pipeline.storage._word_macros import WORD_MACROS
from media_pipeline.storage.disk import disk_full_explained
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.schemas import DUPLICATE_PAIRS
from media_pipeline.storage.tables import RETENTION_HOURS, Tables
from media_pipeline.storage.views import SHARED, VIEWS, View, views_of_media

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    # Extensions download; local Python variables are not tables.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
}

SCOPE = "scope"  # table of the schema `library`: the media that a connection is about
IDENTITIES = "identities"
JUDGEMENTS = frozenset({"moderation"})  # what is told of media from the other tables, so never from itself


@dataclass(frozen=True, slots=True)
class _Stored:
    """A table as it lies on the disk now."""

    select: str
    columns: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of a library: what can be told of some media without looking at the others.

    Attributes:
        media_ids: whose rows are seen; with none of them no table is opened, and the views are empty
        names: the views to be made and what they read; all if None
    """

    media_ids: Collection[str]
    names: Collection[str] | None = None


class Catalog:
    """Everything that can be asked in SQL.

    Args:
        views: table name -> schema, for every table that shall have a view. One without data yet is an empty view.
        extra: name -> provider of a small Arrow table that does not live in a Delta table, e.g. `sources`.

    A name of `storage.views` shows what is put together there, in the place of the table of that name or beside it.
    """

    def __init__(
        self,
        layout: Layout,
        tables: Tables,
        views: Mapping[str, pa.Schema],
        extra: Mapping[str, Callable[[], pa.Table]] = MappingProxyType({}),
    ) -> None:
        self._layout = layout
        self._tables = tables
        self._schemas = {"duplicate_pairs": DUPLICATE_PAIRS, **views}
        self._extra = dict(extra)

    @property
    def names(self) -> list[str]:
        """Names of all views, sorted."""
        columns: dict[str, Collection[str]] = {name: schema.names for name, schema in self._schemas.items()}
        columns |= dict.fromkeys(self._extra, ())
        composed = {view.name for view in VIEWS if view.possible(columns)}
        return sorted({*columns, *composed})

    def provided(self, name: str) -> pa.Table:
        """A table that does not live in a Delta table, as it is now."""
        return self._extra[name]()

    def read_by(self, name: str) -> frozenset[str]:
        """The tables that a view of one medium's rows reads."""
        return frozenset({name} & {*self._schemas, *self._extra}).union(
            *(view.needs for view in views_of_media() if view.name == name)
        )

    def connect(self, limits: SqlLimits | None = None, scope: Scope | None = None) -> duckdb.DuckDBPyConnection:
        """A connection in memory with all views, as the tables are now; or with those of a scope.

        With `limits` it is fit for a stranger's SQL: bounded memory, no temporary files, and no file can be opened but
        the current ones of the tables; none of this can be switched off again.
        """
        config = dict(_CONFIG)
        if limits is not None:
            config |= {"memory_limit": f"{limits.max_memory_bytes // 1024} KiB", "temp_directory": ""}
        connection = duckdb.connect(":memory:", config=config)
        connection.execute("SET TimeZone = 'UTC'")  # the same answer wherever it is asked
        tables = self._create_views(connection, scope)
        if limits is not None:
            files = [_literal(file) for table in tables.values() for file in table.files]
            connection.execute(f"SET allowed_paths = [{', '.join(files)}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
        return connection

    def publish(self) -> Path:
        """Writes `warehouse.duckdb` anew and swaps it in by rename; who has the old one open reads on undisturbed.

        Raises:
            DiskFull: the old one stays.
        """
        target = self._layout.warehouse
        self._layout.locks.mkdir(parents=True, exist_ok=True)
        # Under a lock, or a slower publisher could put an older state in the place of a newer one.
        with (
            FileLock(self._layout.locks / "warehouse.lock", fallback_to_soft=False),
            disk_full_explained(target.parent),
        ):
            for left_behind in target.parent.glob(f".{target.name}-*"):
                left_behind.unlink(missing_ok=True)
            fresh = target.parent / f".{target.name}-{uuid.uuid4().hex}"
            try:
                self._write(fresh)
                fresh.replace(target)
            finally:
                fresh.unlink(missing_ok=True)
        return target

    def _write(self, path: Path) -> None:
        with duckdb.connect(path, config=_CONFIG) as connection:
            tables = self._create_views(connection)
            files = [(name, file) for name, table in tables.items() for file in table.files]
            names, paths = (pa.array([pair[at] for pair in files], pa.string()) for at in (0, 1))
            _provide(connection, "files", pa.table({"view_name": names, "path": paths}))

    def published_files(self) -> set[str]:
        """Absolute paths that the published warehouse names, which `Tables.vacuum` must keep."""
        warehouse = self._layout.warehouse
        if not warehouse.exists():
            return set()
        # A copy: DuckDB refuses a file that another program has open for writing.
        with tempfile.TemporaryDirectory(dir=warehouse.parent, prefix=f".{warehouse.name}-") as folder:
            copy = shutil.copy(warehouse, Path(folder) / warehouse.name)
            with duckdb.connect(copy, read_only=True) as connection:
                return {path for (path,) in connection.execute("SELECT path FROM library.files").fetchall()}

    def maintain(self, retention_hours: int = RETENTION_HOURS) -> list[str]:
        """Compacts all tables, publishes, and removes files that neither a reader nor the warehouse needs any more.

        Returns the paths of the removed files.
        """
        present = [name for name in self._schemas if self._tables.exists(name)]
        for name in present:
            self._tables.compact(name)
        self.publish()
        keep = self.published_files()
        return [path for name in present for path in self._tables.vacuum(name, keep, retention_hours)]

    def _create_views(self, connection: duckdb.DuckDBPyConnection, scope: Scope | None = None) -> dict[str, _Stored]:
        """Everything users see, and below it the schema `library` with the tables as they are."""
        for macro in WORD_MACROS:
            connection.execute(macro)
        schemas, extra = self._schemas, self._extra
        views: tuple[View, ...] = VIEWS
        if scope is not None:
            views = views_of_media()
            wanted = scope.names if scope.names is None else {n for name in scope.names for n in self.read_by(name)}
            schemas = {n: s for n, s in schemas.items() if n not in JUDGEMENTS and (wanted is None or n in wanted)}
            extra = {n: p for n, p in extra.items() if n == IDENTITIES and (wanted is None or n in wanted)}
        connection.execute("CREATE SCHEMA library")
        if scope is not None:
            _provide(connection, SCOPE, pa.table({"media_id": pa.array(sorted(scope.media_ids), pa.string())}))
        tables = {name: self._stored(connection, name, schema, scope) for name, schema in schemas.items()}
        for name, table in tables.items():
            connection.execute(f"CREATE VIEW library.{_name(name)} AS {table.select}")
        columns: dict[str, Collection[str]] = {name: table.columns for name, table in tables.items()}
        for name, provider in extra.items():
            columns[name] = ()
            _provide(connection, name, provider())
        selects = {name: f"FROM library.{_name(name)}" for name in columns}
        selects |= {view.name: view.select for view in views if view.possible(columns)}
        for name, select in selects.items():
            connection.execute(f"CREATE VIEW {_name(name)} AS {select}")
        return tables

    def _stored(
        self, connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, scope: Scope | None
    ) -> _Stored:
        only = None if scope is None or name in SHARED else scope.media_ids
        is_empty = scope is not None and not scope.media_ids
        stored = self._tables.stored(name, only) if not is_empty and self._tables.exists(name) else None
        if stored is not None:
            schema = pa.schema([*schema, *(f for f in stored.schema if f.name not in schema.names)])
        types = connection.from_arrow(schema.empty_table()).types
        present = stored.columns if stored else frozenset()
        columns = [_column(f, str(t), f.name in present) for f, t in zip(schema, types, strict=True)]
        if stored is None or not stored.files:
            return _Stored(f"SELECT {', '.join(columns)} WHERE false", tuple(schema.names), ())
        files = ", ".join(_literal(file) for file in stored.files)
        select = f"SELECT {', '.join(columns)} FROM read_parquet([{files}], union_by_name = true)"  # noqa: S608 - quoted
        if only is not None:
            select += f" SEMI JOIN library.{SCOPE} USING (media_id)"
        return _Stored(select, tuple(schema.names), stored.files)


def _provide(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    connection.register("provided", rows)
    connection.execute(f"CREATE TABLE library.{_name(name)} AS FROM provided")
    connection.unregister("provided")


def _column(field: pa.Field, kind: str, present: bool) -> str:
    name = _name(field.name)
    if not present:
        return f"CAST(NULL AS {kind}) AS {name}"
    length = dimension_of(field)
    # Parquet knows no vectors of fixed length; DuckDB's distance functions want them.
    return f"CAST({name} AS FLOAT[{length}]) AS {name}" if length else name


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
