"""Container facts: streams as ffprobe names them, when, where and with what something was recorded."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from media_pipeline.media.types import Place, Stream

MAX_STREAMS = 64
MAX_TEXT = 300

# Cameras without a clock write the zero of their time scale: 1904 (MP4), 1970 (Unix), 1980 (FAT).
_EARLIEST = datetime(1980, 1, 2, tzinfo=UTC)
_ISO6709 = re.compile(r"^([+-]\d+(?:\.\d+)?)([+-]\d+(?:\.\d+)?)([+-]\d+(?:\.\d+)?)?")


def text(value: object) -> str | None:
    """A tag fit for a table: printable, short; None where nothing is left."""
    clean = "".join(c if c.isprintable() else " " for c in str(value)).strip() if value is not None else ""
    return clean[:MAX_TEXT] or None


def streams_of(container: Any) -> tuple[Stream, ...]:
    return tuple(_stream(stream) for stream in list(container.streams)[:MAX_STREAMS])


def is_attached_picture(stream: Any) -> bool:
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def seconds_of(ticks: int | None, time_base: Fraction | None) -> float | None:
    return float(ticks * time_base) if ticks is not None and time_base else None


def _stream(stream: Any) -> Stream:
    context = stream.codec_context
    video, audio = stream.type == "video" and context, stream.type == "audio" and context
    return Stream(
        index=stream.index,
        type=stream.type,
        codec=context.codec.canonical_name if context else None,
        width=context.width if video else None,
        height=context.height if video else None,
        frames=stream.frames or None,
        r_frame_rate=_rate(stream.base_rate) if video else None,
        avg_frame_rate=_rate(stream.average_rate) if video else None,
        sample_rate=context.sample_rate or None if audio else None,
        channels=context.layout.nb_channels or None if audio else None,
        duration_s=seconds_of(stream.duration, stream.time_base),
        attached_picture=is_attached_picture(stream),
        language=_language(stream),
    )


def _rate(rate: Fraction | None) -> str | None:
    return f"{rate.numerator}/{rate.denominator}" if rate else None


def _language(stream: Any) -> str | None:
    language = text(stream.metadata.get("language"))
    return None if language in (None, "und") else language


def header_duration_s(container: Any) -> float | None:
    """What the header claims: the container's length or its longest stream, as players show it."""
    claims = [seconds_of(s.duration, s.time_base) for s in container.streams if not is_attached_picture(s)]
    if container.duration is not None:
        claims.append(container.duration / 1_000_000)
    return max((c for c in claims if c is not None and c > 0), default=None)


def stream_duration_s(container: Any, chosen: list[Any]) -> float | None:
    """What the header claims of the streams that are decoded; subtitles may go on for longer."""
    claims = [seconds_of(s.duration, s.time_base) for s in chosen]
    known = [c for c in claims if c is not None and c > 0]
    return max(known) if known else container.duration / 1_000_000 if container.duration else None


def _tags(container: Any) -> dict[str, str]:
    tags: dict[str, str] = {}
    for stream in reversed(list(container.streams)[:MAX_STREAMS]):
        tags.update(stream.metadata)
    tags.update(container.metadata)
    return {key.lower(): value for key, value in tags.items()}


def container_facts(container: Any) -> dict[str, Any]:
    """captured_at, camera, place and title, as keyword arguments of `MediaFacts`."""
    tags = _tags(container)
    title = container.metadata.get("title") or container.metadata.get("TITLE")
    return {
        "captured_at": parse_time(tags.get("com.apple.quicktime.creationdate") or tags.get("creation_time")),
        "camera": camera(
            tags.get("com.apple.quicktime.make") or tags.get("com.android.manufacturer") or tags.get("make"),
            tags.get("com.apple.quicktime.model") or tags.get("com.android.model") or tags.get("model"),
        ),
        "place": parse_place(tags.get("com.apple.quicktime.location.iso6709") or tags.get("location")),
        "title": text(title),
    }


def camera(make: object, model: object) -> str | None:
    """Make and model without saying the make twice ("Canon", "Canon EOS R5")."""
    maker, name = text(make), text(model)
    if maker and name:
        return name if name.lower().startswith(maker.lower().split()[0]) else f"{maker} {name}"
    return maker or name


