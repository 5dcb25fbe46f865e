"""What a command costs: CPU of the whole process tree, wall time, peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

SAMPLE_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one finished command."""

    cpu_s: float  # user and system, of the process and every descendant it waited for
    wall_s: float
    peak_bytes: int  # proportional set size, summed over the tree
    exit_code: int
    output: str


def measure(command: Sequence[str], env: Mapping[str, str] | None = None) -> Usage:
    """Run the command to its end and account for it."""
    with tempfile.TemporaryFile("w+") as sink:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        peak = _PeakMemory(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        sink.seek(0)
        return Usage(usage.ru_utime + usage.ru_stime, wall, peak.stop(), process.returncode, sink.read())


def python(module: str, *args: str) -> list[str]:
    return [sys.executable, "-m", module, *args]


class _PeakMemory:
    """Looks at the tree now and then, in a thread."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_EVERY_S):
            self._peak = max(self._peak, self._tree_bytes())

    def _tree_bytes(self) -> int:
        total = 0
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return 0
        for process in processes:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue  # gone between the listing and the look
        return total
