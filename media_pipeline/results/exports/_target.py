"""Where an export goes: whole files or none, and folders in which an interrupted export goes on."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from filelock import FileLock, Timeout

from media_pipeline.errors import DiskFull, UsageError

_NAME_CHARS = 180  # file systems allow 255 bytes, suffix and temporary prefix included
_UNSAFE = re.compile(r"[^A-Za-z0-9._~-]")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that appears under its name when the block ends well and has written something.

    Raises:
        DiskFull, UsageError: it cannot be written; what was there before stays.
    """
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as sink:
            yield sink
        if fresh.stat().st_size:
            fresh.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room left for {path}", "free some space or choose another place") from error
        if error.filename is None:  # not of the file system: a reader's pipe, or DuckDB's through Arrow
            raise
        raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another place") from error
    finally:
        with suppress(OSError):  # there may be no such folder
            fresh.unlink(missing_ok=True)


def file_name(partition_key: str, media_id: str) -> str:
    """A name for the files of a medium that is one on every file system: the partition key, as it is nearly always.

    Keys come from file names and are clean already; one that is not gets the media_id behind it.
    """
    name = _UNSAFE.sub("_", partition_key).lstrip(".")[:_NAME_CHARS]
    return name if name == partition_key else f"{name}~{media_id[:12]}"


class Folder:
    """A folder that receives an export of many files.

    What is finished is noted in it, so that an export that was cut off goes on where it stopped, provided that it
    is the same export of the same state. Units are finished in the order of their names.

    Args:
        state: everything that decides what the files hold

    Raises:
        UsageError: another export writes there.
    """

    def __init__(self, path: Path, format_: str, state: object) -> None:
        self.path = path
        self._note = path / f".export-{format_}.json"
        self._state = hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / ".export.lock", fallback_to_soft=False)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"another export is writing to {path}", "wait for it or choose another folder") from None
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}", "choose another folder") from error

    def __enter__(self) -> Folder:
        for left_behind in self.path.glob(".*.part"):  # of a process that was killed; the lock says it is gone
            left_behind.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._note.unlink(missing_ok=True)
        self._lock.release()
        (self.path / ".export.lock").unlink(missing_ok=True)

    @property
    def finished(self) -> str:
        """The last unit that an interrupted export of this state has finished; empty where it begins anew."""
        try:
            noted = json.loads(self._note.read_text("utf-8"))
            return str(noted["finished"]) if noted["state"] == self._state else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def finish(self, unit: str) -> None:
        """All units up to this one are there."""
        with whole_file(self._note) as sink:
            sink.write(json.dumps({"state": self._state, "finished": unit}).encode())
