"""Which frames of a video are kept: one shortly after each cut, at least one per ``max_gap_s``, three of a short one.

Without cuts they come after 0.5, 1.5, 3.5, 7.5, ... s until the gap is the longest allowed. These times do not depend
on the length, so that a copy that was cut shorter still shares frames with the whole, as finding duplicates needs.
Everything here sees each frame once, in order, and holds a handful of frames at most, whatever the length.
The cut detector is PySceneDetect's AdaptiveDetector with its defaults (Breakthrough/PySceneDetect,
scenedetect/detectors/adaptive_detector.py): a shot has at least 15 frames. `scenes` goes by the stored scores and by
seconds, at least 0.6, so the two count the same shots at 25 frames per second only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from media_pipeline.config import Sampling

SCORE_WIDTH_PX = 128
# A picture right after a cut may be half of a cross-fade or blurred; a person would look a moment later.
SETTLE_S = 0.5
# A single picture tells neither what happens in a video nor whether another one is a copy of it.
MIN_FRAMES = 3
# How long a black fade-in may last before it is taken for what it is.
FADE_S = 2.0
FLAT_LEVELS = 8.0  # grey levels (standard deviation) below which a frame is plain: black, white, fading

_WINDOW = 2
_MIN_SCENE_FRAMES = 15
_RATIO = 3.0
_MIN_SCORE = 15.0

Pixels = npt.NDArray[Any]  # uint8, shape (h, w, 3), BGR
# Chroma subsampling of the planar formats whose planes can be read with strides; the rest goes through swscale.
_PLANAR = {
    "yuv420p": (2, 2, 0),
    "yuvj420p": (2, 2, 0),
    "yuva420p": (2, 2, 0),
    "yuv422p": (2, 1, 0),
    "yuvj422p": (2, 1, 0),
    "yuv444p": (1, 1, 0),
    "yuvj444p": (1, 1, 0),
    "yuv420p10le": (2, 2, 2),
    "yuv422p10le": (2, 1, 2),
    "yuv444p10le": (1, 1, 2),
}


def reduce(frame: Any) -> Pixels:
    """A small BGR picture of an av.VideoFrame, about ``SCORE_WIDTH_PX`` wide and flattened to half its height.

    Picks every k-th pixel of every 2k-th row instead of averaging: what costs is fetching rows from memory, and the
    aliasing this brings is the same in neighbouring frames.
    """
    width, height = frame.width, frame.height
    step = max(1, round(width / SCORE_WIDTH_PX))
    w, h = width // step // 2 * 2, height // (2 * step) // 2 * 2
    layout = _PLANAR.get(frame.format.name)
    if layout is None or w < 4 or h < 4:
        small: Pixels = frame.reformat(max(2, w), max(2, h), "bgr24", interpolation="FAST_BILINEAR").to_ndarray()
        return small
    import cv2

    sub_x, sub_y, shift = layout
    luma, *colours = frame.planes[:3]
    i420 = np.empty((h * 3 // 2, w), np.uint8)
    i420[:h] = _strided(luma, step, 2 * step, h, w, shift)
    chroma = i420[h:].reshape(2, h // 2, w // 2)
    for plane, out in zip(colours, chroma, strict=True):
        out[:] = _strided(plane, 2 * step // sub_x, 4 * step // sub_y, h // 2, w // 2, shift)
    bgr: Pixels = cv2.cvtColor(i420, cv2.COLOR_YUV2BGR_I420)
    return bgr


def contrast(bgr: Pixels) -> float:
    """Standard deviation of the brightest-varying channel, in levels of 0 to 255."""
    import cv2

    return float(cv2.meanStdDev(bgr)[1].max())


def _strided(plane: Any, step_x: int, step_y: int, rows: int, columns: int, shift: int) -> npt.NDArray[Any]:
    kind, size = (np.uint16, 2) if shift else (np.uint8, 1)
    picked: npt.NDArray[Any] = np.ndarray(
        (rows, columns), kind, plane, strides=(step_y * plane.line_size, step_x * size)
    )
    return np.right_shift(picked, shift) if shift else picked


class ContentScore:
    """PySceneDetect's content value: mean change of hue, saturation and brightness since the last frame, 0 to 255."""

    def __init__(self) -> None:
        self._last: Pixels | None = None

    def __call__(self, bgr: Pixels) -> float:
        import cv2

        hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
        last, self._last = self._last, hsv
        if last is None:
            return 0.0
        if last.shape != hsv.shape:  # the stream changed its size
            last = cv2.resize(last, hsv.shape[1::-1])
        return float(cv2.norm(hsv, last, cv2.NORM_L1)) / hsv.size


class CutDetector:
    """AdaptiveDetector on scores alone. `push` speaks of the frame ``DELAY`` places before the one it was given."""

    DELAY = _WINDOW

    def __init__(self) -> None:
        self._scores: deque[float] = deque(maxlen=2 * _WINDOW + 1)
        self._seen = 0
        self._last_cut = 0

    def push(self, score: float) -> bool:
        self._scores.append(score)
        self._seen += 1
        if len(self._scores) < 2 * _WINDOW + 1:
            return False
        target = self._scores[_WINDOW]
        number = self._seen - 1 - _WINDOW
        mean = (sum(self._scores) - target) / (2 * _WINDOW)
        sharp = target >= _RATIO * mean if mean >= 1e-5 else True
        if not (sharp and target >= _MIN_SCORE and number - self._last_cut >= _MIN_SCENE_FRAMES):
            return False
        self._last_cut = number
        return True


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """One decoded frame as the sampler sees it."""

    index: int
    time_s: float
    score: float
    small: Pixels
    picture: T


