"""One face through consecutive frames, as windows of time with the mean of its probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Frame

_LAST_FRAME_S = 0.04  # what the last frame of a video stands for where nothing says how long the video is
_SAME_S = 1e-6

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One face in one frame."""

    track_index: int | None
    face_index: int
    frame_index: int
    start_s: float  # half-open: what this frame stands for
    end_s: float
    probabilities: Probabilities


@dataclass(frozen=True, slots=True)
class Window:
    """A face without interruption, for as long as the window lasts."""

    glimpses: tuple[Glimpse, ...]

    @property
    def start_s(self) -> float:
        return self.glimpses[0].start_s

    @property
    def end_s(self) -> float:
        return self.glimpses[-1].end_s

    @property
    def probabilities(self) -> Probabilities:
        """The mean over the frames: single frames of a moving mouth say little."""
        return np.asarray(np.mean([glimpse.probabilities for glimpse in self.glimpses], axis=0), np.float64)

    @property
    def clearest(self) -> Glimpse:
        """Where the window's label shows most."""
        label = int(np.argmax(self.probabilities))
        return max(self.glimpses, key=lambda glimpse: float(glimpse.probabilities[label]))


def spans_of(frames: Iterable[Frame], duration_s: float | None, longest_s: float) -> Iterator[tuple[Frame, float]]:
    """Each frame with the end of the span it stands for: the next frame, the end of the medium, or `longest_s` later.

    Pictures are not decoded.
    """
    before: Frame | None = None
    for frame in frames:
        if before is not None:
            yield before, min(frame.pts_s, before.pts_s + longest_s)
        before = frame
    if before is not None:
        end = duration_s if duration_s is not None and duration_s > before.pts_s else before.pts_s + _LAST_FRAME_S
        yield before, min(end, before.pts_s + longest_s)


def windows(glimpses: Iterable[Glimpse], window_s: float) -> Iterator[Window]:
    """Windows of at most `window_s` seconds (one frame may be longer), each of one track in consecutive frames.

    Args:
        glimpses: in order of time; those without a track stand alone
    """
    running: dict[int, list[Glimpse]] = {}
    for glimpse in glimpses:
        if glimpse.track_index is None:
            yield Window((glimpse,))
            continue
        before = running.setdefault(glimpse.track_index, [])
        if before and not _belongs(glimpse, before, window_s):
            yield Window(tuple(before))
            before.clear()
        before.append(glimpse)
    yield from (Window(tuple(rest)) for rest in running.values())


def _belongs(glimpse: Glimpse, before: list[Glimpse], window_s: float) -> bool:
    return glimpse.start_s <= before[-1].end_s + _SAME_S and glimpse.end_s - before[0].start_s <= window_s + _SAME_S
