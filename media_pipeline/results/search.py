"""Search in what was read, said and shown: by word, by meaning and by picture, with the moment.

Lists are fused by reciprocal rank (Cormack, Clarke and Büttcher 2009): passages that have the words of the query
(`storage/words.py`), passages near to it in the model's space (`storage/vectors.py`), and frames that it describes
(CLIP). Each has a floor of its own, so that a query nothing answers gets no hits instead of the least unfitting ones.
A picture as query has no floor: the nearest frames are the answer.

How far meaning reaches depends on the model. On the sentences of `test_search_quality`, questions that share no word
with their answer: all-MiniLM-L6-v2, the embedded model, finds 16 of 18 in English and none of 16 in German (its own
order has 2 of 16 first; the floor rejects them with the noise). German is found by word, compounds and umlauts
included; by meaning only with the standard model. Frames are described in English, and in German with a multilingual
CLIP model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.config import Settings
from media_pipeline.errors import UsageError
from media_pipeline.results._search_hits import Found, Hit, Key, with_media
from media_pipeline.results._search_pictures import Pictures, read_picture, same_pictures
from media_pipeline.results._search_text import Meanings, wants_exact_words, word_index
from media_pipeline.storage._folding import MAX_QUERY_CHARS
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Neighbour

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

MOMENTS_PER_MEDIUM = 3
_DEPTH = 50  # moments of each list that are fused, per hit wanted at least 5
_LOOKS = 8  # moments of a medium, evenly spread, whose neighbours are those of the medium


def search_text(
    tables: Tables,
    layout: Layout,
    settings: Settings,
    models: ModelStore,
    query: str,
    k: int = 10,
    moments_per_medium: int = MOMENTS_PER_MEDIUM,
    *,
    pictures: bool = True,
) -> list[Hit]:
    """The `k` best moments for a query, best first; none where nothing answers it.

    Words in double quotes must stand in the text as they are; nothing else in a query is an operator. Where a model
    is not here, or the vectors are of another one, its list is empty. Without `pictures` frames are left out: the
    model that describes them takes seconds to load.
    """
    # Bytes that are no UTF-8 reach us as lone surrogates, which neither SQLite nor a tokenizer takes.
    query = query[:MAX_QUERY_CHARS].encode(errors="replace").decode()
    depth = max(_DEPTH, 5 * k)
    found: dict[Key, Found] = {}
    with closing(word_index(tables, layout)) as index:
        by_word = index.search(query, depth)
    for rank, hit in enumerate(by_word, start=1):
        key = (hit.media_id, hit.source, hit.row_index)
        found[key] = Found(hit.source, hit.pts_s, hit.text, hit.spans, word_rank=rank)
    if not wants_exact_words(query):
        for rank, near in enumerate(Meanings(tables, layout, settings, models).answers(query, depth), start=1):
            found.setdefault(*_passage(near)).meaning_rank = rank
        if pictures:
            for rank, near in enumerate(Pictures(tables, layout, settings, models).answers(query, depth), start=1):
                found.setdefault(*_frame(near)).picture_rank = rank
    return with_media(tables, found, k, moments_per_medium)


def search_image(
    tables: Tables,
    layout: Layout,
    settings: Settings,
    models: ModelStore,
    path: Path,
    k: int = 10,
    moments_per_medium: int = MOMENTS_PER_MEDIUM,
) -> list[Hit]:
    """The `k` frames that look most like a picture, nearest first.

    Without CLIP, or before there are vectors, only the same picture is found again, by its perceptual hash; a warning
    says what is missing.

    Raises:
        MediaPipelineError: the file cannot be read, or is no picture.
    """
    image, phash = read_picture(path, settings)
    pictures = Pictures(tables, layout, settings, models)
    if pictures.can_encode:
        near = pictures.neighbours(pictures.encode(image), max(_DEPTH, 5 * k))
    else:
        log.warning("only the same picture is looked for: %s", pictures.why_not())
        near = same_pictures(tables, phash, settings.duplicate_max_distance)
    found: dict[Key, Found] = {}
    for hit in near:
        key, moment = _frame(hit)
        moment.similarity, moment.picture_rank, moment.same = hit.score, 1, not pictures.can_encode
        found.setdefault(key, moment)
    return with_media(tables, found, k, moments_per_medium)


def search_like(
    tables: Tables, layout: Layout, settings: Settings, models: ModelStore, medium: str, k: int = 10
) -> list[Hit]:
    """The `k` media that show or say most nearly what this one does, each with its nearest moment.

    Args:
        medium: media_id, or the first 8 digits of it or more, or partition key

    Raises:
        UsageError: there is no such medium, or several.
    """
    media_id = _media_id(tables, medium)
    pictures = Pictures(tables, layout, settings, models)
    meanings = Meanings(tables, layout, settings, models)
    depth = max(_DEPTH, 5 * k)
    # Own moments are the nearest of all: so many more are asked for.
    frames, passages = pictures.of_medium(media_id), meanings.of_medium(media_id)
    shown = pictures.neighbours(_spread(frames), depth + len(frames))
    said = meanings.neighbours(_spread(passages), depth + len(passages))
    found: dict[Key, Found] = {}
    for rank, near in enumerate(_others(shown, media_id), start=1):
        found.setdefault((near.row["media_id"], "", 0), _frame(near)[1]).picture_rank = rank
    for rank, near in enumerate(_others(said, media_id), start=1):
        known = found.setdefault((near.row["media_id"], "", 0), _passage(near)[1])
        known.meaning_rank = rank
    return with_media(tables, found, k, 1)


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


def _passage(near: Neighbour) -> tuple[Key, Found]:
    row = near.row
    return (row["media_id"], row["source"], row["row_index"]), Found(row["source"], row["pts_s"], row["text"])


def _frame(near: Neighbour) -> tuple[Key, Found]:
    row = near.row
    moment = Found("picture", row["pts_s"], frame_index=row["frame_index"])
    return (row["media_id"], "picture", row["frame_index"]), moment


def _others(near: Iterable[Neighbour], media_id: str) -> list[Neighbour]:
    """The nearest moment of every other medium, nearest first."""
    best: dict[str, Neighbour] = {}
    for hit in near:
        if hit.row["media_id"] != media_id:
            best.setdefault(hit.row["media_id"], hit)
    return list(best.values())


def _spread(vectors: Vectors) -> Vectors:
    if len(vectors) <= _LOOKS:
        return vectors
    return vectors[np.linspace(0, len(vectors) - 1, _LOOKS).round().astype(np.int64)]


def _media_id(tables: Tables, medium: str) -> str:
    shortest = 8
    if tables.exists("media"):
        known = tables.read("media", columns=["media_id", "partition_key"])
        fits = pc.equal(known["partition_key"], medium)
        if len(medium) >= shortest:
            fits = pc.or_(fits, pc.starts_with(known["media_id"], medium.lower()))
        ids = sorted(set(known.filter(fits)["media_id"].to_pylist()))
        if len(ids) == 1:
            return str(ids[0])
        if ids:
            raise UsageError(f"{len(ids)} media begin with {medium}", "give more digits")
    raise UsageError(
        f"no medium is called {medium!r}", "give a media_id, eight digits of it at least, or a partition key"
    )


__all__ = ["Hit", "refresh_image_index", "refresh_text_index", "search_image", "search_like", "search_text"]
