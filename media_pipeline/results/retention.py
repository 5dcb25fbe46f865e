"""What goes because it is old: originals, decoded media, superseded results, and media as a whole.

A term counts from the day on which a medium was added, not from when it was captured: cameras lie, and nobody expects
an upload of today to be gone tomorrow because the picture is from 2009. Media that a person has decided on stay, with
their originals: somebody said who is to be seen, approved or blocked them, and may have to say why. So do media that a
run has in hand.

A plan is made from whole columns, and made anew from what is there each time: carrying one out may be stopped anywhere
and repeated. It is no erasure: old versions of tables stay for a day, and nothing is proved (`media-pipeline erase`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.config import Terms
from media_pipeline.media.originals import Originals
from media_pipeline.results._erasure_tables import delete_media
from media_pipeline.results._identity_kinds import KINDS
from media_pipeline.results.identities import update_identities
from media_pipeline.results.search import refresh_image_index, refresh_text_index
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.moderation import ModerationStore
from media_pipeline.storage.schemas import TIMESTAMP
from media_pipeline.storage.sightings import REMOVED

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

DAY_US = 86_400_000_000
_AT_ONCE = 200  # media per step: what a kill makes the next one repeat

DUE = pa.schema(
    [
        ("media_id", pa.string()),
        ("partition_key", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),  # null where it could not be decoded
        ("since", TIMESTAMP),  # from when its term counts
        ("days", pa.int32()),  # the term
        ("bytes", pa.int64()),  # of the original or of what is cached; 0 where nothing of ours goes
    ]
)
Done = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go. All tables but `kept` have the schema `DUE`."""

    originals: pa.Table  # our copies; the results stay
    cache: pa.Table
    results: pa.Table  # everything of these media
    held: pa.Table  # these would go, one way or the other, but for what somebody decided on them
    kept: pa.Table  # superseded results: media_id, analyzer

    @property
    def is_empty(self) -> bool:
        return not any(t.num_rows for t in (self.originals, self.cache, self.results, self.kept))


def plan(pipeline: Pipeline, now: datetime | None = None, in_hand: Collection[str] = ()) -> Plan:
    """What goes now by the settings `retention`. Touches nothing; costs nothing where everything stays for ever.

    Args:
        in_hand: partitions that a run is going to work on; they stay this time
    """
    terms, now = pipeline.settings.retention, now or datetime.now(UTC)
    none = DUE.empty_table()
    leaving = pa.array(pipeline.sources.leaving(), pa.string())
    by_age = (terms.originals_days, terms.results_days, terms.cache_days)
    if not len(leaving) and all(term.is_forever for term in by_age):
        return Plan(none, none, none, none, _superseded(pipeline, now))
    media = _media(pipeline)
    busy = pc.is_in(media["partition_key"], value_set=pa.array(in_hand, pa.string()))
    settled = media.filter(pc.and_not(media["is_settled"], busy))
    halfway = _only(media, leaving)  # a kill stopped their removal, and their kind is forgotten by now
    settled = _without(settled, leaving)
    results = _due(settled, terms.results_days, settled["added_at"], now)
    ours = settled.filter(pc.invert(pc.or_(settled["is_linked"], settled["is_removed"])))
    originals = _without(_due(ours, terms.originals_days, ours["original_since"], now), results["media_id"])
    decided = _decided(pipeline, [*results["media_id"].to_pylist(), *originals["media_id"].to_pylist()])
    held = pa.concat_tables([_only(results, decided), _only(originals, decided)])
    results = pa.concat_tables(
        [_due(halfway, Terms(), halfway["added_at"], now, always=True), _without(results, decided)]
    )
    cached = _cached(pipeline, media)
    return Plan(
        originals=_without(originals, decided),
        cache=_due(cached, terms.cache_days, cached["used_at"], now),
        results=results,
        held=held,
        kept=_superseded(pipeline, now),
    )


