"""What a search finds: moments of media, ranked, with the line around what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from media_pipeline.storage.tables import Tables

Why = Literal["words", "meaning", "both", "picture", "same picture"]
Span = tuple[int, int]
Key = tuple[str, str, int]  # media_id, source, row_index

RANK_CONSTANT = 60  # Cormack et al.: how much the first ranks stand out
SNIPPET_CHARS = 160


@dataclass(frozen=True, slots=True)
class Hit:
    """A moment of a medium that answers a query."""

    media_id: str
    partition_key: str
    name: str
    path: str
    kind: str  # image, video, audio
    source: str  # ocr, transcript; picture: a frame
    pts_s: float | None  # seconds from the start; null where the medium has no time
    text: str | None  # the whole passage; null where it is a frame
    snippet: str | None  # one line of it, around what was found
    matches: tuple[Span, ...]  # the words found, in `snippet`, half-open
    # [0, 1]. Of a text: the fused rank, 1 is first in both lists. Of a picture: the cosine; of the same picture 1 - the
    # share of its hash that differs.
    score: float
    why: Why
    frame_index: int | None = None  # where it is a frame


@dataclass(slots=True)
class Found:
    """A moment before anything is known of its medium; ranks begin at 1."""

    source: str
    pts_s: float | None
    text: str | None = None
    spans: tuple[Span, ...] = ()
    frame_index: int | None = None
    word_rank: int | None = None
    meaning_rank: int | None = None
    picture_rank: int | None = None
    similarity: float | None = None  # of a single list: counts instead of the ranks
    same: bool = False

    @property
    def score(self) -> float:
        if self.similarity is not None:
            return min(1.0, max(0.0, self.similarity))
        ranks = [rank for rank in (self.word_rank, self.meaning_rank, self.picture_rank) if rank is not None]
        return sum((RANK_CONSTANT + 1) / (RANK_CONSTANT + rank) for rank in ranks) / 2

    @property
    def why(self) -> Why:
        if self.same:
            return "same picture"
        lists: dict[Why, int | None] = {
            "words": self.word_rank,
            "meaning": self.meaning_rank,
            "picture": self.picture_rank,
        }
        there = [why for why, rank in lists.items() if rank is not None]
        return there[0] if len(there) == 1 else "both"


def with_media(tables: Tables, found: Mapping[Key, Found], k: int, per_medium: int) -> list[Hit]:
    """The `k` best of these, best first, no more than `per_medium` of one medium."""
    # Ties are broken by place, so that the same question always gets the same answer.
    ranked = sorted(found.items(), key=lambda item: (-item[1].score, item[0]))
    taken: dict[str, int] = {}
    best: list[tuple[str, Found]] = []
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


def _hit(medium: Mapping[str, Any], moment: Found) -> Hit:
    snippet, matches = snippet_of(moment.text, moment.spans) if moment.text is not None else (None, ())
    return Hit(
        **medium,
        source=moment.source,
        pts_s=moment.pts_s,
        text=moment.text,
        snippet=snippet,
        matches=matches,
        score=moment.score,
        why=moment.why,
        frame_index=moment.frame_index,
    )


def snippet_of(text: str, spans: tuple[Span, ...]) -> tuple[str, tuple[Span, ...]]:
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
