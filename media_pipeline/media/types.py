"""What decoding says about a medium: plain values that cross process borders."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Kind = Literal["image", "video", "audio"]


@dataclass(frozen=True, slots=True)
class Place:
    latitude: float  # degrees, WGS 84
    longitude: float
    altitude_m: float | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a container; the fields are those of `storage.schemas.STREAM`."""

    index: int
    type: str
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    rotation: int | None = None
    frames: int | None = None
    r_frame_rate: str | None = None
    avg_frame_rate: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    duration_s: float | None = None
    attached_picture: bool = False
    language: str | None = None


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What is known of a medium once it has been decoded. Field meanings as in `storage.schemas.MEDIA`."""

    kind: Kind
    mime: str
    container: str | None = None
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    fps: float | None = None
    rotation: int = 0
    has_audio: bool = False
    captured_at: datetime | None = None
    phash: str | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    variable_frame_rate: bool | None = None
    frame_count: int | None = None
    audio_channels: int | None = None
    audio_sample_rate: int | None = None
    camera: str | None = None
    place: Place | None = None
    title: str | None = None
    streams: tuple[Stream, ...] = ()
    warnings: tuple[str, ...] = ()
    audio_duration_s: float | None = None  # of the 16 kHz mono sound in the cache
    audio_peak: float | None = None
    audio_rms: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
