"""Text detector, line recogniser and up-or-down classifier of PP-OCR, run directly on onnxruntime.

The weights are those that the rapidocr package carries. Its own classes are not used: their detector keeps the last
picture's settings on the object (one model could not serve several threads), decides on the working size itself, and
the recogniser pads every line to at least 320 px. What they compute is computed here the same way:
RapidAI/RapidOCR ``ch_ppocr_det/utils.py`` (DB post-processing, Liao et al., arXiv:1911.08947) and
``ch_ppocr_rec/utils.py`` (CTC, best path).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._gpu_memory import halving
from media_pipeline.analyzers._onnx import open_session
from media_pipeline.analyzers._spec import Image
from media_pipeline.errors import ModelUnavailable

Floats = npt.NDArray[np.float32]
Quads = npt.NDArray[np.float32]  # shape (n, 4, 2): corners x, y from the top left, clockwise

_STRIDE_PX = 32  # the detector's network halves its input five times
_LINE_HEIGHT_PX = 48  # the recogniser's and the classifier's input
_CLASSIFIER_WIDTH_PX = 192
# A batch is as wide as its widest line; lines are sorted by width, so little is wasted, and six is where the gain ends.
# The same on a GPU: a line's score depends by up to 0.03 on how far it was padded, and so on its company.
BATCH_LINES = 6
_MAX_LINE_WIDTH_PX = 3200  # bounds memory: 18,710 classes times width / 8 steps times 4 bytes
THRESHOLD = 0.3  # of the probability map; this and the next two are rapidocr's
BOX_THRESHOLD = 0.5
FAINT = 0.2  # what is text at full size shows at least this at half of it
UNCLIP = 1.6
MAX_CANDIDATES = 1000
_MIN_SIDE_PX = 3
_REMEDY = "leave MEDIA_PIPELINE_OPTIONS__OCR__MODEL out, and the weights of the package rapidocr are taken"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the recogniser saw in one line."""

    text: str
    score: float  # mean probability of the characters, [0, 1]


class Engine(Protocol):
    """Finds lines and reads them. Safe to call from several threads."""

    def detect(self, image: Image) -> Quads:
        """Text lines in an RGB picture, in its own pixels, in no order. The picture is taken at the size it has."""

    def may_hold_text(self, image: Image) -> bool:
        """False where nothing in an RGB picture looks like text, not even faintly; quicker than `detect`."""

    def recognise(self, lines: Sequence[Image]) -> list[Reading]:
        """One reading per upright line picture (RGB, any size)."""

    def upside_down(self, lines: Sequence[Image]) -> Floats:
        """Per line picture how likely it stands on its head, [0, 1]; shape (n,)."""


class OnnxEngine:
    """PP-OCR on onnxruntime sessions, which many threads may share.

    Raises:
        ModelUnavailable: one of the files is no network, or the recogniser has no alphabet.
    """

    def __init__(self, det: Path, rec: Path, cls: Path, *, threads: int, device: str = "cpu") -> None:
        self._det, self._rec = (_session(path, threads, device) for path in (det, rec))
        self._classifier = Classifier(cls, threads=threads, device=device)
        self._characters = np.array(["", *_characters(self._rec, rec), " "])

    def detect(self, image: Image) -> Quads:
        probability = self._probability(image)
        scale = [image.shape[1] / probability.shape[1], image.shape[0] / probability.shape[0]]
        return quads_of(probability) * np.array(scale, dtype=np.float32)

    def may_hold_text(self, image: Image) -> bool:
        return bool(self._probability(image).max() >= FAINT)

    def _probability(self, image: Image) -> Floats:
        """Of text, per pixel of the picture brought to a size that the network takes."""
        import cv2

        height, width = image.shape[:2]
        size = tuple(max(_STRIDE_PX, round(side / _STRIDE_PX) * _STRIDE_PX) for side in (width, height))
        resized: Any = image if size == (width, height) else cv2.resize(image, size)
        probability: Floats = _run(self._det, _normalised(resized[:, :, ::-1])[None])[0, 0]
        return probability

    def recognise(self, lines: Sequence[Image]) -> list[Reading]:
        widths = [_line_width(line) for line in lines]
        order = sorted(range(len(lines)), key=widths.__getitem__)
        readings: dict[int, Reading] = {}
        for start in range(0, len(order), BATCH_LINES):
            some = order[start : start + BATCH_LINES]
            batch = np.stack([_line_input(lines[i], widths[some[-1]]) for i in some])
            output = halving(batch, lambda lines: _run(self._rec, lines))
            readings.update(zip(some, map(self._decoded, output), strict=True))
        return [readings[i] for i in range(len(lines))]

    def upside_down(self, lines: Sequence[Image]) -> Floats:
        return self._classifier.upside_down(lines)

    def _decoded(self, output: Floats) -> Reading:
        best = output.argmax(axis=1)
        kept = best != 0  # the CTC blank
        kept[1:] &= best[1:] != best[:-1]
        if not kept.any():
            return Reading("", 0.0)
        return Reading("".join(self._characters[best[kept]]), float(output.max(axis=1)[kept].mean()))


