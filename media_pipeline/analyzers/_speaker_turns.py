"""Who speaks when: windows and voices to turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._speaker_windows import Windows, mean_voice
from media_pipeline.analyzers._vad import Span
from media_pipeline.analyzers._voice_encoder import Vectors

_STEP_S = 0.1
# Sum over time steps by which another voice must fit better before it is believed: 0.3 s at a difference of 0.33.
_CHANGE = 1.0
_CHANGE_IN_PAUSE = 0.3
MAX_PAUSE_S = 0.5  # within a turn
_INSIDE = 0.75  # share of a window that must lie in a turn for its vector to speak for it

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's speech in [start_s, end_s), without a pause of more than half a second."""

    start_s: float
    end_s: float
    speaker: int
    spans: tuple[Span, ...]  # the speech in it

    @property
    def speech_s(self) -> float:
        return sum(span.duration_s for span in self.spans)


def turns_of(spans: Sequence[Span], windows: Windows, centroids: Vectors) -> list[Turn]:
    """The turns of a recording in order; ``speaker`` is a row of ``centroids``."""
    steps = [max(1, round(span.duration_s / _STEP_S)) for span in spans]
    scores = _scores(spans, steps, windows, centroids)
    pauses = np.zeros(len(scores), bool)
    pauses[np.cumsum([0, *steps[:-1]])] = True
    labels = _best_path(scores, np.where(pauses, _CHANGE_IN_PAUSE, _CHANGE))
    turns: list[Turn] = []
    for piece in _pieces(spans, np.split(labels, np.cumsum(steps[:-1]))):
        before = turns[-1] if turns else None
        if before and before.speaker == piece.speaker and piece.start_s - before.end_s <= MAX_PAUSE_S:
            turns[-1] = replace(before, end_s=piece.end_s, spans=before.spans + piece.spans)
        else:
            turns.append(piece)
    return turns


def voice_of(turn: Turn, windows: Windows) -> Vectors | None:
    """The mean of the windows that lie in the turn; None where there is none."""
    overlap = np.minimum(windows.end_s, turn.end_s) - np.maximum(windows.start_s, turn.start_s)
    inside = windows.are_long & (overlap >= _INSIDE * (windows.end_s - windows.start_s))
    return mean_voice(windows.vectors[inside]) if inside.any() else None


def _scores(spans: Sequence[Span], steps: Sequence[int], windows: Windows, centroids: Vectors) -> Scores:
    """Mean cosine of the windows around each step of 0.1 s of speech to each voice: (steps, speakers).

    A window counts most for its middle.
    """
    likeness = windows.vectors @ centroids.T
    lengths = np.maximum(1, np.round((windows.end_s - windows.start_s) / _STEP_S).astype(int)) + 1
    total = np.zeros((sum(steps), len(centroids)), np.float32)
    weight = np.zeros((sum(steps), 1), np.float32)
    owner = np.searchsorted([span.start_s for span in spans], windows.start_s + 1e-6, side="right") - 1
    offsets = np.cumsum([0, *steps])
    for number, span_number in enumerate(owner):
        start_s = spans[span_number].start_s
        first = offsets[span_number] + int((windows.start_s[number] - start_s) / _STEP_S)
        last = min(offsets[span_number + 1], first + lengths[number])
        shape = np.hanning(last - first + 2)[1:-1, None].astype(np.float32)
        total[first:last] += shape * likeness[number]
        weight[first:last] += shape
    return np.asarray(total / np.maximum(weight, 1e-6), np.float32)


def _best_path(scores: Scores, price: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The speaker of each step: the path of the highest sum of scores, where each change costs (Viterbi 1967)."""
    steps, speakers = scores.shape
    came_from = np.zeros((steps, speakers), np.int32)
    best = scores[0].astype(np.float64)
    for step in range(1, steps):
        leader = int(best.argmax())
        changed = best[leader] - price[step]
        came_from[step] = np.where(best >= changed, np.arange(speakers), leader)
        best = np.maximum(best, changed) + scores[step]
    path = np.zeros(steps, np.intp)
    path[-1] = best.argmax()
    for step in range(steps - 1, 0, -1):
        path[step - 1] = came_from[step, path[step]]
    return path


def _pieces(spans: Sequence[Span], labels: Sequence[npt.NDArray[np.intp]]) -> Iterator[Turn]:
    """Each span divided where its speaker changes."""
    for span, steps in zip(spans, labels, strict=True):
        changes = np.flatnonzero(np.diff(steps)) + 1
        edges = [span.start_s, *(span.start_s + changes * _STEP_S), span.end_s]
        for start_s, end_s, first in zip(edges, edges[1:], [0, *changes], strict=False):
            yield Turn(float(start_s), float(end_s), int(steps[first]), (Span(float(start_s), float(end_s)),))
