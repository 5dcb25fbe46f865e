"""Cutting a queue of media into the batches of one run each."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from media_pipeline.config import Batching

# Bytes per second, for a guess at the length of what was never decoded: 128 kbit/s of sound, 2 Mbit/s of video.
_TYPICAL_RATE = {"audio": 16_000, "video": 250_000}


class Queued(Protocol):
    """What a batch needs to know of a medium."""

    @property
    def media_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def bytes(self) -> int: ...


M = TypeVar("M", bound=Queued)


def batches(
    media: Iterable[M], limits: Batching, durations_s: Mapping[str, float | None] | None = None
) -> Iterator[list[M]]:
    """Consecutive batches within the limits of count, bytes and duration; a medium beyond a limit gets its own.

    Args:
        durations_s: of media decoded before, by media_id. The others' is guessed from name and size: a wrong name
            makes a batch longer or shorter, nothing else.
    """
    batch: list[M] = []
    size, length = 0, 0.0
    for medium in media:
        seconds = (durations_s or {}).get(medium.media_id) or _guessed_seconds(medium)
        full = len(batch) >= limits.max_media or size + medium.bytes > limits.max_bytes
        if batch and (full or length + seconds > limits.max_duration_s):
            yield batch
            batch, size, length = [], 0, 0.0
        batch.append(medium)
        size, length = size + medium.bytes, length + seconds
    if batch:
        yield batch


def _guessed_seconds(medium: Queued) -> float:
    kind = (mimetypes.guess_type(medium.name)[0] or "").partition("/")[0]
    rate = _TYPICAL_RATE.get(kind)
    return medium.bytes / rate if rate else 0.0
