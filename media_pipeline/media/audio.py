"""Sound: written once in the sandbox as 16 kHz mono FLAC on the medium's own timeline, read back in bounded memory.

Where two channels carry one voice each (`channels`), half their difference is kept in a second file beside their mean:
left is the sum of the two, right what is left of the mean without it. Where the channels cancel each other out (one of
them was wired the wrong way round), half their difference takes the place of their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.media.channels import ChannelWatch

SAMPLE_RATE = 16_000
AUDIO_FILE = "audio.flac"
SIDE_FILE = "audio-side.flac"
# Containers keep times in milliseconds and encoders pad: less than this is jitter, more is a hole in the recording.
JITTER_S = 0.05
# A longer jump is a broken time stamp rather than silence somebody recorded.
MAX_HOLE_S = 3600.0
# Decoders hand out 10 to 30 ms at a time; passed on one by one they would cost more than their decoding.
_BLOCK = SAMPLE_RATE
_MAX_WAITING = 32
# Energy of half the difference over that of the mean above which the mean is a faint rest: 20 dB. Even very wide stereo
# has more in the middle than at the sides.
_CANCELLED = 100.0

Samples = npt.NDArray[np.float32]
Pcm = npt.NDArray[np.int16]


class _FlacWriter:
    """A 16 kHz mono FLAC file, begun with the first sample."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container: Any = None
        self._stream: Any = None
        self.written = 0  # samples
        self.size_bytes = 0
        self.peak = 0  # highest absolute sample
        self.energy = 0.0  # sum of squares

    def write(self, pcm: Pcm) -> None:
        import av

        if self._container is None:
            self._open()
        self.peak = max(self.peak, int(pcm.max()), -int(pcm.min()))
        wide = pcm.astype(np.float32)
        self.energy += float(np.dot(wide, wide))
        frame = av.AudioFrame.from_ndarray(pcm[None, :], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.time_base = Fraction(1, SAMPLE_RATE)
        frame.pts = self.written
        self._mux(self._stream.encode(frame))
        self.written += len(pcm)

    def pad(self, length: int) -> None:
        """Silence up to that many samples."""
        for start in range(self.written, length, _BLOCK):
            self.write(np.zeros(min(_BLOCK, length - start), np.int16))

    def close(self) -> None:
        if self._container is not None:
            self._mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def _open(self) -> None:
        import av

        self._container = av.open(str(self.path), "w", format="flac")
        self._stream = self._container.add_stream("flac", rate=SAMPLE_RATE)
        self._stream.layout = "mono"
        self._stream.format = "s16"

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self.size_bytes += packet.size
            self._container.mux(packet)


class AudioSink:
    """Resamples decoded frames and writes them where their time stamps say."""

    def __init__(self, folder: Path) -> None:
        self._mean, self._side = _FlacWriter(folder / AUDIO_FILE), _FlacWriter(folder / SIDE_FILE)
        self._watch = ChannelWatch()
        self._resampler: Any = None
        self._form: tuple[str, str, int] | None = None  # what the resampler was made for
        self._waiting: list[Any] = []
        self._expected_s: float | None = None
        self._late_s = 0.0  # by how much sound is written later than its time stamps say
        self.holes_s = 0.0
        self.jumps = 0

    @property
    def duration_s(self) -> float:
        return self._mean.written / SAMPLE_RATE

    @property
    def size_bytes(self) -> int:
        return self._mean.size_bytes + self._side.size_bytes

    @property
    def peak(self) -> float:
        """Highest absolute sample, 1.0 is full scale."""
        return self._heard.peak / 32768

    @property
    def rms(self) -> float:
        return float(np.sqrt(self._heard.energy / self._mean.written)) / 32768 if self._mean.written else 0.0

    @property
    def channels(self) -> int:
        """2 where left and right carry one voice each, else 1. Final after `close`."""
        return 2 if self._watch.apart else 1

    @property
    def cancels(self) -> bool:
        """Left and right are each other's negative, nearly: their mean is silent. Final after `close`."""
        return self.channels == 1 and self._side.energy > _CANCELLED * self._mean.energy

    @property
    def _heard(self) -> _FlacWriter:
        """What analyzers get to hear."""
        return self._side if self.cancels else self._mean

    def add(self, frame: Any, time_s: float | None) -> None:
        """Takes an av.AudioFrame that sounds at ``time_s`` (None: right after the last)."""
        if time_s is not None and (
            self._expected_s is None or abs(time_s + self._late_s - self._expected_s) > JITTER_S
        ):
            self._move_to(time_s)
        start = self._expected_s if self._expected_s is not None else 0.0
        self._expected_s = start + frame.samples / frame.sample_rate
        frame.pts = None  # the resampler must not fill holes by itself
        self._waiting.append(frame)
        if len(self._waiting) >= _MAX_WAITING:
            self._resample()

    def close(self) -> None:
        self._drain()
        if self._side.written:
            self._side.pad(self._mean.written)
        self._mean.close()
        self._side.close()
        if self.cancels:
            self._side.path.replace(self._mean.path)
        elif self.channels == 1:
            self._side.path.unlink(missing_ok=True)

    def _resample(self) -> None:
        import av

        for frame in self._waiting:
            form = (frame.format.name, frame.layout.name, frame.sample_rate)
            if form != self._form:
                self._flush()
                self._form = form
                layout = "stereo" if frame.layout.nb_channels == 2 else "mono"
                self._resampler = av.AudioResampler(format="s16p", layout=layout, rate=SAMPLE_RATE, frame_size=_BLOCK)
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

    def _move_to(self, time_s: float) -> None:
        self._drain()
        self._expected_s, self._late_s = max(time_s, 0.0), 0.0
        hole = round(self._expected_s * SAMPLE_RATE) - self._mean.written
        if hole > MAX_HOLE_S * SAMPLE_RATE:
            self._go_on(time_s)
        elif hole > 0:
            self.holes_s += hole / SAMPLE_RATE
            self._mean.pad(self._mean.written + hole)
        elif hole < -JITTER_S * SAMPLE_RATE:
            # Time that was heard already: the overlap is written once more rather than cut, and the clock goes on.
            self._go_on(time_s)

    def _go_on(self, time_s: float) -> None:
        """Right after what is written; also what follows, as far as its time stamps follow this one."""
        self.jumps += 1
        self._expected_s = self.duration_s
        self._late_s = self._expected_s - time_s

    def _write_frames(self, frames: list[Any]) -> None:
        for frame in frames:
            if frame.samples:
                planes = frame.to_ndarray()
                if len(planes) == 2:
                    self._write_stereo(*planes)
                else:
                    self._mean.write(planes[0])

    def _write_stereo(self, left: Pcm, right: Pcm) -> None:
        self._watch.add(left, right)
        wide_left, wide_right = left.astype(np.int32), right.astype(np.int32)
        self._side.pad(self._mean.written)
        self._side.write(((wide_left - wide_right) >> 1).astype(np.int16))
        self._mean.write(((wide_left + wide_right) >> 1).astype(np.int16))


class AudioReader:
    """The cached sound of one medium: 16 kHz, float32 in [-1, 1]. Fulfils `analyzers._spec.Audio`.

    Args:
        side: half the difference of left and right, where each carries a voice of its own
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, path: Path, duration_s: float, side: Path | None = None) -> None:
        self.path, self.side = path, side
        self._duration_s = duration_s

    @property
    def duration_s(self) -> float:
        return self._duration_s

    @property
    def channels(self) -> int:
        """2 where left (0) and right (1) carry one voice each, else 1."""
        return 1 if self.side is None else 2

    def blocks(self, seconds: float, channel: int | None = None) -> Iterator[Samples]:
        """The whole sound in order, in blocks of that length (the last one shorter): bounded memory.

        Without ``channel`` the mean of the channels.
        """
        size = max(1, round(seconds * SAMPLE_RATE))
        means = _blocks(self.path, size)
        if channel is None or self.side is None:
            yield from map(_to_float, means)
        else:
            for mean, side in zip(means, _blocks(self.side, size), strict=True):
                yield _channel(mean, side, channel)

    def read(self, start_s: float, end_s: float, channel: int | None = None) -> Samples:
        """The span [start_s, end_s), clipped to the sound's length; without ``channel`` the mean of the channels."""
        start = max(0, round(start_s * SAMPLE_RATE))
        end = max(start, round(min(end_s, self._duration_s) * SAMPLE_RATE))
        mean = _span(self.path, start, end)
        if channel is None or self.side is None:
            return _to_float(mean)
        return _channel(mean, _span(self.side, start, end), channel)


def _blocks(path: Path, size: int) -> Iterator[Pcm]:
    parts: list[Pcm] = []
    have = 0
    for _, pcm in _decode(path, 0):
        parts.append(pcm)
        have += len(pcm)
        if have >= size:
            joined = np.concatenate(parts)
            whole = have // size * size
            for at in range(0, whole, size):
                yield joined[at : at + size]
            parts, have = [joined[whole:]], have - whole
    if have:
        yield np.concatenate(parts)


def _span(path: Path, start: int, end: int) -> Pcm:
    parts: list[Pcm] = []
    for at, pcm in _decode(path, start):
        if at >= end:
            break
        if at + len(pcm) > start:
            parts.append(pcm[max(0, start - at) : end - at])
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def _decode(path: Path, start: int) -> Iterator[tuple[int, Pcm]]:
    """Pieces with the number of their first sample, from one at or before ``start``."""
    import av

    with av.open(str(path), format="flac", options={"protocol_whitelist": "file"}) as container:
        stream = container.streams.audio[0]
        if start > 0:
            _seek(container, stream, start)
        for frame in container.decode(stream):
            yield frame.pts or 0, frame.to_ndarray()[0]


def _seek(container: Any, stream: Any, start: int) -> None:
    """To a frame that begins at or before that sample; in the last frame of some files FFmpeg finds none."""
    for back in (0, SAMPLE_RATE, start):
        try:
            container.seek(max(0, start - back), stream=stream)  # FLAC's time base is one sample
            return
        except OSError:
            if back == start:
                raise


def _channel(mean: Pcm, side: Pcm, channel: int) -> Samples:
    wide = mean.astype(np.int32) + (side if channel == 0 else -side.astype(np.int32))
    return _to_float(wide)


def _to_float(pcm: npt.NDArray[np.signedinteger[Any]]) -> Samples:
    return pcm.astype(np.float32) / np.float32(32768)
