"""Frames of an export as JPEG files, from the cache of decoded media."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from media_pipeline.errors import MediaPipelineError
from media_pipeline.execution.decoded import DecodedMedia
from media_pipeline.results.exports._library import Medium
from media_pipeline.results.exports._target import file_name, whole_file
from media_pipeline.storage.sources import Sources

_AT_ONCE = 16  # media that are decoded before the cache is brought under its limit again


class Frames:
    """Writes frames as `<folder>/<partition_key>/<frame_index>.jpg`.

    Media that the cache has let go are decoded again; those that cannot be are in `failed`, with the reason.
    """

    def __init__(self, folder: Path, decoded: DecodedMedia, sources: Sources) -> None:
        self.failed: list[tuple[str, str]] = []  # partition key, reason
        self._folder, self._decoded, self._sources = folder, decoded, sources

    def write(self, frames: Mapping[Medium, Collection[int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """Sizes of the files, (width, height), by media_id and frame_index."""
        sizes: dict[tuple[str, int], tuple[int, int]] = {}
        media = list(frames)
        for start in range(0, len(media), _AT_ONCE):
            some = media[start : start + _AT_ONCE]
            full = all(self._decoded.cached(medium.media_id) for medium in some)
            for medium, frame_index, size in self._some(some, frames):
                sizes[medium.media_id, frame_index] = size
            if not full:
                self._decoded.cache.evict()
        return sizes

    def _some(
        self, media: Sequence[Medium], frames: Mapping[Medium, Collection[int]]
    ) -> Iterator[tuple[Medium, int, tuple[int, int]]]:
        by_id = {medium.media_id: medium for medium in media}
        known = self._sources.by_id(list(by_id))
        self.failed += [
            (m.partition_key, "its original is not known any more") for m in media if m.media_id not in known
        ]
        for one, entry in self._decoded.entries(known.values()):
            medium = by_id[one.media_id]
            if isinstance(entry, MediaPipelineError):
                self.failed.append((medium.partition_key, str(entry)))
                continue
            wanted = set(frames[medium])
            folder = self._folder / file_name(medium.partition_key, medium.media_id)
            for frame in entry.frames:
                if frame.frame_index in wanted:
                    jpeg = frame.jpeg()
                    with whole_file(folder / f"{frame.frame_index}.jpg") as sink:
                        sink.write(jpeg)
                    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:  # reads the header only
                        yield medium, frame.frame_index, image.size
