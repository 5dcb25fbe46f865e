"""From spans of speech to vectors of short windows: what the speakers of a recording are told apart by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Audio
from media_pipeline.analyzers._vad import Span
from media_pipeline.analyzers._voice_encoder import BATCH, Vectors, VoiceEncoder
from media_pipeline.analyzers._voice_features import FRAMES_PER_S, Features

# What GE2E was trained on. A hop of a quarter lets a boundary be placed between windows.
_WINDOW = 160  # frames of 10 ms
_HOP = 40
_SHORTEST = 40
# Encoders judge a vector of less by its words rather than by its voice.
LONG_S = 1.2

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Windows:
    """Stretches of speech of at most 1.6 s in order of time, none across a pause. Memory: 1 KB each."""

    start_s: Times  # (n,)
    end_s: Times  # (n,)
    vectors: Vectors  # (n, dimension), L2-normalised

    @property
    def are_long(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.end_s - self.start_s >= LONG_S - 1e-6)


def windows_of(encoder: VoiceEncoder, audio: Audio, spans: Sequence[Span]) -> Windows | None:
    """The windows of all spans; None where none is as long as 0.4 s. Holds a few seconds of sound at a time."""
    times: list[tuple[float, float]] = []
    waiting: list[Features] = []
    done: list[Vectors] = []
    for start_s, end_s, window in _cut(encoder, audio, spans):
        times.append((start_s, end_s))
        waiting.append(window)
        if len(waiting) == BATCH:
            done.append(encoder.embed(waiting))
            waiting.clear()
    if waiting:
        done.append(encoder.embed(waiting))
    if not times:
        return None
    starts, ends = np.array(times).T
    return Windows(starts, ends, np.concatenate(done))


def vector_of(encoder: VoiceEncoder, audio: Audio, spans: Sequence[Span]) -> Vectors | None:
    """One voice as one L2-normalised vector, the mean of its windows; None where there is less than 0.4 s of it."""
    windows = windows_of(encoder, audio, spans)
    return mean_voice(windows.vectors) if windows is not None else None


def mean_voice(vectors: Vectors) -> Vectors:
    """The L2-normalised mean of L2-normalised rows, shape (dimension,)."""
    mean = vectors.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


def _cut(encoder: VoiceEncoder, audio: Audio, spans: Sequence[Span]) -> Iterator[tuple[float, float, Features]]:
    for span in spans:
        frames = encoder.features(audio.read(span.start_s, span.end_s))
        for first, last in _positions(len(frames)):
            yield (
                span.start_s + first / FRAMES_PER_S,
                min(span.end_s, span.start_s + last / FRAMES_PER_S),
                frames[first:last],
            )


def _positions(frames: int) -> list[tuple[int, int]]:
    """First and last frame of each window; the last window ends with the span, a short span is one window."""
    if frames < _SHORTEST:
        return []
    last = max(0, frames - _WINDOW)
    return [(first, min(frames, first + _WINDOW)) for first in sorted({*range(0, last, _HOP), last})]
