"""What a medium is about: its key sentences, and, where a chat server is set, prose, chapters and tags.

Key sentences are words of the medium, chosen by the model of `text_embeddings`: those that most others are like, and
that are unlike each other. Nothing is invented, in any language that model knows; the embedded one was trained on
English and goes by shared words elsewhere. Cost: 5 ms of CPU per sentence, at most `_MOST_SENTENCES` per medium.

The chat server is off by default. With it the text of media leaves this process, and to another machine it goes only
if that is allowed by name. When the server fails the key sentences stay, and a row of kind "failure" says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import SecretStr

from media_pipeline.analyzers import text_embeddings
from media_pipeline.analyzers._markdown import escaped
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice
from media_pipeline.analyzers._summary_options import SummaryOptions, is_local
from media_pipeline.analyzers._summary_rank import centrality, choose_sentences, distinct
from media_pipeline.analyzers._summary_sentences import Sentence, sentences
from media_pipeline.analyzers._text_encoder import TextEncoder
from media_pipeline.errors import ModelUnavailable

if TYPE_CHECKING:
    from media_pipeline.analyzers._summary_endpoint import Writer

_MOST_SENTENCES = 400  # compared with each other; of longer media these are taken evenly
_SHARE = 0.2  # of the sentences of a short text

_S = {"unit": "s"}
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("kind", pa.string()),  # key_sentence, prose, chapter, tag; failure: why the chat server gave none of these
        ("row_index", pa.int32()),  # within the kind, from 0, in order of time
        ("text", pa.string()),
        pa.field("start_s", pa.float64(), metadata=_S),  # null: a picture, or the whole medium
        pa.field("end_s", pa.float64(), metadata=_S),
        # Of a key sentence: how many others are like it, and how much, the most central of the medium 1.
        pa.field("score", pa.float32(), metadata={"range": "[0, 1]"}),
        ("source", pa.string()),  # ocr, transcript, endpoint
        ("model", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Model:
    encoder: TextEncoder
    writer: Writer | None


def choose(options: SummaryOptions, store: ModelStore) -> ModelChoice:
    """The encoder of `text_embeddings`, and by name the chat server's model, where one is set.

    Raises:
        ModelUnavailable: there is no encoder, or the key of the chat server cannot be sent.
    """
    choice = text_embeddings.choose(text_embeddings.TextEmbeddingsOptions(model=options.model), store)
    choice = replace(choice, warning=None)  # it is about search, and `text_embeddings` says it
    if options.endpoint is None:
        return choice
    key = store.secret("summary_api_key")
    _check_key(key, options.endpoint)
    return replace(choice, name=f"{choice.name} + {options.endpoint_model}", secret=key)


def load(choice: ModelChoice, device: str, options: SummaryOptions) -> Model:
    """The encoder; the chat server is not asked before there is text for it.

    Raises:
        ModelUnavailable: the encoder cannot be used.
    """
    encoder = replace(choice, name=choice.name.removesuffix(f" + {options.endpoint_model}"), secret=None)
    encoding = text_embeddings.TextEmbeddingsOptions(model=options.model, threads=options.threads)
    writer = _writer(options, choice.secret) if options.endpoint else None
    return Model(text_embeddings.load(encoder, device, encoding), writer)


def run(model: Model, batch: Batch, options: SummaryOptions) -> pa.Table:
    """Key sentences in order of appearance, then what the chat server wrote."""
    return pa.Table.from_pylist([row for m in batch for row in _rows(model, m, options)], schema=SCHEMA)


def incomplete(rows: pa.Table) -> str | None:
    """Why one medium's rows are not all that was asked for: the chat server failed. None: nothing is missing."""
    for row in rows.select(["kind", "text"]).to_pylist():
        if row["kind"] == "failure":
            return f"no prose, chapters and tags: {row['text']}"
    return None


def _check_key(key: SecretStr | None, endpoint: str) -> None:
    if key is None:
        return
    if not (endpoint.startswith("https:") or is_local(endpoint)):
        raise ModelUnavailable(
            "the key of the summary endpoint would cross the network in the clear",
            "give the endpoint's https address, or unset MEDIA_PIPELINE_SUMMARY_API_KEY",
        )
    text = key.get_secret_value()
    # An HTTP library would print such a key in its error.
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ModelUnavailable("MEDIA_PIPELINE_SUMMARY_API_KEY has characters that no key has", "set it again")


def _writer(options: SummaryOptions, key: SecretStr | None) -> Writer:
    from media_pipeline.analyzers._summary_client import ChatClient  # httpx, only where there is somebody to ask
    from media_pipeline.analyzers._summary_endpoint import Writer, endpoint_of

    return Writer(ChatClient(endpoint_of(options, key)), options)


def _rows(model: Model, medium: Medium, options: SummaryOptions) -> Iterator[dict[str, Any]]:
    found = sentences(medium.rows.get("ocr"), medium.rows.get("transcript"))
    if len(found) < options.min_sentences:
        return
    has_time = medium.kind != "image"
    for row_index, (sentence, score) in enumerate(_key_sentences(model.encoder, found, options.max_sentences)):
        yield {
            "media_id": medium.media_id,
            "kind": "key_sentence",
            "row_index": row_index,
            "text": sentence.text,
            "start_s": sentence.start_s if has_time else None,
            "end_s": sentence.end_s if has_time else None,
            "score": score,
            "source": sentence.source,
            "model": model.encoder.fingerprint,
        }
    if model.writer is not None:
        for row in model.writer.rows(found, has_time=has_time):
            yield {"media_id": medium.media_id, **row}


def _key_sentences(
    encoder: TextEncoder, found: Sequence[Sentence], max_sentences: int
) -> Iterator[tuple[Sentence, float]]:
    if len(found) > _MOST_SENTENCES:
        found = [found[i] for i in np.linspace(0, len(found) - 1, _MOST_SENTENCES).astype(int)]
    texts = [sentence.text for sentence in found]
    vectors = encoder.encode(texts)
    kept = distinct(texts, vectors)
    central = centrality(vectors[kept])
    count = min(max_sentences, math.ceil(_SHARE * len(kept)))
    for place in choose_sentences(vectors[kept], central, count):
        yield found[kept[place]], float(central[place])


def preview(rows: pa.Table) -> str:
    """The prose where there is some, else the first key sentences."""
    found = rows.select(["kind", "text"]).to_pylist()
    prose = [row["text"] for row in found if row["kind"] == "prose"]
    texts = prose or [row["text"] for row in found if row["kind"] == "key_sentence"]
    lines = [escaped(text if len(text) <= 300 else f"{text[:299]}…") for text in texts[:3]]
    lines += [f"no answer: {escaped(row['text'])}" for row in found if row["kind"] == "failure"]
    return "  \n".join(lines) or "too little text"


ANALYZER = AnalyzerSpec(
    name="summary",
    version="2",
    needs=("ocr", "transcript"),
    schema=SCHEMA,
    options=SummaryOptions,
    choose=choose,
    load=load,
    run=run,
    description="What a medium is about: key sentences with times; prose, chapters and tags from a chat server if set.",
    preview=preview,
    incomplete=incomplete,
    compute_kind="onnx",
)
