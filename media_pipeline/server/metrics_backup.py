"""Metrics of backups: of the installation, from the file that its backup leaves behind, and of the home."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from media_pipeline.errors import MediaPipelineError
from media_pipeline.server.metrics_source import Part, Source, gauge

STATUS_FILE = "backup_status.json"
EVERY_S = 60.0


def backup_source(folder: Path, first_medium_at: Callable[[], float | None]) -> Source:
    """The backup of the installation, which says in a file how its last attempt went.

    Args:
        folder: where it keeps that file; not there: nobody backs up here, and there is nothing to be told
        first_medium_at: since when there is something to be lost
    """

    def read() -> Mapping[str, Part]:
        if not folder.parent.is_dir() and not folder.is_dir():
            return {"backup": Part(lambda _: ())}
        found = read_status(folder / STATUS_FILE)
        return {"backup": Part(lambda now: backup_metrics("installation", found, now, first_medium_at()))}

    return Source(("backup",), read, EVERY_S)


def read_status(file: Path) -> dict[str, Any]:
    """What is known of the last attempt and the last good one; empty: there was none.

    Raises: MediaPipelineError.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise MediaPipelineError(f"{file} cannot be read ({error.strerror})", "mend its rights") from error
    try:
        found = json.loads(text)
        return {
            # The first one runs: it has neither failed nor come to an end.
            **({} if found["finished_at"] is None else {"failed": not found["ok"] or bool(found.get("check_error"))}),
            "finished_at": _seconds(found["last_success_at"]),
            "bytes_added": found["bytes_added"] if found["ok"] else None,
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MediaPipelineError(f"{file} is not what a backup writes ({error})", "wait for the next backup") from error


def _seconds(value: object) -> float | None:
    if value is None or isinstance(value, int | float):
        return value
    return datetime.fromisoformat(str(value)).timestamp()


def backup_metrics(kind: str, found: Mapping[str, Any], now: float, first_at: float | None = None) -> Iterable[Metric]:
    """Age, size and failure of one kind of backup; without a good one its age counts from `first_at` on."""
    good = found.get("finished_at")
    since = good if good is not None else first_at
    age = gauge(
        "backup_age_seconds", "Since the last good backup, or since there is something to lose.", labels=("kind",)
    )
    age.add_metric([kind], max(0.0, now - since) if since is not None else 0.0)
    yield age
    if good is not None:
        last = gauge("backup_last_success_timestamp_seconds", "When the last good backup ended.", labels=("kind",))
        last.add_metric([kind], good)
        yield last
    if found.get("bytes_added") is not None:
        added = gauge("backup_last_added_bytes", "What the last backup added.", labels=("kind",))
        added.add_metric([kind], found["bytes_added"])
        yield added
    if "failed" in found:
        failed = gauge("backup_last_failed", "1: the last attempt failed, or a check found damage.", labels=("kind",))
        failed.add_metric([kind], int(found["failed"]))
        yield failed