class Classifier:
    """Whether line pictures stand on their heads.

    Raises:
        ModelUnavailable: the file is no network.
    """

    def __init__(self, cls: Path, *, threads: int, device: str = "cpu") -> None:
        self._session = _session(cls, threads, device)

    def upside_down(self, lines: Sequence[Image]) -> Floats:
        """Probability per line, shape (n,)."""
        if not lines:
            return np.zeros(0, dtype=np.float32)
        batch = np.stack([_line_input(line, _CLASSIFIER_WIDTH_PX) for line in lines])
        return _run(self._session, batch)[:, 1]


def characters(rec: Path) -> list[str]:
    """The alphabet of a recogniser, which PP-OCR's ONNX files carry in their metadata.

    Raises:
        ModelUnavailable: the file is no network, or carries none.
    """
    return _characters(_session(rec, threads=1, device="cpu"), rec)


def _characters(session: Any, file: Path) -> list[str]:
    alphabet: str | None = session.get_modelmeta().custom_metadata_map.get("character")
    if not alphabet:  # PaddleOCR's own exports keep it in a file of settings beside them
        raise ModelUnavailable(
            f"{file} does not say which characters it reads: its metadata has no 'character'",
            f"write its dictionary there, a character per line, or {_REMEDY}",
        )
    return alphabet.splitlines()


def _run(session: Any, batch: Floats) -> Floats:
    result: Floats = session.run(None, {session.get_inputs()[0].name: batch})[0]
    return result


def quads_of(probability: Floats) -> Quads:
    """Text lines of the detector's probability map (h, w), as rotated rectangles in its pixels.

    The network marks the core of a line; the rectangle is let out by area * 1.6 / perimeter on each side. For a
    rectangle that is arithmetic, no polygon clipping is needed.
    """
    import cv2

    mask = cv2.dilate((probability > THRESHOLD).astype(np.uint8), np.ones((2, 2), dtype=np.uint8))
    contours = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    found = []
    for contour in contours[:MAX_CANDIDATES]:
        centre, (w, h), angle = cv2.minAreaRect(contour)
        if min(w, h) < _MIN_SIDE_PX:
            continue
        if _mean_inside(probability, cv2.boxPoints((centre, (w, h), angle))) < BOX_THRESHOLD:
            continue
        out = w * h * UNCLIP / (w + h)  # both sides together
        found.append(_clockwise(cv2.boxPoints((centre, (w + out, h + out), angle))))
    quads = np.array(found, dtype=np.float32).reshape(-1, 4, 2)
    limit = np.array(probability.shape[::-1], dtype=np.float32)
    return np.clip(quads, 0, limit)


def _mean_inside(probability: Floats, corners: Any) -> float:
    import cv2

    height, width = probability.shape
    x1, y1 = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, [width - 1, height - 1])
    x2, y2 = np.clip(np.ceil(corners.max(axis=0)).astype(int), 0, [width - 1, height - 1])
    mask = np.zeros((y2 - y1 + 1, x2 - x1 + 1), dtype=np.uint8)
    cv2.fillPoly(mask, [(corners - [x1, y1]).astype(np.int32)], 1)
    return float(cv2.mean(probability[y1 : y2 + 1, x1 : x2 + 1], mask)[0])


def _clockwise(corners: Any) -> Floats:
    """Top left, top right, bottom right, bottom left: of the two left corners and the two right ones, the upper."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (pair[np.argsort(pair[:, 1], kind="stable")] for pair in (by_x[:2], by_x[2:]))
    return np.array([left[0], right[0], right[1], left[1]], dtype=np.float32)


def _normalised(bgr: Image) -> Floats:
    """Shape (3, h, w), values in [-1, 1]; the networks were trained on OpenCV's channel order."""
    return np.ascontiguousarray(bgr.transpose(2, 0, 1), dtype=np.float32) / 127.5 - 1.0


def _line_width(line: Image) -> int:
    height, width = (int(side) for side in line.shape[:2])
    return min(_MAX_LINE_WIDTH_PX, max(1, math.ceil(_LINE_HEIGHT_PX * width / height)))


def _line_input(line: Image, width_px: int) -> Floats:
    import cv2

    resized: Any = cv2.resize(line, (min(_line_width(line), width_px), _LINE_HEIGHT_PX))
    padded = np.zeros((3, _LINE_HEIGHT_PX, width_px), dtype=np.float32)
    padded[:, :, : resized.shape[1]] = _normalised(resized[:, :, ::-1])
    return padded


def _session(path: Path, threads: int, device: str) -> Any:
    try:
        # Pictures differ in size: a worker that kept the memory of the largest would never give it back.
        return open_session(path, threads=threads, device=device, keep_memory=False)
    except Exception as error:  # onnxruntime raises types of its own
        raise ModelUnavailable(
            f"{path} cannot be run: {str(error)[:200]}", f"get the file again, or {_REMEDY}"
        ) from None
