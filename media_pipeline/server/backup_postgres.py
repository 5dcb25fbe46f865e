"""Dagster's PostgreSQL database in a backup: dumped and counted as it is at one instant, and restored.

The password goes to `pg_dump` in the environment of that one child.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from media_pipeline.config import Settings, child_environment, postgres_access
from media_pipeline.errors import DamagedBackup, DiskFull, MediaPipelineError, TransientError, UsageError
from media_pipeline.server.backup_child import Tick, run_child

USER = DATABASE = "dagster"
_CONNECT_TIMEOUT_S = 20
# What the text of a row depends on besides the row.
_SAME_TEXT = "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET extra_float_digits = 1; SET bytea_output = 'hex'"


@dataclass(frozen=True, slots=True)
class Rows:
    """What one table holds, in whatever order."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """A database at one instant."""

    server_version: str
    tables: Mapping[str, Rows]

    @property
    def runs(self) -> int:
        """Of Dagster."""
        return self.tables["runs"].rows if "runs" in self.tables else 0

    @property
    def partitions(self) -> int:
        return self.tables["dynamic_partitions"].rows if "dynamic_partitions" in self.tables else 0


def is_used(settings: Settings) -> bool:
    """Whether Dagster's storage is in PostgreSQL; else it is in the home."""
    return bool(child_environment(settings).get("DAGSTER_POSTGRES_HOST"))


def dump(settings: Settings, target: Path, tick: Tick) -> PostgresFacts:
    """Writes the database to a file, and says what is in it.

    The file is not compressed: parts that are the same in two dumps are then the same bytes, and stored once.

    Raises:
        TransientError: the server cannot be reached.
        DiskFull: no room for the file.
        MediaPipelineError: pg_dump says no.
    """
    with _connected(DATABASE) as connection, connection.cursor() as cursor:
        # Both see what this transaction sees.
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT pg_export_snapshot()")
        (snapshot,) = cursor.fetchone()
        command = ["pg_dump", "--format=custom", "--compress=0", "--no-owner", f"--snapshot={snapshot}"]
        done = run_child([*command, "--no-password", f"--file={target}"], _environment(settings, DATABASE), tick)
        if done.returncode != 0:
            raise _explained("pg_dump", done.stderr, target.parent)
        target.chmod(0o600)
        tick()
        return _facts(cursor)


def facts(database: str = DATABASE) -> PostgresFacts:
    """Of a database now."""
    with _connected(database) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return _facts(cursor)


def counts(database: str = DATABASE) -> dict[str, int]:
    """Rows by table, without looking at them."""
    with _connected(database) as connection, connection.cursor() as cursor:
        return {name: _one(cursor, f'SELECT count(*) FROM "{name}"') for name in _tables(cursor)}  # noqa: S608


def require_empty(database: str) -> None:
    """
    Raises:
        UsageError: there are tables in it, or there is no such database.
    """
    with _connected(database) as connection, connection.cursor() as cursor:
        found = _tables(cursor)
    if found:
        raise UsageError(
            f"the database {database} is not empty: it has {len(found)} tables",
            "nothing is ever overwritten: stop the installation, and make the database anew",
        )


def load(settings: Settings, source: Path, database: str, tick: Tick) -> None:
    """All of a dump or nothing, into an empty database."""
    command = ["pg_restore", "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    done = run_child(
        [*command, "--no-password", f"--dbname={database}", str(source)], _environment(settings, database), tick
    )
    if done.returncode != 0:
        raise _explained("pg_restore", done.stderr, source.parent)


@contextmanager
def scratch_database() -> Iterator[str]:
    """A database that is gone afterwards.

    Raises:
        UsageError: the user may not make one.
    """
    import psycopg2  # type: ignore[import-untyped]

    name = f"restore_drill_{secrets.token_hex(4)}"
    with _connected(DATABASE) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        except psycopg2.errors.InsufficientPrivilege:
            raise UsageError(
                f"the user {USER} of PostgreSQL may not make a scratch database", f"ALTER ROLE {USER} CREATEDB"
            ) from None
    try:
        yield name
    finally:
        with _connected(DATABASE) as connection, connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _environment(settings: Settings, database: str) -> dict[str, str]:
    everything = child_environment(settings)
    host, password = postgres_access()
    names = {"PATH": everything.get("PATH", ""), "LANG": "C.UTF-8"}
    libpq = {"PGHOST": host, "PGUSER": USER, "PGDATABASE": database, "PGPASSWORD": password}
    return names | libpq | {"PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT_S)}


@contextmanager
def _connected(database: str) -> Iterator[Any]:
    import psycopg2

    host, password = postgres_access()
    try:
        connection = psycopg2.connect(
            host=host, user=USER, dbname=database, password=password, connect_timeout=_CONNECT_TIMEOUT_S
        )
    except psycopg2.OperationalError as error:
        text = " ".join(str(error).split())
        if "password authentication failed" in text or "does not exist" in text:
            raise UsageError(
                f"PostgreSQL refuses ({text})", "look at postgres_password and the database's name"
            ) from None
        raise TransientError(f"PostgreSQL cannot be reached ({text})", "start it") from None
    with closing(connection):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_SAME_TEXT)
        yield connection


def _facts(cursor: Any) -> PostgresFacts:
    cursor.execute("SHOW server_version")
    (version,) = cursor.fetchone()
    found = {}
    for name in _tables(cursor):
        # The sum of hashes of the rows does not depend on their order, which a restore may change.
        query = "SELECT count(*), coalesce(sum(('x' || substr(md5(t::text), 1, 15))::bit(60)::bigint), 0)::text"
        cursor.execute(f'{query} FROM "{name}" t')
        found[name] = Rows(*cursor.fetchone())
    return PostgresFacts(version, found)


def _tables(cursor: Any) -> list[str]:
    cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return [name for (name,) in cursor.fetchall()]


def _one(cursor: Any, query: str) -> int:
    cursor.execute(query)
    return int(cursor.fetchone()[0])


def _explained(program: str, said: str, folder: Path) -> MediaPipelineError:
    lines = [line for line in said.splitlines() if line.strip()]
    text = " ".join(lines[-3:])
    if "No space left on device" in said:
        return DiskFull(f"no room left on the device of {folder}", "free some space and run it again")
    if "server version mismatch" in said:
        return UsageError(f"{program} is older than the server ({text})", "install the client of the server's version")
    if "could not connect" in said or "Connection refused" in said or "could not translate host" in said:
        return TransientError(f"PostgreSQL cannot be reached ({text})", "start it")
    if program == "pg_restore":
        return DamagedBackup(f"pg_restore cannot restore the database ({text})", "try another snapshot")
    return MediaPipelineError(f"{program} failed ({text})", "see docs/operations-backup.md")
