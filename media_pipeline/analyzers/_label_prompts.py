"""Zero-shot classification against a background, with CLIP.

A closed-set softmax always finds a best label, also in a picture that shows none. Here every label stands alone
against captions of everyday pictures (the background):

    score = exp(s c) / (exp(s c) + sum over the background of exp(s b))

c is the cosine of the picture and the label (the mean of its captions' vectors, normalised: prompt ensembling, Radford
et al. 2021), b that of the picture and one background caption, s the scale the model was trained with. It is the
probability that, asked to choose one caption for the picture, the model takes the label's and none of the background's;
0.5 says: as good as all of those together. Labels do not compete with each other.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._label_sets import LabelSet, Prompts

Vectors = npt.NDArray[np.float32]


class TextEncoder(Protocol):
    """As `_clip.Clip`."""

    @property
    def logit_scale(self) -> float: ...
    @property
    def multilingual(self) -> bool: ...
    def encode_texts(self, texts: tuple[str, ...], /) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class PromptScorer:
    """The labels of one set, as one model reads them."""

    name: str
    labels: tuple[str, ...]
    vectors: Vectors  # (labels, dimension)
    background: Vectors  # (captions, dimension)
    scale: float

    def scores(self, pictures: Vectors) -> Vectors:
        """In [0, 1], shape (n, labels), of L2-normalised vectors of pictures, shape (n, dimension)."""
        return against_background(pictures @ self.vectors.T, pictures @ self.background.T, self.scale)


def scorers_of(sets: Iterable[LabelSet], model: TextEncoder) -> tuple[PromptScorer, ...]:
    """The sets as this model reads them; labels without captions in its languages are left out, and sets without any.

    Every caption is read once, however many sets have it: 50 ms each with ViT-B-32 on one core.
    """
    sets = tuple(sets)
    captions = [text for one in sets for prompts in _prompts(one) for text in _texts(prompts, model)]
    distinct = tuple(dict.fromkeys(captions))
    read = dict(zip(distinct, model.encode_texts(distinct), strict=True))
    found = (_scorer(one, model, read) for one in sets)
    return tuple(scorer for scorer in found if scorer is not None)


def scorer_of(one: LabelSet, model: TextEncoder) -> PromptScorer | None:
    """One set as this model reads it; None: it has no captions in its languages."""
    return next(iter(scorers_of([one], model)), None)


def _scorer(one: LabelSet, model: TextEncoder, read: Mapping[str, Vectors]) -> PromptScorer | None:
    labels = [label for label in one.labels if _texts(label.prompts, model)]
    background = _texts(one.background, model) if one.background else ()
    if not labels or not background:
        return None
    means = np.stack([np.mean([read[text] for text in _texts(label.prompts, model)], axis=0) for label in labels])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    everyday = np.stack([read[text] for text in background])
    return PromptScorer(one.name, tuple(label.name for label in labels), means, everyday, model.logit_scale)


def _prompts(one: LabelSet) -> list[Prompts]:
    return [*(label.prompts for label in one.labels), *([one.background] if one.background else [])]


def _texts(prompts: Prompts, model: TextEncoder) -> tuple[str, ...]:
    return prompts.texts(multilingual=model.multilingual)


def against_background(cosines: Vectors, background: Vectors, scale: float) -> Vectors:
    """The formula above: `cosines` of shape (n, labels), `background` of shape (n, captions)."""
    highest = background.max(axis=1, keepdims=True)
    rest = scale * highest + np.log(np.exp(scale * (background - highest)).sum(axis=1, keepdims=True))
    # As a sigmoid of the difference: neither exponential alone can overflow.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * (scale * cosines - rest))), np.float32)


def keep_scorers(scorers: Iterable[PromptScorer], file: Path) -> None:
    """Writes them to a file, so that the next process need not load the model. A full disk costs time, nothing else."""
    arrays = {
        f"{one.name}.{field}": np.asarray(value)
        for one in scorers
        for field, value in (
            ("labels", one.labels),
            ("vectors", one.vectors),
            ("background", one.background),
            ("scale", one.scale),
        )
    }
    temporary = file.with_name(f"{file.stem}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        temporary.replace(file)


def kept_scorers(file: Path) -> tuple[PromptScorer, ...] | None:
    """What `keep_scorers` wrote, or None where there is nothing that can be read."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names = dict.fromkeys(key.partition(".")[0] for key in arrays)
            return tuple(
                PromptScorer(
                    name,
                    tuple(arrays[f"{name}.labels"].tolist()),
                    np.asarray(arrays[f"{name}.vectors"], np.float32),
                    np.asarray(arrays[f"{name}.background"], np.float32),
                    float(arrays[f"{name}.scale"]),
                )
                for name in names
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
