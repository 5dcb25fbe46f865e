"""Which way up a page stands.

The shapes of the boxes tell level text from text on its side; between the two ways that remain, the packaged
classifier (up or down) is asked first because it is cheap, and the recogniser decides on a few lines: text on its
head reads badly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from media_pipeline.analyzers._ocr_layout import is_tall, sides_px
from media_pipeline.analyzers._ocr_onnx import Engine, Floats, Quads, Reading
from media_pipeline.analyzers._spec import Image

_SAMPLE_LINES = 4
_SIDEWAYS_SHARE = 0.6  # of the length of all lines
_SURE = 0.75  # mean character probability from which a sample counts as read
_SOME_CHARACTERS = 4  # fewer can look right by chance: O, 8, I


def quarter_turns(engine: Engine, image: Image, quads: Quads) -> int:
    """Quarter turns counter-clockwise (as `numpy.rot90` counts) that set the page upright: 0 to 3.

    Vertical Chinese and Japanese may count as turned by one quarter: its lines are read the same, and in order.
    """
    tall = is_tall(quads)
    length = np.maximum(*sides_px(quads))
    level = _longest(image, quads[~tall], length[~tall])
    if level and float(length[tall].sum()) <= _SIDEWAYS_SHARE * float(length.sum()):
        return _level_turns(engine, level)
    if _is_read(engine.recognise(level)):
        return 0  # a vertical sign with a level line beside it
    return _sideways_turns(engine, _longest(image, quads[tall], length[tall]))


def _level_turns(engine: Engine, lines: Sequence[Image]) -> int:
    if float(np.mean(engine.upside_down(lines))) < 0.5:
        return 0
    as_seen, headlong = _both_ways(engine, lines)
    return 2 if headlong > max(as_seen, _SURE) else 0


def _sideways_turns(engine: Engine, lines: Sequence[Image]) -> int:
    downwards, upwards = _both_ways(engine, lines)
    if max(downwards, upwards) < _SURE:
        return 0
    return 3 if upwards > downwards else 1


def _both_ways(engine: Engine, lines: Sequence[Image]) -> tuple[float, float]:
    return _confidence(engine.recognise(lines)), _confidence(engine.recognise([flipped(line) for line in lines]))


def _is_read(readings: Sequence[Reading]) -> bool:
    return sum(len(r.text) for r in readings) >= _SOME_CHARACTERS and _confidence(readings) >= _SURE


def _confidence(readings: Sequence[Reading]) -> float:
    """Mean score of the characters; lines of which nothing was read count as one bad character."""
    return float(np.average([r.score for r in readings], weights=[max(1, len(r.text)) for r in readings]))


def _longest(image: Image, quads: Quads, length: Floats) -> list[Image]:
    return [line_picture(image, quads[i]) for i in np.argsort(-length, kind="stable")[:_SAMPLE_LINES]]


def flipped(picture: Image) -> Image:
    """Turned by 180 degrees."""
    return np.ascontiguousarray(picture[::-1, ::-1])


def line_picture(image: Image, quad: Quads) -> Image:
    """The rectangle cut out and set straight; tall ones are laid on their left side, as the recogniser expects."""
    import cv2

    width = max(1, round(float(np.linalg.norm(quad[1] - quad[0]))))
    height = max(1, round(float(np.linalg.norm(quad[3] - quad[0]))))
    target = np.array([[0, 0], [width, 0], [width, height]], dtype=np.float32)
    straight: Any = cv2.warpAffine(
        image,
        cv2.getAffineTransform(np.ascontiguousarray(quad[:3], dtype=np.float32), target),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.ascontiguousarray(np.rot90(straight)) if is_tall(quad[None])[0] else straight
