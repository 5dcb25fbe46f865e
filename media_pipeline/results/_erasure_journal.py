"""What an erasure has to do, written down before it begins: a killed one goes on where it was, with all it must find.

The journal names what is erased, so it is the last thing that goes. Every step may be repeated, so it does not say
how far the erasure came; it says what to erase, what to look for afterwards, and what there was.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from media_pipeline.errors import UsageError
from media_pipeline.results._byte_scan import Needle
from media_pipeline.results.receipts import Target, write_private

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Medium:
    """A medium that goes."""

    media_id: str
    partition_key: str
    names: tuple[str, ...] = ()  # file names
    paths: tuple[str, ...] = ()  # of the user's files, as the operating system spells them
    stored: str | None = None  # a linked original; None: a copy of ours
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """A person or voice that goes, and the tracks in which it was seen or heard."""

    kind: str  # person, voice
    identity_id: str
    name: str | None
    tracks: tuple[tuple[str, int | str], ...] = ()  # (media_id, track)


@dataclass(frozen=True, slots=True)
class Journal:
    """One erasure."""

    erasure_id: str
    created_at: str  # ISO 8601, UTC
    by: str
    files: str  # which of the user's own files go: watched, all, none
    media: tuple[Medium, ...] = ()
    identities: tuple[Identity, ...] = ()
    needles: tuple[Needle, ...] = ()
    copies: dict[int, list[str]] = field(default_factory=dict)  # sha256 of erased files by size in bytes
    counts: dict[str, int] = field(default_factory=dict)  # what there was

    @classmethod
    def new(cls, by: str, files: str, **parts: Any) -> Journal:
        now = datetime.now(UTC)
        return cls(f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}", now.isoformat(), by, files, **parts)

    @property
    def media_ids(self) -> list[str]:
        return [medium.media_id for medium in self.media]

    @property
    def partition_keys(self) -> list[str]:
        return [medium.partition_key for medium in self.media]

    @property
    def targets(self) -> list[Target]:
        return [Target("medium", media_id) for media_id in self.media_ids] + [
            Target(identity.kind, identity.identity_id) for identity in self.identities
        ]


class Journals:
    """The erasures that began and have not ended: `<home>/erasures`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, journal: Journal) -> None:
        body = asdict(journal) | {"format": FORMAT}
        body["needles"] = [[needle.kind, base64.b64encode(needle.value).decode()] for needle in journal.needles]
        write_private(self._file(journal.erasure_id), json.dumps(body, ensure_ascii=True).encode())

    def open(self) -> list[Journal]:
        """The oldest first.

        Raises:
            UsageError: one was written by a newer version.
        """
        return [_read(path) for path in sorted(self.folder.glob("*.json"))]

    def remove(self, journal: Journal) -> None:
        self._file(journal.erasure_id).unlink(missing_ok=True)

    def _file(self, erasure_id: str) -> Path:
        return self.folder / f"{erasure_id}.json"


def _read(path: Path) -> Journal:
    body = json.loads(path.read_bytes())
    if body.pop("format") != FORMAT:
        raise UsageError(f"{path} was written by another version", "finish this erasure with that version")
    return Journal(
        **body
        | {
            "media": tuple(_medium(medium) for medium in body["media"]),
            "identities": tuple(_identity(identity) for identity in body["identities"]),
            "needles": tuple(_needles(body["needles"])),
            "copies": {int(size): digests for size, digests in body["copies"].items()},
        }
    )


def _medium(body: dict[str, Any]) -> Medium:
    return Medium(**body | {"names": tuple(body["names"]), "paths": tuple(body["paths"])})


def _identity(body: dict[str, Any]) -> Identity:
    return Identity(**body | {"tracks": tuple((media_id, track) for media_id, track in body["tracks"])})


def _needles(rows: Iterable[list[str]]) -> Iterator[Needle]:
    for kind, value in rows:
        yield Needle(kind, base64.b64decode(value))
