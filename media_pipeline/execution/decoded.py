"""Decoded media for the stages: from the cache, or decoded again when the cache has let them go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from media_pipeline.config import Settings
from media_pipeline.errors import CorruptMedia, InputError, MediaPipelineError
from media_pipeline.media.cache import Cache, CacheEntry
from media_pipeline.media.decode import Decoded, DecodeJob, Decoder, decode_fingerprint
from media_pipeline.media.originals import locate
from media_pipeline.storage.sources import KnownMedium


class DecodedMedia:
    """Frames and sound of originals. One sandbox pool serves every stage of the process; `close()` ends it."""

    def __init__(self, cache: Cache, settings: Settings) -> None:
        self.cache = cache
        self.fingerprint = decode_fingerprint(settings.sampling)
        self._settings = settings
        self._decoder: Decoder | None = None

    def cached(self, media_id: str) -> CacheEntry | None:
        return self.cache.get(media_id, self.fingerprint)

    def decode(self, media: Iterable[KnownMedium]) -> Iterator[tuple[KnownMedium, Decoded]]:
        """Decode these originals, cached or not; each result as it completes."""
        by_id: dict[str, KnownMedium] = {}
        lost: list[tuple[KnownMedium, Decoded]] = []

        def jobs() -> Iterator[DecodeJob]:
            for known in media:
                try:
                    path = locate(known)
                except InputError as error:
                    lost.append((known, Decoded(known.media_id, None, error, 0.0, 0.0)))
                else:
                    by_id[known.media_id] = known
                    yield DecodeJob(known.media_id, path)

        for decoded in self._sandboxes().decode(jobs()):
            yield by_id[decoded.media_id], decoded
        yield from lost

    def entries(self, media: Iterable[KnownMedium]) -> Iterator[tuple[KnownMedium, CacheEntry | MediaPipelineError]]:
        """The cache entry of each medium, or why there is none. Those in the cache come first."""
        missing = []
        for known in media:
            entry = self.cached(known.media_id)
            if entry is None:
                missing.append(known)
            else:
                yield known, entry
        for known, decoded in self.decode(missing) if missing else ():
            entry = self.cached(known.media_id) if decoded.error is None else None
            yield known, entry or decoded.error or CorruptMedia("decoded, but nothing arrived in the cache")

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _sandboxes(self) -> Decoder:
        if self._decoder is None:
            s = self._settings
            self._decoder = Decoder(self.cache, s.decode, s.sampling, s.thread_count)
        return self._decoder
