"""The walls around SQL that a command asks for its user: beyond them the process ends, which has nothing else to do."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from media_pipeline.config import SqlLimits

GRACE_S = 5.0  # after the time of a query: a query that DuckDB can stop has stopped long before


@contextmanager
def bounded(limits: SqlLimits) -> Iterator[None]:
    """Holds what is asked meanwhile to the limits, whatever it computes.

    DuckDB looks whether it shall stop between the vectors it works on, not inside a function: one `levenshtein` of two
    long texts takes minutes under a limit of seconds. Nothing may be half written meanwhile, as nothing is cleared up.
    """
    from media_pipeline.storage.query import process_memory_limit, too_long

    said = f"media-pipeline: {too_long(limits)}\n".encode()
    timer = threading.Timer(limits.max_seconds + GRACE_S, _end, [said])
    timer.daemon = True
    timer.start()
    try:
        with process_memory_limit(limits):
            yield
    finally:
        timer.cancel()
        timer.join()


def _end(said: bytes) -> None:
    # As a failed command ends, but without waiting for the thread that does not end.
    os.write(2, said)
    os._exit(1)
