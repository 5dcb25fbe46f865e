"""What a file is, by its first bytes. Names are never looked at.

The answer names one decoder: Pillow's format or FFmpeg's demuxer, which is then the only one allowed to try. Whatever
is not listed is refused before any decoder sees it, with a reason that says what it is instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from media_pipeline.errors import CorruptMedia, InputError, UnsupportedMedia

HEAD_BYTES = 64 * 1024

_REMEDY = "convert it to a common format such as JPEG, PNG, MP4, MKV, MP3 or WAV, or leave it out"


@dataclass(frozen=True, slots=True)
class Sniffed:
    """``format`` is Pillow's name of a picture format, or FFmpeg's of a demuxer."""

    family: Literal["picture", "stream"]
    format: str
    mime: str  # of a stream: as a video; `mime_of` says what a recording's is
    missing_bytes: int = 0  # how far the file falls short of what its header promises


_AUDIO_MIME = {
    "video/mp4": "audio/mp4",
    "video/3gpp": "audio/3gpp",
    "video/quicktime": "audio/mp4",
    "video/x-matroska": "audio/x-matroska",
    "video/webm": "audio/webm",
    "video/ogg": "audio/ogg",
    "video/x-ms-wmv": "audio/x-ms-wma",
    "video/mp2t": "audio/mp2t",
}

_PICTURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xd8\xff", "JPEG", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "PNG", "image/png"),
    (b"GIF87a", "GIF", "image/gif"),
    (b"GIF89a", "GIF", "image/gif"),
    (b"BM", "BMP", "image/bmp"),
    (b"II*\0", "TIFF", "image/tiff"),
    (b"MM\0*", "TIFF", "image/tiff"),
    (b"II+\0", "TIFF", "image/tiff"),
    (b"MM\0+", "TIFF", "image/tiff"),
    (b"\0\0\1\0", "ICO", "image/vnd.microsoft.icon"),
    (b"8BPS", "PSD", "image/vnd.adobe.photoshop"),
)

_STREAMS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf", "video/x-ms-wmv"),
    (b"FLV\1", "flv", "video/x-flv"),
    (b"OggS", "ogg", "video/ogg"),
    (b"fLaC", "flac", "audio/flac"),
    (b"\0\0\1\xba", "mpeg", "video/mpeg"),
)

# Still pictures in the same box format as MP4, told apart by the brand (ISO/IEC 23008-12, AV1 Image File Format).
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
# Boxes a QuickTime or MP4 file may begin with when it carries no `ftyp`.
_MOV_BOXES = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"#EXTM3U", "a playlist that points to other files"),
    (b"ffconcat", "a script that points to other files"),
    (b"[playlist]", "a playlist that points to other files"),
    (b"v=0\n", "a session description that points to a network stream"),
    (b"v=0\r\n", "a session description that points to a network stream"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"SQLite format 3", "a database"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"DDS ", "a DirectDraw texture"),
    (b"BLP", "a game texture"),
    (b"\x01\xda", "an SGI picture"),
    (b"P7 332", "a thumbnail of the xv viewer"),
    (b"GIMP Palette", "a colour palette"),
)


def mime_of(sniffed: Sniffed, kind: str) -> str:
    """The MIME type once it is known whether there is a picture in the container."""
    return _AUDIO_MIME.get(sniffed.mime, sniffed.mime) if kind == "audio" else sniffed.mime


def sniff(head: bytes, size: int) -> Sniffed:
    """Names the format of a file of ``size`` bytes from its first ``HEAD_BYTES``.

    Raises:
        CorruptMedia: the file is empty.
        UnsupportedMedia: nothing that may be decoded; says what it is where that is clear.
    """
    if not head:
        raise CorruptMedia("the file is empty", "copy it again from where it came from")
    found = _by_magic(head) or _by_structure(head)
    if found is None:
        raise _refusal(head)
    return replace(found, missing_bytes=_missing(head, size)) if found.format == "wav" else found


def _missing(head: bytes, size: int) -> int:
    """FFmpeg reads a WAV to its end without a word. Recorders that stream write 0 or the largest number."""
    at = head.find(b"data", 12)
    promised = int.from_bytes(head[at + 4 : at + 8], "little") if head.startswith(b"RIFF") and at > 0 else 0
    return 0 if promised in (0, 0xFFFFFFFF) else max(0, at + 8 + promised - size)


def _by_magic(head: bytes) -> Sniffed | None:
    for magic, name, mime in _PICTURES:
        if head.startswith(magic):
            return Sniffed("picture", name, mime)
    for magic, name, mime in _STREAMS:
        if head.startswith(magic):
            return Sniffed("stream", name, mime)
    if head[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6") and head[2:3].isspace():
        return Sniffed("picture", "PPM", "image/x-portable-anymap")
    if head[:4] in (b"RIFF", b"RF64", b"RIFX", b"FORM"):
        return _riff(head[8:12])
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return Sniffed("stream", "matroska", "video/webm" if b"webm" in head[:64] else "video/x-matroska")
    return None


def _riff(form: bytes) -> Sniffed | None:
    forms = {
        b"WEBP": Sniffed("picture", "WEBP", "image/webp"),
        b"WAVE": Sniffed("stream", "wav", "audio/wav"),
        b"AVI ": Sniffed("stream", "avi", "video/x-msvideo"),
        b"AIFF": Sniffed("stream", "aiff", "audio/aiff"),
        b"AIFC": Sniffed("stream", "aiff", "audio/aiff"),
    }
    return forms.get(form)


def _by_structure(head: bytes) -> Sniffed | None:
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head[4:8] in _MOV_BOXES:
        return Sniffed("stream", "mov", "video/quicktime")
    for packet in (188, 192):  # MPEG-TS; 192: with the four time bytes of camcorders (M2TS)
        first = packet - 188
        syncs = head[first : first + packet * 5 : packet]
        if len(syncs) >= 3 and set(syncs) == {0x47}:
            return Sniffed("stream", "mpegts", "video/mp2t")
    return _by_audio_frames(head)


def _by_brand(head: bytes) -> Sniffed:
    size = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[i : i + 4] for i in (8, *range(16, size, 4))}
    major = head[8:12]
    if major in _AVIF_BRANDS or (major in _HEIF_BRANDS and brands & _AVIF_BRANDS):
        return Sniffed("picture", "AVIF", "image/avif")
    if major in _HEIF_BRANDS:
        return Sniffed("picture", "HEIF", "image/heic")
    mimes = {b"qt  ": "video/quicktime", b"M4A ": "audio/mp4", b"M4B ": "audio/mp4"}
    mime = "video/3gpp" if major[:3] in (b"3gp", b"3g2") else mimes.get(major, "video/mp4")
    return Sniffed("stream", "mov", mime)


def _by_audio_frames(head: bytes) -> Sniffed | None:
    start = 0
    tagged = head.startswith(b"ID3") and len(head) > 10
    if tagged:
        start = 10 + ((head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127)
        if start >= len(head) - 4:  # a large cover: what follows an ID3 tag is MP3 in all but freak cases
            return Sniffed("stream", "mp3", "audio/mpeg")
        if head[start : start + 4] == b"fLaC":
            return Sniffed("stream", "flac", "audio/flac")
    for at in range(start, min(start + 4096, len(head) - 8)):
        if head[at] == 0xFF and head[at + 1] & 0xE0 == 0xE0:
            for name, mime, length in (("mp3", "audio/mpeg", _mp3_frame), ("aac", "audio/aac", _adts_frame)):
                if _chained(head, at, length):
                    return Sniffed("stream", name, mime)
    return None


def _chained(head: bytes, at: int, length_at: Callable[[bytes, int], int]) -> bool:
    """Whether four frames follow each other: a few matching bits alone turn up in any random file."""
    for _ in range(4):
        size = length_at(head, at) if at + 8 <= len(head) else 0
        if not size:
            return False
        at += size
    return True


_MP3_KBPS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _mp3_frame(data: bytes, at: int) -> int:
    """Length in bytes of the MPEG audio frame at this place, 0 where there is none (ISO/IEC 11172-3, 2.4.1.3)."""
    head = int.from_bytes(data[at : at + 4], "big")
    version, layer = head >> 19 & 3, 4 - (head >> 17 & 3)
    bitrate, rate = head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return 0
    hz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = _MP3_KBPS[(1 if version == 3 else 2, layer)][bitrate] * 1000
    padding = head >> 9 & 1
    if layer == 1:
        return (12 * bits // hz + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // hz + padding


def _adts_frame(data: bytes, at: int) -> int:
    if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
        return 0
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return size if size >= 7 else 0


def _refusal(head: bytes) -> InputError:
    for magic, what in _OTHERS:
        if head.startswith(magic):
            return UnsupportedMedia(f"this is {what}, not a picture, video or recording", _REMEDY)
    if head[0] == 0x78 and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0:
        return UnsupportedMedia("this is compressed data, not a picture, video or recording", _REMEDY)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if b"<svg" in text or (text.startswith(b"<?xml") and b"svg" in text):
        return UnsupportedMedia("this is an SVG drawing, which is a program of its own and refused", _REMEDY)
    if text.startswith((b"<?xml", b"<!doctype", b"<html", b"<mpd")):
        return UnsupportedMedia("this is an XML or HTML text, not a picture, video or recording", _REMEDY)
    if _is_text(head[:4096]):
        return UnsupportedMedia("this is a text, not a picture, video or recording", _REMEDY)
    return UnsupportedMedia("no known picture, video or audio format begins like this", _REMEDY)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not merely a character cut by the end of the sample
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\t\r\n\f" for c in text)
