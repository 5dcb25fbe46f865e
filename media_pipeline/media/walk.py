"""The files below a folder, as they can be trusted: links that leave it are named, nothing special is opened.

A watched folder is foreign ground. Whoever can write to it may plant links to files that this process can read and
they cannot, devices that never end, pipes that block, or swap one for the other between a check and its use. So a file
is opened folder by folder from the root, no link followed on the way, and what was opened is compared with what was
checked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat as mode
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from media_pipeline.errors import InputError, UnsafePath
from media_pipeline.storage.sightings import stamp
from media_pipeline.storage.sources import shown

# Written by browsers, download managers and desktops, and never meant as media.
_PARTIAL = (".part", ".partial", ".crdownload", ".download", ".filepart", ".opdownload", ".tmp", ".temp", "~")
_LITTER = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
_LITTER_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})

# The disk or server of a file does not answer, or this process has too much open: no fault of the file.
PASSING = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)

Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was met.

    Attributes:
        root: the folder that must not be left, without links
        path: where it was seen
        real: what is to be opened: `path`, or the file inside `root` that a link at `path` means
        stat: of `real`; None where it could not be asked
        refusal: why it must not be opened
        given: the user named it; of a link that is, that it may be followed out of `root`
    """

    root: str
    path: str
    real: str
    stat: os.stat_result | None
    refusal: InputError | None = None
    given: bool = False


def ignored(name: str, *, folder: bool = False) -> bool:
    """Hidden, half-downloaded and desktop litter: never looked at in folders, always tried when named."""
    if name.startswith((".", "~")):
        return True
    lower = name.lower()
    return lower in _LITTER_FOLDERS if folder else lower in _LITTER or lower.endswith(_PARTIAL)


def walk(root: str, *, after: str | None = None, skip: Collection[Identity] = ()) -> Iterator[Found]:
    """Every file below `root`, in the order of their names, folders in between.

    Links to folders are not entered: those inside are walked under their own name, once, and no circle can form.

    Args:
        root: a folder without links in its path
        after: goes on behind this path, where an earlier walk stopped
        skip: folders not to enter
    """
    start = Path(after).relative_to(root).parts if after else ()
    # A stack instead of recursion: folders may be nested deeper than Python's stack.
    stack = [_entries(root, root, start)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, Found):
            yield entry
        else:
            folder, behind = entry
            if _identity(folder) not in skip:
                stack.append(_entries(root, folder, behind))


def inspect_given(path: str) -> Found:
    """A file that was named: a link is followed wherever it leads, because the user said so.

    Raises:
        OSError, ValueError: no such path, or none at all
    """
    real = os.path.realpath(path, strict=True)
    seen = str(Path(os.path.realpath(Path(path).parent), Path(path).name))
    stat = os.lstat(real)
    return Found(str(Path(real).parent), seen, real, stat, _irregular(seen, stat), given=True)


def inspect(root: str, path: str) -> Found | None:
    """One path below `root`, or None when nothing is there (any more) or when it is a link to a folder inside."""
    try:
        stat = os.lstat(path)
        if not mode.S_ISLNK(stat.st_mode):
            return Found(root, path, path, stat, _irregular(path, stat))
        real = os.path.realpath(path, strict=True)
        if not _inside(real, root):
            return Found(root, path, path, stat, _leaves(path, root))
        stat = os.lstat(real)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Found(root, path, path, None, unreadable(path, error))
    return None if mode.S_ISDIR(stat.st_mode) else Found(root, path, real, stat, _irregular(path, stat))


def open_found(found: Found) -> int:
    """Open exactly the file that was checked, for reading.

    Raises:
        UnsafePath: a link or something that is not a file has taken the place of it or of a folder on the way
        InputError: it cannot be read
        FileNotFoundError: it has gone
        BlockingIOError: another file stands there now, or other content, or somebody holds it; look again
        OSError: one of `PASSING`; another try may succeed
    """
    folder = _open_root(found)
    try:
        *folders, name = Path(found.real).relative_to(found.root).parts
        for part in folders:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = deeper
        # NONBLOCK: a pipe put there a moment ago must not hang the open itself.
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except (FileNotFoundError, BlockingIOError):
        raise
    except OSError as error:
        raise _refusal_of(found, error) from None
    finally:
        os.close(folder)
    opened = os.fstat(handle)
    if not mode.S_ISREG(opened.st_mode):
        os.close(handle)
        raise _irregular(found.path, opened) or UnsafePath(f"{shown(found.path)!r} is not a file")
    if found.stat is None or stamp(opened) != stamp(found.stat):
        os.close(handle)
        raise BlockingIOError(found.path)
    return handle


def written_to(handle: int) -> bool:
    """Whether some process has the open file open for writing; False where the system does not tell.

    Linux grants a read lease only while nobody writes. File systems without leases, and files of other users, say
    nothing.
    """
    try:
        # Should a writer come while we hold it, SIGIO would end this process; SIGURG is ignored.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):
        return False
    fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def unreadable(path: str, error: OSError) -> InputError:
    passing = (
        "look after the disk or server it lies on, and analyze it again; a watched folder is looked at again by itself"
    )
    return InputError(
        f"{shown(path)!r} cannot be read: {error.strerror or error}",
        passing if error.errno in PASSING else "give this user read access to it and to its folders",
    )


def _entries(root: str, folder: str, after: tuple[str, ...]) -> Iterator[Found | tuple[str, tuple[str, ...]]]:
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        yield Found(root, folder, folder, None, unreadable(folder, error))
        return
    for entry in entries:
        on_the_way = bool(after) and entry.name == after[0]
        if after and entry.name < after[0]:
            continue
        if entry.is_dir(follow_symlinks=False):
            if not ignored(entry.name, folder=True):
                yield entry.path, after[1:] if on_the_way else ()
        elif not on_the_way and not ignored(entry.name) and (found := inspect(root, entry.path)):
            yield found


def _open_root(found: Found) -> int:
    try:
        return os.open(found.root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refusal_of(found, error) from None


def _irregular(path: str, stat: os.stat_result) -> UnsafePath | None:
    if mode.S_ISREG(stat.st_mode):
        return None
    kind = next((name for test, name in _KINDS if test(stat.st_mode)), "a special file")
    return UnsafePath(f"{shown(path)!r} is {kind}, not a file", "remove it from the folder")


_KINDS = (
    (mode.S_ISFIFO, "a pipe"),
    (mode.S_ISSOCK, "a socket"),
    (mode.S_ISCHR, "a device"),
    (mode.S_ISBLK, "a device"),
    (mode.S_ISDIR, "a folder"),
    (mode.S_ISLNK, "a link"),
)


def _leaves(path: str, root: str) -> UnsafePath:
    return UnsafePath(
        f"the link {shown(path)!r} leaves {shown(root)!r}", "name the file it means, or copy it into the folder"
    )


def _refusal_of(found: Found, error: OSError) -> InputError | OSError:
    if error.errno in PASSING:
        return error
    # Linux says ENOTDIR or ELOOP where a link has taken a folder's or a file's place, ENXIO where a socket has.
    if isinstance(error, NotADirectoryError) or error.errno in _SWAPPED:
        return UnsafePath(f"{shown(found.path)!r} was replaced while it was checked", "analyze it once more")
    return unreadable(found.path, error)


_SWAPPED = frozenset({errno.ELOOP, errno.ENXIO})


def _inside(real: str, root: str) -> bool:
    return Path(real).is_relative_to(root)


def _identity(folder: str) -> Identity | None:
    try:
        stat = os.lstat(folder)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
