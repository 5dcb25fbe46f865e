"""How much of the inbox's disk uploads may take: what is free, without what stays so and what was promised to others.

Promises are kept in memory: thousands of uploads ask, and each would read the notes of all others.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from .refusal import disk_full

# Small: an upload of unknown length needs as much of it left, however short it is.
STEP_BYTES = 8 << 20


class Room:
    """Args:
    folder: on the disk
    min_free_bytes: of the disk, which uploads leave
    """

    def __init__(self, folder: Path, min_free_bytes: int) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._promised: dict[Path, int] = {}
        self._lock = threading.Lock()

    def free(self) -> int:
        """Bytes that new uploads may take."""
        with self._lock:
            return max(0, self._left())

    def promise(self, file: Path, length: int) -> None:
        """The file, which is there, may grow to this length.

        Raises:
            Refused: so much is not left
        """
        with self._lock:
            self._promise(file, length)

    def go_on(self, file: Path, coming: int) -> None:
        """Asked every STEP_BYTES, before these bytes are written: not only uploads fill the disk, and some do not say
        how long they are, which are promised a step at a time.

        Raises:
            Refused: the disk is full
        """
        with self._lock:
            arrived = file.stat().st_size
            if arrived + coming > self._promised.get(file, 0):
                self._promise(file, arrived + max(coming, STEP_BYTES))
            elif shutil.disk_usage(self._folder).free < self._min_free_bytes:
                raise disk_full(0)

    def restore(self, file: Path, length: int) -> None:
        """What was promised before the service was started anew."""
        with self._lock:
            self._promised[file] = length

    def forget(self, file: Path) -> None:
        with self._lock:
            self._promised.pop(file, None)

    def _promise(self, file: Path, length: int) -> None:
        left = self._left()
        if length - file.stat().st_size > left:
            raise disk_full(max(0, left))
        self._promised[file] = length

    def _left(self) -> int:
        # In this order: what arrives in between is then counted twice, not never.
        missing = sum(_missing(file, length) for file, length in self._promised.items())
        return shutil.disk_usage(self._folder).free - self._min_free_bytes - missing


def _missing(file: Path, length: int) -> int:
    try:
        return max(0, length - file.stat().st_size)
    except OSError:
        return 0  # it has just been finished or given up
