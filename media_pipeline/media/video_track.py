"""The picture of a video (in the sandbox): every frame is scored and counted, few are kept."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import LimitExceeded
from media_pipeline.media.frames import FrameSink, fit
from media_pipeline.media.sampling import ContentScore, FrameSampler, Pick, Seen, Spread, reduce
from media_pipeline.media.scores import Rhythm, Scores
from media_pipeline.media.timeline import Clock

# Frames looked at in one go, and how large they may be together. Decoding drives all else out of the processor's
# caches: to look at every frame by itself would cost a third more.
_MAX_WAITING = 4
_MAX_WAITING_PIXELS = 4_000_000


@dataclass(frozen=True, slots=True)
class Display:
    """How a decoded frame becomes what is seen: pixel shape and display matrix."""

    rotation: int  # degrees as ffprobe reports them: counter-clockwise positive
    aspect: Fraction  # of one pixel, width / height

    @property
    def clockwise(self) -> int:
        return -self.rotation % 360

    @classmethod
    def of(cls, frame: Any, stream: Any) -> Display:
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, 10) <= aspect <= 10:
            aspect = Fraction(1)
        return cls(round(frame.rotation), aspect)

    def size(self, width: int, height: int) -> tuple[int, int]:
        wide = max(1, round(width * self.aspect))
        return (height, wide) if self.clockwise in (90, 270) else (wide, height)

    def image(self, frame: Any, max_side: int) -> Image.Image:
        """RGB, upright, at most ``max_side`` pixels long."""
        width, height = fit(max(1, round(frame.width * self.aspect)), frame.height, max_side)
        if "a" in frame.format.name and any(c.is_alpha for c in frame.format.components):
            from media_pipeline.media.pixels import flatten

            rgba = frame.reformat(width, height, "rgba", interpolation="AREA").to_ndarray()
            image = flatten(Image.fromarray(rgba, "RGBA"))
        else:
            image = Image.fromarray(frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray())
        # Pillow turns counter-clockwise.
        turns = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
        return image.transpose(turns[self.clockwise]) if self.clockwise in turns else image


class VideoTrack:
    """The chosen video stream: every frame is scored and counted, few are kept."""

    def __init__(
        self,
        stream: Any,
        folder: Path,
        sampling: Sampling,
        limits: DecodeLimits,
        *,
        clock: Clock,
        length_s: float | None,
    ) -> None:
        self.stream = stream
        self.count = 0
        self.damaged = 0
        self.display: Display | None = None
        self.size = (0, 0)
        self.end_s = 0.0
        self.first_s: float | None = None
        self.last_s = 0.0
        self.rhythm = Rhythm()
        self._waiting: list[Any] = []
        self._limits, self._sampling, self._clock = limits, sampling, clock
        self._tick_s = float(stream.time_base or 0)
        self._step_s = 1 / float(stream.average_rate or 25)
        self._sink = FrameSink(folder, sampling, limits)
        self._scores = Scores(folder)
        self._score = ContentScore()
        self._spread = Spread(sampling)
        self._sampler: FrameSampler[Any] = FrameSampler(self._spread.gap_s, length_s)

    def add(self, frame: Any) -> None:
        pixels = frame.width * frame.height
        if pixels > self._limits.max_pixels:
            raise too_many_pixels(frame.width, frame.height, self._limits)
        self._waiting.append(frame)
        if len(self._waiting) >= min(_MAX_WAITING, _MAX_WAITING_PIXELS // pixels):
            self._take_all()

    def _take_all(self) -> None:
        for frame in self._waiting:
            self._take(frame)
        self._waiting.clear()

    def _take(self, frame: Any) -> None:
        if self.display is None:
            self._begin(frame)
        if self.count >= self._limits.max_frames:
            raise LimitExceeded(
                f"the video has more than {self._limits.max_frames:,} frames",
                "cut it into parts or raise MEDIA_PIPELINE_DECODE__MAX_FRAMES",
            )
        time_s = self._time(frame)
        small = reduce(frame)
        score = self._score(small)
        self._scores.add(time_s, score)
        self.rhythm.add(time_s)
        self.damaged += bool(frame.is_corrupt)
        for pick in self._sampler.push(Seen(self.count, time_s, score, small, frame)):
            self._keep(pick)
        self.count += 1

    def finish(self) -> str | None:
        """Writes what was kept; returns the perceptual hash of the middle frame."""
        self._take_all()
        for pick in self._sampler.finish():
            self._keep(pick)
        self._scores.finish()
        kept = self._spread.items()
        self._sink.finish(kept)
        return kept[len(kept) // 2].phash if kept else None

    def close(self) -> None:
        self._scores.close()
        self._sink.close()

    @property
    def fps(self) -> float | None:
        if self.stream.average_rate:
            return float(self.stream.average_rate)
        span = self.last_s - (self.first_s or 0.0)
        return (self.count - 1) / span if span > 0 else None

    def _begin(self, frame: Any) -> None:
        self.display = Display.of(frame, self.stream)
        self.size = self.display.size(frame.width, frame.height)

    def _time(self, frame: Any) -> float:
        """Seconds from the beginning of the medium; never backwards, whatever the time stamps say."""
        length_s = min(frame.duration * self._tick_s if frame.duration else self._step_s, 10.0)
        # frame.time is computed in C: fractions in Python would cost more than the score.
        placed_s = self._clock.place(frame.time, length_s)
        if placed_s is None:
            time_s = self.last_s + self._step_s if self.count else 0.0
        else:
            time_s = max(0.0, placed_s, self.last_s)
        if self.first_s is None:
            self.first_s = time_s
        self.last_s = time_s
        self.end_s = max(self.end_s, time_s + length_s)
        return time_s

    def _keep(self, pick: Pick[Any]) -> None:
        assert self.display is not None
        frame = pick.seen.picture
        time_base = frame.time_base or Fraction(1, 1000)
        spooled = self._sink.add(
            self.display.image(frame, self._sampling.max_side_px),
            index=pick.seen.index,
            size=self.display.size(frame.width, frame.height),
            scene_index=pick.scene_index,
            pts=round(pick.seen.time_s / time_base),
            time_base=time_base,
        )
        self._spread.add(pick.seen.time_s, pick.opens_scene, spooled)


def too_many_pixels(width: int, height: int, limits: DecodeLimits) -> LimitExceeded:
    return LimitExceeded(
        f"the picture measures {width:,} x {height:,} pixels, more than {limits.max_pixels:,}",
        "reduce it or raise MEDIA_PIPELINE_DECODE__MAX_PIXELS",
    )
