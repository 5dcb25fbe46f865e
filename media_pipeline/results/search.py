"""Search in what was read, said and shown: by word, meaning, picture, example, face and voice, with the moment.

What answers a text is fused by reciprocal rank (Cormack, Clarke and Büttcher 2009): passages that have the words of the
query (`storage/words.py`), passages near to it in the model's space (`storage/vectors.py`), and frames that it
describes (CLIP). Each has a floor of its own, so that a query nothing answers gets no hits instead of the least
unfitting ones. A picture as query has no floor: the nearest frames are the answer. Faces and voices have the one from
which on two of them are the same person's.

How far meaning reaches depends on the model. On the sentences of `test_search_quality`, questions that share no word
with their answer: all-MiniLM-L6-v2, the embedded model, finds 16 of 18 in English and none of 16 in German (its own
order has 2 of 16 first; the floor rejects them with the noise). German is found by word, compounds and umlauts
included; by meaning only with the standard model. Frames are described in English, and in German with a multilingual
CLIP model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.config import Settings
from media_pipeline.errors import UsageError
from media_pipeline.results._identity_kinds import KINDS
from media_pipeline.results._search_answers import Answers, Questions
from media_pipeline.results._search_filter import Filter, Within, media_within, moment_of
from media_pipeline.results._search_hits import Hit, by_medium, with_media
from media_pipeline.results._search_indexes import Look
from media_pipeline.results._search_lists import Answer, read_on
from media_pipeline.results._search_people import People, Sampled, everybody_in
from media_pipeline.results._search_pictures import Pictures
from media_pipeline.results._search_text import Meanings, word_index
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

MOMENTS_PER_MEDIUM = 3
_DEPTH = 50  # moments of each list that are fused at a time, per hit wanted at least 5
_LOOKS = 8  # how often lists are read on: each look costs what the first one does, and mostly gives three hits or more


def search(
    tables: Tables,
    layout: Layout,
    settings: Settings,
    models: ModelStore,
    asked: Questions,
    k: int = 10,
    moments_per_medium: int = MOMENTS_PER_MEDIUM,
    *,
    within: Within | None = None,
) -> list[Hit]:
    """The `k` best moments, best first; no more than so many of one medium.

    Several questions are fused by reciprocal rank. Without a question the newest media that pass the filter.

    Raises:
        UsageError: neither a question nor a filter; a file or medium that is not there.
        MediaPipelineError: the picture cannot be read.
    """
    media_ids = None if within is None else within.media_ids
    answers = Answers(tables, layout, settings, models)
    if asked:
        look = Look(max(_DEPTH, 5 * k), media_ids)
        # A medium is like another one or is not: it has one moment, and is not looked for again.
        enough = moments_per_medium if asked.like is None else 1
        return _best(tables, answers.to(asked), look, k, moments_per_medium, enough)
    if within is None:
        raise UsageError("nothing was asked", "give a text, a picture, a medium, a face, a voice, or a filter")
    return with_media(tables, answers.newest(within, k), k, moments_per_medium)


def _best(tables: Tables, answers: Sequence[Answer], look: Look, k: int, per_medium: int, enough: int) -> list[Hit]:
    """The hits among the first moments of all lists and, while they are too few, among the next ones.

    A list may be full of one long medium: what is next is read without the media that have moments enough. It only
    adds: what was found before keeps its score.
    """
    hits: list[Hit] = []
    for _ in range(_LOOKS):
        more = with_media(tables, read_on(answers, look), k - len(hits), per_medium, hits)
        hits += more
        if len(hits) >= k or not more or not any(answer.is_cut for answer in answers):
            break
        counts = Counter(hit.media_id for hit in hits)
        look = replace(look, without=frozenset(media_id for media_id, n in counts.items() if n >= enough))
    return sorted(hits, key=lambda hit: -hit.score)


def refresh_text_index(tables: Tables, layout: Layout, settings: Settings, models: ModelStore) -> None:
    """Brings the indexes of passages up to date with the tables; called after each batch, and by search itself.

    Raises:
        DiskFull: the old indexes are still there.
    """
    with closing(word_index(tables, layout)) as index:
        index.refresh()
    Meanings(tables, layout, settings, models).refresh()


def refresh_image_index(tables: Tables, layout: Layout, settings: Settings, models: ModelStore) -> None:
    """Brings the index of frames up to date with the table; loads no model.

    Raises:
        DiskFull: the old index is still there.
    """
    Pictures(tables, layout, settings, models).refresh()


def refresh_people_indexes(tables: Tables, layout: Layout, settings: Settings) -> None:
    """Brings the indexes of faces and voices up to date with the tables; loads no model.

    Raises:
        DiskFull: the old indexes are still there.
    """
    for kind in KINDS:
        People(kind, tables, layout, settings.index).refresh()


__all__ = [
    "Filter",
    "Hit",
    "Questions",
    "Sampled",
    "Within",
    "by_medium",
    "everybody_in",
    "media_within",
    "moment_of",
    "refresh_image_index",
    "refresh_people_indexes",
    "refresh_text_index",
    "search",
]
