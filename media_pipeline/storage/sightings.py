"""What is remembered of a path, and which of it may be forgotten."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

State = Literal["taken", "waiting", "refused"]

# Why an erasure and retention refuse the files they leave where they are. Only these refusals were wanted by somebody:
# all others are found out again by whoever looks at the file again.
ERASED = "erased; the file was left where it is"
REMOVED = "removed by retention on "
LEFT_ALONE = f"state = 'refused' AND (reason = '{ERASED}' OR reason GLOB '{REMOVED}*')"  # SQL on `files`


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is remembered of a path."""

    stamp: str
    state: State
    media_id: str | None
    reason: str | None
    since: float  # when this stamp was seen first, in seconds since 1970

    def leaves_alone(self, stat: os.stat_result | None) -> bool:
        """Whether an erasure or retention left this content there, to be taken again by name only; None is any content.

        Nothing else of an erased content may be kept than where it lies, its size and its time, so it is told by them.
        What more there is in a stamp changes without the content: mounting a disk again gives it another number.
        """
        wanted = self.reason is not None and (self.reason == ERASED or self.reason.startswith(REMOVED))
        return wanted and (stat is None or self.stamp.startswith(_content(stat)))


def stamp(stat: os.stat_result) -> str:
    """What changes when a file's content changes.

    The change time is part of it: it catches content written under a restored modification time, and permissions
    that were mended. The price is one more hashing after a `chmod`.
    """
    return f"{_content(stat)}{stat.st_ctime_ns}.{stat.st_ino}.{stat.st_dev}"


def removed(files: Iterable[tuple[bytes, str]], folders: Collection[str]) -> Iterator[bytes]:
    """Those of these files that were removed, as opposed to their disk not being mounted just now.

    Only a folder on the disk that a file was on, and one that holds something, can say that it is not there any more:
    an empty one may be the place where the disk is mounted.

    Args:
        files: path and stamp
        folders: those that were looked through, without links; of others nothing is known
    """

    @cache
    def can_tell(folder: bytes, disk: str) -> bool:
        place = Path(os.fsdecode(folder))
        looked = (at for at in (place, *place.parents) if any(at.is_relative_to(top) for top in folders))
        with suppress(OSError):
            nearest = next((at for at in looked if at.is_dir()), None)
            return nearest is not None and str(nearest.stat().st_dev) == disk and any(nearest.iterdir())
        return False

    for path, last in files:
        if can_tell(os.path.dirname(path), last.rpartition(".")[2]) and _is_missing(path):  # noqa: PTH120 - bytes
            yield path


def file_row(
    path: str | Path,
    stat: os.stat_result | None,
    state: State,
    now_us: int,
    *,
    media_id: str | None = None,
    reason: str | None = None,
) -> dict[str, object]:
    """The values of `UPSERT_FILE`."""
    return {
        "path": os.fsencode(path),
        "stamp": stamp(stat) if stat else "",
        "bytes": stat.st_size if stat else 0,
        "modified_at": stat.st_mtime_ns // 1000 if stat else 0,
        "state": state,
        "media_id": media_id,
        "reason": reason,
        "now": now_us,
    }


def _content(stat: os.stat_result) -> str:
    return f"{stat.st_size}.{stat.st_mtime_ns}."


def _is_missing(path: bytes) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False
