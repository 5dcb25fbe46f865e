"""Faces and voices near to one: the tracks of all media, by the mean of their embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._face_identity import same_person_cosine
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._voice_identity import same_voice_cosine
from media_pipeline.config import IndexLimits, Settings
from media_pipeline.errors import UsageError
from media_pipeline.results._identity_kinds import BOX, PERSONS, VOICES, Kind, tracks_of
from media_pipeline.results._identity_samples import SampleTrack, read_sample
from media_pipeline.results._search_hits import Box, Found, Key, Why
from media_pipeline.results._search_indexes import Look, dimension_in, discard_index, index_of, nearest
from media_pipeline.results._search_lists import Part
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Space, VectorIndex, models_in

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One of those to be seen or heard in a file."""

    track: SampleTrack
    box: Box | None  # of a face: xyxy, pixels as displayed
    seconds: float | None  # of a voice: how long it speaks


def everybody_in(kind: Kind, path: Path, settings: Settings, models: ModelStore) -> list[Sampled]:
    """Whoever could be known again in a file: the largest face, or the voice heard longest, first.

    Raises:
        UsageError: nobody, or no such file.
        InputError: it cannot be decoded.
        ModelUnavailable: the analyzer has no model here, with the remedy.
    """
    rows = read_sample(kind, path, settings, models)
    spoken: dict[object, float] = {}
    if kind is VOICES:
        for key, start, end in zip(*(rows[name].to_pylist() for name in (kind.track, *kind.span)), strict=True):
            spoken[key] = spoken.get(key, 0.0) + end - start
    found = [
        Sampled(SampleTrack(path.name, track.model, track.vector), track.anchor.box, spoken.get(track.key))
        for track in tracks_of(rows, kind)
    ]
    if not found:
        what = "face" if kind is PERSONS else "voice"
        raise UsageError(
            f"no {what} that could be known again is in {path.name}",
            "take a picture with a large, sharp face" if kind is PERSONS else "take ten seconds of clear speech",
        )
    return sorted(found, key=lambda one: -(one.seconds or _area(one.box)))


def _area(box: Box | None) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) if box else 0.0


class People:
    """The faces, or the voices, of all media."""

    def __init__(self, kind: Kind, tables: Tables, layout: Layout, limits: IndexLimits) -> None:
        self._kind, self._tables, self._layout, self._limits = kind, tables, layout, limits
        self.why: Why = "face" if kind is PERSONS else "voice"

    def refresh(self) -> None:
        """Brings the index up to date with the table; that of the model most tracks are of."""
        present = models_in(self._tables, self._kind.table)
        index = self._index(max(present, key=lambda name: present[name])) if present else None
        if index is not None:
            index.refresh()
        else:  # or erased vectors would live on in the index
            discard_index(self._tables, self._layout, self.why, self._kind.table)

    def like(self, sample: SampleTrack) -> Callable[[Look], Part]:
        """Tracks that are the same person's as far as the model can tell, with their best moment.

        Of models that nobody has measured the nearest ones, whoever they are.
        """
        self._say_what_is_left_out(sample.model)
        index = self._index(sample.model)
        if index is None:
            return lambda _: Part([], is_cut=False)
        floor = _floor(self._kind, sample.model)

        def alike(look: Look) -> Part:
            near = nearest(index, sample.vector[None], look, self._columns, [floor])
            names = self._names() if near.hits else {}
            return Part([self._found(hit.row, names, hit.score) for hit in near.hits], near.is_cut)

        return alike

    def sightings(self, identities: Collection[str], media_ids: Collection[str]) -> dict[Key, Found]:
        """The tracks of these identities in these media, each at its best moment."""
        kind, names = self._kind, self._names()
        rows = self._tables.read(kind.table, media_ids, self._columns).to_pylist() if identities else []
        return dict(self._found(row, names) for row in rows if row[kind.identity] in identities)

    @property
    def _columns(self) -> tuple[str, ...]:
        boxes = BOX if self._kind.has_boxes else ()
        return ("media_id", self._kind.track, self._kind.identity, "at_s", *boxes)

    def _found(
        self, row: Mapping[str, Any], names: Mapping[str, str], similarity: float | None = None
    ) -> tuple[Key, Found]:
        box = tuple(row.get(name) for name in BOX)
        person = row[self._kind.identity]
        moment = Found(
            self.why,
            row["at_s"],
            box=None if None in box else cast(Box, box),
            person_id=person,
            person=names.get(person),
            similarity=similarity,
        )
        return (row["media_id"], self.why, row[self._kind.track]), moment

    def _index(self, model: str) -> VectorIndex | None:
        try:
            dimension = dimension_in(self._tables, self._kind.table, model)
        except LookupError:
            return None
        space = Space(self.why, self._kind.table, model, dimension)
        return index_of(self._tables, self._layout, space, self._limits)

    def _names(self) -> dict[str, str]:
        with closing(Decisions.of(self._layout)) as decisions:
            return decisions.names(self._kind.name)

    def _say_what_is_left_out(self, model: str) -> None:
        present = models_in(self._tables, self._kind.table)
        others = present.total() - present[model]
        if others:
            log.warning(
                "%d of %d %ss are left out: their vectors are not of %s, which read the sample; analysing them again "
                "makes new ones",
                others,
                present.total(),
                self.why,
                model,
            )


def _floor(kind: Kind, model: str) -> float:
    try:
        return same_person_cosine(model) if kind is PERSONS else same_voice_cosine(model)
    except KeyError:
        return -1.0
