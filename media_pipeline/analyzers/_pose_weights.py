"""Which networks for poses there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from media_pipeline.analyzers._packaged import packaged_file, sha256_of
from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.errors import ModelUnavailable

EMBEDDED = "BlazePose full"
REMEDY = (
    "set MEDIA_PIPELINE_OPTIONS__POSES__MODEL to a folder with an RTMPose network of 17 points (*.onnx) or a MoveNet "
    "for a single pose (*.tflite)"
)


def choose(model: str | None, store: Any) -> ModelChoice:
    """The embedded networks, and the user's own for the key points where one is named. Nothing is loaded.

    Raises:
        ModelUnavailable: a file is missing, or the tier asks for a network that nobody named.
    """
    files = blaze_files()
    if model is None:
        if store.tier == "standard":
            raise ModelUnavailable("no network for poses of the standard tier is named", REMEDY)
        return ModelChoice(EMBEDDED, "embedded", sha256_of(*files), files[1])
    file = point_file(model, store)
    # MMDeploy calls every network of its downloads end2end; their folder has the name.
    name = file.parent.name if file.stem == "end2end" else file.stem
    return ModelChoice(f"{name} on {EMBEDDED}", "standard", sha256_of(*files, file), file)


def blaze_files() -> tuple[Path, Path]:
    """Detector and landmark network, out of the installed mediapipe package."""
    return (
        packaged_file("mediapipe", "modules/pose_detection/pose_detection.tflite"),
        packaged_file("mediapipe", "modules/pose_landmark/pose_landmark_full.tflite"),
    )


def point_file(model: str, store: Any) -> Path:
    """The one network in the named folder; a file may be named, too."""
    named = Path(model).expanduser()
    if named.is_file():
        return named.absolute()
    folder = store.find(model)
    if folder is None:
        raise ModelUnavailable(f"there is no folder {model!r}", REMEDY)
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".onnx", ".tflite"))
    if len(files) != 1:
        raise ModelUnavailable(f"{folder} holds {len(files)} networks, not one", REMEDY)
    return Path(files[0])
