"""Which files of a home belong into a backup, and of which sort each is.

Everything does, unless it can be made again or is only there for a moment: a file that a later release adds is backed
up before anybody thinks of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from media_pipeline.storage._backup_cut import is_database
from media_pipeline.storage.layout import STAGE, Layout

# Made again from the tables when they are used next; locks are nothing but names; keys of rented machines open nothing
# by the time a backup is restored. `STAGE` is what the other kind of backup lays out for itself.
_DERIVED = ("indexes", "locks", "gpu", STAGE)
_WAREHOUSE = ("warehouse.duckdb", ".warehouse.duckdb-")
_MOMENTARY = (".incoming",)  # what a living process writes just now
_SIDE_FILES = ("-wal", "-shm", "-journal")  # of a database: part of what SQLite itself hands over
_FOREIGN = ("inbox", "originals")  # what calls itself a database there came from outside: SQLite never opens it


@dataclass(frozen=True, slots=True)
class Found:
    """One file to be backed up."""

    path: Path
    name: str  # below the home
    stat: os.stat_result
    database: bool


@dataclass(slots=True)
class Scan:
    """The files of a home but for those of Delta tables."""

    files: list[Found] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)  # permissions by name
    left_out: dict[str, str] = field(default_factory=dict)  # reason by name


def scan(layout: Layout, *, without: Collection[str]) -> Scan:
    """Looks at every folder of the home but its tables and these at the top. Reads no file but its first bytes."""
    found = Scan()
    for entry in _entries(layout.home):
        if entry.name in _DERIVED or entry.name in without or entry.name.startswith(_WAREHOUSE):
            continue
        if Path(entry.path) in (layout.tables, layout.kept):
            continue  # `_backup_cut` knows which of their files count
        # A link at the top is the owner's own: `originals` on another disk. One further down came with the media.
        _look(found, layout.home, entry, follow=True)
    return found


def _look(found: Scan, home: Path, entry: os.DirEntry[str], *, follow: bool = False) -> None:
    name = os.path.relpath(entry.path, home)
    try:
        status = entry.stat(follow_symlinks=follow)
        if stat.S_ISDIR(status.st_mode):
            found.folders[name] = stat.S_IMODE(status.st_mode)
            if entry.name not in _MOMENTARY:
                for below in _entries(entry.path):
                    _look(found, home, below)
        elif not stat.S_ISREG(status.st_mode):
            found.left_out[name] = "neither a file nor a folder"
        elif Path(name).parts[0] in _FOREIGN:
            found.files.append(Found(Path(entry.path), name, status, database=False))
        elif not _is_side_file(entry.path):
            found.files.append(Found(Path(entry.path), name, status, database=is_database(Path(entry.path))))
    except FileNotFoundError:
        pass  # gone since it was listed
    except OSError as error:
        found.left_out[name] = error.strerror or str(error)


def _entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from sorted(entries, key=lambda entry: entry.name)


def _is_side_file(path: str) -> bool:
    base = next((path.removesuffix(suffix) for suffix in _SIDE_FILES if path.endswith(suffix)), None)
    return base is not None and Path(base).exists() and is_database(Path(base))
