"""A recording or picture of one known person, as a vector: for enrolment by name."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._registry import registry
from media_pipeline.analyzers._spec import AnalyzerSpec, Medium
from media_pipeline.config import Settings
from media_pipeline.errors import InputError, UsageError
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.stages import options_for
from media_pipeline.media.cache import Cache, CacheEntry
from media_pipeline.media.decode import DecodeJob, Decoder, decode_fingerprint
from media_pipeline.results._identity_kinds import PERSONS, Kind, Track, tracks_of

_MAIN_SHARE = 0.8  # of what is said, by the one speaker of a sample


@dataclass(frozen=True, slots=True)
class SampleTrack:
    """One person out of a sample."""

    source: str  # file name
    model: str
    vector: npt.NDArray[np.float32]  # shape (dimension,), L2-normalised


def embed_sample(kind: Kind, path: Path, settings: Settings, models: ModelStore) -> SampleTrack:
    """The one person of a file, decoded in a sandbox and seen by the analyzer of this kind; nothing of it is kept.

    Raises:
        UsageError: nobody, or more than one person, is to be seen or heard in it.
        InputError: it cannot be decoded.
        ModelUnavailable: the analyzer has no model here, with the remedy.
    """
    track = _only_one(kind, read_sample(kind, path, settings, models), path)
    name = path.name.encode(errors="replace").decode()  # it is stored, and may hold bytes that are no UTF-8
    return SampleTrack(name, track.model, track.vector)


def read_sample(kind: Kind, path: Path, settings: Settings, models: ModelStore) -> pa.Table:
    """Everybody in a file: rows of `kind.source`. Decoded in a sandbox; nothing of it is kept.

    Raises:
        UsageError: there is no such file.
        InputError: it cannot be decoded.
        ModelUnavailable: the analyzer has no model here, with the remedy.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file", "name a recording or a picture")
    spec = registry()[kind.source]
    options = options_for(spec, settings)
    choice = spec.choose(options, models)
    with tempfile.TemporaryDirectory(prefix="media-pipeline-sample-") as folder:
        entry = _decoded(path, Path(folder), settings)
        executor = InProcessExecutor(1)
        result = next(executor.run(spec, choice, options, [_medium(spec, entry)]))
    if result.error is not None:
        raise result.error
    return result.rows if result.rows is not None else spec.schema.empty_table()


def _decoded(path: Path, folder: Path, settings: Settings) -> CacheEntry:
    media_id = hashlib.sha256(os.fsencode(path)).hexdigest()
    cache = Cache(folder, settings.cache_max_bytes)
    with closing(Decoder(cache, settings.decode, settings.sampling, workers=1)) as decoder:
        decoded = next(decoder.decode([DecodeJob(media_id, path)]))
    if decoded.error is not None:
        raise decoded.error
    entry = cache.get(media_id, decode_fingerprint(settings.sampling))
    if entry is None:
        raise InputError(f"{path.name} was decoded, but nothing arrived in the cache", "try again")
    return entry


def _medium(spec: AnalyzerSpec, entry: CacheEntry) -> Medium:
    return Medium(
        media_id=entry.media_id,
        kind=entry.facts.kind,
        frames=entry.frames if "frames" in spec.needs else (),
        audio=entry.audio if "audio" in spec.needs else None,
        frame_scores=entry.frame_scores if "frames" in spec.needs else None,
        duration_s=entry.facts.duration_s,
    )


def _only_one(kind: Kind, rows: pa.Table, path: Path) -> Track:
    """The one person of a sample: the only face, or the voice that says nearly everything."""
    tracks = tracks_of(rows, kind)
    what = "face" if kind is PERSONS else "voice"
    if not tracks:
        raise UsageError(
            f"no {what} that could be known again is in {path.name}",
            "take a picture with one large, sharp face" if kind is PERSONS else "take ten seconds of clear speech",
        )
    if kind is PERSONS:
        everybody = set(rows[kind.track].to_pylist())
        if len(everybody) > 1:
            raise UsageError(f"{path.name} shows {len(everybody)} faces", "cut out the one that is meant")
        return tracks[0]
    said: dict[str, float] = {}
    starts, ends = (rows[name].to_pylist() for name in kind.span)
    for speaker, start, end in zip(rows[kind.track].to_pylist(), starts, ends, strict=True):
        said[speaker] = said.get(speaker, 0.0) + end - start
    main = max(tracks, key=lambda track: said[str(track.key)])
    if said[str(main.key)] < _MAIN_SHARE * sum(said.values()):
        raise UsageError(f"{len(said)} people speak in {path.name}", "cut out a part in which only one speaks")
    return main
