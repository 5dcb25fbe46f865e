"""Voices as vectors: what every speaker encoder here does, and how windows go through one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Samples
from media_pipeline.analyzers._voice_features import Features

Vectors = npt.NDArray[np.float32]
BATCH = 16  # windows of 1.6 s per call: GE2E takes 7.5 CPU-ms for one alone, 3.3 ms each for 16


class VoiceEncoder(Protocol):
    """A loaded model. Safe for threads."""

    def features(self, samples: Samples) -> Features:
        """The spectrogram of 16 kHz samples: (frames, bands), 100 frames a second."""

    def embed(self, windows: Sequence[Features]) -> Vectors:
        """One L2-normalised float32 vector per window of a spectrogram, shape (windows, dimension).

        The cosine of two vectors says how alike the voices are.
        """


def by_length(windows: Sequence[Features], size: int, run: Callable[[Features], Vectors]) -> Vectors:
    """Calls ``run`` with at most ``size`` windows of one length at a time: padding would be heard."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, window in enumerate(windows):
        groups[len(window)].append(number)
    results: dict[int, Vectors] = {}
    for group in groups.values():
        for at in range(0, len(group), size):
            batch = group[at : at + size]
            results.update(zip(batch, run(np.stack([windows[n] for n in batch])), strict=True))
    return np.stack([results[n].reshape(-1) for n in range(len(windows))])


def normalised(vectors: npt.NDArray[np.floating[Any]]) -> Vectors:
    """Rows of length 1; a row of zeros stays one."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)
