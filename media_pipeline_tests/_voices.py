"""Speaker encoders to test with, made by the tests themselves, and synthetic voices."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from media_pipeline.analyzers import speakers
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._onnx_graph import OnnxGraph
from media_pipeline.analyzers._spec import Samples

WOMAN, MAN = "en-us+f3", "en-us"
SENTENCES = (
    "The river runs fast below the old stone bridge in spring.",
    "We should meet again on Thursday after the market closes.",
    "Nobody remembered where the key to the garden had been put.",
    "Seven yellow boats were waiting in the harbour this morning.",
)


def store(root: Path, tier: str = "auto") -> ModelStore:
    return ModelStore(root, offline=True, hub_url="http://127.0.0.1:9", tier=tier)


def write_x_vector(path: Path, bands: int = 80, dimension: int = 16, batch: str | int = "batch") -> Path:
    """A random network with the shape of a speaker encoder: a linear layer, ReLU, the mean over time."""
    graph = OnnxGraph("xvector")
    graph.input("feats", (batch, "frames", bands))
    weights = np.random.default_rng(0).standard_normal((bands, dimension)).astype(np.float32)
    graph.node("MatMul", ["feats", graph.constant("weights", weights)], "linear")
    graph.node("Relu", ["linear"], "active")
    graph.node("ReduceMean", ["active"], "embs", axes=[1], keepdims=0)
    graph.output("embs", (batch, dimension))
    path.write_bytes(graph.model())
    return path


@cache
def model() -> speakers.Model:
    """The embedded tier."""
    options = speakers.SpeakersOptions()
    return speakers.load(speakers.choose(options, store(Path("/nonexistent"))), "cpu", options)


@cache
def say(voice: str, number: int) -> Samples:
    from demo.sound import speak

    return speak(SENTENCES[number % len(SENTENCES)], voice=voice, seed=number)
