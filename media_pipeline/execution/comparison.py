"""The new version beside the old on a few media: what would change, before anything is replaced."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from filelock import FileLock

from media_pipeline.execution.pipeline import OnOutcome, Pipeline, table_schemas
from media_pipeline.execution.stages import stage_infos, with_needs
from media_pipeline.storage.ledger import TABLE as LEDGER

if TYPE_CHECKING:
    from media_pipeline.execution.recompute import Plan

# Where a row is: rows of one place that differ are one changed row, not one lost and one gained.
_PLACE = ("media_id", "frame_index", "source", "label_set", "label")
_DIGITS = 4  # of numbers that are compared: less is noise of the machine
_MAX_EXAMPLES = 3  # of each kind of change
_MAX_ITEMS = 8  # of a list that is shown


@dataclass(frozen=True, slots=True)
class Example:
    """One row that changes; only the columns that say where it is and those that differ."""

    change: str  # gained, lost, changed
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One analyzer before and after, over the sample."""

    analyzer: str
    media: int
    before: int  # rows
    after: int
    same: int
    changed: int
    gained: int
    lost: int
    examples: list[Example] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # reason by media_id, of those that fail now


def sample_of(media_ids: Sequence[str], count: int) -> list[str]:
    """So many of them, evenly spread: the newest alone would show one camera and one week."""
    step = max(1.0, len(media_ids) / count)
    return [media_ids[int(number * step)] for number in range(min(count, len(media_ids)))]


def compare(
    pipeline: Pipeline, plan: Plan, media_ids: Sequence[str], on_outcome: OnOutcome | None = None
) -> list[Difference]:
    """Make what is stale of these media in a place of its own, and compare it with what stands.

    Nothing of the home's results changes; what was learnt of costs stays, as does what was decoded.
    """
    stages = with_needs(stage_infos(), plan.counts.keys())
    keys = [medium.partition_key for medium in pipeline.sources.by_id(media_ids).values()]
    failed: dict[str, dict[str, str]] = defaultdict(dict)
    with _beside(pipeline, media_ids) as beside:
        for name in stages:
            for outcome in beside.run_stage(name, keys, run_id="sample", on_outcome=on_outcome):
                if outcome.status == "failed" and not outcome.current:
                    failed[name][outcome.media_id] = outcome.reason or "no reason recorded"
        return [
            difference(name, _rows(pipeline, name, media_ids), _rows(beside, name, media_ids), failed[name])
            for name in plan.counts
        ]


@contextmanager
def _beside(pipeline: Pipeline, media_ids: Sequence[str]) -> Iterator[Pipeline]:
    """A pipeline over the same media whose results are a copy of these media's."""
    folder = pipeline.layout.sample
    pipeline.layout.locks.mkdir(parents=True, exist_ok=True)
    with FileLock(pipeline.layout.locks / "sample.lock", fallback_to_soft=False):
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        beside = Pipeline(pipeline.settings, results_at=folder)
        try:
            for name in table_schemas():
                if name != LEDGER and pipeline.tables.exists(name):
                    rows = pipeline.tables.read(name, media_ids)
                    beside.tables.ensure(name, rows.schema)
                    beside.tables.replace(name, rows, media_ids)
            beside.ledger.record(list(pipeline.ledger.entries(media_ids).values()))
            yield beside
        finally:
            beside.close()
            shutil.rmtree(folder, ignore_errors=True)


def _rows(pipeline: Pipeline, name: str, media_ids: Sequence[str]) -> pa.Table:
    if not pipeline.tables.exists(name):
        return table_schemas()[name].empty_table()
    return pipeline.tables.read(name, media_ids)


def difference(analyzer: str, before: pa.Table, after: pa.Table, failed: dict[str, str] | None = None) -> Difference:
    """Rows of the same media before and after.

    Rows are the same where all that they say is, whatever their number in the list. Of the others, one from before
    and one from after at the same place are a changed row; what remains was lost or gained.
    """
    names = [name for name in after.column_names if not name.endswith("_index") or name == "frame_index"]
    names += [name for name in before.column_names if name not in names and name not in after.column_names]
    old, new = _plain(before, names), _plain(after, names)
    same = Counter(map(_frozen, old)) & Counter(map(_frozen, new))
    old, new = _without(old, same), _without(new, same)
    changed, lost, gained = _paired(old, new)
    examples = [
        *(_example("changed", a, b) for a, b in changed[:_MAX_EXAMPLES]),
        *(_example("gained", None, row) for row in gained[:_MAX_EXAMPLES]),
        *(_example("lost", row, None) for row in lost[:_MAX_EXAMPLES]),
    ]
    media = {*before["media_id"].to_pylist(), *after["media_id"].to_pylist(), *(failed or {})}
    return Difference(
        analyzer=analyzer,
        media=len(media),
        before=before.num_rows,
        after=after.num_rows,
        same=same.total(),
        changed=len(changed),
        gained=len(gained),
        lost=len(lost),
        examples=examples,
        failed=failed or {},
    )


Row = dict[str, Any]


def _plain(table: pa.Table, names: Sequence[str]) -> list[Row]:
    present = [name for name in names if name in table.column_names]
    return [{name: _rounded(row.get(name)) for name in names} for row in table.select(present).to_pylist()]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, list):
        return tuple(_rounded(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _rounded(item)) for name, item in value.items())
    return value


def _frozen(row: Row) -> tuple[Any, ...]:
    return tuple(row.values())


def _without(rows: Sequence[Row], same: Counter[tuple[Any, ...]]) -> list[Row]:
    left = Counter(same)
    rest = []
    for row in rows:
        if left[_frozen(row)]:
            left[_frozen(row)] -= 1
        else:
            rest.append(row)
    return rest


def _paired(old: Sequence[Row], new: Sequence[Row]) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Pairs of one place in the order in which they come, then what is left of the old and of the new."""
    waiting: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in old:
        waiting[_place(row)].append(row)
    changed, gained = [], []
    for row in new:
        if waiting[_place(row)]:
            changed.append((waiting[_place(row)].pop(0), row))
        else:
            gained.append(row)
    return changed, [row for rows in waiting.values() for row in rows], gained


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in _PLACE)


def _example(change: str, before: Row | None, after: Row | None) -> Example:
    def telling(row: Row | None, other: Row | None) -> Row | None:
        if row is None:
            return None
        return {
            name: _short(value)
            for name, value in row.items()
            if value is not None and (name in _PLACE or other is None or other.get(name) != value)
        }

    return Example(change, telling(before, after), telling(after, before))


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_short(item) for item in value[:_MAX_ITEMS]] + ["…"] * (len(value) > _MAX_ITEMS)
    return value if isinstance(value, (int, float, str, bool)) else str(value)