def parse_time(value: str | None) -> datetime | None:
    """A container's ISO 8601 time; None where there is none or the camera had no clock."""
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return sane_time(moment)


def sane_time(moment: datetime) -> datetime | None:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        return None
    return moment if _EARLIEST <= moment <= datetime.now(UTC) + timedelta(days=2) else None


def parse_place(iso6709: str | None) -> Place | None:
    """ISO 6709 in decimal degrees, as phones write it: ``+54.1843-002.7189+012.5/``."""
    match = _ISO6709.match(iso6709.strip()) if iso6709 else None
    if match is None:
        return None
    latitude, longitude, altitude = match.groups()
    return make_place(float(latitude), float(longitude), float(altitude) if altitude else None)


def make_place(latitude: float, longitude: float, altitude_m: float | None) -> Place | None:
    """A place on earth, or None; 0, 0 is what receivers without a fix write."""
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180) or (latitude, longitude) == (0.0, 0.0):
        return None
    return Place(latitude, longitude, altitude_m)


def exif_time(value: object, subsec: object = None, offset: object = None) -> datetime | None:
    """EXIF's ``2024:05:01 12:30:00`` with its optional fraction and ``+02:00``."""
    try:
        moment = datetime.strptime(str(value).strip("\0 "), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    digits = str(subsec or "").strip("\0 ")
    if digits.isascii() and digits.isdigit():
        moment = moment.replace(microsecond=int(digits[:6].ljust(6, "0")))
    zone = re.fullmatch(r"([+-])(\d\d):(\d\d)", str(offset or "").strip("\0 "))
    if zone:
        shift = timedelta(hours=int(zone[2]), minutes=int(zone[3]))
        moment -= shift if zone[1] == "+" else -shift
    return sane_time(moment)


def exif_place(gps: Mapping[int, Any]) -> Place | None:
    """The place in EXIF's GPS block (tags 1 to 6 of the GPS IFD)."""
    try:
        latitude = _degrees(gps[2]) * (-1 if str(gps.get(1, "N")).upper().startswith("S") else 1)
        longitude = _degrees(gps[4]) * (-1 if str(gps.get(3, "E")).upper().startswith("W") else 1)
        altitude = float(gps[6]) * (-1 if gps.get(5) in (1, b"\x01") else 1) if 6 in gps else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError):
        return None
    if latitude != latitude or longitude != longitude:  # 0/0 reads as NaN
        return None
    return make_place(round(latitude, 7), round(longitude, 7), altitude if altitude == altitude else None)


def _degrees(value: Any) -> float:
    degrees, minutes, seconds = (float(part) for part in value)
    return degrees + minutes / 60 + seconds / 3600


def read_exif(image: Any) -> tuple[dict[int, Any], bool]:
    """EXIF of a Pillow picture, its sub-blocks under their tag numbers, and whether some of it is damaged.

    EXIF is written by thousands of programs; nothing in it may cost the picture.
    """
    tags: dict[int, Any] = {}
    damaged = False
    try:
        exif = image.getexif()
        tags.update(exif)
    except _EXIF_BROKEN:
        return tags, True
    for block in (_EXIF_IFD, _GPS_IFD):
        try:
            tags[block] = dict(exif.get_ifd(block))
        except _EXIF_BROKEN:
            tags[block] = {}
            damaged = True
    return tags, damaged


_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_EXIF_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError,
    ZeroDivisionError, struct.error, RecursionError,
)  # fmt: skip


def orientation(exif: dict[int, Any]) -> int:
    value = exif.get(0x0112)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def exif_facts(exif: dict[int, Any]) -> dict[str, Any]:
    """captured_at, camera and place, as keyword arguments of `MediaFacts`."""
    detail = exif.get(_EXIF_IFD, {})
    taken = exif_time(detail.get(36867), detail.get(37521), detail.get(36881))
    written = exif_time(exif.get(306), detail.get(37520), detail.get(36880))
    return {
        "captured_at": taken or written,
        "camera": camera(exif.get(271), exif.get(272)),
        "place": exif_place(exif.get(_GPS_IFD, {})),
    }
