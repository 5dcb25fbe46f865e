"""Rows of OCR and speech, joined into passages: the unit that is embedded, indexed and found.

A single OCR line ("Total", "3 of 12") says little, a whole page too much for one vector. So consecutive lines of one
frame, and consecutive segments of one speaker, are joined up to about `TARGET_CHARS` characters. A text that stays on
the screen over several sampled frames is one passage, at its first moment.

Nothing is lost by joining: `marks` keep where in the text each row begins and when it was seen or said.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

TARGET_CHARS = 200  # about 50 tokens of English, 80 of German: well inside the 256 the models were trained for
STAYS_S = 30.0  # the same text after a longer absence is a new moment
PAUSE_S = 2.0  # a longer silence ends a passage of speech

# A hyphen at the end of a line that goes on in lower case was put there by the typesetter: "ex-\nplain". Before a
# capital it belongs to the word ("Berlin-\nMitte"), and only the line break goes.
_SOFT_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u00ad\u2010]\s*\n\s*(?=[^\W\d_])")


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of text and its moment."""

    source: str  # "ocr" | "transcript"
    # Position of its first row among the medium's rows of this source, ordered by (frame_index, line_index) or
    # segment_index, from 0.
    row_index: int
    pts_s: float | None  # seconds from the start of the medium; null where the row has none
    text: str
    marks: tuple[tuple[int, float | None], ...] = ()  # (offset in text, pts_s) of each row, ascending; () for a frame


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    text: str
    start_s: float | None
    end_s: float | None = None
    group: object = None  # rows of different groups are never joined


def passages(ocr: pa.Table | None, transcript: pa.Table | None) -> list[Passage]:
    """The passages of one medium, from its rows of the `ocr` and `transcript` tables. Deterministic."""
    return [*_of_ocr(ocr), *_of_transcript(transcript)]


def says_something(text: str) -> bool:
    """Whether there is anything to embed. Page numbers and rules are found by word, they mean nothing."""
    return sum(c.isalpha() for c in text) >= 3


def _of_ocr(table: pa.Table | None) -> Iterator[Passage]:
    if table is None or table.num_rows == 0:
        return
    columns = ["frame_index", "line_index", "text", "pts_s"]
    records = table.select(columns).sort_by([("frame_index", "ascending"), ("line_index", "ascending")]).to_pylist()
    rows = [_Row(i, clean(r["text"]), r["pts_s"], group=r["frame_index"]) for i, r in enumerate(records)]
    shown: dict[str, float | None] = {}
    for _, frame in groupby(rows, key=lambda row: row.group):
        now: dict[str, float | None] = {}
        for window in _windows(frame):
            text = join_lines(row.text for row in window)
            pts_s = window[0].start_s
            key = "".join(c for c in text.casefold() if c.isalnum())
            now[key] = pts_s
            if key not in shown or _apart(shown[key], pts_s) > STAYS_S:
                yield Passage("ocr", window[0].index, pts_s, text)
        shown = now


def _of_transcript(table: pa.Table | None) -> Iterator[Passage]:
    if table is None or table.num_rows == 0:
        return
    columns = [c for c in ("segment_index", "text", "start_s", "end_s", "speaker") if c in table.schema.names]
    records = table.select(columns).sort_by("segment_index").to_pylist()
    rows = (_Row(i, clean(r["text"]), r["start_s"], r["end_s"], r.get("speaker")) for i, r in enumerate(records))
    for window in _windows(rows):
        text, marks = "", []
        for row in window:
            text += " " if text else ""
            marks.append((len(text), row.start_s))
            text += row.text
        yield Passage("transcript", window[0].index, window[0].start_s, text, tuple(marks))


def _windows(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """Consecutive rows of up to `TARGET_CHARS` characters together; a longer row stands alone."""
    window: list[_Row] = []
    length = 0
    for row in rows:
        if not row.text:
            continue
        if window and (length + len(row.text) > TARGET_CHARS or not _continues(window[-1], row)):
            yield window
            window, length = [], 0
        window.append(row)
        length += len(row.text) + 1
    if window:
        yield window


def _continues(last: _Row, row: _Row) -> bool:
    return last.group == row.group and (last.end_s is None or _apart(last.end_s, row.start_s) <= PAUSE_S)


def _apart(a: float | None, b: float | None) -> float:
    return 0.0 if a is None or b is None else abs(b - a)


def clean(text: str | None) -> str:
    """NFC, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text or "").split())


def join_lines(lines: Iterable[str]) -> str:
    """Lines of a page one below the other, words that were divided at the end of a line made whole."""
    text = "\n".join(lines)
    return _SOFT_HYPHEN.sub(lambda m: "" if text[m.end()].islower() else "-", text)
