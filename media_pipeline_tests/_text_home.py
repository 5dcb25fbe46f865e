"""A home with text in it, made without media: rows as the analyzers would have written them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers._text_encoder import TextEncoder
from media_pipeline.analyzers.text_embeddings import ANALYZER, TextEmbeddingsOptions, choose, load
from media_pipeline.config import Settings
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.schemas import MEDIA
from media_pipeline.storage.tables import Tables

OCR = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        ("pts_s", pa.float64()),
        ("line_index", pa.int32()),
        ("text", pa.string()),
    ]
)
TRANSCRIPT = pa.schema(
    [
        ("media_id", pa.string()),
        ("segment_index", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("speaker", pa.string()),
    ]
)
Array = npt.NDArray[np.float32]
Frames = Sequence[tuple[float, Sequence[str]]]  # (pts_s, lines)
Segments = Sequence[tuple[float, float, str]]  # (start_s, end_s, text)


def media_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def ocr_rows(name: str, frames: Frames) -> pa.Table:
    rows = [
        {"media_id": media_id(name), "frame_index": number, "pts_s": pts_s, "line_index": line, "text": text}
        for number, (pts_s, lines) in enumerate(frames)
        for line, text in enumerate(lines)
    ]
    return pa.Table.from_pylist(rows, schema=OCR)


def transcript_rows(name: str, segments: Segments) -> pa.Table:
    rows = [
        {"media_id": media_id(name), "segment_index": number, "start_s": start_s, "end_s": end_s, "text": text}
        for number, (start_s, end_s, text) in enumerate(segments)
    ]
    return pa.Table.from_pylist(rows, schema=TRANSCRIPT)


@cache
def encoder() -> TextEncoder:
    """The embedded model, loaded once for all tests."""
    options, store = (
        TextEmbeddingsOptions(),
        ModelStore(Path("/nonexistent"), offline=True, hub_url="", tier="embedded"),
    )
    loaded: TextEncoder = load(choose(options, store), "cpu", options)
    return loaded


@dataclass(frozen=True)
class TextHome:
    settings: Settings
    layout: Layout
    tables: Tables
    models: ModelStore

    def add(
        self,
        ocr: Mapping[str, Frames] | None = None,
        transcript: Mapping[str, Segments] | None = None,
        *,
        embed: bool = True,
        kind: str = "video",
    ) -> None:
        """Replaces everything known of the media named."""
        names = [*(ocr or {}), *(transcript or {})]
        ids = [media_id(name) for name in names]
        read = [ocr_rows(name, frames) for name, frames in (ocr or {}).items()]
        heard = [transcript_rows(name, segments) for name, segments in (transcript or {}).items()]
        facts = [
            {
                "media_id": media_id(n),
                "partition_key": f"{n}~{media_id(n)[:12]}",
                "name": n,
                "path": f"/x/{n}",
                "kind": kind,
            }
            for n in dict.fromkeys(names)
        ]
        self._replace("media", pa.Table.from_pylist(facts, schema=MEDIA), ids)
        self._replace("ocr", pa.concat_tables([OCR.empty_table(), *read]), ids)
        self._replace("transcript", pa.concat_tables([TRANSCRIPT.empty_table(), *heard]), ids)
        if embed:
            media = tuple(
                Medium(media_id(name), kind, rows=_rows_of(name, read, heard)) for name in dict.fromkeys(names)
            )
            self._replace(ANALYZER.name, ANALYZER.run(encoder(), media, TextEmbeddingsOptions()), ids)

    def erase(self, *names: str) -> None:
        for table in ("media", "ocr", "transcript", ANALYZER.name):
            self.tables.delete(table, [media_id(name) for name in names])

    def _replace(self, name: str, rows: pa.Table, ids: Sequence[str]) -> None:
        self.tables.ensure(name, rows.schema)
        self.tables.replace(name, rows, ids)


def text_home(folder: Path) -> TextHome:
    layout = Layout(folder)
    layout.create()
    store = ModelStore(folder / "models", offline=True, hub_url="http://127.0.0.1:9", tier="embedded")
    return TextHome(Settings(home=folder, tier="embedded"), layout, Tables(layout.tables, layout.locks), store)


def _rows_of(name: str, read: Sequence[pa.Table], heard: Sequence[pa.Table]) -> dict[str, pa.Table]:
    own = media_id(name)
    found = {"ocr": read, "transcript": heard}
    return {
        source: table
        for source, tables in found.items()
        for table in tables
        if table.num_rows and table["media_id"][0].as_py() == own
    }


def tiny_model(folder: Path, kind: str = "xlm-roberta", hidden: int = 384, seed: int = 0) -> Path:
    """A folder as the hub would give it: two layers of random weights, a tokenizer that pads to 128 by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz:", "query", "passage"]
    config = {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 12,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    tokenizer.enable_padding(length=128, pad_id=1, pad_token="<pad>")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = {
        "embeddings.word_embeddings.weight": rng.normal(size=(len(vocabulary), hidden)),
        "embeddings.position_embeddings.weight": rng.normal(size=(300, hidden)),
        "embeddings.token_type_embeddings.weight": rng.normal(size=(1, hidden)),
        **_norm(rng, "embeddings.LayerNorm", hidden),
    }
    for layer in range(2):
        p = f"encoder.layer.{layer}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            weights.update(_linear(rng, p + name, hidden, hidden))
        weights.update(
            _linear(rng, f"{p}intermediate.dense", hidden, 64) | _linear(rng, f"{p}output.dense", 64, hidden)
        )
        weights.update(
            _norm(rng, f"{p}attention.output.LayerNorm", hidden) | _norm(rng, f"{p}output.LayerNorm", hidden)
        )
    save_file({f"roberta.{k}": v.astype(np.float32) for k, v in weights.items()}, folder / "model.safetensors")
    return folder


def _linear(rng: np.random.Generator, name: str, given: int, out: int) -> dict[str, Array]:
    return {f"{name}.weight": rng.normal(size=(out, given)) * 0.1, f"{name}.bias": rng.normal(size=out) * 0.1}


def _norm(rng: np.random.Generator, name: str, size: int) -> dict[str, Array]:
    return {f"{name}.weight": rng.normal(1, 0.1, size=size), f"{name}.bias": rng.normal(size=size) * 0.1}
