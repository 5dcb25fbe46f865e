"""The cache of decoded media: one folder per medium, complete or absent, rebuilt whenever it is missing.

    cache/ab/<media_id>/facts.json           what is known of the medium, and the fingerprint it was decoded with
                        frames.arrow         kept frames (`frames.CACHED_FRAMES`), one record batch each
                        frame_scores.arrow   content score of every video frame (`scores.FRAME_SCORES`)
                        audio.flac           16 kHz mono
                        audio-side.flac      half of left minus right, where each carries a voice of its own
                        thumbnail.jpg        at most 4 KB, for people
    cache/.incoming/…/                       being written (`incoming`); renamed into place when complete

Everything read here was written by our own code in our own formats, never copied from a foreign file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from media_pipeline.errors import StorageConflict
from media_pipeline.media.audio import AUDIO_FILE, SIDE_FILE, AudioReader
from media_pipeline.media.frames import CACHED_FRAMES, FRAMES_FILE, THUMBNAIL_FILE
from media_pipeline.media.incoming import Incoming
from media_pipeline.media.scores import FRAME_SCORES, SCORES_FILE
from media_pipeline.media.types import MediaFacts, facts_from_json, facts_to_json
from media_pipeline.storage.schemas import FRAMES

FACTS_FILE = "facts.json"
# The limit is looked at whenever a process has added a twentieth of it, and then a tenth is left free: what two
# processes may add before they look again.
_LOOK_EVERY, _LEFT_FREE = 1 / 20, 1 / 10
_IN_USE_S = 900.0  # what was used so lately may be in the hands of a run


@dataclass(frozen=True, slots=True)
class CachedFrame:
    """One kept frame; fulfils `analyzers._spec.Frame`. The pixels are decoded whenever they are asked for."""

    frame_index: int
    pts: int  # ticks of time_base from the beginning of the medium
    time_base: tuple[int, int]  # numerator, denominator, seconds
    pts_s: float
    width: int  # pixels as displayed
    height: int
    scene_index: int
    phash: str | None
    _jpeg: pa.Buffer

    def jpeg(self) -> bytes:
        return bytes(memoryview(self._jpeg))

    def image(self) -> npt.NDArray[np.uint8]:
        """RGB uint8, shape (h, w, 3) with h <= height and w <= width."""
        with Image.open(io.BytesIO(self._jpeg), formats=["JPEG"]) as image:
            return np.asarray(image.convert("RGB"))


class FrameReader:
    """The kept frames of one medium in order; may be iterated any number of times, from several threads.

    `path` is their file; None: there was none, and there are no frames.
    """

    def __init__(self, path: Path) -> None:
        self.path = path if path.exists() else None
        self._len = 0
        if self.path is not None:
            with _open_ipc(self.path, CACHED_FRAMES) as reader:
                self._len = reader.num_record_batches

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[CachedFrame]:
        if self.path is not None:
            with _open_ipc(self.path, CACHED_FRAMES) as reader:
                for i in range(reader.num_record_batches):
                    yield _frame(reader.get_batch(i))

    def __getitem__(self, i: int) -> CachedFrame:
        at = i + self._len if i < 0 else i
        if self.path is None or not 0 <= at < self._len:
            raise IndexError(f"frame {i} of {self._len}")
        with _open_ipc(self.path, CACHED_FRAMES) as reader:
            return _frame(reader.get_batch(at))


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What is cached of one medium."""

    media_id: str
    facts: MediaFacts
    folder: Path
    frames: FrameReader

    @property
    def audio(self) -> AudioReader | None:
        path, side = self.folder / AUDIO_FILE, self.folder / SIDE_FILE
        if not path.exists():
            if self.facts.audio_cached_channels and not self.folder.exists():
                raise StorageConflict(f"{self.media_id} left the cache while it was used", "it is decoded again")
            return None
        return AudioReader(path, self.facts.audio_duration_s or 0.0, side if side.exists() else None)

    @property
    def frame_scores(self) -> pa.Table | None:
        """pts_s float64 and score float32 of every decoded video frame; None for pictures and recordings."""
        path = self.folder / SCORES_FILE
        if not path.exists():
            return None
        with _open_ipc(path, FRAME_SCORES) as reader:
            return reader.read_all()

    def frame_rows(self) -> pa.Table:
        """Rows of `storage.schemas.FRAMES`, media_id included."""
        rows = [
            {name: getattr(frame, name) for name in FRAMES.names if name != "media_id"} | {"media_id": self.media_id}
            for frame in self.frames
        ]
        return pa.Table.from_pylist(rows, schema=FRAMES)

    def thumbnail(self) -> bytes | None:
        """A small JPEG of at most 4 KB."""
        path = self.folder / THUMBNAIL_FILE
        return path.read_bytes() if path.exists() else None


