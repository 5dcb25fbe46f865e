"""Blocks of one text in frames that follow each other are one title, with a beginning and an end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from media_pipeline.analyzers._title_blocks import Block, Box

_MIN_SIMILARITY = 0.75  # of two readings of one text: of the characters without blanks and case
_MAX_MISSED = 1  # frames in which OCR may miss a text that is there again afterwards
_SUBTITLE_TEXTS = 3  # different centred texts at one height: somebody speaks, nobody is named
_CENTRED = 0.05  # of the width, off the middle
_SAME_HEIGHT = 0.08  # of the frame's height


@dataclass(slots=True)
class Span:
    """One title and where it was read: positions in the sequence of frames, with the block."""

    readings: list[tuple[int, Block]] = field(default_factory=list)

    @property
    def first(self) -> int:
        return self.readings[0][0]

    @property
    def last(self) -> int:
        return self.readings[-1][0]

    @property
    def best(self) -> tuple[int, Block]:
        """The reading that is surest of its characters, the longest of equals."""
        return max(self.readings, key=lambda r: (round(r[1].score, 2), len(r[1].text)))


def spans_of(frames: Iterable[Sequence[Block]]) -> list[Span]:
    """The titles in order of their beginning."""
    done: list[Span] = []
    running: list[Span] = []
    for position, blocks in enumerate(frames):
        still = [span for span in running if position - span.last <= _MAX_MISSED + 1]
        done += [span for span in running if position - span.last > _MAX_MISSED + 1]
        free = list(still)
        for block in blocks:
            span = next((s for s in free if _same(s.readings[-1][1], block)), None)
            if span is None:
                span = Span()
                still.append(span)
            else:
                free.remove(span)
            span.readings.append((position, block))
        running = still
    return sorted(done + running, key=lambda span: (span.first, span.readings[0][1].box[1]))


def without_subtitles(spans: Sequence[Span]) -> list[Span]:
    """Without centred lower thirds at a height where the text keeps changing."""

    def at_this_height(span: Span) -> int:
        middle = _middle(span.best[1].box)[1]
        return sum(_is_centred(s) and abs(_middle(s.best[1].box)[1] - middle) < _SAME_HEIGHT for s in spans)

    return [s for s in spans if not (_is_centred(s) and at_this_height(s) >= _SUBTITLE_TEXTS)]


def similarity(one: str, other: str) -> float:
    """In [0, 1]; what OCR gets wrong most, blanks, case and punctuation, does not count."""
    one, other = ("".join(c for c in text.casefold() if c.isalnum()) for text in (one, other))
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _same(one: Block, other: Block) -> bool:
    if one.kind != other.kind or similarity(one.text, other.text) < _MIN_SIMILARITY:
        return False
    # Titles may slide in or grow a little, they do not jump across the picture.
    (ax, ay), (bx, by) = _middle(one.box), _middle(other.box)
    return abs(ax - bx) < 0.2 and abs(ay - by) < 0.1


def _is_centred(span: Span) -> bool:
    block = span.best[1]
    return block.kind == "lower_third" and abs(_middle(block.box)[0] - 0.5) < _CENTRED


def _middle(box: Box) -> tuple[float, float]:
    return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
