"""What decoding says about a medium: plain values that cross process borders."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
    audio_cached_channels: int | None = None  # 1; 2 where left and right carry one voice each


def facts_to_json(facts: MediaFacts) -> dict[str, Any]:
    """Plain JSON values; `facts_from_json` reads them back."""
    return asdict(facts) | {"captured_at": facts.captured_at.isoformat() if facts.captured_at else None}


def facts_from_json(values: dict[str, Any]) -> MediaFacts:
    """Facts from JSON of another process or a file.

    Raises:
        ValueError, TypeError, KeyError: it is not what `facts_to_json` writes.
    """
    if values["kind"] not in ("image", "video", "audio"):
        raise ValueError(f"no such kind of medium: {values['kind']!r}")
    captured_at, place = values["captured_at"], values["place"]
    return MediaFacts(
        **values
        | {
            "captured_at": datetime.fromisoformat(captured_at) if captured_at else None,
            "place": Place(**place) if place else None,
            "streams": tuple(Stream(**stream) for stream in values["streams"]),
            "warnings": tuple(str(warning) for warning in values["warnings"]),
        }
    )
