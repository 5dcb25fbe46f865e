"""Bringing the identities of some media up to date: one commit, which a repetition finds done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from media_pipeline.execution.rows import by_medium
from media_pipeline.results._identity_kinds import BOX, Key, Kind, Thresholds, Track, track_at, tracks_of, vectors_in
from media_pipeline.results._identity_known import Known, Settled, present
from media_pipeline.results._identity_place import Name, place
from media_pipeline.storage.identities import Anchor, Decisions, Pin
from media_pipeline.storage.tables import Tables

Moved = tuple[str, float | None]  # the identity and score of a track from now on

_SAME = 1e-5  # vectors that differ by less are the same


@dataclass(frozen=True, slots=True)
class Changes:
    """What an update did."""

    tracks: int = 0  # that got an identity
    moved: int = 0  # that had one and have another now
    models_left: frozenset[str] = frozenset()  # models whose tracks were replaced by those of another

    def __add__(self, other: Changes) -> Changes:
        return Changes(self.tracks + other.tracks, self.moved + other.moved, self.models_left | other.models_left)


@dataclass(slots=True)
class _Verdicts:
    """Identity, score and decider of each track of the media."""

    of: dict[Name, tuple[str, float | None, str]] = field(default_factory=dict)
    renumbered: list[tuple[int, Key]] = field(default_factory=list)  # pins


def update_media(
    kind: Kind, tables: Tables, decisions: Decisions, media_ids: Collection[str], threshold: Thresholds
) -> Changes:
    """Gives the tracks of these media identities, where they have none or have changed.

    Raises:
        StorageConflict, DiskFull: nothing has changed.
    """
    sightings = tables.read(kind.source, media_ids, kind.columns)
    standing = tables.read(kind.table, media_ids)
    tracks = tracks_of(sightings, kind)
    changed = _changed(tracks, standing, kind)
    if not changed:
        return Changes()
    tracks = [track for track in tracks if track.media_id in changed]
    old = [row for row in standing.to_pylist() if row["media_id"] in changed]
    before = _successors(old, by_medium(sightings), kind)
    verdicts = _settled(kind, tracks, before, decisions, by_medium(sightings))
    moved = _place_others(kind, tables, decisions, tracks, before, verdicts, changed, threshold)
    since = {name: row["added_at"] for name, row in before.items()}
    now = datetime.now(UTC)
    rows = pa.Table.from_pylist(
        [_row(kind, t, verdicts.of[t.name], since.get(t.name) or now) for t in tracks], schema=kind.schema
    )
    decisions.renumber(verdicts.renumbered)
    commit(kind, tables, rows, changed, moved)
    models = {row["model"] for row in old} - {track.model for track in tracks} if tracks else set()
    return Changes(len(tracks), len(moved), frozenset(models))


def commit(kind: Kind, tables: Tables, rows: pa.Table, media_ids: Collection[str], moved: Mapping[Name, Moved]) -> None:
    """These media have these rows, and some tracks of others another identity: all of it, or nothing."""

    def change(old: pa.Table) -> pa.Table:
        kept = old.filter(pa.array([media_id not in media_ids for media_id in old["media_id"].to_pylist()], pa.bool_()))
        names = zip(kept["media_id"].to_pylist(), kept[kind.track].to_pylist(), strict=True)
        present = zip(kept[kind.identity].to_pylist(), kept["score"].to_pylist(), strict=True)
        verdicts = [moved.get(name, verdict) for name, verdict in zip(names, present, strict=True)]
        for column, values in ((kind.identity, [v[0] for v in verdicts]), ("score", [v[1] for v in verdicts])):
            at = kept.column_names.index(column)
            kept = kept.set_column(at, column, pa.array(values, kind.schema.field(column).type))
        return pa.concat_tables([kept, rows], promote_options="permissive")

    tables.update(kind.table, {*media_ids, *(media_id for media_id, _ in moved)}, change)


def _changed(tracks: Sequence[Track], standing: pa.Table, kind: Kind) -> set[str]:
    """Media whose tracks are not those that stand in the table."""
    now: dict[str, dict[Key, Any]] = defaultdict(dict)
    for track in tracks:
        now[track.media_id][track.key] = track.model, track.apart, track.vector
    then: dict[str, dict[Key, Any]] = defaultdict(dict)
    names = zip(standing["media_id"].to_pylist(), standing[kind.track].to_pylist(), strict=True)
    values = zip(
        standing["model"].to_pylist(),
        (tuple(apart or ()) for apart in standing["apart"].to_pylist()),
        vectors_in(standing["embedding"]),
        strict=True,
    )
    for (media_id, key), value in zip(names, values, strict=True):
        then[media_id][key] = value
    return {m for m in now.keys() | then.keys() if not _alike(now.get(m, {}), then.get(m, {}))}


def _alike(now: dict[Key, Any], then: dict[Key, Any]) -> bool:
    return now.keys() == then.keys() and all(
        now[key][:2] == then[key][:2]
        and then[key][2] is not None
        and len(now[key][2]) == len(then[key][2])
        and bool(np.abs(now[key][2] - then[key][2]).max() <= _SAME)
        for key in now
    )


def _successors(old: Sequence[dict[str, Any]], sightings: Mapping[str, pa.Table], kind: Kind) -> dict[Name, Any]:
    """The row that each track had before its medium was analysed anew, found by where the track was."""
    found: dict[Name, Any] = {}
    for row in old:
        box = tuple(row[name] for name in BOX) if kind.has_boxes and row[BOX[0]] is not None else None
        pin = Pin(row["media_id"], row[kind.track], Anchor(row["at_s"], box), row[kind.identity])
        key = track_at(pin, sightings[row["media_id"]], kind) if row["media_id"] in sightings else None
        if key is not None:
            found.setdefault((row["media_id"], key), row)
    return found


def _settled(
    kind: Kind,
    tracks: Sequence[Track],
    before: Mapping[Name, Any],
    decisions: Decisions,
    sightings: Mapping[str, pa.Table],
) -> _Verdicts:
    """Tracks whose identity needs no clustering: pinned ones, and those another model has already placed.

    While media are analysed with a new model one after the other, its vectors say nothing about those of the old one:
    what was together stays together until the last medium has come, and then everything is clustered again.
    """
    verdicts = _Verdicts()
    names = {track.name: track for track in tracks}
    for name, row in before.items():
        if name in names and row["model"] != names[name].model:
            verdicts.of[name] = (row[kind.identity], row["score"], "auto")
    for pin in decisions.pins(kind.name, {track.media_id for track in tracks}):
        key = track_at(pin, sightings[pin.media_id], kind)
        if key is None or (pin.media_id, key) not in names:
            continue  # not to be seen any more; it may come back with another model
        verdicts.of[pin.media_id, key] = (pin.identity_id, None, "user")
        if key != pin.track and pin.pin_id is not None:
            verdicts.renumbered.append((pin.pin_id, key))
    return verdicts


def _place_others(
    kind: Kind,
    tables: Tables,
    decisions: Decisions,
    tracks: Sequence[Track],
    before: Mapping[Name, Any],
    verdicts: _Verdicts,
    changed: set[str],
    threshold: Thresholds,
) -> dict[Name, Moved]:
    """Clusters what is not settled, model by model; returns the tracks of other media that moved."""
    moved: dict[Name, Moved] = {}
    settled = {name: verdict[0] for name, verdict in verdicts.of.items()}
    used = set(settled.values())

    def taken(ids: Collection[str]) -> set[str]:
        return present(tables, kind, ids, changed) | decisions.known(kind.name, list(ids)) | (used & set(ids))

    had = {name: row[kind.identity] for name, row in before.items() if name not in settled}
    elsewhere = present(tables, kind, set(had.values()), changed)
    decided = decisions.decided(kind.name)
    for model in sorted({track.model for track in tracks if track.name not in settled}):
        of_model = [track for track in tracks if track.model == model]
        fixed = [Settled(settled[t.name], t.vector, t.media_id, t.key, t.apart) for t in of_model if t.name in settled]
        fixed += [Settled(sample.identity_id, sample.vector) for sample in decisions.samples(kind.name, model)]
        placement = place(
            kind,
            [track for track in of_model if track.name not in settled],
            Known(tables, kind, model, changed, fixed),
            had={name: identity for name, identity in had.items() if identity not in elsewhere},
            decided=decided,
            taken=taken,
            threshold=threshold(kind, model),
        )
        for name, (identity, score) in placement.new.items():
            verdicts.of[name] = (identity, score, "auto")
            used.add(identity)
        for name, verdict in placement.moved.items():
            if name in verdicts.of:
                verdicts.of[name] = (verdict[0], *verdicts.of[name][1:])
            else:
                moved[name] = verdict
    return moved


def _row(kind: Kind, track: Track, verdict: tuple[str, float | None, str], added_at: datetime) -> dict[str, Any]:
    identity, score, decided_by = verdict
    row = {
        "media_id": track.media_id,
        kind.track: track.key,
        kind.identity: identity,
        "score": score,
        "decided_by": decided_by,
        "model": track.model,
        "embedding": track.vector,
        "at_s": track.anchor.at_s,
        "added_at": added_at,
        "apart": list(track.apart),
    }
    if kind.has_boxes and track.anchor.box is not None:
        row.update(zip(BOX, track.anchor.box, strict=True))
    return row