def carry_out(pipeline: Pipeline, plan: Plan, on_done: Done = lambda _: None) -> dict[str, dict[str, Any]]:
    """Let it go; numbers by what it was. Partitions of `plan.results` must have left Dagster before.

    Args:
        on_done: told now and then how many more media are done

    Raises:
        StorageConflict, DiskFull: some are done; the next call goes on.
    """
    removed = _remove_originals(pipeline, plan.originals, on_done)
    cached = 0
    for media_id, size in zip(plan.cache["media_id"].to_pylist(), plan.cache["bytes"].to_pylist(), strict=True):
        pipeline.cache.discard(media_id)
        cached += size
        on_done(1)
    _remove_kept(pipeline, plan.kept)
    gone = remove_media(pipeline, plan.results["media_id"].to_pylist(), on_done)
    return {
        "originals": {"removed": plan.originals.num_rows, "bytes_freed": removed},
        "results": {"media_removed": plan.results.num_rows, "bytes_freed": gone, "held": plan.held.num_rows},
        "superseded results": {"removed": plan.kept.num_rows},
        "cache by age": {"media_removed": plan.cache.num_rows, "bytes_freed": cached},
    }


def remove_media(pipeline: Pipeline, media_ids: Sequence[str], on_done: Done = lambda _: None) -> int:
    """Remove media as a whole; the bytes of originals freed.

    Files of theirs that are still in a watched folder are not taken in again by themselves.
    """
    if not media_ids:
        return 0
    freed = 0
    originals = Originals(pipeline.layout.originals)
    for some in _portions(media_ids):
        known = pipeline.sources.by_id(some)
        pipeline.sources.begin_letting_go(some)
        delete_media(pipeline.tables, some)
        pipeline.kept.forget_media(some)
        for media_id in some:
            pipeline.cache.discard(media_id)
            if originals.remove(media_id) and media_id in known:
                freed += known[media_id].bytes
        pipeline.sources.let_go(some, f"{REMOVED}{datetime.now(UTC):%Y-%m-%d}; analyze it to take it anew")
        on_done(len(some))
    update_identities(pipeline.tables, pipeline.layout, media_ids)
    refresh_text_index(pipeline.tables, pipeline.layout, pipeline.settings, pipeline.models)
    refresh_image_index(pipeline.tables, pipeline.layout, pipeline.settings, pipeline.models)
    pipeline.catalog.publish()
    return freed


# --- who is due -----------------------------------------------------------------------------------------------------


def _media(pipeline: Pipeline) -> pa.Table:
    """Every medium with its kind: `MEDIA_AGES` and `kind`."""
    ages = pipeline.sources.ages()
    if not pipeline.tables.exists("media"):
        return ages.append_column("kind", pa.nulls(ages.num_rows, pa.string()))
    kinds = pipeline.tables.read("media", columns=["media_id", "kind"])
    at = pc.index_in(ages["media_id"], value_set=kinds["media_id"].combine_chunks())
    return ages.append_column("kind", kinds["kind"].take(at))


def _due(media: pa.Table, terms: Terms, since: pa.ChunkedArray, now: datetime, *, always: bool = False) -> pa.Table:
    """Those whose term is over, by kind; or all of them."""
    days = _days(media["kind"], terms)
    age_us = int(now.timestamp() * 1e6) - since.cast(pa.int64()).to_numpy()
    is_due = age_us >= (0 if always else days * DAY_US)
    shown = pa.array(np.where(np.isfinite(days), days, 0).astype(np.int32), pa.int32())
    found = media.append_column("since", since).append_column("days", shown)
    return found.filter(pa.array(is_due)).select(DUE.names).cast(DUE)


def _days(kinds: pa.ChunkedArray, terms: Terms) -> npt.NDArray[np.float64]:
    """Term of each; infinite where it stays for ever."""
    values: list[str | None] = kinds.unique().to_pylist()
    by_kind = np.array([terms.of(kind) or np.inf for kind in values], np.float64)
    at = pc.index_in(kinds, value_set=pa.array(values, pa.string()), skip_nulls=False).to_numpy()
    return by_kind[at] if len(by_kind) else np.zeros(0)


