"""One picture: at which size to look, which way up it stands, what its lines say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from media_pipeline.analyzers._ocr_direction import flipped, line_picture, quarter_turns
from media_pipeline.analyzers._ocr_layout import Line, in_reading_order, is_tall, sides_px
from media_pipeline.analyzers._ocr_onnx import Engine, Quads, Reading
from media_pipeline.analyzers._spec import Image

# Measured on 121 pictures and video frames: a first look at 640 px and a second one where the text is small read what
# rapidocr's default (short side enlarged to 736 px) reads, and more, in a quarter of its CPU time
# (benchmarks/ocr_sizes.py). At 640 px a line must be 4 px high to be found.
FIRST_SIDE_PX = 640
# The detector itself at half of that takes a third of its time and needs no box, only a spot that might be text:
# on 164 pictures and frames 70 % of those without text end here.
_GLANCE = 0.5
_MAX_REDUCTION = 3.0  # of the first look, so that the small print of a large screen keeps these 4 px
_SMALLER = 0.1  # quantile of the line heights that stands for "the smaller lines"
# Heights of boxes, which are half as high again as the letters. With 16 and 20 small print on labels is misread.
_SMALL_LINE_PX = 20.0
_WANTED_LINE_PX = 24.0
_MAX_ENLARGEMENT = 2.0  # a small picture holds no more detail; the time grows with the square
_NEW_SHARE = 0.2  # a box of the first look is new to the second where less of its area is covered
_UNDERSTOOD = 0.9  # score from which a vertical line is not tried the other way
# Full-width ASCII, which the recogniser, trained on Chinese, sometimes writes among Latin letters.
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


@dataclass(frozen=True, slots=True)
class Page:
    """What was read in one picture; coordinates are pixels of the picture as given."""

    lines: tuple[Line, ...]
    turned_deg: int  # clockwise turn under which the page was seen: 0, 90, 180 or 270


def read_page(engine: Engine, image: Image, *, min_score: float, max_side_px: int, text_gate: bool = True) -> Page:
    """Find the text, turn the page upright, read its lines in order.

    Args:
        text_gate: stop where a glance at half the size shows nothing that could be text
    """
    first = _first_scale(image, max_side_px)
    if text_gate and not engine.may_hold_text(_scaled(image, first * _GLANCE)):
        return Page((), 0)
    quads = _detect(engine, image, first)
    if not len(quads):
        return Page((), 0)
    turns = quarter_turns(engine, image, quads)
    upright = np.ascontiguousarray(np.rot90(image, turns))
    scale = _better_scale(image, quads, first, max_side_px)
    if turns:
        quads = _detect(engine, upright, scale)
    elif scale > first:
        quads = _united(_detect(engine, upright, scale), quads)
    lines = _read(engine, upright, quads)
    kept = [line for line in lines if line.text and line.score >= min_score]
    height, width = upright.shape[:2]
    ordered = in_reading_order(kept)
    return Page(tuple(_turned_back(line, turns, width, height) for line in ordered), turned_deg=90 * turns)


def _read(engine: Engine, image: Image, quads: Quads) -> list[Line]:
    """One line per box. Vertical ones of which little was understood downwards are tried upwards."""
    pictures = [line_picture(image, quad) for quad in quads]
    readings = engine.recognise(pictures)
    doubtful = [i for i in np.flatnonzero(is_tall(quads)) if readings[i].score < _UNDERSTOOD]
    upwards = engine.recognise([flipped(pictures[i]) for i in doubtful])
    better = {i: up for i, up in zip(doubtful, upwards, strict=True) if up.score > readings[i].score}
    return [
        _line(np.roll(quads[i], 2, axis=0), better[i]) if i in better else _line(quads[i], readings[i])
        for i in range(len(quads))
    ]


def _detect(engine: Engine, image: Image, scale: float) -> Quads:
    """Text boxes in pixels of ``image``, looked for in a copy of it scaled by ``scale``."""
    copy = _scaled(image, scale)
    back = [image.shape[1] / copy.shape[1], image.shape[0] / copy.shape[0]]
    return engine.detect(copy) * np.array(back, dtype=np.float32)


def _scaled(image: Image, scale: float) -> Image:
    import cv2

    if scale == 1.0:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    copy: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    scaled: Image = copy
    return scaled


def _first_scale(image: Image, max_side_px: int) -> float:
    longest = float(max(image.shape[:2]))
    return min(1.0, max(FIRST_SIDE_PX / longest, 1 / _MAX_REDUCTION), max_side_px / longest)


def _united(quads: Quads, others: Quads) -> Quads:
    """All of ``quads``, and those of ``others`` that lie where they leave room: a closer look may lose large words."""
    if not len(quads):
        return others
    low = np.maximum(others.min(axis=1)[:, None], quads.min(axis=1)[None])
    high = np.minimum(others.max(axis=1)[:, None], quads.max(axis=1)[None])
    shared = np.prod(np.clip(high - low, 0, None), axis=2).sum(axis=1)
    area = np.prod(np.ptp(others, axis=1), axis=1)
    return np.concatenate([quads, others[shared < _NEW_SHARE * area]])


def _better_scale(image: Image, quads: Quads, scale: float, max_side_px: int) -> float:
    """The scale at which the smaller lines have the height the detector likes; never below the one they came from."""
    seen_px = float(np.quantile(np.minimum(*sides_px(quads)), _SMALLER)) * scale
    if seen_px >= _SMALL_LINE_PX:
        return scale
    wanted = scale * _WANTED_LINE_PX / max(seen_px, 1.0)
    return max(scale, min(wanted, _MAX_ENLARGEMENT, max_side_px / float(max(image.shape[:2]))))


def _line(quad: Quads, reading: Reading) -> Line:
    corners = tuple((float(x), float(y)) for x, y in quad)
    return Line(" ".join(reading.text.translate(_FULL_WIDTH).split()), reading.score, corners)


def _turned_back(line: Line, turns: int, width: int, height: int) -> Line:
    """From the upright page (of that size) to the picture it was turned from; the first corner stays the first."""
    corners = tuple(_corner_back(x, y, turns, width, height) for x, y in line.corners)
    return Line(line.text, line.score, corners)


def _corner_back(x: float, y: float, turns: int, width: int, height: int) -> tuple[float, float]:
    for _ in range(turns):  # each undoes one counter-clockwise quarter: what was right comes from the bottom
        x, y = height - y, x
        width, height = height, width
    return x, y
