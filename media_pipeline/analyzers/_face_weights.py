"""Which weights find and tell faces apart here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from media_pipeline.analyzers._face_embed import CONVENTIONS
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._packaged import packaged_file, sha256_of
from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.errors import ModelUnavailable

DETECTOR, RECOGNISER = "yunet", "sface"  # of the catalogue


@dataclass(frozen=True, slots=True)
class Weights:
    detector: Path  # .tflite: BlazeFace; .onnx: YuNet
    mesh: Path
    recogniser: Path
    convention: str  # of the recogniser, one of `_face_embed.CONVENTIONS`

    @property
    def digest(self) -> str:
        return sha256_of(self.detector, self.mesh, self.recogniser)

    @property
    def model(self) -> str:
        """Names the space of the embeddings: only those of one model may be compared."""
        return f"{self.convention}@{sha256_of(self.recogniser)[:12]}"


def choose(model: str | None, store: ModelStore) -> ModelChoice:
    """The folder that is named, else YuNet and SFace where the tier allows them and they can be had, else the embedded.

    Raises:
        ModelUnavailable: none of them is here; the remedy is the command that mends it.
    """
    if model is not None:
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise ModelUnavailable(f"{folder} is no folder", "name a folder with YuNet's and SFace's ONNX files")
        return _choice("standard", folder.absolute())
    if store.tier == "embedded":
        return _choice("embedded", None)
    # Both are asked for before one is missed, so that one run downloads what it can.
    missing = [name for name in (DETECTOR, RECOGNISER) if store.obtain(name) is None]
    if not missing:
        return _choice("standard", store.root)
    reason, remedy = store.reason(missing[0]), " and ".join(store.remedy(name) for name in missing)
    if store.tier == "standard":
        raise ModelUnavailable(reason, remedy)
    return _choice("embedded", None, f"{reason}, so faces in profile are missed; {remedy}")


def weights(folder: Path | None) -> Weights:
    """The files: below a folder, or out of installed packages.

    Raises:
        ModelUnavailable: a file is missing, or it is not clear which one is meant.
    """
    mesh = packaged_file("mediapipe", "modules/face_landmark/face_landmark.tflite")
    if folder is None:
        return Weights(
            packaged_file("mediapipe", "modules/face_detection/face_detection_full_range_sparse.tflite"),
            mesh,
            packaged_file("face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat"),
            "dlib-resnet",
        )
    detector, _ = _one_of(folder, ("yunet",))
    recogniser, convention = _one_of(folder, tuple(name for name in CONVENTIONS if name != "dlib-resnet"))
    return Weights(detector, mesh, recogniser, convention)


def _one_of(folder: Path, names: tuple[str, ...]) -> tuple[Path, str]:
    """The only ONNX file, in the folder or one below it, with one of these words in its name, and the word."""
    files = [*folder.glob("*.onnx"), *folder.glob("*/*.onnx")]
    found = [(file, name) for file in sorted(files) for name in names if name in file.name]
    if len(found) != 1:
        wanted = " or ".join(f"*{name}*.onnx" for name in names)
        raise ModelUnavailable(f"{folder} has {len(found)} files {wanted}, not one", "leave exactly one there")
    return found[0]


def _choice(tier: str, folder: Path | None, warning: str | None = None) -> ModelChoice:
    found = weights(folder)
    detector = "YuNet" if found.detector.suffix == ".onnx" else "BlazeFace"
    return ModelChoice(f"{detector} + {found.convention}", tier, found.digest, folder, warning)
