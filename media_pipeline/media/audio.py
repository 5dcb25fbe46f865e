"""Sound: written once in the sandbox as 16 kHz mono FLAC on the medium's own timeline, read back in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
AUDIO_FILE = "audio.flac"
# Containers keep times in milliseconds and encoders pad: less than this is jitter, more is a hole in the recording.
JITTER_S = 0.05
# A longer jump is a broken time stamp rather than silence somebody recorded.
MAX_HOLE_S = 3600.0
# Decoders hand out 10 to 30 ms at a time; passed on one by one they would cost more than their decoding.
_BLOCK = SAMPLE_RATE
_MAX_WAITING = 32

Samples = npt.NDArray[np.float32]
Pcm = npt.NDArray[np.int16]


class AudioSink:
    """Resamples decoded frames and writes them where their time stamps say."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / AUDIO_FILE
        self._container: Any = None
        self._stream: Any = None
        self._resampler: Any = None
        self._form: tuple[str, str, int] | None = None  # what the resampler was made for
        self._waiting: list[Any] = []
        self._written = 0  # samples at 16 kHz
        self._expected_s: float | None = None
        self._peak = 0
        self._energy = 0.0
        self.size_bytes = 0
        self.holes_s = 0.0
        self.jumps = 0

    @property
    def duration_s(self) -> float:
        return self._written / SAMPLE_RATE

    @property
    def peak(self) -> float:
        """Highest absolute sample, 1.0 is full scale."""
        return self._peak / 32768

    @property
    def rms(self) -> float:
        return float(np.sqrt(self._energy / self._written)) / 32768 if self._written else 0.0

    def add(self, frame: Any, time_s: float | None) -> None:
        """Takes an av.AudioFrame that sounds at ``time_s`` (None: right after the last)."""
        if time_s is not None and (self._expected_s is None or abs(time_s - self._expected_s) > JITTER_S):
            self._move_to(time_s)
        start = self._expected_s if self._expected_s is not None else 0.0
        self._expected_s = start + frame.samples / frame.sample_rate
        frame.pts = None  # the resampler must not fill holes by itself
        self._waiting.append(frame)
        if len(self._waiting) >= _MAX_WAITING:
            self._resample()

    def close(self) -> None:
        self._drain()
        if self._container is not None:
            self._mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def _resample(self) -> None:
        import av

        for frame in self._waiting:
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            if form != self._form:
                self._flush()
                self._form = form
                self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE, frame_size=_BLOCK)
            self._write_frames(self._resampler.resample(frame))
        self._waiting.clear()

    def _flush(self) -> None:
        if self._resampler is not None:
            self._write_frames(self._resampler.resample(None))

    def _drain(self) -> None:
        """Writes all that was added; what comes next starts anew."""
        self._resample()
        self._flush()
        self._resampler = self._form = None

    def _open(self) -> None:
        import av

        self._container = av.open(str(self._path), "w", format="flac")
        self._stream = self._container.add_stream("flac", rate=SAMPLE_RATE)
        self._stream.layout = "mono"
        self._stream.format = "s16"

    def _move_to(self, time_s: float) -> None:
        self._drain()
        self._expected_s = max(time_s, 0.0)
        hole = round(self._expected_s * SAMPLE_RATE) - self._written
        if hole > MAX_HOLE_S * SAMPLE_RATE:
            self.jumps += 1
            self._expected_s = self.duration_s
        elif hole > 0:
            self.holes_s += hole / SAMPLE_RATE
            for start in range(0, hole, _BLOCK):
                self._write(np.zeros(min(_BLOCK, hole - start), np.int16))
        elif hole < -JITTER_S * SAMPLE_RATE:
            # Time that was heard already: the overlap is written once more rather than cut, and the clock goes on.
            self.jumps += 1
            self._expected_s = self.duration_s

    def _write_frames(self, frames: list[Any]) -> None:
        for frame in frames:
            if frame.samples:
                self._write(frame.to_ndarray()[0])

    def _write(self, pcm: Pcm) -> None:
        import av

        if self._container is None:
            self._open()
        self._peak = max(self._peak, int(pcm.max()), -int(pcm.min()))
        wide = pcm.astype(np.float32)
        self._energy += float(np.dot(wide, wide))
        frame = av.AudioFrame.from_ndarray(pcm[None, :], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.time_base = Fraction(1, SAMPLE_RATE)
        frame.pts = self._written
        self._mux(self._stream.encode(frame))
        self._written += len(pcm)

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self.size_bytes += packet.size
            self._container.mux(packet)


class AudioReader:
    """The cached sound of one medium: 16 kHz, mono, float32 in [-1, 1]. Fulfils `analyzers._spec.Audio`."""

    sample_rate = SAMPLE_RATE

    def __init__(self, path: Path, duration_s: float) -> None:
        self._path = path
        self._duration_s = duration_s

    @property
    def duration_s(self) -> float:
        return self._duration_s

    def blocks(self, seconds: float) -> Iterator[Samples]:
        """The whole sound in order, in blocks of that length (the last one shorter): bounded memory."""
        size = max(1, round(seconds * SAMPLE_RATE))
        parts: list[Pcm] = []
        have = 0
        for _, pcm in self._decode(0):
            parts.append(pcm)
            have += len(pcm)
            if have >= size:
                joined = np.concatenate(parts)
                whole = have // size * size
                for at in range(0, whole, size):
                    yield _to_float(joined[at : at + size])
                parts, have = [joined[whole:]], have - whole
        if have:
            yield _to_float(np.concatenate(parts))

    def read(self, start_s: float, end_s: float) -> Samples:
        """The span [start_s, end_s), clipped to the sound's length."""
        start = max(0, round(start_s * SAMPLE_RATE))
        end = max(start, round(min(end_s, self._duration_s) * SAMPLE_RATE))
        parts: list[Pcm] = []
        for at, pcm in self._decode(start):
            if at >= end:
                break
            if at + len(pcm) > start:
                parts.append(pcm[max(0, start - at) : end - at])
        return _to_float(np.concatenate(parts)) if parts else np.zeros(0, np.float32)

    def _decode(self, start: int) -> Iterator[tuple[int, Pcm]]:
        """Pieces with the number of their first sample, from one at or before ``start``."""
        import av

        with av.open(str(self._path), format="flac", options={"protocol_whitelist": "file"}) as container:
            stream = container.streams.audio[0]
            if start > 0:
                container.seek(start, stream=stream)  # FLAC's time base is one sample
            for frame in container.decode(stream):
                yield frame.pts or 0, frame.to_ndarray()[0]


def _to_float(pcm: Pcm) -> Samples:
    return pcm.astype(np.float32) / np.float32(32768)
