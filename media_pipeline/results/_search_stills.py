"""What a moment looks like: the frame that was shown, made small, or how loud it was around it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from media_pipeline.errors import MediaPipelineError
from media_pipeline.execution.decoded import DecodedMedia
from media_pipeline.media.cache import CachedFrame, CacheEntry
from media_pipeline.results._search_hits import Box, Hit
from media_pipeline.storage.sources import KnownMedium

MAX_BYTES = 20_000
_SIDES_PX = ((480, 360), (320, 240), (200, 150), (96, 72))
_QUALITIES = (80, 65, 50)
_WAVE_S = 8.0  # around the moment
_BARS = 64
_FLOOR_DB = -50.0  # drawn as silence


@dataclass(frozen=True, slots=True)
class Still:
    """One frame as a small JPEG, or the loudness around a moment of a recording."""

    frame_index: int | None = None
    jpeg: bytes | None = None  # at most MAX_BYTES
    size: tuple[int, int] = (0, 0)  # of the JPEG, pixels
    scale: tuple[float, float] = (1.0, 1.0)  # width and height of the displayed picture: what boxes are relative to
    wave: tuple[float, ...] = ()  # [0, 1]

    def share(self, box: Box) -> Box:
        """Left, top, width and height of a box as shares of the picture, within it."""
        width, height = self.scale
        x1, x2 = (min(1.0, max(0.0, x / width)) for x in (box[0], box[2]))
        y1, y2 = (min(1.0, max(0.0, y / height)) for y in (box[1], box[3]))
        return x1, y1, x2 - x1, y2 - y1


def stills(
    media: Iterable[KnownMedium],
    moments: Mapping[str, Sequence[Hit]],
    decoded: DecodedMedia,
    on_medium: Callable[[], None] = lambda: None,
) -> dict[str, list[Still]]:
    """Of each medium a still for each of its moments; none where it cannot be decoded any more.

    What the cache has let go is decoded again.
    """
    found: dict[str, list[Still]] = {}
    for known, entry in decoded.entries(media):
        if not isinstance(entry, MediaPipelineError):
            found[known.media_id] = list(_of(entry, moments[known.media_id]))
        on_medium()
    return found


def _of(entry: CacheEntry, hits: Sequence[Hit]) -> Iterator[Still]:
    frames = [(frame.frame_index, frame.pts_s) for frame in entry.frames]
    made: dict[int, Still] = {}
    for hit in hits:
        if frames:
            number = _nearest(frames, hit)
            if number not in made:
                made[number] = _still(entry.frames[number])
            yield made[number]
        else:
            yield Still(wave=_loudness(entry, hit.pts_s or 0.0))


def _nearest(frames: Sequence[tuple[int, float]], hit: Hit) -> int:
    """Which of the frames shows the moment; the middle one where it is none in particular."""
    if hit.frame_index is not None:
        return min(range(len(frames)), key=lambda i: abs(frames[i][0] - (hit.frame_index or 0)))
    if hit.pts_s is not None:
        return min(range(len(frames)), key=lambda i: abs(frames[i][1] - (hit.pts_s or 0.0)))
    return len(frames) // 2


def _still(frame: CachedFrame) -> Still:
    from PIL import Image

    with Image.open(io.BytesIO(frame.jpeg()), formats=["JPEG"]) as opened:
        opened.draft("RGB", _SIDES_PX[0])
        picture = opened.convert("RGB")
    for side in _SIDES_PX:
        picture.thumbnail(side, reducing_gap=2.0)
        for quality in _QUALITIES:
            jpeg = io.BytesIO()
            picture.save(jpeg, "JPEG", quality=quality, optimize=True)
            if len(jpeg.getvalue()) <= MAX_BYTES:
                return Still(frame.frame_index, jpeg.getvalue(), picture.size, (frame.width, frame.height))
    raise AssertionError("96 x 72 pixels have less than 20 kB, whatever they show")


def _loudness(entry: CacheEntry, at_s: float) -> tuple[float, ...]:
    """How loud it is around a moment, in equal steps: root mean square, in decibels between silence and full scale."""
    if entry.audio is None:
        return ()
    start = max(0.0, at_s - _WAVE_S / 2)
    samples = entry.audio.read(start, start + _WAVE_S)
    if not len(samples):
        return ()
    rms = np.array([np.sqrt(np.mean(np.square(part))) if len(part) else 0.0 for part in np.array_split(samples, _BARS)])
    decibels = 20 * np.log10(np.maximum(rms, 1e-6))
    return tuple(np.clip(1 - decibels / _FLOOR_DB, 0.0, 1.0).round(3).tolist())
