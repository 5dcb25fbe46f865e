"""The inbox as uploads see it: names that may be taken, parts that are still coming, files that appear when complete.

Parts lie in the hidden folder `.upload` of the inbox: on its file system, so that the last step is a rename, and where
the watcher of the inbox never looks (media_pipeline/media/walk.py: nothing hidden is taken).
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import re
import secrets
import shutil
import stat as mode
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path

from .refusal import Refused
from .room import Room

PARTS = ".upload"
_ID = re.compile(r"[A-Za-z0-9_-]{22}")
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 1024
_MAX_DEPTH = 32
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class Part:
    """An upload that has begun.

    Attributes:
        id: of 128 random bits
        path: below the inbox, where the file will be
        length: bytes it will have
        who: has begun it, and alone may go on
        expires: seconds since 1970
        done: the file is there, at `path`; only kept for whoever has not heard the answer
    """

    id: str
    path: str
    length: int
    who: str
    expires: float
    done: bool = False


class Inbox:
    """Args:
    root: the inbox
    min_free_bytes: of its disk, which uploads leave
    max_file_bytes: of one file
    keep_s: how long a part waits for the next byte

    Attributes:
        room: of its disk, for uploads
    """

    def __init__(self, root: Path, *, min_free_bytes: int, max_file_bytes: int, keep_s: float = 7 * 86400.0) -> None:
        self.root = root
        self.max_file_bytes = max_file_bytes
        self.room = Room(root, min_free_bytes)
        self._keep_s = keep_s
        self._parts = root / PARTS

    def prepare(self) -> None:
        """Uploads that had begun when the service ended keep what was promised to them.

        Raises:
            OSError: the inbox cannot be written to
        """
        self._parts.mkdir(mode=0o700, exist_ok=True)
        for part in self._begun():
            self.room.restore(self.bytes_file(part), part.length)

    # -- names -------------------------------------------------------------------------------------------------------

    def place(self, path: str) -> Path:
        """Where a path below the inbox is, after everything that could lead elsewhere was refused."""
        names = path.strip("/").split("/")
        if len(path.encode(errors="surrogatepass")) > _MAX_PATH_BYTES or len(names) > _MAX_DEPTH:
            raise Refused(HTTPStatus.BAD_REQUEST, "The path is too long.")
        for name in names:
            _check_name(name)
        place = self.root.joinpath(*names)
        # A link that somebody has put into the inbox is not followed to write elsewhere.
        known = place
        while not os.path.lexists(known):
            known = known.parent
        if known.resolve() != self.root.resolve() / known.relative_to(self.root):
            raise Refused(HTTPStatus.FORBIDDEN, "A link stands in the way.")
        return place

    # -- parts -------------------------------------------------------------------------------------------------------

    def begin(self, path: str, length: int, who: str) -> Part:
        self.place(path)
        self._check_length(length)
        part = Part(secrets.token_urlsafe(16), path.strip("/"), length, who, time.time() + self._keep_s)
        try:
            self.bytes_file(part).touch(mode=0o644)
            self.room.promise(self.bytes_file(part), length)
            self._write(part)
        except BaseException:
            self._remove_bytes(self.bytes_file(part))
            raise
        return part

    def find(self, identity: str, who: str) -> Part:
        try:
            if not _ID.fullmatch(identity):
                raise FileNotFoundError
            part = Part(**json.loads((self._parts / f"{identity}.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such upload; it may have expired. Begin anew.") from None
        if part.who != who or part.expires < time.time():
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such upload; it may have expired. Begin anew.")
        return part

    def bytes_file(self, part: Part) -> Path:
        return self._parts / f"{part.id}.part"

    def offset(self, part: Part) -> int:
        """Bytes that have arrived."""
        if part.done:
            return part.length
        try:
            return self.bytes_file(part).stat().st_size
        except FileNotFoundError:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such upload; it may have expired. Begin anew.") from None

    def touch(self, part: Part) -> Part:
        """Something has arrived: it waits for its time again."""
        part = replace(part, expires=time.time() + self._keep_s)
        self._write(part)
        return part

    def drop(self, part: Part) -> None:
        (self._parts / f"{part.id}.json").unlink(missing_ok=True)
        self._remove_bytes(self.bytes_file(part))

    def finish(self, part: Part) -> str:
        """The complete file appears; where, below the inbox. What is there already under its name is not touched."""
        if part.done:
            return part.path
        place = str(self._publish(self.bytes_file(part), self.place(part.path)).relative_to(self.root))
        self._write(replace(part, path=place, done=True))
        self._remove_bytes(self.bytes_file(part))
        return place

    def expire(self) -> int:
        """Removes what has waited too long, and what a crash has left; how many."""
        gone = 0
        for file in self._parts.iterdir():
            try:
                if file.suffix == ".json":
                    part = Part(**json.loads(file.read_text(encoding="utf-8")))
                    if part.expires >= time.time():
                        continue
                elif file.with_suffix(".json").exists() or time.time() - file.stat().st_mtime < self._keep_s:
                    continue
                file.unlink()
                self._remove_bytes(file.with_suffix(".part"))
                gone += 1
            except FileNotFoundError:
                continue
            except (ValueError, TypeError):
                file.unlink(missing_ok=True)
        return gone

    def _remove_bytes(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        self.room.forget(file)

    def _check_length(self, length: int) -> None:
        if length > self.max_file_bytes:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The file has {length} bytes, and {self.max_file_bytes} are the limit "
                "(MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES).",
            )

    def _begun(self) -> Iterator[Part]:
        """Reads a note of each upload of the last days: at the start only."""
        for file in self._parts.glob("*.json"):
            try:
                part = Part(**json.loads(file.read_text(encoding="utf-8")))
                if not part.done:
                    yield part
            except (OSError, ValueError, TypeError):
                continue

    def _write(self, part: Part) -> None:
        temporary = self._parts / f"{part.id}.new"
        temporary.write_text(json.dumps(asdict(part)), encoding="utf-8")
        temporary.replace(self._parts / f"{part.id}.json")

    # -- what WebDAV does --------------------------------------------------------------------------------------------

    def scratch(self) -> Path:
        """A file for an upload that is sent in one piece; without an entry it goes when it is old."""
        path = self._parts / f"{secrets.token_urlsafe(16)}.part"
        path.touch(mode=0o644)
        return path

    @contextmanager
    def arriving(self, length: int) -> Iterator[Path]:
        """Such a file, with room for so many bytes; removed at the end, unless it has taken its place."""
        self._check_length(length)
        scratch = self.scratch()
        try:
            self.room.promise(scratch, length)
            yield scratch
        finally:
            self._remove_bytes(scratch)

    def replace(self, complete: Path, path: str) -> bool:
        """A complete file takes its place; True where there was none. Whoever has PUT means to replace."""
        place = self.place(path)
        if place.is_dir():
            raise Refused(HTTPStatus.CONFLICT, "There is a folder of that name.")
        if not place.parent.is_dir():
            # WebDAV demands 409; everybody else is glad of the folder.
            self._make_folder(place.parent)
        new = not place.exists()
        complete.replace(place)
        _sync(place.parent)
        return new

    def make_folder(self, path: str) -> None:
        place = self.place(path)
        if os.path.lexists(place):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "There is something of that name already.")
        if not place.parent.is_dir():
            raise Refused(HTTPStatus.CONFLICT, "The folder above is not there.")
        place.mkdir()

    def remove(self, path: str) -> None:
        """From the inbox; what was taken from it into the library stays there."""
        place = self._existing(path)
        if place.is_dir():
            # rmtree follows no links.
            shutil.rmtree(place)
        else:
            place.unlink()

    def open(self, path: str) -> tuple[int, os.stat_result]:
        """A file of the inbox, for reading."""
        try:
            handle = os.open(self.place(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing of that name.") from None
        stat = os.fstat(handle)
        if not mode.S_ISREG(stat.st_mode):
            os.close(handle)
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "That is a folder; a WebDAV client lists it.")
        return handle, stat

    def copy(self, path: str, destination: str, *, overwrite: bool) -> bool:
        """A file only; True where there was nothing at the destination."""
        target = self.place(destination)
        if target.exists() and not overwrite:
            raise Refused(HTTPStatus.PRECONDITION_FAILED, "There is something of that name already.")
        handle, stat = self.open(path)
        with os.fdopen(handle, "rb") as source, self.arriving(stat.st_size) as scratch:
            with scratch.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
                sink.flush()
                os.fsync(sink.fileno())
            return self.replace(scratch, destination)

    def move(self, path: str, destination: str, *, overwrite: bool) -> bool:
        """True where there was nothing at the destination."""
        source, target = self._existing(path), self.place(destination)
        if source == target or target.is_relative_to(source):
            raise Refused(HTTPStatus.FORBIDDEN, "A folder cannot be moved into itself.")
        if not target.parent.is_dir():
            raise Refused(HTTPStatus.CONFLICT, "The folder above is not there.")
        new = not os.path.lexists(target)
        if not new and not overwrite:
            raise Refused(HTTPStatus.PRECONDITION_FAILED, "There is something of that name already.")
        if not new and (target.is_dir() or source.is_dir()):
            # Never a whole folder at one stroke.
            raise Refused(HTTPStatus.CONFLICT, "There is something of that name already.")
        source.rename(target)
        return new

    def _existing(self, path: str) -> Path:
        place = self.place(path)
        if not os.path.lexists(place):
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing of that name.")
        return place

    # -- the last step -----------------------------------------------------------------------------------------------

    def _publish(self, complete: Path, wanted: Path) -> Path:
        self._make_folder(wanted.parent)
        for number in range(1, 10_000):
            place = wanted if number == 1 else wanted.with_name(_numbered(wanted.name, number))
            if _rename_if_free(complete, place):
                _sync(place.parent)
                return place
            if place.is_file() and not place.is_symlink() and filecmp.cmp(complete, place, shallow=False):
                # The same file, sent again after the answer to the first time was lost.
                return place
        raise Refused(HTTPStatus.CONFLICT, "There are too many files of that name.")

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise Refused(HTTPStatus.CONFLICT, "A file stands where a folder is needed.") from None


def _check_name(name: str) -> None:
    if name.startswith((".", "~")) or not name.strip():
        raise Refused(HTTPStatus.FORBIDDEN, "Hidden and empty names are not taken.")
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise Refused(HTTPStatus.BAD_REQUEST, "The name is not UTF-8.") from None
    if _CONTROL.search(name) or len(encoded) > _MAX_NAME_BYTES:
        raise Refused(HTTPStatus.BAD_REQUEST, "The name has characters that are not taken, or is too long.")


def _numbered(name: str, number: int) -> str:
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        return f"{name} ({number})"
    return f"{stem} ({number}){dot}{suffix}"


def _rename_if_free(source: Path, target: Path) -> bool:
    """A rename that never replaces: link and unlink; where the file system has no links, a look before."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(target):
            return False
        source.rename(target)
        return True
    source.unlink()
    return True


def _sync(folder: Path) -> None:
    """The name, too, survives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
