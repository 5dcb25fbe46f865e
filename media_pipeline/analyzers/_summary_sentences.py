"""Rows of speech and of text on the screen as sentences, each with its time: what a summary chooses from."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import pyarrow as pa

from media_pipeline.analyzers._text_passages import clean, join_lines

PAUSE_S = 1.0  # a longer silence ends a sentence that nothing else ends
LONGEST_CHARS = 300  # speech without punctuation is divided there, between segments
_LETTERS, _WORDS = 12, 3  # less is a heading, a button or a page number
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")  # written without spaces

_WORD = re.compile(r"\S+")
_STOP = re.compile(r"[.!?…。！？]+[\"'»“”’)\]]*")
# Before a capital a full stop does not end a sentence after these, single letters ("z. B.") and numbers ("3. Mai").
_ABBREVIATIONS = frozenset(("dr", "prof", "mr", "mrs", "ms", "mme", "st", "nr", "no", "ca", "vs", "bzw", "ggf", "vgl"))


@dataclass(frozen=True, slots=True)
class Sentence:
    """What was said or shown, and when: half-open, in seconds of the medium."""

    source: str  # "ocr" | "transcript"
    text: str
    start_s: float | None
    end_s: float | None = None  # null: shown, and nobody measured how long


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of one segment, up to the end of a sentence or of the segment."""

    text: str
    start_s: float
    end_s: float
    speaker: str | None
    ends: bool


def sentences(ocr: pa.Table | None, transcript: pa.Table | None) -> list[Sentence]:
    """Everything of one medium that can stand for itself, in order of appearance; what comes again counts once."""
    found = sorted([*_spoken(transcript), *_shown(ocr)], key=lambda sentence: sentence.start_s or 0.0)
    unique: dict[str, Sentence] = {}
    for sentence in found:
        if _stands_alone(sentence.text):
            unique.setdefault("".join(c for c in sentence.text.casefold() if c.isalnum()), sentence)
    return list(unique.values())


def split(text: str) -> list[str]:
    """The sentences of a text. Nothing is lost but space."""
    stops = (match.end() for match in _STOP.finditer(text) if _ends_sentence(text, match))
    parts = (text[a:b].strip() for a, b in pairwise([0, *stops, len(text)]))
    return [part for part in parts if part]


def _ends_sentence(text: str, stop: re.Match[str]) -> bool:
    after = text[stop.end() : stop.end() + 2]
    if any(mark in "。！？" for mark in stop.group()):
        return True
    if after[:1].strip() or after.strip().islower():
        return False
    if not stop.group().startswith("."):
        return True
    word = text[max(0, stop.start() - 20) : stop.start()].rpartition(" ")[2].lower()
    return not (len(word) == 1 or (word.isdigit() and len(word) <= 2) or word in _ABBREVIATIONS)


def _spoken(table: pa.Table | None) -> Iterator[Sentence]:
    if table is None or table.num_rows == 0:
        return
    columns = [c for c in ("segment_index", "text", "start_s", "end_s", "speaker", "words") if c in table.schema.names]
    segments = table.select(columns).sort_by("segment_index").to_pylist()
    running: _Piece | None = None
    for piece in (piece for segment in segments for piece in _pieces(segment)):
        if running is not None and _goes_on(running, piece):
            running = replace(piece, text=f"{running.text} {piece.text}", start_s=running.start_s)
            continue
        if running is not None:
            yield Sentence("transcript", running.text, running.start_s, running.end_s)
        running = piece
    if running is not None:
        yield Sentence("transcript", running.text, running.start_s, running.end_s)


def _goes_on(running: _Piece, piece: _Piece) -> bool:
    return (
        not running.ends
        and running.speaker == piece.speaker
        and piece.start_s - running.end_s <= PAUSE_S
        and len(running.text) + len(piece.text) <= LONGEST_CHARS
    )


def _pieces(segment: Mapping[str, Any]) -> Iterator[_Piece]:
    text = clean(segment["text"])
    parts = split(text)
    spans: list[tuple[int, int]] = []
    for part in parts:
        start = text.index(part, spans[-1][1] if spans else 0)
        spans.append((start, start + len(part)))
    for part, (start_s, end_s) in zip(parts, _times(segment, text, spans), strict=True):
        ends = any(stop.end() == len(part) and _ends_sentence(part, stop) for stop in _STOP.finditer(part))
        yield _Piece(part, start_s, end_s, segment.get("speaker"), ends)


def _times(segment: Mapping[str, Any], text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[float, float]]:
    """When these parts of a segment's text are said: by the times of its words where there are as many as in the
    text and each part begins with one (in Chinese and Japanese sentences end within what has no spaces), else by
    their share of its characters."""
    first_s, last_s = float(segment["start_s"]), float(segment["end_s"])
    words = segment.get("words") or []
    begins = [match.start() for match in _WORD.finditer(text)]
    has_times = len(words) == len(begins) and {start for start, _ in spans} <= set(begins)
    for start, end in spans:
        if has_times:
            start_s = words[bisect_left(begins, start)]["start_s"]
            end_s = words[bisect_left(begins, end) - 1]["end_s"]
        else:
            start_s, end_s = (first_s + place / len(text) * (last_s - first_s) for place in (start, end))
        yield (first_s if start == 0 else start_s), (last_s if end == len(text) else end_s)


def _shown(table: pa.Table | None) -> Iterator[Sentence]:
    if table is None or table.num_rows == 0:
        return
    order = [("frame_index", "ascending"), ("line_index", "ascending")]
    rows = table.select(["frame_index", "line_index", "text", "pts_s"]).sort_by(order).to_pylist()
    for _, lines in groupby(rows, key=lambda row: row["frame_index"]):
        frame = list(lines)
        for paragraph in _paragraphs(clean(row["text"]) for row in frame):
            for part in split(paragraph):
                yield Sentence("ocr", part, frame[0]["pts_s"])


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Lines joined where one goes on in lower case: a wrapped sentence, no new point of a list."""
    running: list[str] = []
    for line in lines:
        if running and line and not line[0].islower():
            yield clean(join_lines(running))
            running = []
        if line:
            running.append(line)
    if running:
        yield clean(join_lines(running))


def _stands_alone(text: str) -> bool:
    letters = sum(c.isalpha() for c in text)
    return letters >= _LETTERS and (len(text.split()) >= _WORDS or _IDEOGRAPHS.search(text) is not None)
