"""CLIP: pictures and texts into one space (Radford et al. 2021), by open_clip.

A model is a folder as open_clip writes it (`open_clip_config.json` and weights; for a Hugging Face text tower its
`config.json` and `tokenizer.json` too), or weights alone whose name begins with one of open_clip's architectures
(`ViT-B-32-laion2b/open_clip_model.safetensors`, `ViT-B-32.pt`); those see pictures as OpenAI's CLIP does.

Nothing of it asks a network: text towers and tokenizers are looked for in the folder only.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._clip_weights import WEIGHTS, clip_fingerprint
from media_pipeline.analyzers._device import CUDA, resolved
from media_pipeline.analyzers._gpu_memory import batch_size, halving
from media_pipeline.analyzers._shared import shared
from media_pipeline.analyzers._spec import Image, ModelChoice
from media_pipeline.analyzers._torch import import_torch
from media_pipeline.errors import ModelUnavailable

Vectors = npt.NDArray[np.float32]

MIN_SIDE_PX = 16  # below, a picture shows nothing, and enlarging a thin strip takes gigabytes
_TEXTS_PER_CALL = 64
_MOST_PICTURES_PER_CALL = 128  # beyond, a GPU is no quicker, and the pictures wait for each other
_PICTURE_MB = 64  # on a GPU, while it is computed: what a ViT-L/14 takes, rounded up generously
# Vocabularies of English models have 32 to 50 thousand tokens, those of multilingual ones a quarter of a million.
_MULTILINGUAL_TOKENS = 100_000
_CONFIG = "open_clip_config.json"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Clip:
    """A loaded model. Safe to use from several threads at once."""

    fingerprint: str  # vectors of different fingerprints are never compared
    dimension: int
    logit_scale: float  # what cosines are multiplied with before a softmax over captions; learnt in training
    multilingual: bool
    _model: Any
    _preprocess: Any
    _tokenizer: Any
    _device: str
    _tokenizing: threading.Lock = field(default_factory=threading.Lock)  # fast tokenizers keep state while they cut

    def encode_images(self, images: Iterable[Image], batch: int = 8) -> Vectors:
        """L2-normalised float32, shape (n, dimension), of RGB uint8 pictures of shape (h, w, 3).

        Takes the pictures as it goes: never more than a batch of them, reduced to the model's size, is kept.

        Args:
            batch: pictures per call of the model; on a GPU as many as its memory has room for, if that is more
        """
        import torch
        from PIL import Image as Pillow

        if self._device.startswith(CUDA):
            batch = batch_size(batch, max(batch, _MOST_PICTURES_PER_CALL), _PICTURE_MB)
        prepared = (self._preprocess(Pillow.fromarray(image)) for image in images)
        found = [np.zeros((0, self.dimension), np.float32)]
        found += [halving(torch.stack(group), self._encode_prepared) for group in _groups(prepared, batch)]
        return np.concatenate(found)

    def _encode_prepared(self, pictures: Any) -> Vectors:
        import torch

        with torch.inference_mode():
            return self._plain(self._model.encode_image(pictures.to(self._device), normalize=True))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """L2-normalised float32, shape (len(texts), dimension). What is longer than the model reads is cut."""
        import torch

        found = [np.zeros((0, self.dimension), np.float32)]
        for group in _groups(iter(texts), _TEXTS_PER_CALL):
            with self._tokenizing:
                tokens = self._tokenizer(group)
            with torch.inference_mode():
                found.append(self._plain(self._model.encode_text(tokens.to(self._device), normalize=True)))
        return np.concatenate(found)

    @staticmethod
    def _plain(vectors: Any) -> Vectors:
        return np.asarray(vectors.float().cpu().numpy(), np.float32)


def load_clip(choice: ModelChoice, device: str = "cpu", threads: int = 1) -> Clip:
    """The model, or the copy of it that another analyzer of this process holds. Seconds, most of them imports.

    Args:
        device: "cpu" or "cuda"; the CPU, with a warning, where torch cannot compute there

    Raises:
        ModelUnavailable: it is no CLIP model that open_clip can read.
    """
    device = resolved("torch", device)
    return shared(("clip", clip_fingerprint(choice), device, threads), lambda: _load(choice, device, threads))


def _load(choice: ModelChoice, device: str, threads: int) -> Clip:
    assert choice.path is not None
    torch = import_torch(threads)
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    try:
        name, more = _source(choice.path)
        model = open_clip.create_model(name, device=device, require_pretrained=True, weights_only=True, **more).eval()
        tokenizer = open_clip.get_tokenizer(name)
        preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        with torch.inference_mode():
            dimension = int(model.encode_text(tokenizer(["a"]).to(device)).shape[1])
    except Exception as error:  # torch, open_clip, transformers and safetensors raise types of their own
        raise ModelUnavailable(
            f"{choice.path} is not a CLIP model that can be used: {type(error).__name__}: {str(error)[:300]}",
            f"give a folder with {_CONFIG} and its weights, or a file named after an architecture of open_clip",
        ) from error
    return Clip(
        fingerprint=clip_fingerprint(choice),
        dimension=dimension,
        logit_scale=float(model.logit_scale.detach().exp()),
        multilingual=_vocabulary(tokenizer) > _MULTILINGUAL_TOKENS,
        _model=model,
        _preprocess=preprocess,
        _tokenizer=tokenizer,
        _device=device,
    )


def _source(path: Path) -> tuple[str, dict[str, Any]]:
    """Name and arguments under which open_clip loads this, and nothing from elsewhere."""
    if not (path / _CONFIG).is_file():
        return _architecture(path), {"pretrained": str(_weights_of(path))}
    text = json.loads((path / _CONFIG).read_text("utf-8"))["model_cfg"]["text_cfg"]
    if "hf_model_name" not in text:
        return f"local-dir:{path}", {}
    if not (path / "config.json").is_file():
        raise ValueError(f"its text tower is {text['hf_model_name']}: put that model's config.json into the folder")
    return f"local-dir:{path}", {"text_cfg": {**text, "hf_model_name": str(path), "hf_model_pretrained": False}}


def _architecture(path: Path) -> str:
    import open_clip

    name = path.stem if path.is_file() else path.name
    fitting = [known for known in open_clip.list_models() if name.startswith(known)]
    if not fitting:
        raise ValueError(f"the name {name!r} begins with no architecture, e.g. ViT-B-32, and there is no {_CONFIG}")
    return str(max(fitting, key=len))


def _weights_of(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
    if len(files) != 1:
        raise ValueError(f"it holds {len(files)} files of weights instead of one, and no {_CONFIG}")
    return files[0]


def _vocabulary(tokenizer: Any) -> int:
    known = getattr(tokenizer, "tokenizer", None)  # of a Hugging Face tokenizer
    return len(known) if known is not None else int(tokenizer.vocab_size)


def _groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(items, size)):
        yield group
