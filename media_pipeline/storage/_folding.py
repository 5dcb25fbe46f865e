"""Words as they are compared: without case, accents, and the difference between ä and ae."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# Letters and digits, as the `unicode61` tokenizer of SQLite sees them: everything else separates words.
_WORD = re.compile(r"[^\W_]+")
_QUOTED = re.compile(r'["“”„«»]([^"“”„«»]*)["“”„«»]')
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae"})
_LETTERS = str.maketrans({"ø": "o", "æ": "ae", "ł": "l", "đ": "d", "ı": "i"})  # have no decomposition

MAX_QUERY_CHARS = 1_000
MAX_TERMS = 32
MIN_PREFIX_CHARS = 3
MIN_INSIDE_CHARS = 4

EXACT, PREFIX, INSIDE = 1.0, 0.9, 0.7  # how well a word of the text answers a word of the query

# Words that say nothing alone. "who", "Wer" and the like stay: they are names of bands and authorities.
_STOP_WORDS = """
    a an and are as at be been but by can could did do does for from had has have he her his how i if in into is it
    its me my not of on or our she should so that the their them then there these they this those to us was we were
    what when where which will with would you your
    aber alle als am an auch auf aus bei bin bis da das dass dem den der des die dies diese dieser dieses doch du ein
    eine einem einen einer eines er es fur fuer hat hatte ich ihr im in ist ja kann mit nach nicht noch nur ob oder
    ohne sein sich sie sind so uber ueber um und uns unter vom von vor war waren was welche welcher welches wenn werden
    wie wir wird wo wurde zu zum zur
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, where it stands, and the two ways to compare it."""

    start: int
    end: int
    plain: str  # "munchen" of "München"
    spelt: str  # "muenchen"; the same as `plain` without umlauts


@dataclass(frozen=True, slots=True)
class Term:
    """A word of a query, or the words of a quoted phrase: those must stand in the text as they are."""

    words: tuple[Word, ...]
    quoted: bool = False


def words(text: str) -> list[Word]:
    return [Word(m.start(), m.end(), *_forms(m.group())) for m in _WORD.finditer(text)]


def parse_query(query: str) -> list[Term]:
    """The terms of what a person typed. Nothing in it is an operator but a pair of quotes.

    Stop words count only inside quotes, or where there is nothing else.
    """
    query = unicodedata.normalize("NFC", query[:MAX_QUERY_CHARS])
    phrases = [Term(tuple(found), True) for m in _QUOTED.finditer(query) if (found := words(m.group(1)))]
    loose = words(_QUOTED.sub(" ", query))
    telling = [word for word in loose if word.plain not in STOP_WORDS]
    seen = {word.plain: word for word in (telling or ([] if phrases else loose))}
    return [*phrases, *(Term((word,)) for word in seen.values())][:MAX_TERMS]


def answer(term: Term, text: Sequence[Word]) -> tuple[float, list[Word]]:
    """How well the text answers the term (0: not at all), and with which of its words."""
    if term.quoted:
        size = len(term.words)
        for at in range(len(text) - size + 1):
            stretch = list(text[at : at + size])
            if all(_same(asked, word) for asked, word in zip(term.words, stretch, strict=True)):
                return EXACT, stretch
        return 0.0, []
    asked = term.words[0]
    graded = [(grade, word) for word in text if _may_answer(asked, word) and (grade := _grade(asked, word))]
    return max((grade for grade, _ in graded), default=0.0), [word for _, word in graded]


def _may_answer(asked: Word, word: Word) -> bool:
    """Whether either form of the one is part of either form of the other: most words fail, and this is quick."""
    return (
        asked.plain in word.plain
        or (word.spelt is not word.plain and asked.plain in word.spelt)
        or (asked.spelt is not asked.plain and (asked.spelt in word.plain or asked.spelt in word.spelt))
    )


def _grade(asked: Word, word: Word) -> float:
    if _same(asked, word):
        return EXACT
    forms = {asked.plain, asked.spelt}
    length = len(asked.plain)
    if length >= MIN_PREFIX_CHARS and any(w.startswith(form) for form in forms for w in (word.plain, word.spelt)):
        return PREFIX
    if length >= MIN_INSIDE_CHARS and any(form in w for form in forms for w in (word.plain, word.spelt)):
        return INSIDE
    return 0.0


def _same(a: Word, b: Word) -> bool:
    return a.plain == b.plain or a.spelt == b.plain or a.plain == b.spelt


@lru_cache(maxsize=1 << 16)  # most words of a library occur again and again
def _forms(word: str) -> tuple[str, str]:
    folded = word.casefold()
    if folded.isascii():
        return folded, folded
    return _strip(folded), _strip(folded.translate(_UMLAUTS))


def _strip(folded: str) -> str:
    decomposed = unicodedata.normalize("NFKD", folded.translate(_LETTERS))
    return "".join(c for c in decomposed if not unicodedata.combining(c))
