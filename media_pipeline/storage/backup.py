"""Backups of a home: consistent while it is written to, incremental, every byte under its hash.

A snapshot holds one instant of all tables and databases (`_backup_cut`) and, copied afterwards, the originals and
everything else that cannot be made again. Originals are stored before anything speaks of them, so what lies on the
disk later covers every medium of that instant. Receipts of erasures come last: a snapshot never lacks the receipt of
an erasure whose traces it lacks.

Content is copied, never hard-linked or cloned: a link would share the file's future, a clone its sectors, and a
backup shares neither.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from media_pipeline import __version__
from media_pipeline.errors import DamagedBackup, StorageConflict, UsageError
from media_pipeline.storage._backup_check import Damage, Verified, examine, verify
from media_pipeline.storage._backup_copy import CACHE, ORIGINALS, Copied, Copier, OnProgress
from media_pipeline.storage._backup_cut import LAST_CHECKPOINT, LOG, Cut, TableCut, take_cut
from media_pipeline.storage._backup_manifest import FileEntry, Head, Snapshot, TableVersion
from media_pipeline.storage._backup_prune import Keep, Pruned, kept_by, older_than, remove
from media_pipeline.storage._backup_repository import Repository
from media_pipeline.storage._backup_restore import RECEIPTS, Restored, restore
from media_pipeline.storage._backup_scan import Found, Scan, scan
from media_pipeline.storage.disk import disk_full_explained
from media_pipeline.storage.layout import Layout

INBOX = "inbox"
MODELS = "models"
_ORDER = {ORIGINALS: 1, INBOX: 2, RECEIPTS: 3}  # most files of the inbox are originals too
_CUTS = 5  # instants tried while erasures remove the files of their versions

__all__ = [
    "Damage",
    "Keep",
    "Options",
    "Pruned",
    "Report",
    "Repository",
    "Restored",
    "Verified",
    "back_up",
    "create",
    "examine",
    "kept_by",
    "older_than",
    "on_one_disk",
    "remove",
    "restore",
    "verify",
]


@dataclass(frozen=True, slots=True)
class Options:
    """What a backup holds besides what cannot be made again, and how hard it looks."""

    with_cache: bool = False
    with_models: bool = False
    verify: bool = False  # read unchanged files too, and compare them with what was stored


@dataclass(frozen=True, slots=True)
class Report:
    """What a backup did."""

    snapshot: str
    files: int
    bytes: int
    new_objects: int
    new_bytes: int  # stored by this backup
    read_bytes: int  # the others were known to be unchanged
    seconds: float
    linked_outside: int  # media whose originals lie outside the home, and are not in the backup
    problems: Mapping[str, str] = field(repr=False)  # reason by path below the home


def create(layout: Layout, root: Path, *, min_free_bytes: int = 0) -> Repository:
    """The repository for backups of this home, made where there is none.

    Args:
        min_free_bytes: room that a disk must keep that the home lies on too.

    Raises:
        UsageError: there is no home, it and the repository lie one inside the other, or the folder is unfit.
    """
    if not layout.sources.exists():
        raise UsageError(f"{layout.home} is no home", "name one with --home")
    here, there = layout.home.resolve(), root.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise UsageError(f"{root} and the home {layout.home} lie one inside the other", "keep backups somewhere else")
    repository = Repository.create(root)
    if on_one_disk(layout, root):
        repository.min_free_bytes = min_free_bytes
    return repository


def on_one_disk(layout: Layout, root: Path) -> bool:
    """Whether the failure of one disk takes both."""
    return layout.home.stat().st_dev == root.stat().st_dev


def back_up(
    layout: Layout, repository: Repository, options: Options | None = None, progress: OnProgress = lambda *_: None
) -> Report:
    """One more snapshot of this home, into a repository that `create` has opened.

    Raises:
        StorageConflict: another backup is running, or the home changes too fast.
        DiskFull: the repository holds its former snapshots, and the next backup goes on.
    """
    options = options or Options()
    started, copied = time.monotonic(), Copied()
    with repository.locked(), disk_full_explained(repository.root):
        previous = _newest_files(repository)
        for _ in range(_CUTS):
            try:
                snapshot = _copy(layout, repository, previous, options, copied, progress)
                break
            except _VersionGoneError:
                continue
        else:
            raise StorageConflict("files of the tables were removed again and again meanwhile", "try again later")
        snapshot_id = repository.publish(snapshot)
    head = snapshot.head
    return Report(
        snapshot=snapshot_id,
        files=head.count,
        bytes=head.bytes,
        new_objects=copied.new_objects,
        new_bytes=copied.new_bytes,
        read_bytes=copied.read_bytes,
        seconds=time.monotonic() - started,
        linked_outside=head.linked_outside,
        problems=head.left_out,
    )


class _VersionGoneError(Exception):
    """Files of the noted version were removed while they were copied."""


def _newest_files(repository: Repository) -> dict[str, FileEntry]:
    """Of the newest snapshot that can be read; without one everything is read anew, and nothing stored twice."""
    for snapshot_id in reversed(repository.snapshots()):
        try:
            return {file.path: file for file in repository.load(snapshot_id).files}
        except DamagedBackup:
            continue
    return {}


def _copy(
    layout: Layout,
    repository: Repository,
    previous: Mapping[str, FileEntry],
    options: Options,
    copied: Copied,
    progress: OnProgress,
) -> Snapshot:
    """The home as it is at one instant, into the repository."""
    created_at = datetime.now(UTC)
    with _instant(layout) as cut:
        described = [(table, *_described(table, layout.home)) for table in cut.tables]
        found = scan(layout, without=_unwanted(options))
        seen, linked_outside = _known_content(layout, cut)
        copied.done_bytes = 0
        copied.all_bytes = sum(file.stat.st_size for file in found.files) + sum(
            sum(sizes.values()) for _, _, sizes in described
        )
        copier = Copier(layout.home, repository, previous, seen, copied, verify=options.verify, progress=progress)
        for path, database in cut.databases.items():
            copier.database(path, pinned=database)
    for table, _, sizes in described:
        _copy_table(copier, table, sizes)
    _copy_others(copier, found)
    head = Head(
        created_at=created_at,
        product_version=__version__,
        home=str(layout.home),
        tables=tuple(facts for _, facts, _ in described),
        folders=found.folders,
        linked_outside=linked_outside,
        left_out=found.left_out | copier.problems,
        new_bytes=copied.new_bytes,
        count=len(copier.entries),
        bytes=sum(file.size for file in copier.entries.values()),
    )
    return Snapshot(head, tuple(copier.entries[name] for name in sorted(copier.entries)))


@contextmanager
def _instant(layout: Layout) -> Iterator[Cut]:
    with ExitStack() as stack:
        yield take_cut(layout, stack)


def _unwanted(options: Options) -> set[str]:
    return {name for name, wanted in ((CACHE, options.with_cache), (MODELS, options.with_models)) if not wanted}


def _described(table: TableCut, home: Path) -> tuple[TableVersion, Mapping[str, int]]:
    try:
        return table.files(home)
    except FileNotFoundError as error:
        raise _VersionGoneError(table.folder) from error


def _copy_table(copier: Copier, table: TableCut, files: Mapping[str, int]) -> None:
    try:
        for name in [*files, *(f"{LOG}/{name}" for name in table.log)]:
            copier.table_file(table.folder / name)
    except FileNotFoundError as error:
        raise _VersionGoneError(table.folder) from error
    if table.last_checkpoint is not None:
        copier.text(table.folder / LOG / LAST_CHECKPOINT, table.last_checkpoint)


def _copy_others(copier: Copier, found: Scan) -> None:
    def order(file: Found) -> tuple[int, str]:
        return _ORDER.get(file.name.partition(os.sep)[0], 0), file.name

    for file in sorted(found.files, key=order):
        if file.name in copier.entries:
            continue
        if file.database:
            copier.database(file.path)
        else:
            copier.plain(file)
    copier.drop_torn_cache()


def _known_content(layout: Layout, cut: Cut) -> tuple[dict[str, tuple[str, str]], int]:
    """Stamp and hash of the files of the inbox that intake has hashed; the number of media linked outside the home."""
    database = cut.databases.get(layout.sources)
    if database is None:  # it came after the home was looked at
        return {}, 0
    inbox = os.fsencode(layout.inbox) + b"/"
    rows = database.execute(
        "SELECT path, stamp, media_id FROM files WHERE state = 'taken' AND substr(path, 1, ?) = ?", (len(inbox), inbox)
    )
    home = os.fsencode(layout.home) + b"/"
    seen = {os.fsdecode(path.removeprefix(home)): (known, media_id) for path, known, media_id in rows}
    # Relative where it lies below the home.
    (linked,) = database.execute("SELECT count(*) FROM media WHERE substr(stored, 1, 1) = x'2f'").fetchone()
    return seen, linked