def _cached(pipeline: Pipeline, media: pa.Table) -> pa.Table:
    """What is in the cache, with `used_at` and the bytes there. Nothing is looked at where the cache has no term."""
    entries = [] if pipeline.settings.retention.cache_days.is_forever else list(pipeline.cache.entries())
    used = pa.array([int(used_s * 1e6) for used_s, _, _ in entries], pa.int64()).cast(TIMESTAMP)
    sizes, ids = pa.array([e[1] for e in entries], pa.int64()), pa.array([e[2] for e in entries], pa.string())
    at = pc.index_in(ids, value_set=media["media_id"].combine_chunks())
    columns = {name: media[name].take(at) for name in ("partition_key", "name", "kind")}
    return pa.table({"media_id": ids, **columns, "bytes": sizes, "used_at": used})


def _superseded(pipeline: Pipeline, now: datetime) -> pa.Table:
    """Kept results (media_id, analyzer) that what stands now has superseded so long ago."""
    days = pipeline.settings.retention.kept_days or None
    columns = ("media_id", "analyzer", "at")
    kept = _plain(pipeline.kept.ledger.scan(columns)) if days is not None else None
    if days is None or kept is None or not kept.num_rows:
        return pa.table({"media_id": pa.array([], pa.string()), "analyzer": pa.array([], pa.string())})
    present = _plain(pipeline.ledger.scan(columns)).rename_columns(["media_id", "analyzer", "since"])
    both = kept.join(present, ["media_id", "analyzer"], join_type="left outer")
    since = pc.coalesce(both["since"], both["at"])
    limit = pa.scalar(int(now.timestamp() * 1e6) - days * DAY_US).cast(TIMESTAMP)
    return both.filter(pc.less_equal(since, limit)).select(["media_id", "analyzer"])


def _plain(table: pa.Table) -> pa.Table:
    """With strings instead of dictionaries, which two tables do not share."""
    names = [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(names))


def _decided(pipeline: Pipeline, media_ids: Collection[str]) -> pa.Array:
    """Those of the media on which somebody decided: whose face or voice it is, or whether it may be shown."""
    found: set[str] = set()
    if media_ids:
        with closing(Decisions.of(pipeline.layout)) as decisions:
            for kind in KINDS:
                found.update(pin.media_id for pin in decisions.pins(kind.name, media_ids))
        with closing(ModerationStore.of(pipeline.layout)) as moderation:
            found.update(moderation.decided(media_ids))
    return pa.array(sorted(found), pa.string())


def _only(table: pa.Table, ids: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["media_id"], value_set=ids))


def _without(table: pa.Table, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    return table.filter(pc.invert(pc.is_in(table["media_id"], value_set=ids)))


# --- letting go -----------------------------------------------------------------------------------------------------


def _remove_originals(pipeline: Pipeline, due: pa.Table, on_done: Done) -> int:
    originals, freed = Originals(pipeline.layout.originals), 0
    sizes = dict(zip(due["media_id"].to_pylist(), due["bytes"].to_pylist(), strict=True))
    for some in _portions(list(sizes)):
        for media_id in some:
            pipeline.cache.discard(media_id)  # its frames and sound are copies of the original
            freed += sizes[media_id] if originals.remove(media_id) else 0
        # Afterwards: a kill before it leaves media that the next plan names again, and no file that nobody knows.
        pipeline.sources.original_removed(some)
        on_done(len(some))
    return freed


def _remove_kept(pipeline: Pipeline, due: pa.Table) -> None:
    for analyzer in due["analyzer"].unique().to_pylist():
        ids = due.filter(pc.equal(due["analyzer"], analyzer))["media_id"].to_pylist()
        pipeline.kept.ledger.forget([(media_id, analyzer) for media_id in ids])
        pipeline.kept.tables.delete(analyzer, ids)


def _portions(media_ids: Sequence[str]) -> list[Sequence[str]]:
    return [media_ids[start : start + _AT_ONCE] for start in range(0, len(media_ids), _AT_ONCE)]
