"""Search in what was read and said: by word and by meaning, with the moment.

Two lists are fused by reciprocal rank (Cormack, Clarke and Büttcher 2009): passages that have the words of the query
(`storage/words.py`), and passages near to it in the model's space (`storage/vectors.py`). Each has a floor of its own,
so that a query nothing answers gets no hits instead of the least unfitting ones.

How far meaning reaches depends on the model. On the sentences of `test_search_quality`, questions that share no word
with their answer: all-MiniLM-L6-v2, the embedded model, finds 16 of 18 in English and none of 16 in German (its own
order has 2 of 16 first; the floor rejects them with the noise). German is found by word, compounds and umlauts
included; by meaning only with the standard model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

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
from media_pipeline.storage._folding import MAX_QUERY_CHARS, parse_query
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Space, VectorIndex, models_in
from media_pipeline.storage.words import WordIndex

log = logging.getLogger(__name__)

Why = Literal["words", "meaning", "both"]
Span = tuple[int, int]
_Key = tuple[str, str, int]  # media_id, source, row_index

RANK_CONSTANT = 60  # Cormack et al.: how much the first ranks stand out
MOMENTS_PER_MEDIUM = 3
SNIPPET_CHARS = 160
_DEPTH = 50  # passages of each list that are fused, per hit wanted at least 5
_SOURCES = {
    "ocr": ("frame_index", "line_index", "text", "pts_s"),
    "transcript": ("segment_index", "text", "start_s", "end_s", "speaker"),
}


@dataclass(frozen=True, slots=True)
class Hit:
    """A moment of a medium that answers a query."""

    media_id: str
    partition_key: str
    name: str
    path: str
    kind: str  # image, video, audio
    source: str  # ocr, transcript
    pts_s: float | None  # seconds from the start; null where the medium has no time
    text: str  # the whole passage
    snippet: str  # one line of it, around what was found
    matches: tuple[Span, ...]  # the words found, in `snippet`, half-open
    score: float  # (0, 1]: the fused rank, 1 is first by words and first by meaning
    why: Why


@dataclass(slots=True)
class _Found:
    source: str
    pts_s: float | None
    text: str
    spans: tuple[Span, ...] = ()
    word_rank: int | None = None
    meaning_rank: int | None = None

    @property
    def score(self) -> float:
        ranks = [rank for rank in (self.word_rank, self.meaning_rank) if rank is not None]
        return sum((RANK_CONSTANT + 1) / (RANK_CONSTANT + rank) for rank in ranks) / 2

    @property
    def why(self) -> Why:
        if self.word_rank is None:
            return "meaning"
        return "words" if self.meaning_rank is None else "both"


def search_text(
    tables: Tables,
    layout: Layout,
    settings: Settings,
    models: ModelStore,
    query: str,
    k: int = 10,
    moments_per_medium: int = MOMENTS_PER_MEDIUM,
) -> list[Hit]:
    """The `k` best moments for a query, best first; none where nothing answers it.

    Words in double quotes must stand in the text as they are; nothing else in a query is an operator. Where the model
    is not here, or the vectors are of another one, the words alone decide and a warning is logged.
    """
    # Bytes that are no UTF-8 reach us as lone surrogates, which neither SQLite nor a tokenizer takes.
    query = query[:MAX_QUERY_CHARS].encode(errors="replace").decode()
    depth = max(_DEPTH, 5 * k)
    found: dict[_Key, _Found] = {}
    with closing(_words(tables, layout)) as index:
        by_word = index.search(query, depth)
    for rank, hit in enumerate(by_word, start=1):
        key = (hit.media_id, hit.source, hit.row_index)
        found[key] = _Found(hit.source, hit.pts_s, hit.text, hit.spans, word_rank=rank)
    for rank, row in enumerate(_by_meaning(tables, layout, settings, models, query, depth), start=1):
        key = (row["media_id"], row["source"], row["row_index"])
        found.setdefault(key, _Found(row["source"], row["pts_s"], row["text"])).meaning_rank = rank
    return _with_media(tables, found, k, moments_per_medium)


def refresh_text_index(tables: Tables, layout: Layout, settings: Settings, models: ModelStore) -> None:
    """Brings the indexes up to date with the tables; called after each batch, and by search itself.

    Raises:
        DiskFull: the old indexes are still there.
    """
    with closing(_words(tables, layout)) as index:
        index.refresh()
    choice = _choice(tables, settings, models)
    if choice is not None:
        _vectors(tables, layout, text_embeddings.fingerprint(choice)).refresh()
    else:  # or erased vectors would live on in the index
        _vectors(tables, layout, "").discard()


def _by_meaning(
    tables: Tables, layout: Layout, settings: Settings, models: ModelStore, query: str, depth: int
) -> list[dict[str, Any]]:
    if not query.strip() or any(term.quoted for term in parse_query(query)):
        return []  # who quotes wants these words
    choice = _choice(tables, settings, models)
    if choice is None:
        return []
    encoder, background = _loaded(choice, _options(settings))
    vector = encoder.encode([query], "query")[0]
    floor = background.floor(vector)
    columns = ("media_id", "source", "row_index", "pts_s", "text")
    near = _vectors(tables, layout, text_embeddings.fingerprint(choice)).search(vector, depth, columns)
    return [neighbour.row for neighbour in near if neighbour.score >= floor]


def _with_media(tables: Tables, found: Mapping[_Key, _Found], k: int, per_medium: int) -> list[Hit]:
    # Ties are broken by place, so that the same question always gets the same answer.
    ranked = sorted(found.items(), key=lambda item: (-item[1].score, item[0]))
    taken: dict[str, int] = {}
    best: list[tuple[str, _Found]] = []
    for (media_id, _, _), moment in ranked:
        taken[media_id] = taken.get(media_id, 0) + 1
        if taken[media_id] <= per_medium:
            best.append((media_id, moment))
    facts = _facts(tables, {media_id for media_id, _ in best})
    # A medium that was erased between the two looks is no hit.
    return [_hit(facts[media_id], moment) for media_id, moment in best if media_id in facts][:k]


def _facts(tables: Tables, media_ids: set[str]) -> dict[str, dict[str, Any]]:
    if not media_ids or not tables.exists("media"):
        return {}
    rows = tables.read("media", media_ids, ["media_id", "partition_key", "name", "path", "kind"])
    return {row["media_id"]: row for row in rows.to_pylist()}


def _hit(medium: Mapping[str, Any], moment: _Found) -> Hit:
    snippet, matches = _snippet(moment.text, moment.spans)
    return Hit(
        **medium,
        source=moment.source,
        pts_s=moment.pts_s,
        text=moment.text,
        snippet=snippet,
        matches=matches,
        score=moment.score,
        why=moment.why,
    )


def _snippet(text: str, spans: tuple[Span, ...]) -> tuple[str, tuple[Span, ...]]:
    """About `SNIPPET_CHARS` characters from shortly before the first match, on one line, cut between words."""
    line = text.replace("\n", " ")
    start = max(0, spans[0][0] - SNIPPET_CHARS // 4) if spans and len(line) > SNIPPET_CHARS else 0
    start = min(start, max(0, len(line) - SNIPPET_CHARS))
    if start:
        start = line.find(" ", start, spans[0][0]) + 1 or start
    end = min(len(line), start + SNIPPET_CHARS)
    if end < len(line):
        end = (
            line.rfind(" ", start + SNIPPET_CHARS // 2, end + 1)
            if " " in line[start + SNIPPET_CHARS // 2 : end]
            else end
        )
    before, after = "… " if start else "", " …" if end < len(line) else ""
    shift = len(before) - start
    inside = tuple((a + shift, b + shift) for a, b in spans if start <= a and b <= end)
    return f"{before}{line[start:end].strip()}{after}", inside


# ---------------------------------------------------------------------- indexes and the model


def _words(tables: Tables, layout: Layout) -> WordIndex:
    return WordIndex(tables, layout, _SOURCES, _documents)


def _documents(rows: Mapping[str, pa.Table]) -> Iterable[Passage]:
    return passages(rows.get("ocr"), rows.get("transcript"))


def _vectors(tables: Tables, layout: Layout, model: str) -> VectorIndex:
    return VectorIndex(tables, layout, Space("text", text_embeddings.ANALYZER.name, model, DIMENSION))


def _options(settings: Settings) -> TextEmbeddingsOptions:
    options = options_for(text_embeddings.ANALYZER, settings)
    assert isinstance(options, TextEmbeddingsOptions)
    return options


def _choice(tables: Tables, settings: Settings, models: ModelStore) -> ModelChoice | None:
    """The model of most vectors there are, if it is here. A search downloads nothing."""
    present = models_in(tables, text_embeddings.ANALYZER.name)
    here = {text_embeddings.fingerprint(c): c for c in text_embeddings.on_disk(_options(settings), models)}
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


@lru_cache(maxsize=1)
def _loaded(choice: ModelChoice, options: TextEmbeddingsOptions) -> tuple[TextEncoder, Background]:
    encoder = text_embeddings.load(choice, "cpu", options)
    return encoder, Background(encoder)
