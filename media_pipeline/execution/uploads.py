"""Media on their way to a worker, and held there: both ends of one format.

A worker on this machine reads our cache. To another machine frames and sound are sent as they lie in the cache, once,
whatever number of analyzers reads them; it holds them in a private folder until it is told to drop them, or ends.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from media_pipeline.analyzers._spec import Frame, Medium
from media_pipeline.errors import LimitExceeded, StorageConflict
from media_pipeline.execution.messages import SOUND, Header, Kind, Message
from media_pipeline.media.audio import AUDIO_FILE, SIDE_FILE, AudioReader
from media_pipeline.media.cache import CachedFrame, FrameReader
from media_pipeline.media.frames import CACHED_FRAMES, FRAMES_FILE
from media_pipeline.storage.processes import is_alive, signature

CHUNK_BYTES = 4 * 1024**2  # per message: little is on its way in vain when a worker is told to stop

FRAMES, SOUND_FILES, SCORES, ROWS = "frames", "sound", "scores", "rows"  # operations that carry them


# ---- here: from the cache into messages --------------------------------------------------------------------------


def is_sendable(medium: Medium) -> bool:
    """Whether frames and sound lie in files of the cache, or there are none."""
    no_frames = isinstance(medium.frames, tuple | list) and not medium.frames
    return (no_frames or isinstance(medium.frames, FrameReader)) and isinstance(medium.audio, AudioReader | None)


def described(medium: Medium, name: str, *, by_path: bool) -> Header:
    """What a worker needs to know of a medium that `is_sendable`, apart from the bytes.

    Args:
        name: what it is called there
        by_path: name the files of the cache, for a worker on this machine
    """
    frames, audio = _frames(medium), _audio(medium)
    header: Header = {
        "medium": name,
        "kind": medium.kind,
        "duration_s": medium.duration_s,
        "frames": len(frames) if frames is not None else None,
        "audio_s": audio.duration_s if audio else None,
        "channels": audio.channels if audio else None,
    }
    if by_path:
        files = (frames.path if frames else None, audio.path if audio else None, audio.side if audio else None)
        header["paths"] = [str(file) if file else None for file in files]
    return header


def frame_messages(medium: Medium, name: str) -> Iterator[Message]:
    """The frames as they lie in the cache, without their perceptual hashes, which no analyzer sees."""
    rows: list[dict[str, Any]] = []
    size = 0
    for frame in _frames(medium) or ():
        rows.append(_row(frame))
        size += len(rows[-1]["jpeg"])
        if size >= CHUNK_BYTES:
            yield _frames_message(rows, name)
            rows, size = [], 0
    if rows:
        yield _frames_message(rows, name)


def sound_messages(medium: Medium, name: str) -> Iterator[Message]:
    """The files of the sound."""
    audio = _audio(medium)
    for file, is_side in ((audio.path, False), (audio.side, True)) if audio else ():
        if file is None:
            continue
        with file.open("rb") as stream:
            while data := stream.read(CHUNK_BYTES):
                table = pa.table([[is_side], pa.array([data], pa.binary())], schema=SOUND)
                yield Message(SOUND_FILES, {"medium": name}, Kind.SOUND, table)


def table_messages(medium: Medium, name: str) -> Iterator[Message]:
    """Scores of frames, and rows of other analyzers. They stay on this machine."""
    if medium.frame_scores is not None:
        yield Message(SCORES, {"medium": name}, Kind.SCORES, medium.frame_scores)
    for analyzer, rows in medium.rows.items():
        yield Message(ROWS, {"medium": name, "analyzer": analyzer}, Kind.ROWS, rows)


def input_bytes(medium: Medium) -> int:
    """Bytes of frames and sound."""
    frames, audio = _frames(medium), _audio(medium)
    files = [frames.path if frames else None, audio.path if audio else None, audio.side if audio else None]
    return sum(file.stat().st_size for file in files if file is not None)


def _frames(medium: Medium) -> FrameReader | None:
    return medium.frames if isinstance(medium.frames, FrameReader) else None


def _audio(medium: Medium) -> AudioReader | None:
    return medium.audio if isinstance(medium.audio, AudioReader) else None


def _row(frame: CachedFrame) -> dict[str, Any]:
    return {
        "frame_index": frame.frame_index,
        "pts": frame.pts,
        "time_base_num": frame.time_base[0],
        "time_base_den": frame.time_base[1],
        "pts_s": frame.pts_s,
        "width": frame.width,
        "height": frame.height,
        "scene_index": frame.scene_index,
        "phash": None,
        "jpeg": frame.jpeg(),
    }


def _frames_message(rows: list[dict[str, Any]], name: str) -> Message:
    return Message(FRAMES, {"medium": name}, Kind.FRAMES, pa.Table.from_pylist(rows, schema=CACHED_FRAMES))


# ---- there: from messages into files and media -------------------------------------------------------------------


@dataclass(slots=True)
class _Held:
    """What came of one medium so far."""

    folder: Path
    size: int = 0
    frames_file: BinaryIO | None = None
    frames: Any = None  # the writer, until the first use
    scores: list[pa.Table] = field(default_factory=list)
    rows: dict[str, pa.Table] = field(default_factory=dict)


class HeldMedia:
    """Media that a worker was sent. For one thread.

    Args:
        home: folder in which a private one is made, of this process alone; those of dead workers are removed
        max_bytes: of files, all media together
    """

    def __init__(self, home: Path, max_bytes: int) -> None:
        self._root = home / "worker"
        self._folder = self._root / signature()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._media: dict[str, _Held] = {}
        self._numbers = 0
        _bury(self._root)

    def add(self, message: Message) -> None:
        """A piece of a medium.

        Raises:
            LimitExceeded: there is no room for it.
        """
        held = self._held(str(message.header["medium"]))
        if message.kind is Kind.FRAMES:
            self._add_frames(held, message.table)
        elif message.kind is Kind.SOUND:
            self._add_sound(held, message.table)
        elif message.kind is Kind.SCORES:
            held.scores = [message.table]
        else:
            held.rows[str(message.header["analyzer"])] = message.table

    def medium(self, description: Header) -> Medium:
        """The medium, ready to be analysed; tables that came with it are given away.

        Raises:
            StorageConflict: the files that it was said to have are not there.
        """
        name = str(description["medium"])
        held = self._media.get(name) or _Held(self._folder)
        _close_frames(held)
        paths = description.get("paths") or [held.folder / f for f in (FRAMES_FILE, AUDIO_FILE, SIDE_FILE)]
        scores, rows, held.scores, held.rows = held.scores, held.rows, [], {}
        return Medium(
            media_id=name,
            kind=str(description["kind"]),
            frames=_reader(paths[0], description["frames"]),
            audio=_sound(paths[1], paths[2], description["audio_s"], description["channels"]),
            frame_scores=scores[0] if scores else None,
            duration_s=description["duration_s"],
            rows=rows,
        )

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            held = self._media.pop(name, None)
            if held is not None:
                _close_frames(held)
                self._bytes -= held.size
                shutil.rmtree(held.folder, ignore_errors=True)

    def close(self) -> None:
        """Nothing stays. May be called from any thread, when nothing else is of interest any more."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._root.rmdir()  # unless another worker has its folder there

    def _held(self, name: str) -> _Held:
        if name not in self._media:
            self._numbers += 1  # in place of the name: what it is called must not matter to the file system
            self._media[name] = _Held(self._folder / str(self._numbers))
        return self._media[name]

    def _add_frames(self, held: _Held, table: pa.Table) -> None:
        self._take(held, table.nbytes)
        if held.frames is None:
            held.frames_file = (held.folder / FRAMES_FILE).open("xb")
            held.frames = pa.ipc.new_file(held.frames_file, CACHED_FRAMES)
        for number in range(table.num_rows):  # one batch per frame, as in the cache
            held.frames.write_table(table.slice(number, 1))

    def _add_sound(self, held: _Held, table: pa.Table) -> None:
        self._take(held, table.nbytes)
        for is_side, data in zip(table["is_side"].to_pylist(), table["data"], strict=True):
            with (held.folder / (SIDE_FILE if is_side else AUDIO_FILE)).open("ab") as file:
                file.write(data.as_buffer())

    def _take(self, held: _Held, size: int) -> None:
        if self._bytes + size > self._max_bytes:
            raise LimitExceeded(f"media of more than {self._max_bytes:,} bytes were sent", "drop some first")
        self._bytes += size
        held.size += size
        if not held.folder.exists():
            self._root.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            held.folder.mkdir()


def _close_frames(held: _Held) -> None:
    if held.frames is not None and held.frames_file is not None:
        held.frames.close()
        held.frames_file.close()
        held.frames = held.frames_file = None


def _reader(path: str | Path | None, count: int | None) -> Iterable[Frame]:
    if count is None:
        return ()
    frames = FrameReader(Path(path)) if path is not None else ()
    if len(frames) != count:
        raise StorageConflict(f"{count} frames were to be there, not {len(frames)}", "it is sent or decoded again")
    return frames


def _sound(
    path: str | Path | None, side: str | Path | None, duration_s: float | None, channels: int | None
) -> AudioReader | None:
    if duration_s is None:
        return None
    files = [Path(file) for file in ((path, side) if channels == 2 else (path,)) if file is not None]
    if not files or len(files) != channels or not all(file.exists() for file in files):
        raise StorageConflict("the sound that was to be there is not", "it is sent or decoded again")
    return AudioReader(files[0], duration_s, files[1] if channels == 2 else None)


def _bury(root: Path) -> None:
    """Folders of workers that were killed. One on another host, of a folder they share, is not ours to judge."""
    for folder in root.glob("*:*:*:*"):
        if is_alive(folder.name) is False:
            shutil.rmtree(folder, ignore_errors=True)
