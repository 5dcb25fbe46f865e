"""Cues of subtitles from the segments of a transcript.

Lines of at most 42 characters, at most two of them: the guidelines that broadcasters and streaming services share
(BBC Subtitle Guidelines; Netflix Timed Text Style Guide). Longer segments are split where words begin, at the end of a
sentence where there is one; who speaks at once stands in one cue, as there is no overlap.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

LINE_CHARS = 42
LINES = 2
DASH = "– "  # before each of two who speak at once
MIN_MS = 500  # a cue shorter than that cannot be seen
_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", ":", ";")
_ZERO_WIDTH_JOINER = "\u200d"


@dataclass(frozen=True, slots=True)
class Part:
    """What one person says in a cue. Lines are in reading order, none of them empty."""

    speaker: str | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown from start to end, milliseconds, half-open. Two parts: two people at once, a line each."""

    start_ms: int
    end_ms: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A segment that can be shown."""

    start_ms: int
    end_ms: int
    text: str  # one line, not empty
    speaker: str | None
    words: tuple[Mapping[str, Any], ...]


def cues(segments: Sequence[Mapping[str, Any]]) -> list[Cue]:
    """Cues in order of time, none empty, none overlapping.

    Args:
        segments: rows of view `transcript`: start_s, end_s, text; speaker and words where there are any
    """
    spoken = [said for segment in segments if (said := _spoken(segment))]
    spoken.sort(key=lambda said: (said.start_ms, said.end_ms))
    found = [
        cue
        for said, crossed in zip(spoken, _crossed(spoken), strict=True)
        # Who is talked over gets one line at a time, so that both fit into a cue.
        for cue in _cues_of(said, 1 if crossed else LINES)
    ]
    found.sort(key=lambda cue: (cue.start_ms, cue.end_ms))
    return _apart(_together(found))


def clean(text: str) -> str:
    """One line: white space is single blanks, control characters are gone."""
    if text.isprintable():
        return " ".join(text.split())
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs"))
    return " ".join(kept.split())


def width(text: str) -> int:
    """Characters as they take room: wide ones of East Asia two, marks and what is joined to an emoji none."""
    return len(text) if text.isascii() else sum(map(_cell, text, " " + text))


def _cell(character: str, before: str) -> int:
    if before == _ZERO_WIDTH_JOINER or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


# -- splitting ---------------------------------------------------------------------------------------------------


def _spoken(segment: Mapping[str, Any]) -> _Spoken | None:
    text, start_s, end_s = clean(segment["text"] or ""), _number(segment["start_s"]), _number(segment["end_s"])
    if not text or start_s is None:
        return None
    start_ms = max(0, round(start_s * 1000))
    end_ms = max(start_ms + MIN_MS, round((end_s or 0) * 1000))
    speaker = clean(segment.get("speaker") or "") or None
    return _Spoken(start_ms, end_ms, text, speaker, tuple(segment.get("words") or ()))


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _crossed(spoken: Sequence[_Spoken]) -> list[bool]:
    """Which of these, in order of time, somebody else talks over."""
    crossed = [False] * len(spoken)
    longest = 0  # the one before that ends last
    for number in range(1, len(spoken)):
        a, b = spoken[longest], spoken[number]
        if a.speaker != b.speaker and min(a.end_ms, b.end_ms) - b.start_ms >= MIN_MS:
            crossed[longest] = crossed[number] = True
        if b.end_ms >= a.end_ms:
            longest = number
    return crossed


def _cues_of(said: _Spoken, lines: int) -> Iterator[Cue]:
    # Room for the name, which stands before the first line where the speaker changes; never more than half of it.
    room = min(width(f"{DASH}{said.speaker}: "), LINE_CHARS // 2) if said.speaker else 0
    pieces = _pieces(_tokens(said.text, LINE_CHARS - room), room, lines)
    moments = _Moments(said)
    length, start = 0, said.start_ms
    for number, piece in enumerate(pieces):
        length += sum(len(token.lstrip()) for token in piece)
        end = said.end_ms if number == len(pieces) - 1 else moments.at(length)
        end = max(end, start + 1)
        yield Cue(start, end, (Part(said.speaker, _lines(piece, room)),))
        start = end


def _tokens(text: str, widest: int) -> list[str]:
    """What lines are made of: words with the blank before them, and pieces, without, of those wider than a line."""
    tokens: list[str] = []
    for word in text.split(" "):
        start, blank, used = 0, " ", 0
        for at, character in enumerate(word) if width(word) > widest else ():
            cell = _cell(character, word[at - 1] if at else " ")
            if used + cell > widest and _breakable(word, at):
                tokens.append(blank + word[start:at])
                start, blank, used = at, "", 0
            used += cell
        tokens.append(blank + word[start:])
    return tokens


def _breakable(word: str, at: int) -> bool:
    """Whether a word may be cut before this character: not before marks and modifiers, nor in a joined emoji."""
    return (
        at > 0
        and unicodedata.category(word[at]) not in ("Mn", "Me", "Mc", "Cf", "Sk")
        and word[at - 1] != _ZERO_WIDTH_JOINER
    )


def _pieces(tokens: list[str], room: int, lines: int) -> list[list[str]]:
    """Tokens of one cue each, evenly: in the narrowest lines that need no more cues than the widest."""
    best = _split(tokens, room, lines, LINE_CHARS)
    narrow, wide = LINE_CHARS // 2, LINE_CHARS
    while len(best) > 1 and narrow < wide:
        middle = (narrow + wide) // 2
        pieces = _split(tokens, room, lines, middle)
        if len(pieces) > len(best) or _sentences(pieces) < _sentences(best):
            narrow = middle + 1
        else:
            best, wide = pieces, middle
    return best


def _sentences(pieces: list[list[str]]) -> int:
    """How many of the pieces end with a sentence."""
    return sum(piece[-1].endswith(_SENTENCE_ENDS) for piece in pieces)


def _split(tokens: list[str], room: int, lines: int, chars: int) -> list[list[str]]:
    """As many tokens per cue as fit, but rather up to the end of a sentence."""
    pieces: list[list[str]] = []
    while tokens:
        count = _fitting(tokens, room, lines, chars)
        if count < len(tokens):
            ends = [n for n in range(count // 2 + 1, count + 1) if tokens[n - 1].endswith(_SENTENCE_ENDS)]
            count = ends[-1] if ends else count
        pieces.append(tokens[:count])
        tokens = tokens[count:]
    return pieces


def _fitting(tokens: Sequence[str], room: int, lines: int, chars: int) -> int:
    """How many tokens fill the lines of one cue, the first line less `room`; at least one."""
    used, line = room, 1
    for number, token in enumerate(tokens):
        wide = width(token if number else token.lstrip())
        if used + wide <= chars:
            used += wide
        elif line < lines:
            used, line = width(token.lstrip()), line + 1
        else:
            return max(1, number)
    return len(tokens)


def _lines(tokens: Sequence[str], room: int) -> tuple[str, ...]:
    """One line, or two of about the same width."""
    text = "".join(tokens).strip()
    if room + width(text) <= LINE_CHARS or len(tokens) == 1:
        return (text,)
    splits = [("".join(tokens[:n]).strip(), "".join(tokens[n:]).strip()) for n in range(1, len(tokens))]
    return min(splits, key=lambda lines: max(room + width(lines[0]), width(lines[1])))


class _Moments:
    """When a character of a segment is said: by the times of its words, else evenly."""

    def __init__(self, said: _Spoken) -> None:
        self._total = len(said.text.replace(" ", ""))
        self._start_ms, self._end_ms = said.start_ms, said.end_ms
        known = [(len("".join(clean(w["word"] or "").split())), w["start_s"]) for w in said.words]
        usable = sum(length for length, _ in known) == self._total and all(_number(s) is not None for _, s in known)
        self._starts: list[tuple[int, int]] = []  # characters before a word, when it begins
        before = 0
        for length, start_s in known if usable else ():
            self._starts.append((before, round(start_s * 1000)))
            before += length

    def at(self, characters: int) -> int:
        """When the first character after so many, blanks not counted, begins."""
        evenly = self._start_ms + (self._end_ms - self._start_ms) * characters // max(1, self._total)
        moment = next((start_ms for before, start_ms in self._starts if before >= characters), evenly)
        return min(max(moment, self._start_ms), self._end_ms)


# -- putting in order --------------------------------------------------------------------------------------------


def _together(found: Sequence[Cue]) -> list[Cue]:
    """Two people at once, with one line each, become one cue."""
    result: list[Cue] = []
    for cue in found:
        if result and _at_once(result[-1], cue):
            last = result.pop()
            cue = Cue(last.start_ms, max(last.end_ms, cue.end_ms), last.parts + cue.parts)
        result.append(cue)
    return result


def _at_once(a: Cue, b: Cue) -> bool:
    lengths = (a.end_ms - a.start_ms, b.end_ms - b.start_ms)
    common = min(a.end_ms, b.end_ms) - b.start_ms
    single = all(len(cue.parts) == 1 and len(cue.parts[0].lines) == 1 for cue in (a, b))
    return single and a.parts[0].speaker != b.parts[0].speaker and 2 * common >= min(lengths)


def _apart(found: Sequence[Cue]) -> list[Cue]:
    """Where cues overlap, the earlier one ends when the later one begins, but not before it could be read."""
    result: list[Cue] = []
    for cue in found:
        start = cue.start_ms
        if result and start < result[-1].end_ms:
            last = result[-1]
            start = max(start, last.start_ms + MIN_MS)
            result[-1] = replace(last, end_ms=min(last.end_ms, start))
        result.append(Cue(start, max(cue.end_ms, start + MIN_MS), cue.parts))
    return result
