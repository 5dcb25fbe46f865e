"""Processes named in a way that no later one shares: who holds what, and whether they are still there."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


def signature(pid: int | None = None) -> str:
    """Host, boot, process id and its start in clock ticks.

    Raises:
        ProcessLookupError: there is no such process, or only what its parent has not buried yet.
    """
    pid = os.getpid() if pid is None else pid
    try:
        # Fields 3 and 22 of proc(5); the name before them may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    state, start_ticks = fields[0], fields[19]
    if state in "ZX":
        raise ProcessLookupError(pid)
    return f"{socket.gethostname()}:{boot_id()}:{pid}:{start_ticks}"


def is_alive(signed: str) -> bool | None:
    """Whether the process that signed so still runs; None where it cannot be seen from here: on another host."""
    host, boot, pid, _ = signed.rsplit(":", 3)
    if host != socket.gethostname():
        return None
    try:
        return boot == boot_id() and signature(int(pid)) == signed
    except ProcessLookupError:
        return False


@cache
def boot_id() -> str:
    """Names this start of this machine's kernel; the same in all its containers."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
