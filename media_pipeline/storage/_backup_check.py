"""Whether backups are what they say: every stored byte (`verify`), and a restored home as a whole (`examine`)."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from deltalake import DeltaTable

from media_pipeline.errors import DamagedBackup
from media_pipeline.storage._backup_io import hashed
from media_pipeline.storage._backup_manifest import Snapshot, TableVersion
from media_pipeline.storage._backup_repository import Repository

OnProgress = Callable[[str, int, int], None]  # object, objects done, objects in all
_FILES_NAMED = 5  # of those that a damaged object breaks


@dataclass(frozen=True, slots=True)
class Damage:
    """One object or list that is not what was written."""

    name: str  # hash of the object, or id of the snapshot
    what: str  # changed, gone, unreadable
    snapshots: tuple[str, ...]  # that need it
    files: tuple[str, ...]  # some of those it belongs to, by path below the home
    meaning: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at every object found."""

    snapshots: int
    objects: int
    bytes: int
    unnamed: int  # objects that no snapshot needs, left by interrupted backups: `prune` removes them
    damages: tuple[Damage, ...]


def verify(repository: Repository, progress: OnProgress = lambda *_: None) -> Verified:
    """Reads everything that is stored. A damaged object is set aside: the next backup stores its content anew.

    Raises:
        StorageConflict: a backup is running.
    """
    with repository.locked():
        ids = repository.snapshots()
        needed, damages = _needed(repository, ids)
        present = set(repository.objects())
        size = 0
        for done, digest in enumerate(sorted(needed), 1):
            what, read = _look(repository, digest) if digest in present else ("gone", 0)
            size += read
            if what is not None:
                damages.append(_explained(repository, digest, what, needed[digest]))
                if what == "changed":
                    repository.condemn(digest)
            progress(digest, done, len(needed))
    return Verified(len(ids), len(needed), size, len(present - needed.keys()), tuple(damages))


def examine(home: Path, snapshot: Snapshot) -> Iterator[str]:
    """What is wrong with a restored home: its tables and databases are opened and counted."""
    for table in snapshot.head.tables:
        yield from _table(home, table)
    for file in snapshot.files:
        if file.kind == "database":
            yield from _database(home / file.path, file.path)


def _needed(repository: Repository, ids: list[str]) -> tuple[dict[str, list[str]], list[Damage]]:
    """Snapshots by the objects they name, and the lists that cannot be read."""
    needed: dict[str, list[str]] = defaultdict(list)
    damages = []
    for snapshot_id in ids:
        try:
            digests = set(repository.load(snapshot_id).digests())
        except DamagedBackup as error:
            meaning = "this snapshot cannot be restored; the others are not affected"
            damages.append(Damage(snapshot_id, error.cause, (snapshot_id,), (), meaning))
            continue
        for digest in digests:
            needed[digest].append(snapshot_id)
    return needed, damages


def _look(repository: Repository, digest: str) -> tuple[str | None, int]:
    """What is wrong with an object, and its bytes."""
    try:
        with repository.object_path(digest).open("rb") as file:
            found, size = hashed(file.fileno())
    except Exception as error:  # a disk that fails while it is read says so in several ways
        return f"unreadable: {error}", 0
    return (None if found == digest else "changed"), size


def _explained(repository: Repository, digest: str, what: str, snapshots: list[str]) -> Damage:
    files = [file.path for file in repository.load(snapshots[-1]).files if digest in file.parts]
    return Damage(
        name=digest,
        what=what,
        snapshots=tuple(snapshots),
        files=tuple(files[:_FILES_NAMED]),
        meaning=f"{len(files)} files cannot be restored from these snapshots; the next backup stores them anew, "
        "if the home still has them",
    )


def _table(home: Path, expected: TableVersion) -> Iterator[str]:
    folder = home / expected.path
    try:
        delta = DeltaTable(folder.absolute().as_uri())
        names = delta.file_uris()
        rows = sum(pq.read_metadata(folder / Path(name).name).num_rows for name in names)
    except Exception as error:  # whatever keeps a table from being read is the finding
        yield f"table {expected.path} cannot be read: {error}"
        return
    found = TableVersion(expected.path, delta.version(), len(names), rows)
    if found != expected:
        yield f"table {expected.path}: {_counts(found)} instead of {_counts(expected)}"


def _counts(table: TableVersion) -> str:
    return f"version {table.version}, {table.files} files, {table.rows} rows"


def _database(path: Path, name: str) -> Iterator[str]:
    try:
        with closing(sqlite3.connect(path)) as database:
            answer = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        answer = str(error)
    if answer != "ok":
        yield f"database {name}: {answer}"
