"""Tiny CLIP models, made here: random weights, the very files and code of large ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._clip import Clip, load_clip
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.analyzers._torch import import_torch

DIMENSION = 32
Picture = npt.NDArray[np.uint8]

_VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PREPROCESS = {"mean": [0.48, 0.45, 0.40], "std": [0.26, 0.26, 0.27]}


def config(**text: Any) -> dict[str, Any]:
    """An `open_clip_config.json`."""
    return {
        "model_cfg": {"embed_dim": DIMENSION, "vision_cfg": _VISION, "text_cfg": text or _TEXT},
        "preprocess_cfg": PREPROCESS,
    }


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A folder as the hub would give it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config()))
    save_weights(config()["model_cfg"], folder / "open_clip_model.safetensors", seed)
    return folder


def save_weights(model_cfg: dict[str, Any], file: Path, seed: int = 0) -> None:
    """Random weights of this architecture, as safetensors or as torch writes them."""
    torch = import_torch()
    from open_clip.model import CLIP, CustomTextCLIP
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    custom = "hf_model_name" in model_cfg["text_cfg"]
    weights = (CustomTextCLIP if custom else CLIP)(**model_cfg).state_dict()
    if file.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    else:
        torch.save(weights, file)


@cache
def shared_clip() -> tuple[ModelChoice, Clip]:
    """One tiny model for all tests that only need some."""
    folder = tiny_clip(Path(mkdtemp(prefix="tiny-clip-")) / "tiny")
    choice = ModelChoice("tiny", "standard", "0123456789abcdef" * 4, folder)
    return choice, load_clip(choice)


def store(root: Path, tier: str = "auto") -> ModelStore:
    return ModelStore(root, offline=True, hub_url="http://127.0.0.1:9", tier=tier)


def picture(seed: int, height: int = 60, width: int = 80) -> Picture:
    """Coloured blobs: unlike each other, and soft enough for JPEG."""
    import cv2

    rough = np.random.default_rng(seed).integers(0, 255, size=(6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@dataclass(frozen=True)
class StillFrame:
    """A frame that is there already."""

    frame_index: int
    pts_s: float
    pixels: Picture
    scene_index: int = 0

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    def image(self) -> Picture:
        return self.pixels


def frames(pictures: Iterable[Picture]) -> list[StillFrame]:
    """One a second."""
    return [StillFrame(number, float(number), pixels) for number, pixels in enumerate(pictures)]
