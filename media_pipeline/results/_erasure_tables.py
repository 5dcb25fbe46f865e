"""Erasing rows: of media from every table, of a person or voice from those that know tracks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.analyzers._registry import registry
from media_pipeline.results._erasure_journal import Identity
from media_pipeline.results._identity_kinds import KINDS, Kind
from media_pipeline.storage.ledger import Ledger
from media_pipeline.storage.tables import Tables

# Columns in which a row of one medium names another.
REFERENCES: Mapping[str, str] = {"duplicate_pairs": "other_id"}
Track = tuple[str, int | str]


def row_counts(tables: Tables, media_ids: Collection[str]) -> dict[str, int]:
    """Rows of these media by table, those without any left out."""
    counts = {name: tables.read(name, media_ids, ["media_id"]).num_rows for name in tables.names()}
    return {name: count for name, count in counts.items() if count}


def delete_media(tables: Tables, media_ids: Collection[str]) -> None:
    """Removes all rows of these media, and those of others that name them."""
    gone = pa.array(sorted(media_ids), pa.string())
    for name in tables.names():
        tables.delete(name, media_ids)
        column = REFERENCES.get(name)
        if column is None:
            continue
        pairs = tables.read(name, columns=["media_id", column])
        touched = pairs.filter(pc.is_in(pairs[column], gone))["media_id"].to_pylist()
        if touched:
            tables.update(name, touched, partial(_without, column, gone))


def _without(column: str, gone: pa.Array, old: pa.Table) -> pa.Table:
    return old.filter(pc.invert(pc.is_in(old[column], gone)))


def track_columns(table: str, identities: Sequence[Identity]) -> dict[str, set[Track]]:
    """The columns that name tracks in this table, with the tracks of these identities."""
    found: dict[str, set[Track]] = defaultdict(set)
    for identity in identities:
        kind = kind_of(identity)
        if table in (kind.table, *sources_of(kind)):
            found[kind.track].update(identity.tracks)
    return dict(found)


def kind_of(identity: Identity) -> Kind:
    return next(kind for kind in KINDS if kind.name == identity.kind)


def sources_of(kind: Kind) -> list[str]:
    """The analyzers whose rows know the tracks of this kind: the one that finds them, and those made from it."""
    made = (spec for spec in registry().values() if kind.source in spec.upstream_analyzers)
    return [kind.source, *(spec.name for spec in made if kind.track in spec.schema.names)]


def track_counts(tables: Tables, identity: Identity) -> dict[str, int]:
    """Rows of the tracks of an identity by table, those without any left out."""
    kind = kind_of(identity)
    counts = {name: track_rows(tables, name, identity).num_rows for name in (*sources_of(kind), kind.table)}
    return {name: count for name, count in counts.items() if count}


def delete_tracks(tables: Tables, ledger: Ledger, identity: Identity) -> None:
    """Removes the rows of these tracks. The ledger still calls the media done, so nothing brings them back by itself.

    Whoever looks at a medium anew, with another model or by hand, finds its faces anew, as those of somebody unknown.
    """
    kind, media_ids = kind_of(identity), sorted({media_id for media_id, _ in identity.tracks})
    gone = set(identity.tracks)

    def without(old: pa.Table) -> pa.Table:
        return old.filter(pc.invert(_of_tracks(old, kind.track, gone)))

    for name in (*sources_of(kind), kind.table):
        if tables.exists(name) and media_ids:
            tables.update(name, media_ids, without)
    _count_anew(tables, ledger, sources_of(kind), media_ids)


def track_rows(tables: Tables, name: str, identity: Identity) -> pa.Table:
    """The rows of the tracks of an identity in one table."""
    if not tables.exists(name) or not identity.tracks:
        return pa.table({"media_id": pa.array([], pa.string())})
    kind = kind_of(identity)
    rows = tables.read(name, {media_id for media_id, _ in identity.tracks})
    return rows.filter(_of_tracks(rows, kind.track, set(identity.tracks)))


def _of_tracks(rows: pa.Table, column: str, tracks: set[Track]) -> pa.Array:
    named = zip(rows["media_id"].to_pylist(), rows[column].to_pylist(), strict=True)
    return pa.array([track in tracks for track in named], pa.bool_())


def _count_anew(tables: Tables, ledger: Ledger, analyzers: Sequence[str], media_ids: Sequence[str]) -> None:
    """The ledger's numbers of rows are those of the tables again; all else it says stays."""
    entries = ledger.entries(media_ids, analyzers)
    changed = []
    for analyzer in {analyzer for _, analyzer in entries}:
        there: dict[str, int] = defaultdict(int)
        if tables.exists(analyzer):
            for media_id in tables.read(analyzer, media_ids, ["media_id"])["media_id"].to_pylist():
                there[media_id] += 1
        for (media_id, name), entry in entries.items():
            if name == analyzer and entry.status == "done" and entry.rows != there[media_id]:
                changed.append(replace(entry, rows=there[media_id]))
    ledger.record(changed)
