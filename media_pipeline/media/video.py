"""Videos and recordings (in the sandbox): one pass over the container decodes picture and sound together."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import CorruptMedia, UnsupportedMedia
from media_pipeline.media import probe
from media_pipeline.media.audio import AudioSink
from media_pipeline.media.frames import output_exceeded, write_thumbnail
from media_pipeline.media.sniff import Sniffed, mime_of
from media_pipeline.media.timeline import Clock, Timeline
from media_pipeline.media.types import MediaFacts
from media_pipeline.media.video_track import Display, VideoTrack, too_many_pixels

# No demuxer may open another file or a network address, whatever the container asks for.
_OPEN_OPTIONS = {"protocol_whitelist": "file", "enable_drefs": "0"}
_TICK = Fraction(1, 1_000_000)  # of av.Container.start_time
# Errors in a row after which the rest is taken for lost instead of being searched through.
_MAX_ERRORS_IN_A_ROW = 1000

# What is not the fault of the content: memory, disk, quota, output limit.
_NOT_THE_MEDIUM = frozenset({errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# ffprobe's names of demuxers that answer to several.
_CONTAINERS = {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}

Beat = Callable[[], None]


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
        self._timeline = Timeline(float(origin * _TICK) if origin is not None else 0.0)
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
            clock = Clock(self._timeline)
            self._track = VideoTrack(self._video, folder, sampling, limits, clock=clock, length_s=length_s)
        self._sound, self._sound_clock = AudioSink(folder), Clock(self._timeline)
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
                self._sound.add(frame, self._sound_clock.place(frame.time, frame.samples / frame.sample_rate))
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
        claimed_s = expected_s = None
        if not self._timeline.jumps_s:  # else they may be the distance between two time stamps that mean nothing
            claimed_s = probe.header_duration_s(self._container)
            chosen = [s for s in (self._video, self._audio) if s is not None]
            expected_s = probe.stream_duration_s(self._container, chosen)
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
        if self._timeline.jumps_s:
            warnings.append(self._timeline.warning)
        if self._sound.jumps:
            warnings.append(f"the time stamps of the sound jump {self._sound.jumps} times")
        if self._sound.cancels:
            warnings.append("left and right cancel each other out; their difference is analysed")
        return warnings
