"""Text to unit vectors: BERT-like sentence encoders with mean pooling, on onnxruntime.

One class runs both tiers: safetensors weights of a BERT (the graph is written by `_text_graph`), and a ready ONNX file
of a BERT or XLM-R. The same object embeds passages and queries; `fingerprint` says whose vectors may be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._onnx import open_session
from media_pipeline.analyzers._text_graph import bert_graph
from media_pipeline.errors import ModelUnavailable

DIMENSION = 384  # of every model this version accepts: all vectors of the table have one length
MAX_TOKENS = 256
# Tokens per call of the model: large enough to fill the arithmetic units, small enough to stay in the cache.
_TOKENS_PER_CALL = 512

Kind = Literal["query", "passage"]
Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
_Run = Callable[[Ids, npt.NDArray[np.int32]], Vectors]  # (ids (n, t), lengths (n,)) -> hidden states (n, t, d)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class TextEncoder:
    """A loaded model. Safe to use from several threads at once."""

    fingerprint: str  # vectors of different fingerprints are never compared
    prefixes: dict[str, str]  # what the model was trained to read before a query and before a passage
    _tokenizer: Any
    _run: _Run
    _padding_id: int

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """L2-normalised float32 vectors of shape (len(texts), 384), in the order of `texts`.

        Texts beyond 256 tokens are cut. Padding is masked: a text's vector depends on its company by no more than the
        rounding of float32.
        """
        if not texts:
            return np.zeros((0, DIMENSION), np.float32)
        prefix = self.prefixes.get(kind, "")
        # One by one: encode_batch starts a thread per core, and complains when the process forks afterwards.
        tokens = [self._tokenizer.encode(prefix + text).ids for text in texts]
        out = np.empty((len(texts), DIMENSION), np.float32)
        for group in _batches(tokens):
            out[group] = self._embed([tokens[i] for i in group])
        return out

    def _embed(self, tokens: list[list[int]]) -> Vectors:
        lengths = np.array([len(t) for t in tokens], np.int32)
        ids = np.full((len(tokens), lengths.max()), self._padding_id, np.int64)
        for row, known in zip(ids, tokens, strict=True):
            row[: len(known)] = known
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.float32)
        pooled = np.einsum("nt,ntd->nd", mask, self._run(ids, lengths))
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)


def load_encoder(folder: Path, name: str, fingerprint: str, threads: int = 1) -> TextEncoder:
    """The model in `folder`: `config.json`, `tokenizer.json`, and `*.onnx` or `model.safetensors`.

    Raises:
        ModelUnavailable: the folder is not such a model, or its vectors have another length than 384.
    """
    from tokenizers import Tokenizer

    try:
        config = json.loads((folder / "config.json").read_text())
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        if config.get("hidden_size") != DIMENSION:
            raise ValueError(f"its vectors have {config.get('hidden_size')} numbers, not {DIMENSION}")
        onnx = sorted(folder.rglob("*.onnx"))
        run = _onnx_runner(onnx[0], threads) if onnx else _safetensors_runner(folder, config, threads)
    except Exception as error:  # tokenizers, safetensors and onnxruntime raise types of their own
        raise ModelUnavailable(
            f"{folder} is not a text encoder that can be used: {error}",
            "give a folder with config.json, tokenizer.json and an ONNX or safetensors file of a 384-d BERT or XLM-R",
        ) from error
    # Whatever the file says: some pad every text to the full length, which costs ten times the work.
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return TextEncoder(fingerprint, _prefixes(folder, name), tokenizer, run, int(config.get("pad_token_id") or 0))


def _prefixes(folder: Path, name: str) -> dict[str, str]:
    """The model's own prompts where its folder names them, else those of the E5 family (Wang et al. 2022)."""
    try:
        prompts = json.loads((folder / "config_sentence_transformers.json").read_text()).get("prompts") or {}
    except (OSError, ValueError):
        prompts = {}
    if prompts:
        return {"query": prompts.get("query", ""), "passage": prompts.get("passage", prompts.get("document", ""))}
    return {"query": "query: ", "passage": "passage: "} if "e5" in name.lower() else {}


def _batches(tokens: list[list[int]]) -> list[list[int]]:
    """Positions grouped by similar length, so that little of a batch is padding."""
    groups: list[list[int]] = []
    for position in sorted(range(len(tokens)), key=lambda i: len(tokens[i]), reverse=True):
        if not groups or (len(groups[-1]) + 1) * len(tokens[groups[-1][0]]) > _TOKENS_PER_CALL:
            groups.append([])
        groups[-1].append(position)
    return groups


def _onnx_runner(path: Path, threads: int) -> _Run:
    session = open_session(path, threads=threads)
    wanted = {given.name for given in session.get_inputs()}
    output = session.get_outputs()[0].name

    def run(ids: Ids, lengths: npt.NDArray[np.int32]) -> Vectors:
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return np.asarray(session.run([output], {k: v for k, v in feed.items() if k in wanted})[0], np.float32)

    return run


def _safetensors_runner(folder: Path, config: dict[str, Any], threads: int) -> _Run:
    from safetensors.numpy import load_file

    known = load_file(folder / "model.safetensors")
    weights = {_bare(name): np.asarray(array, np.float32) for name, array in known.items() if array.dtype.kind == "f"}
    if config.get("hidden_act") != "gelu":
        raise ValueError(f"its activation is {config.get('hidden_act')}, not gelu")
    graph = bert_graph(weights, config["num_attention_heads"], config.get("layer_norm_eps", 1e-12))
    session = open_session(graph, threads=threads)
    words = weights["embeddings.word_embeddings.weight"]
    # RoBERTa's positions start after the padding id.
    first = config["pad_token_id"] + 1 if "roberta" in config.get("model_type", "") else 0
    places = (
        weights["embeddings.position_embeddings.weight"][first:] + weights["embeddings.token_type_embeddings.weight"][0]
    )

    def run(ids: Ids, lengths: npt.NDArray[np.int32]) -> Vectors:
        embedded = words[ids] + places[: ids.shape[1]]
        return np.asarray(session.run(["hidden"], {"embedded": embedded, "lengths": lengths})[0])

    return run


def _bare(name: str) -> str:
    return name.removeprefix("bert.").removeprefix("roberta.")
