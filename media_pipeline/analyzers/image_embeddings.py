"""What pictures show, as vectors in the space of a CLIP model: one per sampled frame.

They are the image index (`search --image`, text-to-image search) and what `labels` judges. No package carries CLIP
weights, so this analyzer has no embedded tier.

standard: ViT-B-32 trained on LAION-2B (Cherti et al. 2023), English captions; 512 numbers.
by option: ViT-B-16-SigLIP2 (Tschannen et al. 2025), German and other languages; 768 numbers.

CPU per frame of 1280 x 720, ViT-B-32, one thread: 149 ms alone, 84 ms in batches of 8, 8 ms of which reduce the
picture; 1 ms where nothing moved since the frame before. Loading takes 1.4 s, importing open_clip 6 to 10 s once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers._clip import MIN_SIDE_PX, Clip, load_clip
from media_pipeline.analyzers._clip_weights import choose_clip
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Image, ModelChoice, Options
from media_pipeline.analyzers._unchanged import new_pictures

SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        pa.field("pts_s", pa.float64(), metadata={"unit": "s"}),
        pa.field("model", pa.string(), metadata={"comment": "vectors of different models must not be compared"}),
        pa.field("embedding", pa.list_(pa.float32()), metadata={"unit": "L2-normalised"}),
    ]
)


class ImageEmbeddingsOptions(Options):
    """Options of `image_embeddings`."""

    clip_model: str | None = Field(None, description="this model instead of MEDIA_PIPELINE_CLIP_MODEL")
    reuse_unchanged_frames: bool = Field(True, description="repeat the vector of the frame before if nothing moved")
    # Neither is part of the fingerprint: they change the time, and the vectors by less than rounding. A GPU gets more
    # frames at a time where its memory has room.
    batch: int = Field(8, ge=1, exclude=True, description="frames per call of the model")
    threads: int = Field(1, ge=1, exclude=True, description="threads of one call; media run in parallel anyway")


def choose(options: ImageEmbeddingsOptions, store: ModelStore) -> ModelChoice:
    return choose_clip(options.clip_model, store)


def load(choice: ModelChoice, device: str, options: ImageEmbeddingsOptions) -> Clip:
    return load_clip(choice, device, options.threads)


def run(model: Clip, batch: Batch, options: ImageEmbeddingsOptions) -> pa.Table:
    """One row per frame; frames below 16 pixels have none. The pictures of all media go through the model together."""
    places: list[_Place] = []
    vectors = model.encode_images(_new_pictures(batch, options, places), options.batch)
    which = np.array([place.vector for place in places], np.int64)
    columns: list[Any] = [
        [place.media_id for place in places],
        [place.frame_index for place in places],
        [place.pts_s for place in places],
        [model.fingerprint] * len(places),
        pa.array(list(vectors[which]), pa.list_(pa.float32())),
    ]
    return pa.table(columns, schema=SCHEMA)


class _Place(NamedTuple):
    """A frame, and which of the vectors is its."""

    media_id: str
    frame_index: int
    pts_s: float
    vector: int


def _new_pictures(batch: Batch, options: ImageEmbeddingsOptions, places: list[_Place]) -> Iterator[Image]:
    """The pictures that must be looked at; what frame has which of them is noted in ``places``."""
    number = -1
    for medium in batch:
        is_large = False
        for frame, image in new_pictures(medium.frames, options.reuse_unchanged_frames):
            if image is not None:
                is_large = min(image.shape[:2]) >= MIN_SIDE_PX
                number += is_large
            if is_large:
                places.append(_Place(medium.media_id, frame.frame_index, frame.pts_s, number))
                if image is not None:
                    yield image


def preview(table: pa.Table) -> str:
    return f"{table.num_rows} frame{'s' * (table.num_rows != 1)}"


ANALYZER = AnalyzerSpec(
    name="image_embeddings",
    version="1",
    needs=("frames",),
    schema=SCHEMA,
    options=ImageEmbeddingsOptions,
    choose=choose,
    load=load,
    run=run,
    description="What pictures and video frames show, as vectors: for search by picture and by description.",
    kinds=frozenset({"image", "video"}),
    preview=preview,
    compute_kind="torch",
    uses_gpu=lambda _choice: True,
    gpu_batch_media=32,  # most media are single pictures
)
