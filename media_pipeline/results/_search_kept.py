"""Vectors that only change with the model, kept on the disk: a search need not compute them every time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._models import ModelStore

Vectors = npt.NDArray[np.float32]


def kept_vectors(
    models: ModelStore, fingerprint: str, texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors]
) -> Vectors:
    """The vectors of these texts, shape (n, dimension), from the disk, or encoded and kept there.

    A damaged file is written anew; a full or read-only disk costs time, nothing else.

    Args:
        fingerprint: of the model that encodes
    """
    digest = hashlib.sha256("\0".join((fingerprint, *texts)).encode()).hexdigest()
    file = models.root / ".captions" / f"search-{digest[:24]}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept = np.load(file, allow_pickle=False)
        if kept.dtype == np.float32 and kept.ndim == 2 and len(kept) == len(texts):
            return np.asarray(kept)
    vectors = np.ascontiguousarray(encode(texts), np.float32)
    temporary = file.with_name(f"{file.stem}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
        temporary.replace(file)
    return vectors
