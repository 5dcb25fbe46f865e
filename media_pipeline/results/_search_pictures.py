"""Frames by what they show: near to a description, to a picture, or to another frame (CLIP), or the same picture."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.analyzers import image_embeddings
from media_pipeline.analyzers._clip import Clip, load_clip
from media_pipeline.analyzers._clip_weights import STANDARD, clip_fingerprint, clip_on_disk
from media_pipeline.analyzers._label_prompts import against_background
from media_pipeline.analyzers._label_sets import shared_background
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import Image, ModelChoice
from media_pipeline.analyzers.image_embeddings import ImageEmbeddingsOptions
from media_pipeline.config import Settings
from media_pipeline.errors import UsageError
from media_pipeline.execution.stages import options_for
from media_pipeline.media.cache import Cache
from media_pipeline.media.decode import DecodeJob, Decoder, decode_fingerprint
from media_pipeline.results._identity_known import blocks
from media_pipeline.results._search_indexes import (
    Look,
    Near,
    Reading,
    dimension_in,
    discard_index,
    index_of,
    nearest,
    nothing,
)
from media_pipeline.results._search_kept import kept_vectors
from media_pipeline.storage import hashes
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Neighbour, Space, VectorIndex, models_in

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

TABLE = image_embeddings.ANALYZER.name
# Probability, by the formula of `_label_prompts.py`, that a description fits a frame better than everyday captions do.
# Below one half, because some everyday caption may say nearly the same as the query.
DESCRIBES = 0.2
_COLUMNS = ("media_id", "frame_index", "pts_s")


class Pictures:
    """The frames' vectors, in the space of a model that is here, else of the one that made most of them."""

    def __init__(self, tables: Tables, layout: Layout, settings: Settings, models: ModelStore) -> None:
        self._tables, self._layout, self._models, self._limits = tables, layout, models, settings.index
        options = options_for(image_embeddings.ANALYZER, settings)
        assert isinstance(options, ImageEmbeddingsOptions)
        self._options = options
        present = models_in(tables, TABLE)
        here = {clip_fingerprint(c): c for c in clip_on_disk(options.clip_model, models)} if present else {}
        self._space = max(present, key=lambda name: (name in here, present[name]), default=None)
        self._choice = here.get(self._space) if self._space else None
        self._left_out = present.total() - present[self._space] if self._space else 0

    @property
    def can_encode(self) -> bool:
        """Whether there are vectors and the model that made them."""
        return self._choice is not None

    def why_not(self) -> str:
        """What is missing, and how to mend it."""
        if self._space is not None:
            remedy = self._models.remedy(self._space.partition("@")[0])
            return f"the frames' vectors are of {self._space}, which is not here; {remedy}"
        if clip_on_disk(self._options.clip_model, self._models):
            return "no frame has a vector yet; analyse the media again: `media-pipeline analyze PATH`"
        wanted = self._options.clip_model or STANDARD
        return f"no frame has a vector yet; {self._models.remedy(wanted)} and analyse the media again"

    def refresh(self) -> None:
        """Brings the index up to date with the table."""
        index = self._index()
        if index is not None:
            index.refresh()
        else:  # or erased vectors would live on in the index
            discard_index(self._tables, self._layout, "image", TABLE)

    def answers(self, query: str) -> Reading:
        """Frames that a text describes better than everyday captions do, nearest first; loads the model."""
        index = self._index()
        if index is None or not query.strip():
            return nothing
        if self._choice is None:
            log.warning("frames are not searched by what they show: %s", self.why_not())
            return nothing
        model = _loaded(self._choice, self._options.threads)
        vector = model.encode_texts([query])

        def described(look: Look) -> Near:
            near = nearest(index, vector, look, (*_COLUMNS, "embedding"))
            return Near(self._fitting(model, vector[0], near.hits), near.is_cut)

        return described

    def _fitting(self, model: Clip, vector: Vectors, near: list[Neighbour]) -> list[Neighbour]:
        """Those of these frames, with their embeddings, that a text describes."""
        if not near:
            return []
        assert self._choice is not None
        captions = shared_background().texts(multilingual=model.multilingual)
        background = kept_vectors(self._models, clip_fingerprint(self._choice), captions, model.encode_texts)
        frames = np.array([hit.row["embedding"] for hit in near], np.float32)
        fits = against_background((frames @ vector)[:, None], frames @ background.T, model.logit_scale)[:, 0]
        return [hit for hit, fit in zip(near, fits.tolist(), strict=True) if fit >= DESCRIBES]

    def neighbours(self, vectors: Vectors) -> Reading:
        """Frames near to any of these vectors of the same model, nearest first."""
        index = self._index()
        if index is None:
            return nothing
        self._say_what_is_left_out()
        return lambda look: nearest(index, vectors, look, _COLUMNS)

    def encode(self, image: Image) -> Vectors:
        """Shape (1, dimension). Only where `can_encode`."""
        assert self._choice is not None
        return _loaded(self._choice, self._options.threads).encode_images([image])

    def of_medium(self, media_id: str) -> Vectors:
        """The vectors of one medium, shape (n, dimension), in the order of its frames."""
        if self._space is None:
            return np.zeros((0, 0), np.float32)
        rows = self._tables.read(TABLE, [media_id], ["frame_index", "model", "embedding"]).sort_by("frame_index")
        ours = rows.filter(pc.equal(rows["model"], self._space))
        return np.array(ours["embedding"].to_pylist(), np.float32).reshape(ours.num_rows, -1)

    def _index(self) -> VectorIndex | None:
        if self._space is None:
            return None
        try:
            dimension = dimension_in(self._tables, TABLE, self._space)
        except LookupError:
            return None
        return index_of(self._tables, self._layout, Space("image", TABLE, self._space, dimension), self._limits)

    def _say_what_is_left_out(self) -> None:
        if self._left_out:
            log.warning(
                "%d frames are left out: their vectors are of another model than %s; analysing again makes new ones",
                self._left_out,
                self._space,
            )


