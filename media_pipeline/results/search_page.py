"""The hits of a search as one page to look at, keep or send: pictures inside, no script, no network.

Names, paths and everything that was read or heard are hostile: all of it is escaped, and the page forbids itself to run
or load anything (Content-Security-Policy), should that ever fail.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from media_pipeline.config import Settings
from media_pipeline.errors import InputError, UsageError
from media_pipeline.execution.decoded import DecodedMedia
from media_pipeline.media.cache import Cache
from media_pipeline.media.originals import locate
from media_pipeline.results._search_hits import Box, Hit, by_medium
from media_pipeline.results._search_stills import Still, stills
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sources import KnownMedium, Sources
from media_pipeline.wording import clock

_TEMPLATE = "search.html.jinja"
_WHAT = {"picture": "this picture", "face": "a person without a name", "voice": "a voice without a name"}


@dataclass(frozen=True, slots=True)
class _Moment:
    time: str | None
    link: str | None
    parts: Sequence[tuple[str, bool]]  # text, and whether it was looked for
    what: str  # where there is no text
    why: str
    similarity: float | None


@dataclass(frozen=True, slots=True)
class _Figure:
    """One picture, and the moments that it shows."""

    picture: str | None  # JPEG, base64
    width: int
    height: int
    upright: bool  # narrower than the frame it is shown in
    boxes: Sequence[Box]  # left, top, width, height as shares
    wave: Sequence[float]
    link: str | None
    alt: str
    moments: Sequence[_Moment]


@dataclass(frozen=True, slots=True)
class _Medium:
    name: str
    kind: str
    place: str
    link: str | None
    figures: Sequence[_Figure]


def write_page(
    file: Path,
    hits: Sequence[Hit],
    title: str,
    layout: Layout,
    settings: Settings,
    on_medium: Callable[[], None] = lambda: None,
) -> int:
    """Writes the page, whole or not at all, readable for its owner only; returns its size in bytes.

    Frames that the cache has let go are decoded again. Links lead to the originals, relative to the page.

    Args:
        on_medium: called when the pictures of one more medium are there

    Raises:
        UsageError: the page cannot be written there.
    """
    groups = {group[0].media_id: group for group in by_medium(hits)}
    cache = Cache(layout.cache, settings.cache_max_bytes)
    with closing(Sources(layout.sources)) as sources, closing(DecodedMedia(cache, settings)) as decoded:
        known = sources.by_id(groups)
        seen = stills(known.values(), groups, decoded, on_medium)
    cache.evict()
    folder = file.absolute().parent.resolve()
    media = [_medium(group, known.get(media_id), seen.get(media_id), folder) for media_id, group in groups.items()]
    summary = f"{_count(len(hits), 'moment')} in {len(media)} media · {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return _write(file, _rendered(title, summary, media))


def _rendered(title: str, summary: str, media: Sequence[_Medium]) -> str:
    from jinja2 import Environment, StrictUndefined

    text = Path(__file__).with_name(_TEMPLATE).read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    return template.render(title=title, summary=summary, media=media)


def _write(file: Path, text: str) -> int:
    # Names that are no text come as lone surrogates, which no encoding takes.
    content = text.encode(errors="replace")
    try:
        handle, temporary = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}-")
        try:
            with open(handle, "wb") as stream:  # noqa: PTH123 - a descriptor
                stream.write(content)
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", "name another file") from error
    return len(content)


def _medium(hits: Sequence[Hit], known: KnownMedium | None, seen: Sequence[Still] | None, folder: Path) -> _Medium:
    link = _link(hits[0], known, folder)
    figures: dict[object, list[tuple[Hit, Still]]] = {}
    for number, hit in enumerate(hits):
        still = seen[number] if seen else Still()
        figures.setdefault(number if still.jpeg is None else still.frame_index, []).append((hit, still))
    return _Medium(
        name=hits[0].name,
        kind=hits[0].kind,
        place=hits[0].path,
        link=link,
        figures=[_figure(moments, link) for moments in figures.values()],
    )


def _figure(moments: Sequence[tuple[Hit, Still]], link: str | None) -> _Figure:
    first, still = moments[0]
    width, height = still.size
    return _Figure(
        picture=base64.b64encode(still.jpeg).decode() if still.jpeg is not None else None,
        width=width,
        height=height,
        upright=3 * width < 4 * height,
        boxes=[still.share(hit.box) for hit, _ in moments if hit.box is not None],
        wave=still.wave,
        link=_at(link, first),
        alt=time_of(first) or "the picture",
        moments=[_moment(hit, link) for hit, _ in moments if hit.source != "medium"],
    )


def _moment(hit: Hit, link: str | None) -> _Moment:
    what = hit.person or " ".join(filter(None, (_WHAT.get(hit.source, "this medium"), hit.person_id)))
    return _Moment(
        time_of(hit), _at(link, hit), _parts(hit), what, hit.why if hit.why != "filter" else "", hit.similarity
    )


def _parts(hit: Hit) -> list[tuple[str, bool]]:
    """The line that was found, cut where what was looked for begins and ends."""
    if hit.snippet is None:
        return []
    parts, place = [], 0
    for start, end in hit.matches:
        parts += [(hit.snippet[place:start], False), (hit.snippet[start:end], True)]
        place = end
    return [(text, matched) for text, matched in (*parts, (hit.snippet[place:], False)) if text]


def _link(hit: Hit, known: KnownMedium | None, folder: Path) -> str | None:
    """The original, relative to the page: where it was seen first, under a name people know, if it still is there."""
    if known is None:
        return None
    try:
        original = locate(known)
    except InputError:
        return None
    seen = Path(hit.path)
    if seen.is_absolute() and _same_size(seen, original):
        original = seen
    # Quoted colons and all: no name can pass for a scheme.
    return quote(os.path.relpath(os.fsencode(original.resolve()), os.fsencode(folder)), safe="/")


def _same_size(seen: Path, original: Path) -> bool:
    try:
        return seen.is_file() and seen.stat().st_size == original.stat().st_size
    except OSError:
        return False


def _at(link: str | None, hit: Hit) -> str | None:
    """A media fragment: players begin there."""
    if link is None or hit.kind == "image" or hit.pts_s is None:
        return link
    return f"{link}#t={hit.pts_s:.1f}"


def time_of(hit: Hit) -> str | None:
    """`m:ss`, `h:mm:ss` from an hour on; None where there is no time."""
    if hit.pts_s is None or hit.kind == "image":
        return None
    return clock(hit.pts_s)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
