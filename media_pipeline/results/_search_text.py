"""Passages that were read or heard: by their words, and by what they mean."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from media_pipeline.analyzers import text_embeddings
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.analyzers._text_encoder import DIMENSION, TextEncoder
from media_pipeline.analyzers._text_passages import Passage, passages
from media_pipeline.analyzers.text_embeddings import TextEmbeddingsOptions
from media_pipeline.config import Settings
from media_pipeline.execution.stages import options_for
from media_pipeline.results._background import Background
from media_pipeline.results._search_indexes import Reading, discard_index, index_of, nearest, nothing
from media_pipeline.results._search_kept import kept_vectors
from media_pipeline.storage._folding import parse_query
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Space, VectorIndex, models_in
from media_pipeline.storage.words import WordIndex

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

TABLE = text_embeddings.ANALYZER.name
_COLUMNS = ("media_id", "source", "row_index", "pts_s", "text")
_SOURCES = {
    "ocr": ("frame_index", "line_index", "text", "pts_s"),
    "transcript": ("segment_index", "text", "start_s", "end_s", "speaker"),
}


def word_index(tables: Tables, layout: Layout) -> WordIndex:
    """Every passage by its words. The caller closes it."""
    return WordIndex(tables, layout, _SOURCES, _documents)


def wants_exact_words(query: str) -> bool:
    """Who quotes wants these words, and nothing that resembles them."""
    return any(term.quoted for term in parse_query(query))


class Meanings:
    """The passages' vectors, in the space of the model that made most of them."""

    def __init__(self, tables: Tables, layout: Layout, settings: Settings, models: ModelStore) -> None:
        self._tables, self._layout, self._models, self._limits = tables, layout, models, settings.index
        options = options_for(text_embeddings.ANALYZER, settings)
        assert isinstance(options, TextEmbeddingsOptions)
        self._options = options
        self._choice = self._usable(models)

    def refresh(self) -> None:
        """Brings the index up to date with the table; removes it where no model can read it."""
        if self._choice is not None:
            self._index(self._choice).refresh()
        else:  # or erased vectors would live on in the index
            discard_index(self._tables, self._layout, "text", TABLE)

    def answers(self, query: str) -> Reading:
        """Passages that answer a query, nearest first; loads the model."""
        if self._choice is None or not query.strip():
            return nothing
        return self.neighbours(_encoder(self._choice, self._options).encode([query], "query"))

    def neighbours(self, vectors: Vectors) -> Reading:
        """Passages near to any of these of the same model, shape (n, 384), nearest first."""
        choice = self._choice
        if choice is None or not len(vectors):
            return nothing
        background = _background(choice, self._options, self._models)
        floors = [background.floor(vector) for vector in vectors]
        return lambda look: nearest(self._index(choice), vectors, look, _COLUMNS, floors)

    def of_medium(self, media_id: str) -> Vectors:
        """The vectors of one medium, shape (n, 384), in the order of its passages."""
        if self._choice is None or not self._tables.exists(TABLE):
            return np.zeros((0, DIMENSION), np.float32)
        rows = self._tables.read(TABLE, [media_id], ["row_index", "model", "embedding"]).sort_by("row_index")
        ours = rows.filter(pa.compute.equal(rows["model"], text_embeddings.fingerprint(self._choice)))
        return np.array(ours["embedding"].to_pylist(), np.float32).reshape(-1, DIMENSION)

    def _index(self, choice: ModelChoice) -> VectorIndex:
        space = Space("text", TABLE, text_embeddings.fingerprint(choice), DIMENSION)
        return index_of(self._tables, self._layout, space, self._limits)

    def _usable(self, models: ModelStore) -> ModelChoice | None:
        """The model of most vectors there are, if it is here. A search downloads nothing."""
        present = models_in(self._tables, TABLE)
        here = {text_embeddings.fingerprint(c): c for c in text_embeddings.on_disk(self._options, models)}
        usable = max((name for name in present if name in here), key=lambda name: present[name], default=None)
        others = sorted(name for name in present if name != usable)
        if others:
            count = sum(present[name] for name in others)
            log.warning(
                "%d of %d passages are found by words only: their vectors are of %s; `media-pipeline models list` says "
                "what is here, analysing again makes new ones",
                count,
                present.total(),
                ", ".join(others),
            )
        return here[usable] if usable else None


def _documents(rows: Mapping[str, pa.Table]) -> Iterable[Passage]:
    return passages(rows.get("ocr"), rows.get("transcript"))


@lru_cache(maxsize=1)
def _encoder(choice: ModelChoice, options: TextEmbeddingsOptions) -> TextEncoder:
    return text_embeddings.load(choice, "cpu", options)


@lru_cache(maxsize=1)
def _background(choice: ModelChoice, options: TextEmbeddingsOptions, models: ModelStore) -> Background:
    """Needs the model only where it was never asked before."""

    def encode(texts: Sequence[str]) -> Vectors:
        own = text_embeddings.fingerprint(choice)
        return kept_vectors(models, own, texts, lambda missing: _encoder(choice, options).encode(missing))

    return Background(encode)
