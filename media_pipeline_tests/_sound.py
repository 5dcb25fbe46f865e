"""Sound in memory, and sounds to test with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from media_pipeline.analyzers._spec import Medium, Samples

RATE = 16_000
SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_media = pytest.mark.skipif(not (SHARED / "media").is_dir(), reason="needs ../shared/media")
needs_whisper = pytest.mark.skipif(
    not (SHARED / "models/whisper-micro-memorised-ct2").is_dir(), reason="needs ../shared/models"
)


class Sound:
    """`analyzers._spec.Audio` over an array; remembers the longest stretch that was asked for.

    With `right` a sound of two channels that carry one voice each.
    """

    sample_rate = RATE

    def __init__(self, samples: Samples, right: Samples | None = None) -> None:
        self.sides = (samples, right)
        self.samples = samples if right is None else (samples + right) / 2
        self.channels = 1 if right is None else 2
        self.longest_s = 0.0

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE

    def blocks(self, seconds: float, channel: int | None = None) -> Iterator[Samples]:
        step = int(seconds * RATE)
        for start in range(0, len(self.samples), step):
            yield self._part(start, start + step, channel)

    def read(self, start_s: float, end_s: float, channel: int | None = None) -> Samples:
        return self._part(max(0, round(start_s * RATE)), round(end_s * RATE), channel)

    def _part(self, start: int, end: int, channel: int | None) -> Samples:
        own = self.sides[channel] if channel is not None and self.channels == 2 else self.samples
        part = own[start:end]
        self.longest_s = max(self.longest_s, len(part) / RATE)
        return part


def medium(sound: Sound | None, media_id: str = "m") -> Medium:
    return Medium(media_id, "audio", audio=sound, duration_s=sound.duration_s if sound else None)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def noise(seconds: float, level: float = 0.1) -> Samples:
    return (np.random.default_rng(0).standard_normal(round(seconds * RATE)) * level).astype(np.float32)


def tone(seconds: float, hertz: float = 440.0) -> Samples:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def vowels(seconds: float) -> Samples:
    """A voice made of pulses through three moving formants: no words, but Silero hears somebody speak."""
    count = round(seconds * RATE)
    time = np.arange(count) / RATE
    pitch = 120 + 15 * np.sin(2 * np.pi * 0.7 * time)
    pulses = (np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0) > 0).astype(np.float64)
    voice = np.zeros(count)
    formants = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
    step = round(0.18 * RATE)
    for number, start in enumerate(range(0, count, step)):
        piece = pulses[start : start + step]
        size = len(piece) + 512
        response = sum(
            1 / (1 + ((np.fft.rfftfreq(size, 1 / RATE) - f) / 60) ** 2) / (k + 1)
            for k, f in enumerate(formants[number % len(formants)])
        )
        filtered = np.fft.irfft(np.fft.rfft(piece, size) * response, size)[: len(piece)]
        voice[start : start + step] = filtered * np.hanning(len(piece)) ** 0.5
    return (0.3 * voice / (np.abs(voice).max() + 1e-9)).astype(np.float32)


def shared_sound(name: str) -> Sound:
    """The sound of a file of ../shared/media, decoded by PyAV."""
    return Sound(_decoded(name, "mono")[0])


def shared_call(name: str) -> Sound:
    """Left and right of a file of ../shared/media, one voice each."""
    left, right = _decoded(name, "stereo")
    return Sound(left, right)


def _decoded(name: str, layout: str) -> Samples:
    import av

    parts = []
    with av.open(str(SHARED / "media" / name)) as container:
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=RATE)
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray() for part in resampler.resample(frame)]
        parts += [part.to_ndarray() for part in resampler.resample(None)]
    return np.concatenate(parts, axis=1)
