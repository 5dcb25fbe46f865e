"""What an erasure would take: which media and identities are meant, their files and rows, and what to look for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.errors import UsageError
from media_pipeline.execution.rows import by_medium
from media_pipeline.results import _erasure_files as files
from media_pipeline.results import _erasure_needles as needles
from media_pipeline.results import _erasure_tables as rows
from media_pipeline.results._byte_scan import Needle
from media_pipeline.results._erasure_journal import Identity, Journal, Medium
from media_pipeline.results.duplicates import TABLE as PAIRS
from media_pipeline.results.identities import KINDS, Identities
from media_pipeline.results.media import SHORTEST, resolve
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.sources import KnownMedium, shown

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

_MEDIA_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go, and what would stay."""

    media: tuple[Medium, ...]
    identities: tuple[Identity, ...]
    files: str  # which of the user's own files go: watched, all, none
    going: tuple[Path, ...]  # files of the user's
    staying: tuple[Path, ...]
    bytes: int  # of files: the user's, our originals, the cache
    counts: Mapping[str, int]  # rows by table, events of Dagster, decisions

    @property
    def concerned(self) -> list[str]:
        """Media whose rows change: those that go, and those in which somebody who goes is seen or heard."""
        return sorted({m.media_id for m in self.media} | {m for i in self.identities for m, _ in i.tracks})


def find_media(pipeline: Pipeline, given: Iterable[str]) -> list[Medium]:
    """The media meant by ids, their first digits, or partition keys; each once.

    Raises:
        UsageError: there is no such medium, or several.
    """
    asked = list(dict.fromkeys(given))
    known = pipeline.sources.by_id(asked) | pipeline.sources.by_partition(asked)
    ids = [known[text].media_id if text in known else _beginning_with(pipeline, text) for text in asked]
    found = pipeline.sources.by_id(ids)
    return [_medium(pipeline, found[i]) if i in found else _orphan(pipeline, i) for i in dict.fromkeys(ids)]


def find_identities(pipeline: Pipeline, given: Mapping[str, Sequence[str]]) -> list[Identity]:
    """The persons and voices meant by ids, former ids or names.

    Raises:
        UsageError: there is no such identity.
    """
    found: dict[tuple[str, str], Identity] = {}
    for kind in KINDS:
        if not given.get(kind.name):
            continue
        with closing(Identities(kind, pipeline.tables, pipeline.layout)) as identities:
            identities.update([])  # decisions that the table does not show yet are carried out first
            for text in given[kind.name]:
                identity = identities.find(text)
                tracks = tuple((s.media_id, s.track) for s in identities.sightings(identity))
                found[kind.name, identity] = Identity(kind.name, identity, identities.name_of(identity), tracks)
    return list(found.values())


def make_plan(
    pipeline: Pipeline,
    media: Sequence[Medium],
    identities: Sequence[Identity],
    which_files: str,
    dagster_counts: Mapping[str, int],
) -> Plan:
    going, staying = files.own_files(pipeline, media, which_files)
    own = [path.lstat().st_size for path, _ in going]
    copies = [m.bytes for m in media if (pipeline.layout.originals / m.media_id[:2] / m.media_id).exists()]
    cached = [path.stat().st_size for m in media for path in files.cached_files(pipeline, m.media_id)]
    return Plan(
        media=tuple(media),
        identities=tuple(identities),
        files=which_files,
        going=tuple(path for path, _ in going),
        staying=tuple(staying),
        bytes=sum(own) + sum(copies) + sum(cached),
        counts=_counts(pipeline, media, identities)
        | {"files": len(own) + len(copies) + len(cached)}
        | dict(dagster_counts),
    )


def begin(pipeline: Pipeline, plan: Plan, by: str) -> Journal:
    """Everything a killed erasure needs to go on, what it must look for included."""
    return Journal.new(
        by,
        plan.files,
        media=plan.media,
        identities=plan.identities,
        needles=tuple(_needles(pipeline, plan)),
        copies=files.fingerprints(pipeline, plan.media) if plan.files != files.NONE else {},
        counts=dict(plan.counts),
    )


def _beginning_with(pipeline: Pipeline, text: str) -> str:
    if len(text) >= SHORTEST:
        found = [media_id for media_id in pipeline.sources.newest_ids() if media_id.startswith(text.lower())]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{len(found)} media begin with {text}", "give more digits")
    return resolve(pipeline.tables, text)


def _medium(pipeline: Pipeline, known: KnownMedium) -> Medium:
    return Medium(
        media_id=known.media_id,
        partition_key=known.partition_key,
        names=tuple(dict.fromkeys((known.name, *known.names))),
        paths=pipeline.sources.paths(known.media_id),
        stored=None if known.linked_mtime_ns is None else str(known.stored),
        bytes=known.bytes,
    )


