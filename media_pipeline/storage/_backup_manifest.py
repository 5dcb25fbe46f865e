"""What a snapshot holds: one compressed list of files, each with the hashes of its content."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal

from media_pipeline.errors import DamagedBackup, UsageError

FORMAT = 1
# A database changes a few pages between two backups: parts of it that are the same are stored once.
PART_BYTES = 4 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")

Kind = Literal["file", "database", "table"]  # table: belongs to one version of a Delta table


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a snapshot."""

    path: str  # below the home; bytes that are no text as lone surrogates
    parts: tuple[str, ...]  # sha256 of its content; of a database one per `PART_BYTES`
    size: int  # bytes
    mode: int  # permissions
    mtime_ns: int
    stamp: str  # of the file in the home: one that still has it is not read again
    kind: Kind = "file"


@dataclass(frozen=True, slots=True)
class TableVersion:
    """The version of a Delta table that a snapshot holds."""

    path: str
    version: int
    files: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The state of a home at one instant, but for its files."""

    created_at: datetime  # UTC
    product_version: str
    home: str
    tables: tuple[TableVersion, ...]
    folders: Mapping[str, int]  # permissions by path, empty folders included
    linked_outside: int = 0  # media whose originals lie outside the home, and are not in the snapshot
    left_out: Mapping[str, str] = field(default_factory=dict)  # reason by path: what could not be read
    new_bytes: int = 0  # that no snapshot before it held
    count: int = 0  # of its files
    bytes: int = 0  # of its files


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A head and its files."""

    head: Head
    files: tuple[FileEntry, ...] = field(repr=False)

    def digests(self) -> Iterator[str]:
        return (digest for file in self.files for digest in file.parts)


def encode(snapshot: Snapshot) -> bytes:
    """Lines of JSON, compressed: the head, then one line per file."""
    head = asdict(snapshot.head) | {"format": FORMAT, "created_at": snapshot.head.created_at.isoformat()}
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as stream:
        stream.write(json.dumps(head).encode() + b"\n")
        for file in snapshot.files:
            row = [getattr(file, name) for name in _FILE_FIELDS]
            stream.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
    return out.getvalue()


def decode(data: bytes) -> Snapshot:
    """The reverse.

    Raises:
        DamagedBackup: this is no such list, or one that would write outside the home.
        UsageError: a newer version of this program wrote it.
    """
    with _explained(), gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        head = _head(stream.readline())
        return Snapshot(head, tuple(_file(json.loads(line)) for line in stream))


def decode_head(source: BinaryIO) -> Head:
    """Only the first line. Raises as `decode`."""
    with _explained(), gzip.GzipFile(fileobj=source) as stream:
        return _head(stream.readline())


_FILE_FIELDS = tuple(f.name for f in fields(FileEntry))


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise DamagedBackup(f"the list of a snapshot cannot be read: {error}", "use another snapshot") from error


def _head(line: bytes) -> Head:
    head: dict[str, Any] = json.loads(line)
    if head.pop("format") > FORMAT:
        raise UsageError("the backup was made by a newer version", "upgrade media-pipeline")
    head["created_at"] = datetime.fromisoformat(head["created_at"]).astimezone(UTC)
    head["tables"] = tuple(TableVersion(**table) for table in head["tables"])
    for path in [*head["folders"], *(table.path for table in head["tables"])]:
        _require_inside(path)
    return Head(**head)


def _file(row: list[Any]) -> FileEntry:
    path, parts, *rest = row
    _require_inside(path)
    if not all(_DIGEST.fullmatch(digest) for digest in parts):
        raise ValueError(f"{path!r} has a hash that is none")
    return FileEntry(path, tuple(parts), *rest)


def _require_inside(path: str) -> None:
    """The list may come from elsewhere: it names nothing outside the home it is restored to."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(f"{path!r} is no path below a home")
