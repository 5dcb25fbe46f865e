"""The recordings in a recording: where each channel carries one side of a talk, each is heard by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Audio, Samples
from media_pipeline.analyzers._vad import Gate, SileroVad, Span

_STEP_S = 0.1
_SMOOTH = 5  # steps: half a second, so that no word is torn
_LEAK = 10.0  # 10 dB, as a ratio of energies
_FLOOR = 1e-10  # -100 dBFS


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a sound as a sound of its own; fulfils `_spec.Audio`."""

    source: Audio
    number: int

    @property
    def sample_rate(self) -> int:
        return self.source.sample_rate

    @property
    def duration_s(self) -> float:
        return self.source.duration_s

    @property
    def channels(self) -> int:
        return 1

    def blocks(self, seconds: float, channel: int | None = None) -> Iterator[Samples]:
        return self.source.blocks(seconds, self.number)

    def read(self, start_s: float, end_s: float, channel: int | None = None) -> Samples:
        return self.source.read(start_s, end_s, self.number)


@dataclass(frozen=True, slots=True)
class Side:
    """What is to be heard as one recording, and the speech in it."""

    channel: int | None  # None: the whole sound
    audio: Audio
    spans: list[Span]


def speech_of(audio: Audio, vad: SileroVad, gate: Gate) -> list[Side]:
    """The sound with its speech, or left and right apart; a side on which nobody speaks is left out."""
    if audio.channels == 1:
        sides = [Side(None, audio, vad.spans(audio, gate))]
    else:
        channels = [Channel(audio, number) for number in range(audio.channels)]
        sides = [
            Side(own.number, own, list(without_leaks(vad.spans(own, gate), own, other, gate.min_speech_s)))
            for own, other in zip(channels, reversed(channels), strict=True)
        ]
    return [side for side in sides if side.spans]


def all_of(audio: Audio, gate: Gate) -> list[Side]:
    """The whole sound, channels mixed, as if somebody spoke all the time: what analysis costs without the gate."""
    starts = np.arange(0, audio.duration_s, gate.max_span_s)
    ends = np.minimum(starts + gate.max_span_s, audio.duration_s)
    return [Side(None, audio, [Span(float(start), float(end)) for start, end in zip(starts, ends, strict=True)])]


def without_leaks(spans: list[Span], own: Audio, other: Audio, min_speech_s: float) -> Iterator[Span]:
    """The parts of the spans that are not merely the other side, heard faintly by this side's microphone.

    Detectors of speech do not care for loudness, and would have every sentence said twice.
    """
    for span in spans:
        leaks = _smoothed(_energies(own, span)) * _LEAK < _smoothed(_energies(other, span))
        if not leaks.any():
            yield span
            continue
        edges = np.flatnonzero(np.diff(leaks, prepend=True, append=True))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            end_s = span.end_s if last == len(leaks) else span.start_s + last * _STEP_S
            part = Span(span.start_s + float(first) * _STEP_S, float(end_s))
            if part.duration_s >= min_speech_s:
                yield part


def _energies(audio: Audio, span: Span) -> npt.NDArray[np.float64]:
    """Mean square of each step."""
    samples = audio.read(span.start_s, span.end_s)
    edges = np.arange(0, max(1, len(samples)), round(_STEP_S * audio.sample_rate))
    if not len(samples):
        return np.zeros(1)
    return np.add.reduceat(np.square(samples, dtype=np.float64), edges) / np.diff(edges, append=len(samples)) + _FLOOR


def _smoothed(energies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    padded = np.pad(energies, _SMOOTH // 2, mode="edge")
    return np.asarray(np.convolve(padded, np.ones(_SMOOTH) / _SMOOTH, mode="valid"), np.float64)