@dataclass(frozen=True, slots=True)
class Pick(Generic[T]):
    """A frame worth keeping."""

    seen: Seen[T]
    scene_index: int
    opens_scene: bool


class FrameSampler(Generic[T]):
    """Picks frames from a stream. At most ``CutDetector.DELAY + 2`` frames are alive in it.

    Args:
        gap_s: the longest time until the next pick, asked for after each.
        length_s: what the container claims, where it does; only of use for less than three seconds, never relied on.
    """

    def __init__(self, gap_s: Callable[[], float], length_s: float | None = None) -> None:
        self._gap_s = gap_s
        self._settle_s = min(SETTLE_S, length_s / (2 * MIN_FRAMES)) if length_s else SETTLE_S
        self._cuts = CutDetector()
        self._recent: deque[Seen[T]] = deque()
        self._scene = 0
        self._opened = False  # whether the current scene has a pick
        self._picks = 0
        self._last_pick = -1  # its index
        self._due_s: float | None = None  # when the next pick is to be made
        self._best: Seen[T] | None = None
        self._best_rank = (False, 0.0)

    def push(self, seen: Seen[T]) -> Iterator[Pick[T]]:
        self._recent.append(seen)
        is_cut = self._cuts.push(seen.score)
        if len(self._recent) > CutDetector.DELAY:
            yield from self._consider(self._recent.popleft(), is_cut)

    def finish(self) -> Iterator[Pick[T]]:
        last: Seen[T] | None = None
        while self._recent:
            last = self._recent.popleft()
            yield from self._consider(last, False)
        few = self._picks < MIN_FRAMES
        if few and self._best is None and last is not None and last.index > self._last_pick:
            self._best = last if contrast(last.small) >= FLAT_LEVELS else None
        if self._best is not None and (few or not self._opened):
            yield self._commit()

    def _consider(self, seen: Seen[T], is_cut: bool) -> Iterator[Pick[T]]:
        if self._due_s is None:
            self._due_s = seen.time_s + self._settle_s
        if is_cut:
            if self._best is not None and not self._opened:
                yield self._commit()
            self._scene += 1
            self._opened, self._best = False, None
            self._due_s = seen.time_s + self._settle_s
        if seen.time_s > self._due_s and self._best is not None and self._ripe(seen.time_s):
            yield self._commit()
        if seen.time_s >= self._due_s - self._settle_s:
            # Little change since the last frame means little motion blur. Later wins among equals: mid-shot.
            motion = seen.score if seen.index else 255.0  # of the first frame nothing is known
            if self._best is None or (True, -motion) >= self._best_rank:
                rank = (contrast(seen.small) >= FLAT_LEVELS, -motion)
                if self._best is None or rank >= self._best_rank:
                    self._best, self._best_rank = seen, rank
        if seen.time_s > self._due_s and self._ripe(seen.time_s) and self._best is not None:
            yield self._commit()

    def _ripe(self, now_s: float) -> bool:
        assert self._due_s is not None
        return self._best_rank[0] or self._opened or now_s > self._due_s + FADE_S

    def _commit(self) -> Pick[T]:
        assert self._best is not None
        assert self._due_s is not None
        pick = Pick(self._best, self._scene, not self._opened)
        self._opened, self._best = True, None
        self._picks, self._last_pick = self._picks + 1, pick.seen.index
        # From when it was due, not from where it was found: encodings differ in which frame has the least motion.
        twice = 2 * max(self._due_s, pick.seen.time_s) + self._settle_s
        self._due_s = min(twice, pick.seen.time_s + self._gap_s())
        return pick


@dataclass(slots=True)
class _Kept:
    time_s: float
    opens_scene: bool
    item: Any


class Spread:
    """Keeps at most ``capacity`` picks, spread evenly over a length nobody knows beforehand.

    When one is too many, the one whose loss leaves the smallest hole goes; openings of scenes count twice.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._capacity = sampling.max_frames
        self._max_gap_s = sampling.max_gap_s
        self._kept: list[_Kept] = []

    def gap_s(self) -> float:
        """The gap worth aiming at: once the capacity binds, denser picks would only be thrown away again."""
        if len(self._kept) < self._capacity:
            return self._max_gap_s
        span = self._kept[-1].time_s - self._kept[0].time_s
        return max(self._max_gap_s, span / self._capacity)

    def add(self, time_s: float, opens_scene: bool, item: Any) -> None:
        self._kept.append(_Kept(time_s, opens_scene, item))
        if len(self._kept) > self._capacity:
            del self._kept[self._least_missed()]

    def items(self) -> list[Any]:
        return [kept.item for kept in self._kept]

    def _least_missed(self) -> int:
        inner = range(1, len(self._kept) - 1)
        return min(inner, key=self._loss, default=len(self._kept) - 1)

    def _loss(self, i: int) -> float:
        hole = self._kept[i + 1].time_s - self._kept[i - 1].time_s
        return 2 * hole if self._kept[i].opens_scene else hole