def _orphan(pipeline: Pipeline, media_id: str) -> Medium:
    """A medium that only the tables know."""
    row = pipeline.tables.read("media", [media_id], ["partition_key", "name", "bytes"]).to_pylist()[0]
    return Medium(media_id, row["partition_key"], names=(row["name"],) if row["name"] else (), bytes=row["bytes"] or 0)


def _counts(pipeline: Pipeline, media: Sequence[Medium], identities: Sequence[Identity]) -> dict[str, int]:
    ids = [medium.media_id for medium in media]
    found = rows.row_counts(pipeline.tables, ids) if ids else {}
    for identity in identities:
        for name, count in rows.track_counts(pipeline.tables, identity).items():
            found[name] = found.get(name, 0) + count
    counts = {f"rows in {name}": count for name, count in sorted(found.items())}
    kept = sum(rows.row_counts(pipeline.kept.tables, ids).values()) if ids else 0
    return counts | ({"kept rows": kept} if kept else {})


# -- what to look for --------------------------------------------------------------------------------------------


def _needles(pipeline: Pipeline, plan: Plan) -> list[Needle]:
    ids = [medium.media_id for medium in plan.media]
    stores = (pipeline.tables, pipeline.kept.tables)
    found = [*needles.of_media(plan.media, _thumbnails(pipeline, ids)), *needles.of_identities(plan.identities)]
    for start in range(0, len(ids), _MEDIA_AT_ONCE):
        some = ids[start : start + _MEDIA_AT_ONCE]
        for store in stores:
            for name in store.names():
                for table in by_medium(store.read(name, some)).values():
                    found += needles.of_rows(table)
    found += _of_tracks(pipeline, plan.identities)
    with closing(Decisions.of(pipeline.layout)) as decisions:
        erased = {(identity.kind, identity.identity_id) for identity in plan.identities}
        samples = decisions.all_samples()
    found += needles.of_vectors(vector for kind, identity, vector in samples if (kind, identity) in erased)
    others = [vector for kind, identity, vector in samples if (kind, identity) not in erased]
    if plan.files == files.NONE:
        # The user's files keep their names, and `sources` remembers why they are not taken in again.
        found = [needle for needle in found if needle.kind != "name"]
    return needles.exclusive(found, stores, ids, plan.identities, [*_other_sources(pipeline, ids), _as_table(others)])


def _of_tracks(pipeline: Pipeline, identities: Sequence[Identity]) -> Iterator[Needle]:
    for identity in identities:
        kind = rows.kind_of(identity)
        for name in (*rows.sources_of(kind), kind.table):
            yield from needles.of_rows(rows.track_rows(pipeline.tables, name, identity))


def _as_table(vectors: Sequence[Any]) -> pa.Table:
    """Vectors that stay, in both forms in which vectors are looked for."""
    forms = [np.asarray(vector, kind).tobytes() for vector in vectors for kind in (np.float32, np.float16)]
    return pa.table({"vector": pa.array(forms, pa.binary())})


def _thumbnails(pipeline: Pipeline, ids: Sequence[str]) -> dict[str, bytes]:
    """Of those media whose thumbnail is theirs alone.

    Those of near-duplicates may have pieces in common, and the recordings of an album have one cover.
    """
    twins: set[str] = set()
    if pipeline.tables.exists(PAIRS):
        pairs = pipeline.tables.read(PAIRS, columns=["media_id", "other_id"])
        asked = pa.array(ids, pa.string())
        twins.update(pairs.filter(pc.is_in(pairs["media_id"], asked))["media_id"].to_pylist())
        twins.update(pairs.filter(pc.is_in(pairs["other_id"], asked))["other_id"].to_pylist())
    found = {media_id: files.thumbnail(pipeline, media_id) for media_id in ids if media_id not in twins}
    shared = files.thumbnails_among(pipeline, set(found.values()), but_for=set(ids))
    return {media_id: picture for media_id, picture in found.items() if picture not in shared}


def _other_sources(pipeline: Pipeline, ids: Sequence[str]) -> Iterator[pa.Table]:
    """What is known of the files of the media that stay."""
    table = pipeline.sources.table()
    ours = pc.fill_null(pc.is_in(table["media_id"], pa.array(ids, pa.string())), fill_value=False)
    others = table.filter(pc.invert(ours))
    yield others.select(["path", "name"]).take(pa.array(range(others.num_rows), pa.int64()))


def words_of(journal: Journal) -> list[str]:
    """What names the media and identities in running text."""
    found: list[str] = []
    for medium in journal.media:
        found += [medium.media_id, medium.media_id[: needles.ID_DIGITS]]
        if journal.files != files.NONE:
            found += [*(shown(path) for path in medium.paths), *medium.names]
    for identity in journal.identities:
        found += [identity.identity_id, *([identity.name] if identity.name else [])]
    return list(dict.fromkeys(found))
