"""Video that is as hard to decode as what a camera records: a slow pan with grain, stereo sound, a title at first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from demo.pictures import Picture, draw_text, render_landscape
from demo.sound import SAMPLE_RATE, Samples

FPS = 25
TITLE_S = 3.0  # how long the title stays
CAMERA_RATE = 48_000  # Hz
# Grey levels. With it 720p takes 3 Mbit/s and 360p 0.7, as on the web; a clean drawing would decode in half the time.
GRAIN = 5.0
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "22", "threads": "1", "x264-params": "cpu-independent=1"}


def write_footage(
    path: Path, *, size: tuple[int, int], seconds: float, titles: Sequence[str], sound: Samples, seed: int
) -> None:
    """H.264 and AAC.

    Args:
        size: width and height in pixels, even.
        titles: lines of text, laid over the picture for the first ``TITLE_S`` seconds.
        sound: 16 kHz, mono; starts with the picture.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options=ENCODER_OPTIONS)
        (video.width, video.height), video.pix_fmt = size, "yuv420p"
        audio = container.add_stream("aac", rate=CAMERA_RATE, layout="stereo")
        for number, picture in enumerate(_pictures(size, round(seconds * FPS), titles, seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        heard = av.AudioFrame.from_ndarray(sound[None, :].astype(np.float32), format="fltp", layout="mono")
        heard.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=CAMERA_RATE)
        for resampled in [*resampler.resample(heard), *resampler.resample(None)]:
            container.mux(audio.encode(resampled))
        container.mux(audio.encode(None))


@lru_cache(maxsize=4)
def landscape(seed: int) -> Picture:
    """A view larger than any picture taken of it, rendered once."""
    return render_landscape((1600, 1200), seed=seed)


def _pictures(size: tuple[int, int], count: int, titles: Sequence[str], seed: int) -> Iterator[Picture]:
    width, height = size
    rng = np.random.default_rng(seed)
    view = landscape(seed % 4)
    grain = _grain(size)
    title = _title(size, titles)
    for number in range(count):
        progress = (number + seed % 7) / (count + 7)
        zoom = (0.7 + 0.2 * progress) * view.shape[1] / width
        left, top = (0.1 * progress * view.shape[1], (0.05 + 0.2 * progress) * view.shape[0])
        window = np.array([[zoom, 0, left], [0, zoom, top]], np.float32)
        picture = cv2.warpAffine(view, window, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        x, y = rng.integers(0, grain.shape[1] - width), rng.integers(0, grain.shape[0] - height)
        picture = cv2.add(picture, grain[y : y + height, x : x + width], dtype=cv2.CV_8U)
        if number < TITLE_S * FPS:
            band = picture[-len(title) :]
            cv2.addWeighted(band, 0.25, title, 1.0, 0.0, dst=band)
        yield picture


@lru_cache(maxsize=2)
def _grain(size: tuple[int, int]) -> npt.NDArray[np.int16]:
    """Larger than a picture: each takes it from another place."""
    width, height = size
    noise = np.random.default_rng(0).normal(0, GRAIN, (height + 64, width + 64, 3))
    return noise.round().astype(np.int16)


def _title(size: tuple[int, int], lines: Sequence[str]) -> Picture:
    """The lower part of a black picture with the lines on it."""
    width, height = size
    text_px = height // 15
    pitch = 2 * text_px
    strip: Picture = np.zeros((pitch * len(lines) + text_px, width, 3), np.uint8)
    for number, line in enumerate(lines):
        draw_text(strip, line, text_px, pitch * number + int(1.6 * text_px), text_px, (240, 240, 240), 700)
    return strip
