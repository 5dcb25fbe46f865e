"""Subtitles: SubRip (`.srt`), which every player reads, and WebVTT (`.vtt`), which browsers read and that has voices.

SubRip has no specification: this is what ffmpeg, VLC and mpv agree on. WebVTT: W3C Candidate Recommendation, 2019.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from media_pipeline.execution.rows import by_medium
from media_pipeline.results.exports._cues import DASH, Cue, Part, clean, cues
from media_pipeline.results.exports._document import Document
from media_pipeline.results.exports._library import Library, Medium, Portion, in_time

_TAG = re.compile(r"<(?=[/A-Za-z])")  # players take these for formatting
_OVERRIDE = re.compile(r"\{(?=\\)")


@dataclass(frozen=True, slots=True)
class About:
    """What a subtitle file says of itself."""

    source: str
    model: str | None
    language: str | None
    draft: bool = False  # of a recogniser whose words are to find a place by, not to quote


def srt(found: Sequence[Cue]) -> str:
    """A SubRip file. The speaker's name stands where the speaker changes; two at once have a dash each."""
    several = len({part.speaker for cue in found for part in cue.parts}) > 1
    blocks: list[str] = []
    last: str | None = None
    for number, cue in enumerate(found, start=1):
        lines: list[str] = []
        for part in cue.parts:
            named = several and part.speaker is not None and (part.speaker != last or len(cue.parts) > 1)
            before = (DASH if len(cue.parts) > 1 else "") + (f"{part.speaker}: " if named else "")
            lines += [_srt_text(before + part.lines[0]), *map(_srt_text, part.lines[1:])]
            last = part.speaker if len(cue.parts) == 1 else None
        blocks.append(
            f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n" + "\n".join(lines) + "\n"
        )
    return "\n".join(blocks)


def vtt(found: Sequence[Cue], about: About) -> str:
    """A WebVTT file: voices as tags, where it comes from as a note."""
    header = "WEBVTT\nKind: captions\n" + (f"Language: {_vtt_note(about.language)}\n" if about.language else "")
    note = f"NOTE\nSource: {_vtt_note(about.source)}\n"
    if about.model:
        note += f"Model: {_vtt_note(about.model)}\n"
    if about.draft:
        note += "Draft: good for finding a place, not for quoting\n"
    blocks = [
        f"{number}\n{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n"
        + "".join(f"{_vtt_part(part)}\n" for part in cue.parts)
        for number, cue in enumerate(found, start=1)
    ]
    return "\n".join([header, note, *blocks])


class Subtitles:
    """Subtitles of media with speech.

    Args:
        format_: srt or vtt
    """

    def __init__(self, format_: str) -> None:
        self.suffix = f".{format_}"
        self._format = format_

    def documents(self, library: Library, portion: Portion) -> Iterator[Document]:
        """One per medium; without text where nothing was said, or nobody listened."""
        order = in_time(library.schemas["transcript"])
        segments = by_medium(library.read("transcript", portion, order=order))
        facts = by_medium(library.read("media", portion))
        ledger = by_medium(library.read("analyses", portion))
        for medium in portion.media:
            entry = _transcription(ledger[medium.media_id].to_pylist()) if medium.media_id in ledger else None
            rows = segments[medium.media_id].to_pylist() if medium.media_id in segments else []
            found = cues(rows)
            if not found:
                yield Document(medium, None, _why(entry))
                continue
            about = _about(medium, facts[medium.media_id].to_pylist()[0], rows, entry)
            yield Document(medium, (srt(found) if self._format == "srt" else vtt(found, about),))


def _transcription(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((entry for entry in entries if entry["analyzer"] == "transcript"), None)


def _why(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "its speech was not transcribed yet; run `media-pipeline analyze` on it"
    if entry["status"] == "done":
        return "there is no speech in it"
    return f"its speech could not be transcribed: {entry['reason']}"


def _about(medium: Medium, facts: dict[str, Any], rows: list[dict[str, Any]], entry: dict[str, Any] | None) -> About:
    languages = [row["language"] for row in rows if row.get("language")]
    return About(
        source=f"{facts['name']} ({medium.media_id})",
        model=entry["model"] if entry else None,
        language=max(languages, key=languages.count) if languages else None,
        draft=any(row.get("draft") for row in rows),
    )


def _clock(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{milliseconds:03}"


def _srt_text(line: str) -> str:
    """The format has no way to escape what means something in it: it is written with other characters."""
    return _OVERRIDE.sub("(", _TAG.sub("‹", line.replace("-->", "→")))


def _vtt_part(part: Part) -> str:
    text = "\n".join(_escaped(line) for line in part.lines)
    return f"<v {_escaped(part.speaker)}>{text}</v>" if part.speaker else text


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _vtt_note(text: str) -> str:
    """An arrow ends a note."""
    return clean(text).replace("-->", "→")
