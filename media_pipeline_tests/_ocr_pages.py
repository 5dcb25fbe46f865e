"""Rendered pages with known text, and how far a reading is from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from media_pipeline.analyzers._spec import Image, Medium
from media_pipeline.analyzers.ocr import ANALYZER, OcrOptions

MEDIA_ID = "a" * 64


@dataclass(frozen=True)
class PictureFrame:
    """A frame whose picture may be smaller than what it displays."""

    picture: Image
    frame_index: int = 0
    pts_s: float = 0.0
    scene_index: int = 0
    reduced: int = 1

    @property
    def width(self) -> int:
        return int(self.picture.shape[1] * self.reduced)

    @property
    def height(self) -> int:
        return int(self.picture.shape[0] * self.reduced)

    def image(self) -> Image:
        return self.picture


def blank(width: int = 1280, height: int = 720, grey: int = 245) -> Image:
    return np.full((height, width, 3), grey, dtype=np.uint8)


def write(picture: Image, lines: Iterable[str], x: int, y: int, *, px: int = 36) -> Image:
    """Lines below each other, baseline of the first at y; OpenCV's own font, which knows umlauts."""
    import cv2

    face = cv2.FontFace("sans")
    for number, line in enumerate(lines):
        cv2.putText(picture, line, (x, y + round(number * 1.7 * px)), (20, 20, 40), face, px, 400)
    return picture


def slide(lines: Iterable[str], *, px: int = 36, width: int = 1280, height: int = 720) -> Image:
    return write(blank(width, height), lines, 80, 120, px=px)


def read(model: Any, *frames: PictureFrame, kind: str = "image", **options: Any) -> pa.Table:
    """What the analyzer says about one medium, checked against its schema."""
    rows = ANALYZER.run(model, (Medium(MEDIA_ID, kind, frames=frames),), OcrOptions(**options))
    ANALYZER.check(rows, {MEDIA_ID})
    return rows


def texts(rows: pa.Table) -> list[str]:
    return list(rows.column("text").to_pylist())


def character_error_rate(truth: str, read_lines: Sequence[str]) -> float:
    """Edits per character of the truth, white space folded."""
    one, other = " ".join(truth.split()), " ".join(" ".join(read_lines).split())
    previous = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        current = [i]
        for j, b in enumerate(other, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1] / max(1, len(one))


def word_recall(truth: str, read_lines: Sequence[str]) -> float:
    """Share of the truth's words that were read, counted as often as they occur."""
    wanted, got = Counter(truth.split()), Counter(" ".join(read_lines).split())
    return (wanted & got).total() / max(1, wanted.total())
