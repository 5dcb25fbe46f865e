"""Which snapshots stay, and removing what only the others hold."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from media_pipeline.errors import UsageError
from media_pipeline.storage._backup_repository import Repository, time_of


@dataclass(frozen=True, slots=True)
class Keep:
    """The newest snapshot of each of the last so many days, weeks and months that have one; the newest in any case."""

    daily: int = 7
    weekly: int = 4
    monthly: int = 6


@dataclass(frozen=True, slots=True)
class Pruned:
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    freed_bytes: int


def kept_by(ids: Collection[str], keep: Keep) -> set[str]:
    """Those of the snapshots that the rule keeps. Times are UTC, weeks those of ISO 8601."""
    newest_first = sorted(ids, reverse=True)
    rules: tuple[tuple[int, Callable[[datetime], object]], ...] = (
        (keep.daily, lambda at: at.date()),
        (keep.weekly, lambda at: at.isocalendar()[:2]),
        (keep.monthly, lambda at: (at.year, at.month)),
    )
    kept = set(newest_first[:1])
    for count, period in rules:
        newest: dict[object, str] = {}
        for snapshot_id in newest_first:
            newest.setdefault(period(time_of(snapshot_id)), snapshot_id)
        kept.update(list(newest.values())[:count])
    return kept


def older_than(ids: Collection[str], limit: datetime) -> set[str]:
    """Snapshots of before this time.

    Raises:
        UsageError: all are; nothing would be left to restore.
    """
    older = {snapshot_id for snapshot_id in ids if time_of(snapshot_id) < limit}
    if older and len(older) == len(ids):
        raise UsageError("the newest snapshot is older than that too", "make a new backup first")
    return older


def remove(repository: Repository, snapshot_ids: Collection[str]) -> Pruned:
    """Removes these snapshots, and every object that no other one names. Repeatable after an interruption.

    Raises:
        StorageConflict: a backup is running.
        DamagedBackup: one that stays cannot be read: what it needs is not known. Nothing was removed.
    """
    with repository.locked():
        removed = sorted(set(snapshot_ids) & set(repository.snapshots()))
        kept = [snapshot_id for snapshot_id in repository.snapshots() if snapshot_id not in removed]
        named = {digest for snapshot_id in kept for digest in repository.load(snapshot_id).digests()}
        # The lists first: killed here, there are objects too many, never too few.
        for snapshot_id in removed:
            repository.remove(snapshot_id)
        freed = repository.sweep(named)
    return Pruned(tuple(removed), tuple(kept), freed)
