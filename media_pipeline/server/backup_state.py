"""What the backup notes of itself: `backup_status.json`, which the metrics read, and the lock of its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout

from media_pipeline.config import Settings
from media_pipeline.errors import StorageConflict, UsageError

STATUS = "backup_status.json"
ALIVE = "alive"  # touched while the loop goes round: its age is the health of the container
_DIGESTS = "digests.json"


@dataclass(slots=True)
class Status:
    """How the last backup went. What is said of a snapshot is of the last one that went well."""

    started_at: str | None = None  # ISO 8601, UTC
    finished_at: str | None = None
    ok: bool = False
    error: str | None = None  # of the last backup, else of the last check
    last_success_at: str | None = None
    snapshot_id: str | None = None
    bytes_added: int = 0
    bytes_total: int = 0  # of the files of the snapshot
    files_unmodified: int = 0
    seconds: float = 0.0
    problems: int = 0  # files that are not in the snapshot
    forgotten: int = 0  # snapshots
    prune_error: str | None = None
    checked_at: str | None = None
    check_error: str | None = None  # None: the last check found no damage
    next_at: str | None = None


class BusyError(StorageConflict):
    """Another command of this installation works on the backups; it will note how it ended."""


class State:
    """The folder `MEDIA_PIPELINE_SERVER__BACKUP_STATE`.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.server.backup_state
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be written: {error.strerror}",
                "name another folder with MEDIA_PIPELINE_SERVER__BACKUP_STATE",
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One backup, check or prune of this installation at a time.

        Raises:
            BusyError: there is one.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise BusyError("another backup, check or prune of this installation runs", "let it finish") from None
        try:
            yield
        finally:
            lock.release()

    def status(self) -> Status:
        """The last one; an empty one where there is none or none that can be read."""
        known = {field.name for field in fields(Status)}
        try:
            found = json.loads((self.folder / STATUS).read_text(encoding="utf-8"))
            return Status(**{name: value for name, value in found.items() if name in known})
        except (OSError, ValueError, TypeError, AttributeError):
            return Status()

    def write(self, status: Status) -> None:
        # Readable for the metrics, which run in another container; there is no secret in it.
        self._write(STATUS, asdict(status), mode=0o644)

    def digests(self) -> dict[str, str]:
        try:
            found = json.loads((self.folder / _DIGESTS).read_text(encoding="utf-8"))
            return {str(key): str(value) for key, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def keep_digests(self, digests: dict[str, str]) -> None:
        self._write(_DIGESTS, digests, mode=0o600)

    def touch(self) -> None:
        (self.folder / ALIVE).touch()

    def _write(self, name: str, value: Any, mode: int) -> None:
        partial = self.folder / f".{name}.partial"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(mode)
        partial.replace(self.folder / name)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def parsed(at: str | None) -> datetime | None:
    """A time of ours; None where it is none."""
    try:
        found = datetime.fromisoformat(at) if at else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)
