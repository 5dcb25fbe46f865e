"""The proof of an erasure: every byte of the home is looked at for what was erased.

Each file is searched as it lies on the disk and, where its format packs or cuts values, once more decoded
(`storage/contents.py`). Searching costs nearly the same however many byte strings are looked for: the hash of the
four bytes at every offset is looked up in a table, the few that pass are compared in full.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from media_pipeline.storage.contents import decoder, raw

log = logging.getLogger(__name__)

MIN_BYTES = 8  # of what is looked for: shorter strings are found by chance
_HASH_BITS = 20  # a table of 1 MB, which stays in the processor's cache
UNREAD = "unread"  # kind of a hit: what could not be looked at is not proven to hold nothing
Progress = Callable[[int, int], None]  # (bytes done, bytes in all)


@dataclass(frozen=True, slots=True)
class Needle:
    """A byte string that must not be anywhere."""

    kind: str  # what it is a piece of: id, partition, name, text, embedding, hash, thumbnail
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) < MIN_BYTES:
            raise ValueError(f"{len(self.value)} bytes are too few to look for")


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was found."""

    where: str  # path below the home, or a table of a database outside it
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan looked at, what for, and what it found."""

    files: int
    bytes: int  # as they lie on the disk; decoded values come on top
    seconds: float
    looked_for: Mapping[str, int]  # number of byte strings by kind
    hits: tuple[Hit, ...] = ()
    mentions: tuple[Hit, ...] = ()  # in the content of media that stay: it is theirs, and was not made from the erased
    unreadable: tuple[str, ...] = ()  # files of a known format whose values could not be decoded

    @property
    def count(self) -> int:
        return sum(hit.count for hit in self.hits)


class Finder:
    """Finds any of some byte strings."""

    def __init__(self, needles: Sequence[Needle]) -> None:
        self._by_head: dict[int, list[Needle]] = {}
        for needle in dict.fromkeys(needles):
            self._by_head.setdefault(_head(needle.value), []).append(needle)
        self._heads = np.sort(np.fromiter(self._by_head, np.uint64, len(self._by_head)))
        self._begins = np.zeros(1 << _HASH_BITS, np.bool_)
        self._begins[_hashed(np.array([int.from_bytes(needle.value[:4], "little") for needle in needles], "<u4"))] = (
            True
        )
        self.longest = max((len(needle.value) for needle in needles), default=0)

    def find(self, block: bytes) -> Counter[Needle]:
        """How often each occurs, from those that do."""
        return Counter(needle for needle, _ in self.places(block))

    def places(self, block: bytes) -> Iterator[tuple[Needle, int]]:
        """Each occurrence and its offset."""
        for at in self._candidates(block):
            for needle in self._by_head[_head(block[at : at + MIN_BYTES])]:
                if block.startswith(needle.value, at):
                    yield needle, at

    def _candidates(self, block: bytes) -> list[int]:
        """Offsets at which the first eight bytes are those of something looked for."""
        if len(block) < MIN_BYTES or not len(self._heads):
            return []
        found: list[npt.NDArray[np.int64]] = []
        for shift in range(4):
            words = np.frombuffer(block, "<u4", (len(block) - shift) // 4, shift)
            found.append(np.flatnonzero(self._begins[_hashed(words)]) * 4 + shift)
        places = np.concatenate(found)
        places = places[places <= len(block) - MIN_BYTES]
        data = np.frombuffer(block, np.uint8)
        heads = data[places[:, None] + np.arange(MIN_BYTES)].view("<u8")[:, 0]
        at = np.minimum(np.searchsorted(self._heads, heads), len(self._heads) - 1)
        kept: list[int] = np.sort(places[self._heads[at] == heads]).tolist()
        return kept


@dataclass(slots=True)
class _Tally:
    """Hits by place and kind."""

    found: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, where: str, counted: Counter[Needle]) -> None:
        for needle, count in counted.items():
            self.found[where, needle.kind] += count

    def hits(self) -> tuple[Hit, ...]:
        return tuple(Hit(where, kind, count) for (where, kind), count in sorted(self.found.items()))


def scan(
    home: Path,
    needles: Sequence[Needle],
    *,
    copies: Mapping[int, Collection[str]] | None = None,
    derived: Sequence[Path] = (),
    theirs: Sequence[Path] = (),
    skip: Collection[Path] = (),
    elsewhere: Iterable[tuple[str, Iterable[bytes]]] = (),
    progress: Progress | None = None,
) -> ScanReport:
    """Looks at every file below a folder, its name included.

    Args:
        copies: files that were erased, sha256 by size in bytes: a copy of one counts as a hit
        derived: folders of files made from media that stay: one that equals an erased file is theirs, no copy
        theirs: folders of the media that stay, as their owner made them: what they speak of is a mention, no hit
        skip: files and folders that are not looked at
        elsewhere: (name, blocks of bytes) of what lies outside the folder: tables of a database server
        progress: told now and then how far it is
    """
    started = time.monotonic()
    finder, tally, mentions = Finder(needles), _Tally(), _Tally()
    files = list(_files(home.absolute(), {path.absolute() for path in skip}, tally))
    total, done = sum(size for _, size in files), 0
    unreadable = []
    for path, size in files:
        where = str(path.relative_to(home.absolute()))
        tally.add(where, finder.find(os.fsencode(where)))
        into = mentions if _is_below(path, theirs) else tally
        try:
            for block, fresh in _raw(path, finder):
                into.add(where, fresh)
                done += block
                if progress is not None:
                    progress(min(done, total), total)
            if not _is_below(path, derived) and size in (copies or {}) and _sha256(path) in (copies or {})[size]:
                tally.found[where, "copy"] += 1
            if not _decoded(path, finder, into, where):
                unreadable.append(where)
        except FileNotFoundError:
            continue  # went while we looked, with all it held
        except OSError:
            tally.found[where, UNREAD] += 1
    for where, blocks in elsewhere:
        for part in blocks:
            tally.add(where, finder.find(part))
    looked_for = Counter(needle.kind for needle in dict.fromkeys(needles))
    looked_for["copy"] = sum(len(digests) for digests in (copies or {}).values())
    seconds = round(time.monotonic() - started, 3)
    return ScanReport(
        files=len(files),
        bytes=total,
        seconds=seconds,
        looked_for=dict(sorted((+looked_for).items())),
        hits=tally.hits(),
        mentions=mentions.hits(),
        unreadable=tuple(sorted(unreadable)),
    )


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file lies in one of the folders, and not among what is only half written there."""
    return any(path.is_relative_to(folder.absolute()) for folder in folders) and ".incoming" not in path.parts


