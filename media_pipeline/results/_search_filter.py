"""Which media a search looks at: by kind, time, who is in them, and any condition in SQL.

Filters are answered before the search, as a set of media; the search then looks inside that set only. So a filter never
costs a hit, however few media pass it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.config import SqlLimits
from media_pipeline.errors import UsageError
from media_pipeline.results import _identity_decisions as deciding
from media_pipeline.results._identity_kinds import PERSONS, VOICES, Kind
from media_pipeline.results._identity_known import blocks
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

if TYPE_CHECKING:
    from media_pipeline.storage.catalog import Catalog

_AGO = re.compile(r"(\d{1,6})\s*(h|d|w|m|y|hours?|days?|weeks?|months?|years?)(\s+ago)?", re.IGNORECASE)
_UNITS = {
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "m": timedelta(days=30),
    "y": timedelta(days=365),
}


@dataclass(frozen=True, slots=True)
class Filter:
    """What media must fulfil, all of it. Times are of the recording where it is known, else of the intake."""

    kinds: tuple[str, ...] = ()  # any of image, video, audio
    since: datetime | None = None  # UTC, inclusive
    until: datetime | None = None  # UTC, exclusive
    persons: tuple[str, ...] = ()  # ids or names; all of them are to be seen
    voices: tuple[str, ...] = ()  # ids or names; all of them are to be heard
    where: str | None = None  # SQL, over the view `media`

    def __bool__(self) -> bool:
        return any((self.kinds, self.since, self.until, self.persons, self.voices, self.where is not None))


@dataclass(frozen=True, slots=True)
class Within:
    """What a filter lets through."""

    media_ids: frozenset[str]
    newest: tuple[str, ...]  # the same media, the newest first
    persons: tuple[str, ...] = ()  # ids of those that were asked for
    voices: tuple[str, ...] = ()


def moment_of(given: str, now: datetime, *, end: bool = False) -> datetime:
    """A date ("2026-03-31", or with a time, in UTC unless it names an offset), or so long ago ("7d", "2 weeks").

    Args:
        end: of a day its end is meant: `--until 2026-03-31` is the whole of March

    Raises:
        UsageError: it is neither.
    """
    ago = _AGO.fullmatch(given.strip())
    try:
        if ago is not None:
            return now - int(ago[1]) * _UNITS[ago[2][0].lower()]
        moment = datetime.fromisoformat(given.strip())
        if end and len(given.strip()) <= len("2026-03-31"):
            moment += timedelta(days=1)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{given!r} is no time", "give a date as 2026-03-31, or how long ago: 12h, 7d, 2 weeks"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def media_within(wanted: Filter, tables: Tables, layout: Layout, catalog: Catalog | None, limits: SqlLimits) -> Within:
    """The media that pass.

    Args:
        catalog: needed for `where` only
        limits: of `where`

    Raises:
        UsageError: no such person or voice.
        QueryRejected: `where` is wrong, or goes beyond a limit; says where.
    """
    passing = _media(wanted, tables)
    if wanted.where is not None:
        from media_pipeline.storage.conditions import media_where

        assert catalog is not None
        passing = _only(passing, media_where(catalog, wanted.where, limits))
    identities: dict[str, tuple[str, ...]] = {}
    for kind, given in ((PERSONS, wanted.persons), (VOICES, wanted.voices)):
        identities[kind.name] = _identities(kind, given, tables, layout) if given else ()
        for identity in identities[kind.name]:
            passing = _only(passing, _media_of(kind, identity, tables))
    newest = tuple(passing.take(pc.sort_indices(passing, [("at", "descending")]))["media_id"].to_pylist())
    return Within(frozenset(newest), newest, identities["person"], identities["voice"])


def _media(wanted: Filter, tables: Tables) -> pa.Table:
    """media_id and time of the media that pass what the table itself says."""
    parts = []
    for rows in blocks(tables, "media", ["media_id", "kind", "captured_at", "added_at"]):
        at = pc.coalesce(rows["captured_at"], rows["added_at"])
        keep: pa.ChunkedArray | pa.Array = pa.array(np.ones(rows.num_rows, bool))
        if wanted.kinds:
            keep = pc.and_(keep, pc.is_in(rows["kind"], pa.array(wanted.kinds)))
        if wanted.since is not None:
            keep = pc.and_(keep, pc.greater_equal(at, pa.scalar(wanted.since, at.type)))
        if wanted.until is not None:
            keep = pc.and_(keep, pc.less(at, pa.scalar(wanted.until, at.type)))
        parts.append(pa.table({"media_id": rows["media_id"], "at": at}).filter(keep))
    if not parts:
        return pa.table({"media_id": pa.array([], pa.string()), "at": pa.array([], pa.int64())})
    return pa.concat_tables(parts)


def _only(passing: pa.Table, media_ids: Iterable[str]) -> pa.Table:
    return passing.filter(pc.is_in(passing["media_id"], pa.array(media_ids, pa.string())))


def _identities(kind: Kind, given: Iterable[str], tables: Tables, layout: Layout) -> tuple[str, ...]:
    with closing(Decisions.of(layout)) as decisions:
        return tuple(deciding.find(kind, tables, decisions, one) for one in given)


def _media_of(kind: Kind, identity: str, tables: Tables) -> set[str]:
    found: set[str] = set()
    for rows in blocks(tables, kind.table, ["media_id", kind.identity]):
        found.update(rows.filter(pc.equal(rows[kind.identity], identity))["media_id"].to_pylist())
    return found


__all__ = ["Filter", "Within", "media_within", "moment_of"]
