"""Media made in code, for the tests of decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

RATE = 48_000


def scene(number: int, frame: int, width: int = 160, height: int = 120) -> np.ndarray:
    """A textured picture that moves a little with the frame and looks different for every number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
    ImageDraw.Draw(image).rectangle((frame % 20, 5, frame % 20 + 20, 25), fill=(255, 255, 255))
    return np.asarray(image)


def tone(seconds: float, hz: float = 440.0, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def movie(
    path: Path,
    frames: Sequence[np.ndarray] = (),
    *,
    fps: int = 25,
    sound: np.ndarray | None = None,
    sound_at_s: float = 0.0,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    times: Callable[[int], float] | None = None,
    muxer: str | None = None,
    pix_fmt: str = "yuv420p",
    metadata: dict[str, str] | None = None,
    rotation: float = 0.0,
    rate: int = RATE,
) -> Path:
    """Encodes frames and sound into a container named by the suffix or ``muxer``."""
    with av.open(str(path), "w", format=muxer) as container:
        container.metadata.update(metadata or {})
        video = audio = None
        if len(frames):
            video = container.add_stream(video_codec, rate=fps)
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = pix_fmt
            video.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
            video.codec_context.time_base = video.time_base
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            audio = container.add_stream(audio_codec, rate=rate)
            audio.layout = "mono"
            if audio_codec.startswith("wma"):  # has no default
                audio.bit_rate = 96_000
        if video is not None:
            _write_frames(container, video, frames, times)
        if audio is not None and sound is not None:
            _write_sound(container, audio, sound, rate, sound_at_s)
    return path


def _write_frames(
    container: Any, stream: Any, frames: Sequence[np.ndarray], times: Callable[[int], float] | None
) -> None:
    for i, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.time_base = stream.codec_context.time_base
        frame.pts = round(times(i) * 1000) if times else i
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_sound(container: Any, stream: Any, sound: np.ndarray, rate: int, at_s: float) -> None:
    for start in range(0, len(sound), 1024):
        pcm = (sound[None, start : start + 1024] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = start + round(at_s * rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
