"""Which OCR weights there are, for which engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from media_pipeline.analyzers._packaged import file_sha256
from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.errors import ModelUnavailable

# Parts of file names: rapidocr's, PaddleOCR's and most converters' files agree on them.
_PARTS = ("det", "rec", "cls")
PADDLE_FOLDER = "paddleocr-from-rapidocr"


def choose(engine: str, model: str | None, store: Any) -> ModelChoice:
    """The weights for an engine, found on disk; nothing is loaded and nothing downloaded.

    Raises:
        ModelUnavailable: the package or the folder is not there, or has not the files that the engine needs.
    """
    if engine == "paddleocr":
        return _choose_paddle(model, store)
    folder = _local_folder(model, store) if model else packaged_folder()
    files = weight_files(folder)
    name = f"PP-OCR {folder.name}" if model else f"PP-OCRv6 small (rapidocr {version('rapidocr')})"
    return ModelChoice(name, "standard" if model else "embedded", digest(files), folder)


def packaged_folder() -> Path:
    """The folder of the weights in the installed rapidocr package, which is not imported for it."""
    spec = find_spec("rapidocr")
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable("the package rapidocr is not installed", "run `pip install rapidocr`")
    return Path(spec.submodule_search_locations[0]) / "models"


def weight_files(folder: Path) -> tuple[Path, Path, Path]:
    """Detector, recogniser and up-or-down classifier in a folder; the packaged classifier where it has none."""
    found = [next(iter(sorted(folder.glob(f"*{part}*.onnx"))), None) for part in _PARTS]
    det, rec, cls = found
    if det is None or rec is None:
        raise ModelUnavailable(f"{folder} holds no *det*.onnx and *rec*.onnx", "name a folder with PP-OCR's ONNX files")
    if cls is None:
        if folder == packaged_folder():
            raise ModelUnavailable(f"{folder} holds no *cls*.onnx", "install rapidocr again")
        cls = weight_files(packaged_folder())[2]
    return det, rec, cls


def digest(files: Sequence[Path]) -> str:
    """sha256 over the digests of the files, in order.

    Raises:
        ModelUnavailable: one of them cannot be read.
    """
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


def _local_folder(model: str, store: Any) -> Path:
    folder: Path | None = store.find(model)
    if folder is None:
        raise ModelUnavailable(f"there is no OCR model {model!r}", "name an existing folder, or leave the option out")
    return folder


def _choose_paddle(model: str | None, store: Any) -> ModelChoice:
    if find_spec("paddleocr") is None:
        raise ModelUnavailable(
            "the package paddleocr is not installed", "run `pip install paddleocr`, or set the engine to rapidocr"
        )
    label = f"paddleocr {version('paddleocr')}"
    if model is None:
        name = f"PP-OCRv6 small ({label}, onnxruntime)"
        return ModelChoice(name, "embedded", digest(weight_files(packaged_folder())), store.root / PADDLE_FOLDER)
    folder = _local_folder(model, store)
    files = [file for part in ("det", "rec") for file in paddle_files(folder, part)]
    return ModelChoice(f"{folder.name} ({label}, onnxruntime)", "standard", digest(files), folder)


def paddle_files(folder: Path, part: str) -> tuple[Path, Path]:
    """``inference.onnx`` and ``inference.yml`` of the detector or recogniser below a folder."""
    for candidate in sorted(folder.glob(f"*{part}*")):
        files = candidate / "inference.onnx", candidate / "inference.yml"
        if all(f.is_file() for f in files):
            return files
    raise ModelUnavailable(
        f"{folder} holds no *{part}*/inference.onnx with its inference.yml",
        "export the models with paddle2onnx, or leave the option out",
    )
