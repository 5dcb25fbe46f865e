"""Folders that are being written, and what killed processes left of theirs.

    .incoming/<random>-<media_id>/        being written
              <random>-<media_id>.lock    locked by the process that asked for the folder, while it lives; holds the id
                                          of the boot that process belongs to

Process ids tell nothing here: servers and containers that share a home have their own. The sandbox that writes into a
folder does not hold its lock: it ends with the process that does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from pathlib import Path

from media_pipeline.media.locked import create_locked, unheld
from media_pipeline.storage.file_system import is_shared
from media_pipeline.storage.processes import boot_id

_LOCK = ".lock"
# Nobody writes for so long without adding a byte: a decoder that makes no progress is ended after minutes.
_OLD_S = 24 * 3600.0


class Incoming:
    """The folders being written below one. Safe to use from several threads, processes and machines."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[Path, int] = {}  # open lock files by folder

    def make(self, media_id: str) -> Path:
        """A new empty folder, this process's own until `release` or `remove`.

        Raises:
            OSError: it cannot be made.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        handle, lock = create_locked(self._root, f"-{media_id}{_LOCK}")
        folder = lock.with_suffix("")
        self._held[folder] = handle
        try:
            os.write(handle, boot_id().encode())
            folder.mkdir()
        except BaseException:
            self.release(folder)
            raise
        return folder

    def release(self, folder: Path) -> None:
        """The folder has gone elsewhere, or nobody wants it any more."""
        with contextlib.suppress(OSError):
            _lock_of(folder).unlink()
        handle = self._held.pop(folder, None)
        if handle is not None:
            os.close(handle)

    def remove(self, folder: Path) -> None:
        """Removes a folder with all that is in it."""
        shutil.rmtree(folder, ignore_errors=True)
        self.release(folder)

    def discard(self, folder: Path, media_id: str) -> None:
        """Removes a complete folder from elsewhere: it is out of everybody's sight at once.

        Raises:
            OSError: it is not there, or cannot be moved.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        self.remove(folder.rename(self._root / f"{secrets.token_hex(16)}-{media_id}"))

    def forget(self, media_id: str) -> None:
        """Removes all there is of a medium. Nobody may be writing it."""
        for path in [*self._root.glob(f"*-{media_id}"), *self._root.glob(f"*-{media_id}{_LOCK}")]:
            self.remove(path.with_suffix(""))

    def bury(self) -> None:
        """Removes what killed processes left behind; never what may still be written."""
        locks_hold = not is_shared(self._root)
        for lock in self._root.glob(f"*{_LOCK}"):
            with unheld(lock) as handle:
                if handle is not None and (locks_hold or _is_certain(handle, lock)):
                    self.remove(lock.with_suffix(""))
        beside = {path.name: path for path in self._root.glob("*")}
        for name, folder in beside.items():
            # What was being discarded, or written by a version that locked nothing.
            if not name.endswith(_LOCK) and f"{name}{_LOCK}" not in beside and _is_old(folder):
                self.remove(folder)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK)


def _is_certain(handle: int, lock: Path) -> bool:
    """Whether a lock that is free here is free everywhere: mounts of a network may keep locks to their own machine."""
    mine = os.pread(handle, 100, 0).decode("ascii", "replace") == boot_id()
    return mine or (_is_old(lock) and _is_old(lock.with_suffix("")))


def _is_old(path: Path) -> bool:
    """Whether nothing was written there for long; true where there is nothing."""
    try:
        newest = path.stat().st_mtime
        if path.is_dir():
            newest = max([newest, *(file.stat().st_mtime for file in path.iterdir())])
    except FileNotFoundError:
        return not path.exists()  # else somebody is at work in it
    except OSError:
        return False
    return time.time() - newest > _OLD_S
