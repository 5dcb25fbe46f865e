"""Any speaker encoder as an ONNX file: WeSpeaker's ResNets and ECAPA, 3D-Speaker's CAM++ and ERes2Net."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from media_pipeline.analyzers._gpu_memory import batch_size, halving
from media_pipeline.analyzers._onnx import GPU_PROVIDER, open_session
from media_pipeline.analyzers._spec import Samples
from media_pipeline.analyzers._voice_encoder import BATCH, Vectors, by_length, normalised
from media_pipeline.analyzers._voice_features import Features, kaldi_fbank
from media_pipeline.errors import ModelUnavailable

_BANDS = 80
_MOST_WINDOWS, _WINDOW_MB = 128, 32  # per call on a GPU, and what one takes there: a ResNet over 160 frames, generously
_REMEDY = "give an ONNX file of a speaker encoder with one input of shape (batch, frames, 80)"


class XVector:
    """A network from log filter bank energies to an embedding (Snyder et al. 2018, "X-Vectors").

    Input float32 (batch, frames, 80), the mean over time taken away; output (batch, dimension).

    Raises:
        ModelUnavailable: the file is no such network.
    """

    def __init__(self, file: Path, device: str = "cpu") -> None:
        try:
            self._session = open_session(file, device=device)
        except Exception as error:  # onnxruntime raises types of its own
            raise ModelUnavailable(f"{file} cannot be loaded: {str(error)[:200]}", _REMEDY) from None
        shapes = [given.shape for given in self._session.get_inputs()]
        if len(shapes) != 1 or len(shapes[0]) != 3 or (isinstance(shapes[0][2], int) and shapes[0][2] != _BANDS):
            raise ModelUnavailable(f"{file} takes inputs of shapes {shapes}", _REMEDY)
        self._input = self._session.get_inputs()[0].name
        self._batch = 1 if shapes[0][0] == 1 else BATCH
        if self._batch > 1 and self._session.get_providers()[0] == GPU_PROVIDER:
            self._batch = batch_size(BATCH, _MOST_WINDOWS, _WINDOW_MB)
        # What sherpa-onnx writes into its exports: the two families differ in the window before the transform.
        self._povey = self._session.get_modelmeta().custom_metadata_map.get("framework") == "3d-speaker"

    def features(self, samples: Samples) -> Features:
        return kaldi_fbank(samples, _BANDS, povey=self._povey)

    def embed(self, windows: Sequence[Features]) -> Vectors:
        return normalised(by_length(windows, self._batch, lambda batch: halving(batch, self._run)))

    def _run(self, batch: Features) -> Vectors:
        centred = batch - batch.mean(axis=1, keepdims=True)
        # Where a network has several outputs the embedding is the last: those before it are of its middle.
        return np.asarray(self._session.run(None, {self._input: centred})[-1])
