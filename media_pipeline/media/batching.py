"""Cutting a queue of media into the batches of one run each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from media_pipeline.config import Batching


class Sized(Protocol):
    """Anything whose original has a known size."""

    @property
    def bytes(self) -> int: ...


M = TypeVar("M", bound=Sized)


def batches(media: Iterable[M], limits: Batching) -> Iterator[list[M]]:
    """Consecutive batches within the limits of count and bytes; a medium larger than the limit gets its own.

    Duration is not known before decoding; bytes stand in for it.
    """
    batch: list[M] = []
    size = 0
    for medium in media:
        if batch and (len(batch) >= limits.max_media or size + medium.bytes > limits.max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(medium)
        size += medium.bytes
    if batch:
        yield batch
