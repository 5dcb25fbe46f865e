"""What the user says about identities, and what follows from it in the tables."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.errors import UsageError
from media_pipeline.results._identity_ids import fresh_id
from media_pipeline.results._identity_kinds import BOX, Key, Kind
from media_pipeline.results._identity_known import Known, blocks, present
from media_pipeline.results._identity_samples import SampleTrack
from media_pipeline.storage.identities import Anchor, Decisions, Pin, Sample
from media_pipeline.storage.tables import Tables

CLEAREST = 8  # tracks, per model, that are pinned when the user decides about their identity
MAX_NAME_CHARS = 100
_MIN_PREFIX = 6  # digits by which a medium may be named


@dataclass(frozen=True, slots=True)
class Sighting:
    """A track of an identity."""

    media_id: str
    name: str | None  # file name of the medium
    track: Key
    start_s: float | None  # of its first and last sighting; null in a picture
    end_s: float | None
    sightings: int  # faces, or turns of speech
    score: float | None
    decided_by: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    identity: str
    joined: tuple[str, ...]  # identities without a name that resembled the sample and are part of it now
    resembling: tuple[str, ...]  # names of others that resemble it too


# -- asking ------------------------------------------------------------------------------------------------------


def find(kind: Kind, tables: Tables, decisions: Decisions, given: str) -> str:
    """The id of an identity given by id, former id or name.

    Raises:
        UsageError: there is none.
    """
    given = given.encode(errors="replace").decode()  # bytes that are no UTF-8: lone surrogates, which SQLite refuses
    named = decisions.named(kind.name, given)
    if named is not None:
        return named
    identity = decisions.current(kind.name, given)
    if not present(tables, kind, [identity]) and not decisions.known(kind.name, [identity]):
        raise UsageError(f"there is no {kind.name} {given!r}", f"`media-pipeline {kind.plural}` lists them")
    return identity


def sightings(kind: Kind, tables: Tables, identity: str) -> list[Sighting]:
    """Where an identity is to be seen or heard, by medium and time."""
    if not tables.exists(kind.table):
        return []
    rows = _rows_of(kind, tables, [identity])
    media_ids = sorted({row["media_id"] for row in rows})
    spans = _spans(kind, tables, media_ids)
    facts = tables.read("media", media_ids, ["media_id", "name", "kind"]).to_pylist() if tables.exists("media") else []
    names = {fact["media_id"]: fact["name"] for fact in facts}
    pictures = {fact["media_id"] for fact in facts if fact["kind"] == "image"}
    found = []
    for row in rows:
        start, end, count = spans.get((row["media_id"], row[kind.track]), (row["at_s"], row["at_s"], 1))
        if row["media_id"] in pictures and not end:
            start = end = None
        own = (row["media_id"], names.get(row["media_id"]), row[kind.track])
        found.append(Sighting(*own, start, end, count, row["score"], row["decided_by"]))
    return sorted(found, key=lambda s: (s.name or "", s.media_id, s.start_s or 0.0, str(s.track)))


def missed(kind: Kind, tables: Tables) -> set[str]:
    """Media that the analyzer has rows of and this table has not, or the reverse."""
    source, identified = (
        {media_id for rows in blocks(tables, name, ["media_id"]) for media_id in rows["media_id"].unique().to_pylist()}
        for name in (kind.source, kind.table)
    )
    return source ^ identified


def models(kind: Kind, tables: Tables) -> set[str]:
    """The models that the tracks of the table are of."""
    return {model for rows in blocks(tables, kind.table, ["model"]) for model in rows["model"].unique().to_pylist()}


# -- deciding ----------------------------------------------------------------------------------------------------


def name(kind: Kind, tables: Tables, decisions: Decisions, given: str, new: str) -> str:
    identity = find(kind, tables, decisions, given)
    new = checked_name(kind, new)
    owner = decisions.named(kind.name, new)
    if owner not in (None, identity):
        raise UsageError(
            f"{new!r} is the name of {kind.name} {owner} already",
            f"merge them with `media-pipeline {kind.plural} merge {owner} {identity}`, or choose another name",
        )
    decisions.name(kind.name, identity, new, _clearest(kind, _rows_of(kind, tables, [identity]), identity))
    return identity


def merge(kind: Kind, tables: Tables, decisions: Decisions, given: str, others: Sequence[str]) -> str:
    into = find(kind, tables, decisions, given)
    parts = {find(kind, tables, decisions, other): other for other in others}
    if into in parts:
        raise UsageError(f"{parts[into]!r} is {given!r} already: nothing to merge", f"name another {kind.name}")
    _join(kind, tables, decisions, into, list(parts))
    return into


def split(kind: Kind, tables: Tables, decisions: Decisions, given: str, wanted: Sequence[str]) -> str:
    identity = find(kind, tables, decisions, given)
    rows = _rows_of(kind, tables, [identity])
    chosen = {name for one in wanted for name in _meant(kind, tables, rows, given, one)}
    moved = [row for row in rows if (row["media_id"], row[kind.track]) in chosen]
    kept = [row for row in rows if (row["media_id"], row[kind.track]) not in chosen]
    if not kept:
        raise UsageError(f"these are all tracks of {given!r}: nothing would be left of it", "name fewer of them")
    fresh = fresh_id(kind, min(chosen), lambda ids: _taken(kind, tables, decisions, ids))
    pins = [_pin(kind, row, fresh) for row in moved] + _clearest(kind, kept, identity)
    decisions.split(kind.name, identity, fresh, pins)
    return fresh


def enrol(
    kind: Kind, tables: Tables, decisions: Decisions, new: str, sample: SampleTrack, threshold: float
) -> Enrolment:
    new = checked_name(kind, new)
    known = Known(tables, kind, sample.model, (), ())
    near = known.near(sample.vector[None], threshold)
    groups = known.groups(near, len(sample.vector))
    fits = {group.identity: float(group.total @ sample.vector) / group.count for group in groups}
    decided, names = decisions.decided(kind.name), decisions.names(kind.name)
    fitting = sorted((i for i in fits if fits[i] >= threshold), key=lambda i: -fits[i])
    owner = decisions.named(kind.name, new)
    joined: list[str] = []
    together = {(m.media_id, key) for g in groups if g.identity == owner for m in g.members for key in m.apart}
    for group in sorted((g for g in groups if g.identity in fitting), key=lambda g: -fits[g.identity]):
        # Of two that were seen or heard beside each other only the nearer one can be it.
        if group.identity not in decided and together.isdisjoint((m.media_id, m.key) for m in group.members):
            joined.append(group.identity)
            together |= {(m.media_id, key) for m in group.members for key in m.apart}
    digest = hashlib.sha256(np.ascontiguousarray(sample.vector, "<f4").tobytes()).hexdigest()
    identity = owner or (joined.pop(0) if joined else None)
    found = identity
    if identity is None:
        identity = fresh_id(kind, (digest, sample.source), lambda ids: _taken(kind, tables, decisions, ids))
    decisions.enrol(kind.name, Sample(identity, sample.source, sample.model, sample.vector), new)
    if found is not None and found != owner:
        decisions.name(kind.name, found, new, _clearest(kind, _rows_of(kind, tables, [found]), found))
    if joined:
        _join(kind, tables, decisions, identity, joined)
    adopted = ((found,) if found is not None and found != owner else ()) + tuple(joined)
    return Enrolment(identity, adopted, tuple(names[i] for i in fitting if i in names and i != identity))


def settle(kind: Kind, tables: Tables, decisions: Decisions) -> None:
    """Carries out what was decided and the table does not show yet."""
    pins, aliases = decisions.pending(kind.name)
    if not pins and not aliases:
        return
    pinned = {(pin.media_id, pin.track): pin.identity_id for pin in pins}

    def change(old: pa.Table) -> pa.Table:
        names = list(zip(old["media_id"].to_pylist(), old[kind.track].to_pylist(), strict=True))
        ids = [aliases.get(identity, identity) for identity in old[kind.identity].to_pylist()]
        ids = [pinned.get(name, identity) for name, identity in zip(names, ids, strict=True)]
        by = ["user" if n in pinned else b for n, b in zip(names, old["decided_by"].to_pylist(), strict=True)]
        for column, values in ((kind.identity, ids), ("decided_by", by)):
            old = old.set_column(old.column_names.index(column), column, pa.array(values, pa.string()))
        return old

    renamed = {row["media_id"] for row in _rows_of(kind, tables, aliases, ["media_id"])}
    tables.update(kind.table, {*renamed, *(media_id for media_id, _ in pinned)}, change)
    decisions.settle(kind.name, pins, aliases)


# -- inside ------------------------------------------------------------------------------------------------------


def _join(kind: Kind, tables: Tables, decisions: Decisions, into: str, others: Sequence[str]) -> None:
    """Each part is pinned on its own, so that all of it is found again when everything is clustered anew."""
    pins = [pin for identity in (into, *others) for pin in _clearest(kind, _rows_of(kind, tables, [identity]), into)]
    decisions.merge(kind.name, into, others, pins)


def _rows_of(
    kind: Kind, tables: Tables, identities: Iterable[str], columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    wanted = pa.array(sorted(identities), pa.string())
    if not len(wanted) or not tables.exists(kind.table):
        return []
    names = kind.schema.names if columns is None else list(dict.fromkeys([*columns, kind.identity]))
    found = (rows.filter(pc.is_in(rows[kind.identity], wanted)) for rows in blocks(tables, kind.table, names))
    return [row for rows in found for row in rows.to_pylist()]


def _clearest(kind: Kind, rows: Sequence[dict[str, Any]], identity: str) -> list[Pin]:
    """Pins on the tracks that are nearest to the mean of all, some of each model."""
    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_model[row["model"]].append(row)
    pins = []
    for same in by_model.values():
        vectors = np.array([row["embedding"] for row in same], np.float32)
        nearest = np.argsort(-(vectors @ vectors.mean(axis=0)), kind="stable")[:CLEAREST]
        pins += [_pin(kind, same[int(at)], identity) for at in nearest]
    return pins


def _pin(kind: Kind, row: dict[str, Any], identity: str) -> Pin:
    box = tuple(row[name] for name in BOX) if kind.has_boxes and row[BOX[0]] is not None else None
    return Pin(row["media_id"], row[kind.track], Anchor(row["at_s"], box), identity)


def checked_name(kind: Kind, new: str) -> str:
    """The name as it is kept.

    Raises:
        UsageError: it looks like an id, is too long, or has control characters.
    """
    cleaned = unicodedata.normalize("NFC", " ".join(new.split()))  # one spelling, in SQL too
    if not cleaned or len(cleaned) > MAX_NAME_CHARS or not cleaned.isprintable():
        raise UsageError(
            f"{new!r} cannot be a name", f"a name has 1 to {MAX_NAME_CHARS} printable characters on one line"
        )
    if re.fullmatch(rf"{kind.prefix}-[0-9a-f]+", cleaned, re.IGNORECASE):
        raise UsageError(f"{new!r} looks like the id of a {kind.name}", "choose another name")
    return cleaned


def _taken(kind: Kind, tables: Tables, decisions: Decisions, ids: Collection[str]) -> set[str]:
    """Those of the ids that somebody has, or had."""
    return present(tables, kind, ids) | decisions.known(kind.name, list(ids))


def _meant(kind: Kind, tables: Tables, rows: Sequence[dict[str, Any]], given: str, one: str) -> list[tuple[str, Key]]:
    """The tracks of an identity that `MEDIA_ID[:TRACK]` means; a medium may be named by its partition or first digits.

    Raises:
        UsageError: none, or several media.
    """
    medium, _, track = one.partition(":")
    media = {row["media_id"] for row in rows}
    known = tables.read("media", media, ["media_id", "partition_key"]) if tables.exists("media") else None
    keys = _column(known) if known is not None else {}
    hits = sorted(m for m in media if keys.get(m) == medium or m == medium)
    if not hits and len(medium) >= _MIN_PREFIX:
        hits = sorted(m for m in media if m.startswith(medium))
    if len(hits) > 1:
        raise UsageError(f"{medium!r} is the beginning of {len(hits)} media", "give more digits")
    found = [
        (row["media_id"], row[kind.track])
        for row in rows
        if row["media_id"] in hits and track in ("", str(row[kind.track]))
    ]
    if not found:
        raise UsageError(
            f"{given!r} has no track {one!r}", f"`media-pipeline {kind.plural} show {given}` lists its media and tracks"
        )
    return found


def _spans(kind: Kind, tables: Tables, media: Sequence[str]) -> dict[tuple[str, Key], tuple[Any, Any, int]]:
    """First and last second of each track of some media, and its number of sightings."""
    if not tables.exists(kind.source):
        return {}
    columns = list(dict.fromkeys(["media_id", kind.track, *kind.span]))
    rows = tables.read(kind.source, media, columns).to_pylist()
    found: dict[tuple[str, Key], list[tuple[Any, Any]]] = defaultdict(list)
    for row in rows:
        found[row["media_id"], row[kind.track]].append((row[kind.span[0]], row[kind.span[1]]))
    return {
        track: (
            min((start for start, _ in spans if start is not None), default=None),
            max((end for _, end in spans if end is not None), default=None),
            len(spans),
        )
        for track, spans in found.items()
    }


def _column(rows: pa.Table) -> dict[str, Any]:
    """The second column by the first."""
    return dict(zip(rows.column(0).to_pylist(), rows.column(1).to_pylist(), strict=True))