class Cache:
    """The folder of all media. Several processes may use it at once."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root.absolute()
        self._incoming = Incoming(self._root / ".incoming")
        self._max_bytes = max_bytes
        self._added = 0  # bytes by this process since it looked at the limit

    @property
    def root(self) -> Path:
        return self._root

    def get(self, media_id: str, fingerprint: str) -> CacheEntry | None:
        """The entry decoded with this fingerprint, or None where it must be decoded (again)."""
        folder = self._folder(media_id)
        try:
            stored = json.loads((folder / FACTS_FILE).read_text("utf-8"))
            if stored["fingerprint"] != fingerprint:
                return None
            entry = CacheEntry(media_id, facts_from_json(stored["facts"]), folder, FrameReader(folder / FRAMES_FILE))
            os.utime(folder / FACTS_FILE)  # the least recently used go first
        except (OSError, ValueError, KeyError, TypeError, StorageConflict):  # pa.ArrowInvalid is a ValueError
            return None
        return entry

    def sizes(self, media_id: str) -> tuple[int, int]:
        """Bytes of the frames and of the sound of a medium; 0 for what is not cached."""
        folder = self._folder(media_id)
        frames, *sound = (_bytes(folder / name) for name in (FRAMES_FILE, AUDIO_FILE, SIDE_FILE))
        return frames, sum(sound)

    def incoming(self, media_id: str) -> Path:
        """A new empty folder to decode into; `commit` or `abandon` it. It is safe while this process lives.

        Raises:
            OSError: it cannot be made.
        """
        return self._incoming.make(media_id)

    def commit(self, incoming: Path, media_id: str, fingerprint: str, facts: MediaFacts) -> None:
        """Makes a complete folder visible, replacing what was there."""
        text = json.dumps({"fingerprint": fingerprint, "facts": facts_to_json(facts)}, allow_nan=False)
        (incoming / FACTS_FILE).write_text(text, "utf-8")
        size = _size(incoming)
        folder = self._folder(media_id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                incoming.rename(folder)
                break
            except OSError:
                if not folder.exists():
                    raise
                self.discard(media_id)
        self._incoming.release(incoming)
        self._added += size
        if self._added > self._max_bytes * _LOOK_EVERY:
            self.make_room()

    def abandon(self, incoming: Path) -> None:
        self._incoming.remove(incoming)

    def discard(self, media_id: str) -> None:
        """Removes a medium; nobody ever sees half of it. Whoever has it open keeps reading."""
        with contextlib.suppress(FileNotFoundError):
            self._incoming.discard(self._folder(media_id), media_id)

    def forget(self, media_id: str) -> None:
        """Removes a medium and what was being decoded of it. Nobody may be decoding it."""
        self._incoming.forget(media_id)
        self.discard(media_id)

    def make_room(self) -> int:
        """Keeps the cache under its limit while runs fill it; returns the bytes freed.

        What is in use stays, so the limit may be exceeded by what the runs of a quarter of an hour have in hand.
        """
        self._added = 0
        return self._evict(int(self._max_bytes * (1 - _LEFT_FREE)), (), used_before=time.time() - _IN_USE_S)

    def evict(self, keep: Collection[str] = ()) -> int:
        """Removes the least recently used media, except ``keep``, until the limit holds; returns the bytes freed."""
        self._incoming.bury()
        return self._evict(self._max_bytes, keep, used_before=float("inf"))

    def _evict(self, limit: int, keep: Collection[str], used_before: float) -> int:
        entries = sorted(self.entries())
        excess = sum(size for _, size, _ in entries) - limit
        freed = 0
        for used, size, media_id in entries:
            if freed >= excess or used > used_before:
                break
            if media_id not in keep:
                self.discard(media_id)
                freed += size
        return freed

    def size(self) -> int:
        """Bytes of all complete entries."""
        return sum(size for _, size, _ in self.entries())

    def entries(self) -> Iterator[tuple[float, int, str]]:
        """(last use in seconds since 1970, bytes, media_id) of what is complete, in no particular order."""
        for folder in self._root.glob("[0-9a-f][0-9a-f]/*"):
            try:
                used = (folder / FACTS_FILE).stat().st_mtime
                size = _size(folder)
            except OSError:  # another process was faster
                continue
            yield used, size, folder.name

    def _folder(self, media_id: str) -> Path:
        return self._root / media_id[:2] / media_id


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


@contextlib.contextmanager
def _open_ipc(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """An Arrow file of ours, mapped, not read.

    Raises:
        ValueError: it is damaged or has another schema.
        StorageConflict: it is not there: another process has removed it.
    """
    try:
        mapped = pa.memory_map(str(path))
    except FileNotFoundError:
        raise StorageConflict(f"{path.parent.name} left the cache while it was used", "it is decoded again") from None
    with mapped as source, pa.ipc.open_file(source) as reader:
        if not reader.schema.equals(schema):
            raise ValueError(f"{path.name} holds {reader.schema.names}")
        yield reader


def _frame(batch: pa.RecordBatch) -> CachedFrame:
    batch.validate(full=True)
    row = {name: batch.column(name)[0] for name in CACHED_FRAMES.names}
    jpeg = row.pop("jpeg").as_buffer()
    values = {name: value.as_py() for name, value in row.items()}
    time_base = (values.pop("time_base_num"), values.pop("time_base_den"))
    return CachedFrame(**values, time_base=time_base, _jpeg=jpeg)