def read_picture(path: Path, settings: Settings) -> tuple[Image, str | None]:
    """A foreign picture, RGB and upright, and its perceptual hash; decoded in a sandbox, nothing is kept.

    Raises:
        MediaPipelineError: it cannot be read, or is no picture.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "give a picture")
    name = hashlib.sha256(os.fsencode(path)).hexdigest()
    with tempfile.TemporaryDirectory(prefix="media-pipeline-") as folder:
        cache = Cache(Path(folder), settings.cache_max_bytes)
        with Decoder(cache, settings.decode, settings.sampling, 1) as decoder:
            (decoded,) = decoder.decode([DecodeJob(name, path)])
        entry = cache.get(name, decode_fingerprint(settings.sampling))
        if decoded.error is not None:
            raise decoded.error
        if entry is None or entry.facts.kind != "image" or not len(entry.frames):
            kind = entry.facts.kind if entry else "nothing"
            raise UsageError(f"{path} is no picture but {kind}", "give a picture, e.g. a frame of the video")
        return entry.frames[0].image(), entry.facts.phash


def same_pictures(
    tables: Tables, phash: str | None, max_distance: int, within: Collection[str] | None = None
) -> list[Neighbour]:
    """Frames whose 64-bit perceptual hash differs in at most so many bits, nearest first; score 1 - share of bits."""
    if phash is None:
        return []
    wanted = np.array([int(phash, 16)], np.uint64)
    hits: list[Neighbour] = []
    for block in blocks(tables, "frames", [*_COLUMNS, "phash"]):
        rows = block.filter(pc.is_valid(block["phash"]))
        digests = np.frombuffer(bytes.fromhex("".join(rows["phash"].to_pylist())), ">u8").astype(np.uint64)
        _, found = hashes.within(wanted, digests, max_distance)
        distances = np.bitwise_count(digests[found] ^ wanted[0]).tolist()
        near = rows.select(_COLUMNS).take(pa.array(found, pa.int64())).to_pylist()
        hits += [Neighbour(1 - distance / 64, row) for distance, row in zip(distances, near, strict=True)]
    if within is not None:
        hits = [hit for hit in hits if hit.row["media_id"] in within]
    return sorted(hits, key=lambda hit: -hit.score)


@lru_cache(maxsize=1)
def _loaded(choice: ModelChoice, threads: int) -> Clip:
    return load_clip(choice, "cpu", threads)
