"""PostgreSQL as the containers of a server reach it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from media_pipeline.config import postgres_access

USER = DATABASE = "dagster"


@contextmanager
def connected(*, timeout_s: int = 10) -> Iterator[Any]:
    """A connection (psycopg2) to Dagster's database, closed at the end.

    Raises:
        psycopg2.OperationalError: it cannot be reached.
    """
    import psycopg2  # type: ignore[import-untyped]

    host, password = postgres_access()
    connection = psycopg2.connect(
        host=host, user=USER, dbname=DATABASE, password=password, connect_timeout=timeout_s, application_name="alive"
    )
    try:
        yield connection
    finally:
        connection.close()