def _files(home: Path, skip: Collection[Path], tally: _Tally) -> Iterator[tuple[Path, int]]:
    """Every file and its size. Folders that are links are followed: originals may lie on another disk."""

    def unread(error: OSError) -> None:
        tally.found[os.path.relpath(str(error.filename), home), UNREAD] += 1

    seen: set[str] = set()
    for folder, names, files in os.walk(home, onerror=unread, followlinks=True):
        real, here = os.path.realpath(folder), Path(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if here / name not in skip)
        for name in sorted(files):
            path = here / name
            with contextlib.suppress(FileNotFoundError):
                if path not in skip and not path.is_symlink() and path.is_file():
                    yield path, path.stat().st_size


def _raw(path: Path, finder: Finder) -> Iterator[tuple[int, Counter[Needle]]]:
    """Bytes read, and what was found in them that was not in the block before."""
    overlap = max(finder.longest - 1, 0)
    before = 0  # bytes at the beginning of the block that were looked at already
    for block in raw(path, overlap):
        fresh = Counter(needle for needle, at in finder.places(block) if at + len(needle.value) > before)
        yield len(block) - before, fresh
        before = min(overlap, len(block))


def _decoded(path: Path, finder: Finder, tally: _Tally, where: str) -> bool:
    """Looks at the values; False where they cannot be read."""
    values = decoder(path)
    if values is None:
        return True
    try:
        for block in values(path):
            tally.add(f"{where} (values)", finder.find(block))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file makes its library say
        log.warning("%s cannot be decoded and was looked at as it lies there: %s", where, error)
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashed(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Multiplicative hashing (Knuth, TAOCP 6.4): the high bits of a product depend on all bits of the factor."""
    return (words * np.uint32(2_654_435_769)) >> np.uint32(32 - _HASH_BITS)


def _head(value: bytes) -> int:
    return int.from_bytes(value[:MIN_BYTES], "little")
