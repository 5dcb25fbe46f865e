"""Videos and recordings (in the sandbox): one pass over the container decodes picture and sound together."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import CorruptMedia, LimitExceeded, UnsupportedMedia
from media_pipeline.media import probe
from media_pipeline.media.audio import AudioSink
from media_pipeline.media.frames import FrameSink, fit, output_exceeded, write_thumbnail
from media_pipeline.media.sampling import ContentScore, FrameSampler, Pick, Seen, Spread, reduce
from media_pipeline.media.scores import Rhythm, Scores
from media_pipeline.media.sniff import Sniffed, mime_of
from media_pipeline.media.types import MediaFacts

# No demuxer may open another file or a network address, whatever the container asks for.
_OPEN_OPTIONS = {"protocol_whitelist": "file", "enable_drefs": "0"}
_TICK = Fraction(1, 1_000_000)  # of av.Container.start_time
# Errors in a row after which the rest is taken for lost instead of being searched through.
_MAX_ERRORS_IN_A_ROW = 1000

# Frames looked at in one go, and how large they may be together. Decoding drives all else out of the processor's
# caches: to look at every frame by itself would cost a third more.
_MAX_WAITING = 4
_MAX_WAITING_PIXELS = 4_000_000

# What is not the fault of the content: memory, disk, quota, output limit.
_NOT_THE_MEDIUM = frozenset({errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# ffprobe's names of demuxers that answer to several.
_CONTAINERS = {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}

Beat = Callable[[], None]


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
        origin_s: float,
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
        self._limits, self._sampling, self._origin_s = limits, sampling, origin_s
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
        seen = frame.time  # computed in C: fractions in Python would cost more than the score
        if seen is None:
            time_s = self.last_s + self._step_s if self.count else 0.0
        else:
            time_s = max(0.0, seen - self._origin_s, self.last_s)
        if self.first_s is None:
            self.first_s = time_s
        self.last_s = time_s
        length = frame.duration * self._tick_s if frame.duration else self._step_s
        self.end_s = max(self.end_s, time_s + min(length, 10.0))
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


def decode_stream(
    url: str, sniffed: Sniffed, folder: Path, sampling: Sampling, limits: DecodeLimits, threads: int, beat: Beat
) -> MediaFacts:
    """Decodes a video or recording into ``folder``.

    Raises:
        InputError: unreadable, refused or beyond a limit.
        OSError: writing failed.
    """
    container = open_container(url, sniffed)
    with container:
        decoding = _Pass(container, sniffed, folder, sampling, limits, threads)
        try:
            return decoding.run(beat)
        finally:
            decoding.close()


def open_container(url: str, sniffed: Sniffed) -> Any:
    """An av.InputContainer of just this format; no network, no playlist, no second file.

    Raises:
        InputError: unreadable or refused.
    """
    import av

    try:
        return av.open(
            url, format=sniffed.format, options=_OPEN_OPTIONS, metadata_errors="replace", buffer_size=1 << 18
        )
    except av.error.FFmpegError as error:
        raise _unreadable(error, sniffed.format) from None


def _unreadable(error: Any, demuxer: str) -> Exception:
    if error.errno in _NOT_THE_MEDIUM:
        return error  # type: ignore[no-any-return]
    # MP4 keeps its index at the end unless it was written for streaming.
    index = ", its index is missing or damaged" if demuxer == "mov" else ""
    reason = error.strerror or str(error)
    return CorruptMedia(f"the file cannot be read{index} ({reason})", "it was cut off or damaged; copy it again")


class _Pass:
    def __init__(
        self, container: Any, sniffed: Sniffed, folder: Path, sampling: Sampling, limits: DecodeLimits, threads: int
    ) -> None:
        self._container, self._sniffed, self._folder, self._limits = container, sniffed, folder, limits
        origin = container.start_time
        self._origin_s = float(origin * _TICK) if origin is not None else 0.0
        self._video = self._choose("video")
        self._audio = self._choose("audio")
        if self._video is None and self._audio is None:
            raise UnsupportedMedia("the container holds neither picture nor sound that can be decoded")
        self._track: VideoTrack | None = None
        if self._video is not None:
            context = self._video.codec_context
            if context.width * context.height > limits.max_pixels:
                raise too_many_pixels(context.width, context.height, limits)
            context.thread_count = threads
            context.thread_type = "AUTO" if threads > 1 else "NONE"
            length_s = probe.stream_duration_s(container, [self._video])
            self._track = VideoTrack(self._video, folder, sampling, limits, origin_s=self._origin_s, length_s=length_s)
        self._sound = AudioSink(folder)
        self._errors: Counter[str] = Counter()
        self._cover: Any = None

    def run(self, beat: Beat) -> MediaFacts:
        self._decode_all(beat)
        self._sound.close()
        phash = self._track.finish() if self._track is not None else None
        has_video = self._track is not None and self._track.count > 0
        if not has_video and self._sound.duration_s == 0:
            raise CorruptMedia(
                "nothing in it could be decoded, neither picture nor sound", "copy it again or repair it"
            )
        if not has_video:
            self._write_cover()
        return self._facts("video" if has_video else "audio", phash)

    def close(self) -> None:
        if self._track is not None:
            self._track.close()

    def _choose(self, kind: str) -> Any:
        """The default stream of a kind, else the first; cover pictures are no video."""
        import av

        found = [
            s
            for s in self._container.streams
            if s.type == kind and s.codec_context is not None and not probe.is_attached_picture(s)
        ]
        default = [s for s in found if s.disposition & av.stream.Disposition.default]
        return (default or found or [None])[0]

    def _decode_all(self, beat: Beat) -> None:
        import av

        chosen = [s for s in (self._video, self._audio) if s is not None]
        covers = [s for s in self._container.streams if probe.is_attached_picture(s) and s.codec_context is not None]
        in_a_row = 0
        packets = self._container.demux(chosen + covers[:1])
        while True:
            beat()
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                self._decode(packet)
                in_a_row = 0
            except av.error.FFmpegError as error:
                if error.errno in _NOT_THE_MEDIUM:
                    raise
                self._errors["damaged"] += 1
                in_a_row += 1
                if in_a_row > _MAX_ERRORS_IN_A_ROW:
                    return

    def _decode(self, packet: Any) -> None:
        stream = packet.stream
        if stream is self._video:
            assert self._track is not None
            for frame in packet.decode():
                self._track.add(frame)
        elif stream is self._audio:
            for frame in packet.decode():
                self._sound.add(frame, None if frame.time is None else frame.time - self._origin_s)
            if self._sound.size_bytes > self._limits.max_output_bytes:
                raise output_exceeded(self._limits.max_output_bytes)
        elif self._cover is None and packet.size:
            context = stream.codec_context
            if 0 <= context.width * context.height <= self._limits.max_pixels:
                self._cover = next(iter(packet.decode()), None)

    def _write_cover(self) -> None:
        # A recording has no frames; its cover is only what people recognise it by.
        if self._cover is not None:
            image = Display(0, Fraction(1)).image(self._cover, 1024)
            write_thumbnail(image, self._folder)

    def _facts(self, kind: Any, phash: str | None) -> MediaFacts:
        track, sound = self._track, self._sound
        video = kind == "video" and track is not None
        shown_s = track.end_s if video and track else 0.0
        decoded_s = max(shown_s, sound.duration_s)
        claimed_s = probe.header_duration_s(self._container)
        expected_s = probe.stream_duration_s(self._container, [s for s in (self._video, self._audio) if s is not None])
        cut_off = expected_s is not None and decoded_s < expected_s - max(1.0, 0.05 * expected_s)
        streams = [
            replace(s, frames=track.count, rotation=track.display.rotation)
            if video and track and track.display and s.index == track.stream.index
            else s
            for s in probe.streams_of(self._container)
        ]
        context = self._audio.codec_context if self._audio is not None and sound.duration_s else None
        return MediaFacts(
            kind=kind,
            mime=mime_of(self._sniffed, kind),
            container=_CONTAINERS.get(self._sniffed.format, self._sniffed.format),
            width=track.size[0] if video and track else None,
            height=track.size[1] if video and track else None,
            duration_s=round(decoded_s if cut_off or claimed_s is None else max(claimed_s, shown_s), 6),
            fps=track.fps if video and track else None,
            rotation=track.display.clockwise if video and track and track.display else 0,
            has_audio=context is not None,
            phash=phash,
            video_codec=self._video.codec_context.codec.canonical_name if video else None,
            audio_codec=context.codec.canonical_name if context else None,
            variable_frame_rate=track.rhythm.varies if video and track else None,
            frame_count=track.count if video and track else None,
            audio_channels=context.layout.nb_channels if context else None,
            audio_sample_rate=context.sample_rate if context else None,
            streams=tuple(streams),
            warnings=tuple(self._warnings(expected_s if cut_off else None, decoded_s)),
            audio_duration_s=sound.duration_s if context else None,
            audio_peak=sound.peak if context else None,
            audio_rms=sound.rms if context else None,
            audio_cached_channels=sound.channels if context else None,
            **probe.container_facts(self._container),
        )

    def _warnings(self, expected_s: float | None, decoded_s: float) -> list[str]:
        warnings = []
        if expected_s is not None:
            warnings.append(f"cut off: the header says {expected_s:.1f} s, {decoded_s:.1f} s are there")
        if self._sniffed.missing_bytes:
            warnings.append(f"cut off: the header promises {self._sniffed.missing_bytes:,} bytes more than there are")
        if self._errors["damaged"]:
            warnings.append(f"{self._errors['damaged']} damaged packets were left out")
        if self._track is not None and self._track.damaged:
            warnings.append(f"{self._track.damaged} frames are damaged")
        if self._sound.jumps:
            warnings.append(f"the time stamps of the sound jump {self._sound.jumps} times")
        if self._sound.cancels:
            warnings.append("left and right cancel each other out; their difference is analysed")
        return warnings
