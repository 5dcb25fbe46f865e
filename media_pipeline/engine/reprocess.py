"""Batches of stale media for Dagster: a few at a time, the newest first, as ranges of partitions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import dagster as dg

from media_pipeline.engine.hot_window import recall
from media_pipeline.engine.partitions import PARTITIONS_NAME
from media_pipeline.media.batching import batches

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.storage.sources import KnownMedium

REPROCESS_JOB = "reprocess"
# Current media that a range may lead over: each costs its events, some 10 ms per asset; a run of its own for what lies
# behind them costs three seconds and loads every model anew.
MAX_GAP = 16
_LOOK_AHEAD = 200  # media looked up at a time


@dataclass(frozen=True, slots=True)
class Batch:
    """One run: adjacent partitions and the assets that are stale in some of them."""

    partition_keys: Sequence[str]
    stale_keys: frozenset[str]  # those of them with a stale result
    stages: Collection[str]


def next_batch(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    stale: dict[str, list[str]],
    *,
    is_excluded: Callable[[str], bool],
    beside_watch_folder: bool,
) -> Batch | None:
    """The first stale media that one run may take; None when there are no more.

    Partitions that Dagster does not hold any more are announced again. Media whose run was cut off come in smaller
    batches: one that kills its run must not take the others with it.

    Args:
        stale: stages by media_id, in order (`Plan.by_medium`); what the batch takes is removed from it, as is what
            nobody may take
        is_excluded: whether a partition is not to be touched
        beside_watch_folder: leave those to it that are in its hands: fresh ones, and those whose run was cut off
    """

    def is_free(medium: KnownMedium) -> bool:
        return not is_excluded(medium.partition_key) and (not beside_watch_folder or _is_at_rest(medium))

    first = _first_free(pipeline, stale, is_free)
    if not first:
        return None
    media = pipeline.settings.reprocess.batch_media // 8 ** first[0].attempts
    limits = pipeline.settings.batch.model_copy(update={"max_media": max(1, media)})
    wanted = next(batches(first, limits, pipeline.durations_s([m.media_id for m in first])))
    existing = instance.get_dynamic_partitions(PARTITIONS_NAME)
    position = {key: number for number, key in enumerate(existing)}
    if wanted[0].partition_key in position:
        at = sorted(position[m.partition_key] for m in wanted if m.partition_key in position)
        keys = _around(pipeline, existing, at, position[wanted[0].partition_key], is_excluded)
    else:  # retired: back to the end, as one range
        keys = [m.partition_key for m in reversed(wanted) if m.partition_key not in position]
        recall(instance, pipeline, keys)
    reached = set(keys)
    taken = [m for m in wanted if m.partition_key in reached]
    stages = {name for m in taken for name in stale.pop(m.media_id)}
    return Batch(keys, frozenset(m.partition_key for m in taken), stages)


def _first_free(
    pipeline: Pipeline, stale: dict[str, list[str]], is_free: Callable[[KnownMedium], bool]
) -> list[KnownMedium]:
    """The first, as many as a batch holds, all tried equally often; those before them that are not free are removed."""
    most = pipeline.settings.reprocess.batch_media
    found: list[KnownMedium] = []
    while page := list(islice(stale, len(found), len(found) + _LOOK_AHEAD)):
        known = pipeline.sources.by_id(page)
        for media_id in page:
            medium = known.get(media_id)
            if medium is None or not is_free(medium):
                del stale[media_id]
                continue
            if len(found) == most or (found and medium.attempts != found[0].attempts):
                return found
            found.append(medium)
    return found


def _is_at_rest(medium: KnownMedium) -> bool:
    return medium.announced and medium.attempts == 0


def _around(
    pipeline: Pipeline, existing: Sequence[str], at: Sequence[int], start: int, is_excluded: Callable[[str], bool]
) -> Sequence[str]:
    """The range around `start` that reaches as many of these positions as it can over media that are all well."""
    gaps = {left: existing[left + 1 : right] for left, right in pairwise(at)}
    between = [key for gap in gaps.values() if len(gap) <= MAX_GAP for key in gap]
    well = {key for key in _well(pipeline, between) if not is_excluded(key)}
    low = high = at.index(start)
    while low > 0 and _passable(gaps[at[low - 1]], well):
        low -= 1
    while high < len(at) - 1 and _passable(gaps[at[high]], well):
        high += 1
    return existing[at[low] : at[high] + 1]


def _passable(gap: Sequence[str], well: Collection[str]) -> bool:
    return len(gap) <= MAX_GAP and all(key in well for key in gap)


def _well(pipeline: Pipeline, keys: Collection[str]) -> Iterator[str]:
    """Those that no run is busy with and where nothing failed: an old failure would be this run's."""
    known = {m.media_id: m for m in pipeline.sources.by_partition(keys).values()}
    failed = {entry.media_id for entry in pipeline.ledger.failures(known.keys()) if entry.status == "failed"}
    yield from (m.partition_key for m in known.values() if _is_at_rest(m) and m.media_id not in failed)
