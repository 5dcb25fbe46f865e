"""The answers to questions of every kind, before anything is known of their media."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.config import Settings
from media_pipeline.results._identity_kinds import PERSONS, VOICES
from media_pipeline.results._identity_samples import SampleTrack
from media_pipeline.results._search_filter import Within
from media_pipeline.results._search_hits import Found, Key
from media_pipeline.results._search_indexes import Look, Near, Reading
from media_pipeline.results._search_lists import Answer, Part, RankedList
from media_pipeline.results._search_people import People
from media_pipeline.results._search_pictures import Pictures, read_picture, same_pictures
from media_pipeline.results._search_text import Meanings, wants_exact_words, word_index
from media_pipeline.results.media import resolve
from media_pipeline.storage._folding import MAX_QUERY_CHARS
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Neighbour

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
MomentOf = Callable[[Neighbour], tuple[Key, Found]]

_LOOKS = 8  # moments of a medium, evenly spread, whose neighbours are those of the medium


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked. Several questions are asked of the same media: those that answer all of them come first.

    Args:
        text: words in double quotes must stand in a text as they are; nothing else is an operator. Where a model is not
            here, or the vectors are of another one, its answers are missing.
        image: a picture; the frames that look most like it. Without CLIP, or before there are vectors, only the same
            picture is found again, by its perceptual hash, and a warning says what is missing.
        like: media_id, the first 8 digits of it or more, or partition key; what other media show or say most nearly
        face: the faces that are the same person's as far as the model can tell
        voice: the speakers whose voice may be the same
        pictures: whether a text is also looked for in frames: the model that describes them takes seconds to load
    """

    text: str | None = None
    image: Path | None = None
    like: str | None = None
    face: SampleTrack | None = None
    voice: SampleTrack | None = None
    pictures: bool = True

    def __bool__(self) -> bool:
        return any(one is not None for one in (self.text, self.image, self.like, self.face, self.voice))


class Answers:
    """Everything that can be asked of one home."""

    def __init__(self, tables: Tables, layout: Layout, settings: Settings, models: ModelStore) -> None:
        self._tables, self._layout, self._settings, self._models = tables, layout, settings, models

    def to(self, asked: Questions) -> list[Answer]:
        """One for each question, to be read as far as is wanted."""
        answers = []
        if asked.text is not None:
            answers.append(self.text(asked.text, pictures=asked.pictures))
        if asked.image is not None:
            answers.append(self.image(asked.image))
        if asked.like is not None:
            answers.append(self.like(asked.like))
        for kind, sample in ((PERSONS, asked.face), (VOICES, asked.voice)):
            if sample is not None:
                people = People(kind, self._tables, self._layout, self._settings.index)
                answers.append(Answer([RankedList(people.why, people.like(sample))]))
        return answers

    def text(self, query: str, *, pictures: bool) -> Answer:
        # Bytes that are no UTF-8 reach us as lone surrogates, which neither SQLite nor a tokenizer takes.
        query = query[:MAX_QUERY_CHARS].encode(errors="replace").decode()
        lists = [RankedList("words", lambda look: self._by_word(query, look))]
        if not wants_exact_words(query):
            lists.append(RankedList("meaning", _moments(self._meanings().answers(query), _passage)))
            if pictures:
                lists.append(RankedList("picture", _moments(self._pictures().answers(query), _frame)))
        return Answer(lists)

    def _by_word(self, query: str, look: Look) -> Part:
        with closing(word_index(self._tables, self._layout)) as index:
            hits = index.search(query, look.depth, look.within, without=look.without)
        moments = [
            ((hit.media_id, hit.source, hit.row_index), Found(hit.source, hit.pts_s, hit.text, hit.spans))
            for hit in hits
        ]
        return Part(moments, len(hits) >= look.depth)

    def image(self, path: Path) -> Answer:
        image, phash = read_picture(path, self._settings)
        pictures = self._pictures()
        if pictures.can_encode:
            return Answer([RankedList("picture", _moments(pictures.neighbours(pictures.encode(image)), _compared))])
        log.warning("only the same picture is looked for: %s", pictures.why_not())
        distance = self._settings.duplicate_max_distance

        def same(look: Look) -> Near:
            return Near(same_pictures(self._tables, phash, distance, look.within), is_cut=False)

        return Answer([RankedList("same picture", _moments(same, _compared))])

    def like(self, medium: str) -> Answer:
        media_id = resolve(self._tables, medium)
        pictures, meanings = self._pictures(), self._meanings()
        frames, passages = pictures.of_medium(media_id), meanings.of_medium(media_id)
        shown = _others(pictures.neighbours(_spread(frames)), media_id, len(frames), _frame)
        said = _others(meanings.neighbours(_spread(passages)), media_id, len(passages), _passage)
        return Answer([RankedList("picture", shown), RankedList("meaning", said)])

    def newest(self, within: Within, k: int) -> dict[Key, Found]:
        """The newest media that pass a filter; the moments of the persons and voices that were asked for."""
        media_ids = within.newest[:k]
        found: dict[Key, Found] = {}
        for kind, identities in ((PERSONS, within.persons), (VOICES, within.voices)):
            found |= People(kind, self._tables, self._layout, self._settings.index).sightings(identities, media_ids)
        there = {media_id for media_id, _, _ in found}
        found |= {(media_id, "medium", 0): Found("medium", None) for media_id in media_ids if media_id not in there}
        place = {media_id: rank for rank, media_id in enumerate(media_ids, start=1)}
        for (media_id, _, _), moment in found.items():
            moment.ranks["filter"] = place[media_id]
        return found

    def _pictures(self) -> Pictures:
        return Pictures(self._tables, self._layout, self._settings, self._models)

    def _meanings(self) -> Meanings:
        return Meanings(self._tables, self._layout, self._settings, self._models)


def _passage(near: Neighbour) -> tuple[Key, Found]:
    row = near.row
    return (row["media_id"], row["source"], row["row_index"]), Found(row["source"], row["pts_s"], row["text"])


def _frame(near: Neighbour) -> tuple[Key, Found]:
    row = near.row
    moment = Found("picture", row["pts_s"], frame_index=row["frame_index"])
    return (row["media_id"], "picture", row["frame_index"]), moment


def _compared(near: Neighbour) -> tuple[Key, Found]:
    key, moment = _frame(near)
    moment.similarity = near.score
    return key, moment


def _moments(reading: Reading, moment_of: MomentOf) -> Callable[[Look], Part]:
    def read(look: Look) -> Part:
        near = reading(look)
        return Part([moment_of(hit) for hit in near.hits], near.is_cut)

    return read


def _others(reading: Reading, media_id: str, own: int, moment_of: MomentOf) -> Callable[[Look], Part]:
    """The nearest moment of every other medium, nearest first."""

    def read(look: Look) -> Part:
        # Own moments are the nearest of all: so many more are asked for.
        near = reading(replace(look, depth=look.depth + own))
        best: dict[str, Neighbour] = {}
        for hit in near.hits:
            if hit.row["media_id"] != media_id:
                best.setdefault(hit.row["media_id"], hit)
        return Part([((other, "", 0), moment_of(hit)[1]) for other, hit in best.items()], near.is_cut)

    return read


def _spread(vectors: Vectors) -> Vectors:
    if len(vectors) <= _LOOKS:
        return vectors
    return vectors[np.linspace(0, len(vectors) - 1, _LOOKS).round().astype(np.int64)]
