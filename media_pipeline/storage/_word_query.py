"""What a query asks of the full-text index, and how well a passage answers it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from media_pipeline.storage._folding import INSIDE, MIN_INSIDE_CHARS, MIN_PREFIX_CHARS, Term, Word, answer, words


@dataclass(frozen=True, slots=True)
class WordHit:
    media_id: str
    source: str
    row_index: int
    pts_s: float | None  # seconds, of the part in which the first word was found
    text: str
    spans: tuple[tuple[int, int], ...]  # of the words in `text`, half-open, ascending
    score: float  # share of the query's words that were found, [0, 1]; parts of words count for less


def whole(terms: Sequence[Term], operator: str) -> str:
    """The FTS5 expression over words. Words are letters and digits only and stand in quotes: no syntax gets through."""
    phrases = [_either(_phrase(t.words, "plain"), _phrase(t.words, "spelt")) for t in terms if t.quoted]
    if phrases:
        return " AND ".join(phrases)
    return operator.join(_either(_beginning(t.words[0].plain), _beginning(t.words[0].spelt)) for t in terms)


def inside(terms: Sequence[Term], words_with: Callable[[str], Sequence[str]]) -> str:
    """The expression for passages that have every longer word of the query as a part of one of theirs.

    Those that have one of them as a word of their own are found by it.

    Args:
        words_with: the words of the library in which a part stands
    """
    if any(term.quoted for term in terms):
        return ""
    found = []
    for word in (term.words[0] for term in terms if len(term.words[0].plain) >= MIN_INSIDE_CHARS):
        known = dict.fromkeys([word.plain, word.spelt, *words_with(word.plain)])
        if word.spelt != word.plain:
            known |= dict.fromkeys(words_with(word.spelt))
        found.append("(" + " OR ".join(f'"{one}"' for one in known) + ")")
    return " AND ".join(found)


def _phrase(asked: Sequence[Word], form: str) -> str:
    return '"' + " ".join(getattr(word, form) for word in asked) + '"'


def _beginning(word: str) -> str:
    return f'"{word}" *' if len(word) >= MIN_PREFIX_CHARS else f'"{word}"'


def _either(a: str, b: str) -> str:
    return a if a == b else f"({a} OR {b})"


def hit_of(
    terms: Sequence[Term], media_id: str, source: str, row_index: int, pts_s: float | None, text: str, places: str
) -> WordHit | None:
    """The passage as a hit, if it has all quoted phrases and at least half of the query's words.

    A word that stands only inside another one is half a word: "sign" in "Assignee" answers no question of two words.
    """
    here = words(text)
    answers = [(term, *answer(term, here)) for term in terms]
    if any(term.quoted and not grade for term, grade, _ in answers):
        return None
    if sum(2 if grade > INSIDE else 1 for _, grade, _ in answers if grade) < len(terms):
        return None
    spans = tuple(sorted({(word.start, word.end) for _, _, found in answers for word in found}))
    for offset, moment in json.loads(places):
        if offset <= spans[0][0]:
            pts_s = moment
    score = sum(grade for _, grade, _ in answers) / len(terms)
    return WordHit(media_id, source, row_index, pts_s, text, spans, score)
