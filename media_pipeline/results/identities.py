"""Who is who across media: `persons` from the table `faces`, `voices` from `speakers`.

After each batch its tracks are clustered together with the identities they come near to (`_identity_place.py`); what
the user decides (`storage/identities.py`) stands above all that. Every operation takes the lock of its kind, commits
once, and may be killed and repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
from filelock import FileLock

from media_pipeline.analyzers._face_identity import same_person_cosine
from media_pipeline.analyzers._voice_identity import same_voice_cosine
from media_pipeline.results import _identity_decisions as deciding
from media_pipeline.results._identity_kinds import KINDS, PERSONS, VOICES, Kind, Thresholds
from media_pipeline.results._identity_recluster import recluster
from media_pipeline.results._identity_samples import SampleTrack
from media_pipeline.results._identity_update import Changes, update_media
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

__all__ = ["KINDS", "PERSONS", "VOICES", "Identities", "Kind", "identity_table", "update_identities"]

log = logging.getLogger(__name__)

_MEDIA_AT_ONCE = 64
_NEVER = 2.0  # no cosine


def update_identities(tables: Tables, layout: Layout, media_ids: Collection[str]) -> dict[str, Any]:
    """Gives the faces and speakers of these media identities; counts by kind. To be called after each batch.

    Raises:
        StorageConflict, DiskFull: nothing has changed, or all media but some; the next call goes on.
    """
    counts: dict[str, Any] = {}
    for kind in KINDS:
        with closing(Identities(kind, tables, layout)) as identities:
            changes = identities.update(media_ids)
            counts[kind.plural] = {"tracks": changes.tracks, "moved": changes.moved}
    return counts


def identity_table(layout: Layout) -> pa.Table:
    """What the user said of identities, for the catalog."""
    with closing(Decisions.of(layout)) as decisions:
        return decisions.table()


def threshold_of(kind: Kind, model: str) -> float:
    """Cosine from which two tracks are one identity; of models that nobody measured no two are."""
    try:
        return same_person_cosine(model) if kind is PERSONS else same_voice_cosine(model)
    except KeyError:
        log.warning("nobody has measured from where on embeddings of %s are one %s: none are joined", model, kind.name)
        return _NEVER


class Identities:
    """The identities of one kind in one home. Names may stand wherever an id may.

    Raises (from every method):
        UsageError: no such identity, or a wish that cannot be met, with the remedy
        StorageConflict, DiskFull: nothing has changed
    """

    def __init__(self, kind: Kind, tables: Tables, layout: Layout, threshold: Thresholds = threshold_of) -> None:
        self.kind = kind
        self._tables, self._threshold = tables, threshold
        self._decisions = Decisions.of(layout)
        layout.locks.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(layout.locks / f"identities-{kind.plural}.lock", fallback_to_soft=False)

    def close(self) -> None:
        self._decisions.close()

    def update(self, media_ids: Collection[str]) -> Changes:
        """Gives the tracks of these media identities."""
        if not self._tables.exists(self.kind.source):
            return Changes()
        total = Changes()
        ids = sorted(media_ids)  # together the result is the same whatever the order
        with self._working():
            for start in range(0, len(ids), _MEDIA_AT_ONCE):
                chunk = ids[start : start + _MEDIA_AT_ONCE]
                total += update_media(self.kind, self._tables, self._decisions, chunk, self._threshold)
            if total.models_left and total.models_left - deciding.models(self.kind, self._tables):
                # The last medium has got its embeddings from the new model.
                total += recluster(self.kind, self._tables, self._decisions, self._threshold)
        return total

    def recluster(self) -> Changes:
        """Clusters everything anew; the user's decisions stand, and ids follow most of their tracks."""
        if not self._tables.exists(self.kind.source):
            return Changes()
        fresh = self.update(deciding.missed(self.kind, self._tables))
        with self._working():
            anew = recluster(self.kind, self._tables, self._decisions, self._threshold)
        return replace(anew, moved=fresh.tracks + anew.moved)

    def find(self, given: str) -> str:
        """The id of an identity given by id, former id or name."""
        self._tables.ensure(self.kind.table, self.kind.schema)
        return deciding.find(self.kind, self._tables, self._decisions, given)

    def name_of(self, identity: str) -> str | None:
        return self._decisions.names(self.kind.name).get(identity)

    def sightings(self, identity: str) -> list[deciding.Sighting]:
        """Where it is to be seen or heard, by medium and time."""
        return deciding.sightings(self.kind, self._tables, identity)

    def name(self, given: str, name: str) -> str:
        """Returns the id."""
        with self._working():
            return deciding.name(self.kind, self._tables, self._decisions, given, name)

    def unname(self, given: str) -> str:
        """Takes name and samples away; returns the id."""
        with self._working():
            identity = deciding.find(self.kind, self._tables, self._decisions, given)
            self._decisions.unname(self.kind.name, identity)
            return identity

    def merge(self, given: str, others: Sequence[str]) -> str:
        """The others become part of the first, whose id and name stay; a name of theirs serves where it has none."""
        with self._working():
            return deciding.merge(self.kind, self._tables, self._decisions, given, others)

    def split(self, given: str, tracks: Sequence[str]) -> str:
        """These tracks (`MEDIA_ID`, or `MEDIA_ID:TRACK`) are someone else, whose id is returned."""
        with self._working():
            return deciding.split(self.kind, self._tables, self._decisions, given, tracks)

    def enrol(self, name: str, sample: SampleTrack) -> deciding.Enrolment:
        """Makes or extends the identity of this name, which gets what resembles the sample and has no name yet."""
        with self._working():
            threshold = self._threshold(self.kind, sample.model)
            return deciding.enrol(self.kind, self._tables, self._decisions, name, sample, threshold)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Alone, the table there, and every decision carried out, before and after."""
        with self._lock:
            self._tables.ensure(self.kind.table, self.kind.schema)
            deciding.settle(self.kind, self._tables, self._decisions)
            yield
            deciding.settle(self.kind, self._tables, self._decisions)
