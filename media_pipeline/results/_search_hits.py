"""What a search finds: moments of media, ranked, with the line around what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from media_pipeline.storage.tables import Tables

Why = Literal["words", "meaning", "both", "picture", "same picture", "face", "voice", "filter"]
Span = tuple[int, int]
Box = tuple[float, float, float, float]
Key = tuple[str, str, int | str]  # media_id, source, and which of its rows

RANK_CONSTANT = 60  # Cormack et al.: how much the first ranks stand out
SNIPPET_CHARS = 160
_TEXT_LISTS = 2  # a passage can be found by its words and by what it means


@dataclass(frozen=True, slots=True)
class Hit:
    """A moment of a medium that answers a query."""

    media_id: str
    partition_key: str
    name: str
    path: str
    kind: str  # image, video, audio
    source: str  # ocr, transcript; picture: a frame; face, voice: of a person; medium: no moment in particular
    pts_s: float | None  # seconds from the start; null where the medium has no time
    text: str | None  # the whole passage; null where it is none
    snippet: str | None  # one line of it, around what was found
    matches: tuple[Span, ...]  # the words found, in `snippet`, half-open
    # [0, 1]. Of a text, of several questions at once, and of filters alone: the fused rank, 1 is first everywhere. Of a
    # picture, a face or a voice: the cosine; of the same picture 1 - the share of its hash that differs.
    score: float
    why: Why
    frame_index: int | None = None  # where it is a frame
    box: Box | None = None  # of a face: xyxy, pixels of the displayed picture
    person_id: str | None = None  # of a face or voice, where it has one
    person: str | None = None  # the name of that person or voice
    similarity: float | None = None  # cosine, where a picture, a face or a voice was compared


@dataclass(slots=True)
class Found:
    """A moment before anything is known of its medium; ranks begin at 1."""

    source: str
    pts_s: float | None
    text: str | None = None
    spans: tuple[Span, ...] = ()
    frame_index: int | None = None
    box: Box | None = None
    person_id: str | None = None
    person: str | None = None
    ranks: dict[Why, int] = field(default_factory=dict)  # by list
    similarity: float | None = None  # of a single list: counts instead of the ranks
    fused: float | None = None  # over several questions: counts instead of both

    @property
    def score(self) -> float:
        if self.fused is not None:
            return self.fused
        if self.similarity is not None:
            return min(1.0, max(0.0, self.similarity))
        lists = 1 if "filter" in self.ranks else _TEXT_LISTS
        return sum(map(reciprocal, self.ranks.values())) / lists

    @property
    def why(self) -> Why:
        return next(iter(self.ranks)) if len(self.ranks) == 1 else "both"


def reciprocal(rank: int) -> float:
    """1 for the first rank, less for later ones."""
    return (RANK_CONSTANT + 1) / (RANK_CONSTANT + rank)


def fused(answers: Sequence[Mapping[Key, Found]]) -> dict[Key, Found]:
    """The answers to several questions about the same media as one.

    A moment that answers one question counts with the best moment of its medium in the answers to the others: who asks
    for a face and a word wants the media that have both, wherever in them each is.
    """
    if len(answers) == 1:
        return dict(answers[0])
    found: dict[Key, Found] = {}
    scores = dict.fromkeys((key for answer in answers for key in answer), 0.0)
    for answer in answers:
        order = ranked(answer)
        own = {key: reciprocal(rank) for rank, (key, _) in enumerate(order, start=1)}
        best: dict[str, float] = {}
        for (media_id, _, _), score in own.items():
            best.setdefault(media_id, score)
        for key in scores:
            scores[key] += own.get(key, best.get(key[0], 0.0)) / len(answers)
        for key, moment in order:
            found.setdefault(key, moment)
    for key, moment in found.items():
        moment.fused = scores[key]
    return found


def ranked(found: Mapping[Key, Found]) -> list[tuple[Key, Found]]:
    """Best first. Ties are broken by place, so that the same question always gets the same answer."""
    return sorted(found.items(), key=lambda item: (-item[1].score, *map(str, item[0])))


def with_media(
    tables: Tables, found: Mapping[Key, Found], k: int, per_medium: int, before: Iterable[Hit] = ()
) -> list[Hit]:
    """The `k` best of these, best first, no more than `per_medium` of one medium; hits from `before` count there."""
    taken = Counter(hit.media_id for hit in before)
    best: list[tuple[str, Found]] = []
    for (media_id, _, _), moment in ranked(found):
        taken[media_id] += 1
        if taken[media_id] <= per_medium:
            best.append((media_id, moment))
    # A medium that was erased between the two looks is no hit; so a few more are looked up than are wanted.
    hits: list[Hit] = []
    for start in range(0, len(best), max(1, k)):
        part = best[start : start + k]
        facts = _facts(tables, {media_id for media_id, _ in part})
        hits += [_hit(facts[media_id], moment) for media_id, moment in part if media_id in facts]
        if len(hits) >= k:
            break
    return hits[:k]


def by_medium(hits: Iterable[Hit]) -> list[list[Hit]]:
    """The moments of each medium together, the medium with the best one first."""
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(hit.media_id, []).append(hit)
    return list(groups.values())


def _facts(tables: Tables, media_ids: Collection[str]) -> dict[str, dict[str, Any]]:
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
        box=moment.box,
        person_id=moment.person_id,
        person=moment.person,
        similarity=moment.similarity,
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
