"""Standard-tier weights out of a folder, as options of the analyzers that can use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from media_pipeline.analyzers._registry import registry


@dataclass(frozen=True, slots=True)
class Weights:
    """What one option of one analyzer is given: a folder, or single files gathered in a folder of their own."""

    option: str
    places: tuple[str, ...]  # below the folder of all models
    gathered: bool = False


KNOWN: Mapping[str, Weights] = MappingProxyType(
    {
        "transcript": Weights("model", ("whisper-micro-memorised-ct2",)),
        "faces": Weights("model", ("yunet/yunet_n_640_640.onnx", "mobilefacenet/mobilefacenet.onnx"), gathered=True),
        "poses": Weights("model", ("movenet_lightning/movenet_single_pose_lightning_ptq.tflite",)),
    }
)


def given_models(folder: Path, scratch: Path) -> dict[str, dict[str, object]]:
    """Options for what is there; analyzers and options that do not exist are left out.

    Args:
        scratch: where single files are gathered, as links
    """
    options: dict[str, dict[str, object]] = {}
    for analyzer, weights in KNOWN.items():
        files = [(folder / place).resolve() for place in weights.places]
        spec = registry().get(analyzer)
        if spec is None or weights.option not in spec.options.model_fields or not all(f.exists() for f in files):
            continue
        chosen = _gathered(files, scratch / analyzer) if weights.gathered else files[0]
        options[analyzer] = {weights.option: str(chosen)}
    return options


def _gathered(files: list[Path], target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        link = target / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    return target
