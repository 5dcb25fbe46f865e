"""Metrics of Dagster: runs by status, the queue, and how long ago each daemon gave a sign of life.

Read from the tables of its run storage, in PostgreSQL or SQLite: importing Dagster for three questions would take a
hundred megabytes. A test asks Dagster the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from media_pipeline.errors import MediaPipelineError
from media_pipeline.server.metrics_source import Part, Render, Source, gauge
from media_pipeline.server.postgres import connected
from media_pipeline.storage.sqlite import connect_to_read

EVERY_S = 15.0
_TIMEOUT_S = 5
_STATUSES = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING", "CANCELED", "SUCCESS", "FAILURE")
_RECENT_S = 3600.0
_FORGOTTEN_S = 24 * 3600.0

_RUNS = "SELECT status, count(*), min(create_timestamp) FROM runs GROUP BY status"
_BEATS = "SELECT daemon_type, max(timestamp) FROM daemon_heartbeats GROUP BY daemon_type"
_ENDED = "SELECT count(*), coalesce(sum(end_time - start_time), 0) FROM runs WHERE end_time > {}"
_LAST_BACKUP = (
    "SELECT status FROM runs WHERE pipeline_name = 'backup_home' AND end_time IS NOT NULL ORDER BY id DESC LIMIT 1"
)

Ask = Callable[[str], list[tuple[Any, ...]]]


def dagster_source(home: Path) -> Source:
    """Runs and daemons; where its instance has no PostgreSQL, from the SQLite file in its place."""
    return Source(("dagster",), lambda: {"dagster": Part(_read(home))}, EVERY_S)


def _read(home: Path) -> Render:
    configuration = home / "dagster" / "dagster.yaml"
    if configuration.exists() and "postgres" in configuration.read_text(encoding="utf-8"):
        return _of_postgres()
    file = home / "dagster" / "history" / "runs.db"
    if not file.exists():
        return lambda _: ()  # nobody has worked here yet
    with closing(connect_to_read(file)) as database:
        return _render(lambda sql: database.execute(sql).fetchall())


def _of_postgres() -> Render:
    import psycopg2  # type: ignore[import-untyped]

    try:
        with connected(timeout_s=_TIMEOUT_S) as connection, connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {_TIMEOUT_S * 1000}")

            def ask(sql: str) -> list[tuple[Any, ...]]:
                cursor.execute(sql)
                return list(cursor.fetchall())

            return _render(ask)
    except psycopg2.errors.UndefinedTable:
        raise MediaPipelineError("Dagster has made no tables yet", "start its daemon") from None
    except psycopg2.Error as error:
        cause = " ".join(str(error).split())[:300]
        raise MediaPipelineError(f"PostgreSQL does not answer ({cause})", "`make logs` shows what it says") from None


def _render(ask: Ask) -> Render:
    now = datetime.now(UTC).timestamp()
    runs = {status: (count, _seconds(oldest)) for status, count, oldest in ask(_RUNS)}
    signed = {name: at for name, at in ((name, _seconds(at)) for name, at in ask(_BEATS)) if at is not None}
    # Kinds of daemons that an older release had go on standing in the table.
    beats = {name: at for name, at in signed.items() if at > max(signed.values()) - _FORGOTTEN_S}
    ended, took = ask(_ENDED.format(now - _RECENT_S))[0]
    backup = ask(_LAST_BACKUP)
    queued, queued_since = runs.get("QUEUED", (0, None))

    def render(now: float) -> Iterable[Metric]:
        by_status = gauge("runs", "Runs that Dagster keeps, by status.", labels=("status",))
        for status in _STATUSES:
            by_status.add_metric([status.lower()], runs.get(status, (0, None))[0])
        yield by_status
        yield gauge("runs_queued", "Runs that wait for their turn.", queued)
        yield gauge(
            "runs_oldest_queued_age_seconds",
            "Since the oldest of them was asked for; 0: none waits.",
            max(0.0, now - queued_since) if queued_since is not None else 0.0,
        )
        yield gauge("runs_ended_last_hour", "Runs that ended within the last hour.", ended)
        yield gauge(
            "run_mean_duration_seconds", "Mean length of those; 0: there was none.", took / ended if ended else 0.0
        )
        heartbeats = gauge("daemon_heartbeat_age_seconds", "Since a daemon's last sign of life.", labels=("daemon",))
        for name, at in sorted(beats.items()):
            heartbeats.add_metric([name.lower()], max(0.0, now - at))
        yield heartbeats
        if backup:
            failed = gauge("backup_last_failed", "1: the last attempt failed.", labels=("kind",))
            failed.add_metric(["home"], int(backup[0][0] != "SUCCESS"))
            yield failed

    return render


def _seconds(value: object) -> float | None:
    """Seconds since 1970 of a time in UTC, as either database gives it."""
    if value is None or isinstance(value, int | float):
        return value
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
