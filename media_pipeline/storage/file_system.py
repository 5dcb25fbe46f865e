"""Which file system a path lies on, as far as it matters: whether other machines may write there, too."""

from __future__ import annotations

import os
from pathlib import Path

# Of /proc/self/mountinfo. `virtiofs` and `9p` are folders of a host that several of its machines may share.
_SHARED = frozenset(
    ("9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "virtiofs")
)
_MOUNTS = Path("/proc/self/mountinfo")


def is_shared(path: Path) -> bool:
    """Whether this path, which need not exist, lies on a file system that other machines may have mounted."""
    kind = file_system(path)
    # GlusterFS, sshfs, S3 as folders: a program in between, and nearly always a network behind it.
    return kind in _SHARED or kind.startswith("fuse.")


def file_system(path: Path) -> str:
    """The type of the file system that holds this path ("ext4", "nfs4", "fuse.glusterfs"); "" where nobody tells."""
    real = os.path.realpath(path)
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return ""
    best, found = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        # Of two that are mounted on the same folder the later one is seen.
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, found = point, after.split(" ")[0]
    return found


def _unescaped(text: str) -> str:
    """Blanks, tabs, line breaks and backslashes stand as octal numbers in that file (proc(5))."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text
