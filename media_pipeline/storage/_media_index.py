"""Which media lie in which Parquet file of a table.

Statistics cannot tell: ids are hashes, so every file spans the whole range. Hashes of the media of each file are kept
beside it, in `_media`, where readers of Delta tables do not look: a process that has just started would otherwise read
a column of every file to add one medium.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
import zlib
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from media_pipeline.storage._files import MERGE_COUNT, DataFile

FOLDER = "_media"
_SHA256_DIGITS = 64
_CHECKSUM_BYTES = 4

Hashes = npt.NDArray[np.int64]


class MediaIndex:
    """Which files may hold rows of which media, exact but for hash collisions.

    Files never change, so what was read once stays true; which files are current is asked of the table each time.
    8 bytes per medium and table, in memory and on the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._known: dict[str, Hashes] = {}  # by the name of the file, sorted, each medium once

    def holding(self, files: Iterable[DataFile], media_ids: Collection[str] | None) -> list[DataFile]:
        """Those of the files that may hold rows of these media; all if None."""
        files = list(files)
        if media_ids is None:
            return files
        wanted = np.unique(media_hashes(media_ids))
        with self._lock:
            if len(self._known) > 2 * len(files) + MERGE_COUNT:  # most of them are gone
                self._known = {file.name: self._known[file.name] for file in files if file.name in self._known}
            return [file for file in files if _meet(self._of(file.name), wanted)]

    def add(self, name: str, media: pa.Array | pa.ChunkedArray) -> None:
        """What a new file holds: said by who has written it, it need not be read again."""
        hashes = np.unique(media_hashes(media.unique()))
        with self._lock:
            self._known[name] = hashes
        self._keep(name, hashes)

    def clean(self) -> None:
        """Removes what is kept of files that are no longer there."""
        with suppress(FileNotFoundError):
            for kept in os.scandir(self._folder / FOLDER):
                if not (self._folder / kept.name).exists():
                    Path(kept.path).unlink(missing_ok=True)

    def _of(self, name: str) -> Hashes:
        found = self._known.get(name)
        if found is None:
            found = self._kept(name)
            if found is None:
                found = np.unique(media_hashes(_media_column(self._folder / name)))
                self._keep(name, found)
            self._known[name] = found
        return found

    def _kept(self, name: str) -> Hashes | None:
        """None where there is none that is whole: a power cut may leave a part."""
        try:
            content = (self._folder / FOLDER / name).read_bytes()
        except OSError:
            return None
        checksum, hashes = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if len(checksum) < _CHECKSUM_BYTES or _checksum(hashes) != checksum:
            return None
        return np.frombuffer(hashes, "<i8")

    def _keep(self, name: str, hashes: Hashes) -> None:
        # It only saves time: on a full disk, or where only reading is allowed, all goes on without it.
        folder = self._folder / FOLDER
        scratch = folder / f"{uuid.uuid4().hex}.part"
        content = hashes.astype("<i8", copy=False).tobytes()
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            try:
                scratch.write_bytes(_checksum(content) + content)
                scratch.replace(folder / name)
            finally:
                scratch.unlink(missing_ok=True)


def _checksum(content: bytes) -> bytes:
    # From 1 on: zeros in the place of what was lost are no valid file of any length.
    return zlib.crc32(content, 1).to_bytes(_CHECKSUM_BYTES, "little")


def _meet(one: Hashes, other: Hashes) -> bool:
    """Whether two sorted arrays have an element in common."""
    few, many = (one, other) if len(one) < len(other) else (other, one)
    # Whatever is larger than all of them has its place at the end, and is compared with the largest.
    return len(few) > 0 and bool((many.take(many.searchsorted(few), mode="clip") == few).any())


def media_in(path: Path) -> list[str]:
    """The media that have rows in a file."""
    media: list[str] = _media_column(path).to_pylist()
    return media


def _media_column(path: Path) -> pa.Array:
    """The media of a file as an array of strings, each once."""
    with pq.ParquetFile(path, read_dictionary=["media_id"]) as file:
        column = file.read(columns=["media_id"])["media_id"]
    found = column.unify_dictionaries().chunks
    return found[0].dictionary if found else pa.array([], pa.string())


def media_hashes(media_ids: Collection[str] | pa.Array) -> Hashes:
    """64 bits of each id, the same in every process and version.

    An id of 64 digits is a SHA-256, as those of all media are, and its own best hash: the first 16 digits of all of
    them are read at once.
    """
    ids = media_ids if isinstance(media_ids, pa.Array) else pa.array(list(media_ids), pa.string())
    hashed = np.asarray(pc.equal(pc.binary_length(ids), _SHA256_DIGITS), bool)
    found = np.empty(len(ids), np.int64)
    found[hashed] = _first_digits(ids.filter(pa.array(hashed)))
    others = ids.filter(pa.array(~hashed)).to_pylist()
    digests = b"".join(hashlib.blake2b(m.encode(), digest_size=8).digest() for m in others)
    found[~hashed] = np.frombuffer(digests, "<i8")
    return found


def _first_digits(ids: pa.Array) -> Hashes:
    """The first 16 hexadecimal digits of ids of 64, as numbers."""
    joined = "".join(pc.utf8_slice_codeunits(ids, 0, 16).to_pylist()).encode("ascii", "replace")
    digits = np.frombuffer(joined, np.uint8).reshape(-1, 16).astype(np.int64)
    values = np.where(digits > ord("9"), digits - (ord("a") - 10), digits - ord("0"))
    numbers: npt.NDArray[np.int64] = np.bitwise_or.reduce(values << np.arange(60, -1, -4), axis=1)
    return numbers
