"""PP-OCR through paddleocr's own modules, engine onnxruntime, on weights that lie on this disk.

paddleocr finds and reads the lines; page direction, working size and reading order stay ours.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from media_pipeline.analyzers import _ocr_onnx as onnx
from media_pipeline.analyzers._device import CUDA, resolved
from media_pipeline.analyzers._gpu_memory import in_brief
from media_pipeline.analyzers._ocr_weights import PADDLE_FOLDER, paddle_files, weight_files
from media_pipeline.analyzers._onnx import providers_for
from media_pipeline.analyzers._spec import Image
from media_pipeline.errors import ModelUnavailable

_NO_LIMIT_PX = 100_000  # the caller has chosen the working size; paddleocr must not choose again


class PaddleEngine:
    """Detector and recogniser of paddleocr; the up-or-down classifier is the packaged one.

    Raises:
        ModelUnavailable: paddleocr cannot use what is in the folder.
    """

    def __init__(self, folder: Path, packaged: Path, *, threads: int, device: str = "cpu") -> None:
        if folder.name == PADDLE_FOLDER:
            write_paddle_folder(folder, packaged)
        self._classifier = onnx.Classifier(weight_files(packaged)[2], threads=threads, device=device)
        self._lock = threading.Lock()  # paddlex keeps the state of the current call on its predictors
        device = resolved("onnxruntime", device)
        providers, settings = providers_for(device)
        common = {
            "engine": "onnxruntime",
            "engine_config": {
                "intra_op_num_threads": threads,
                "inter_op_num_threads": 1,
                "providers": providers,
                "provider_options": settings,
            },
            "device": "gpu" if device.startswith(CUDA) else "cpu",
        }
        with _opencv_by_any_name():
            paddleocr = _import_without_hub_check()
            try:
                self._det = paddleocr.TextDetection(
                    **_named(folder, "det"), limit_side_len=_NO_LIMIT_PX, limit_type="max", **common
                )
                self._rec = paddleocr.TextRecognition(**_named(folder, "rec"), **common)
            except ModelUnavailable:
                raise
            except Exception as error:  # of four libraries, and a KeyError for what is not there
                raise ModelUnavailable(
                    f"paddleocr cannot use {folder}: {in_brief(error.__cause__ or error)}", "set the engine to rapidocr"
                ) from error

    def detect(self, image: Image) -> onnx.Quads:
        with self._lock:
            (found,) = self._det.predict(np.ascontiguousarray(image[:, :, ::-1]), max_side_limit=_NO_LIMIT_PX)
        return np.asarray(found["dt_polys"], dtype=np.float32).reshape(-1, 4, 2)

    def may_hold_text(self, image: Image) -> bool:
        return True  # its predictor shows boxes, not the faint spots a glance needs

    def recognise(self, lines: Sequence[Image]) -> list[onnx.Reading]:
        # A batch is padded to its widest line.
        order = sorted(range(len(lines)), key=lambda i: lines[i].shape[1] / lines[i].shape[0])
        pictures = [np.ascontiguousarray(lines[i][:, :, ::-1]) for i in order]
        with self._lock:
            found = self._rec.predict(pictures, batch_size=onnx.BATCH_LINES) if pictures else []
        readings = {i: onnx.Reading(f["rec_text"], float(f["rec_score"])) for i, f in zip(order, found, strict=True)}
        return [readings[i] for i in range(len(lines))]

    def upside_down(self, lines: Sequence[Image]) -> onnx.Floats:
        return self._classifier.upside_down(lines)


def write_paddle_folder(folder: Path, packaged: Path) -> None:
    """Lay rapidocr's packaged weights out as paddleocr wants them: a folder each, the settings beside the weights."""
    det, rec, _ = weight_files(packaged)
    for source, name, settings in (
        (det, "PP-OCRv6_small_det", _detector_settings()),
        (rec, "PP-OCRv6_small_rec", _recogniser_settings(onnx.characters(rec))),
    ):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        settings["Global"] = {"model_name": name}
        _write(target / "inference.onnx", source.read_bytes())
        _write(target / "inference.yml", yaml.safe_dump(settings, allow_unicode=True).encode())


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _detector_settings() -> dict[str, Any]:
    half = [0.5, 0.5, 0.5]
    return {
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"DetResizeForTest": {"resize_long": _NO_LIMIT_PX}},
                {"NormalizeImage": {"mean": half, "std": half, "scale": "1./255.", "order": "hwc"}},
                {"ToCHWImage": None},
                {"KeepKeys": {"keep_keys": ["image", "shape"]}},
            ]
        },
        "PostProcess": {
            "name": "DBPostProcess",
            "thresh": onnx.THRESHOLD,
            "box_thresh": onnx.BOX_THRESHOLD,
            "unclip_ratio": onnx.UNCLIP,
            "max_candidates": onnx.MAX_CANDIDATES,
            "use_dilation": True,
        },
    }


def _recogniser_settings(characters: Sequence[str]) -> dict[str, Any]:
    return {
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"RecResizeImg": {"image_shape": [3, 48, 320]}},
                {"KeepKeys": {"keep_keys": ["image"]}},
            ]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": list(characters)},
    }


def _named(folder: Path, part: str) -> dict[str, str]:
    """paddleocr's two names of a model: what its settings call it, and where it lies."""
    weights, settings = paddle_files(folder, part)
    content = yaml.safe_load(settings.read_text(encoding="utf-8"))
    return {"model_name": content["Global"]["model_name"], "model_dir": str(weights.parent)}


def _import_without_hub_check() -> Any:
    """paddleocr, told not to ask its hubs whether they are there: the weights are local."""
    import paddleocr
    from paddlex.inference.utils import official_models  # type: ignore[import-untyped]

    # What PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK sets; the environment is the user's.
    official_models.DISABLE_MODEL_SOURCE_CHECK = True
    return paddleocr


@contextmanager
def _opencv_by_any_name() -> Iterator[None]:
    """Let the installed cv2 answer for opencv-contrib-python.

    paddlex asks the package metadata for a distribution of exactly that name (`paddlex/utils/deps.py`), though any of
    the four that bring cv2 will do for OCR; two of them in one environment overwrite each other's files.
    """
    finder = _OpenCvFinder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _OpenCvFinder(DistributionFinder):
    def find_distributions(
        self,
        context: DistributionFinder.Context = DistributionFinder.Context(),  # noqa: B008 - the base's signature
    ) -> Iterable[Distribution]:
        if context.name == "opencv-contrib-python":
            yield _OpenCvDistribution()

    def find_spec(self, *_args: Any, **_kwargs: Any) -> None:
        """No module is found here, only metadata."""


class _OpenCvDistribution(Distribution):
    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        import cv2

        return f"Metadata-Version: 2.1\nName: opencv-contrib-python\nVersion: {cv2.__version__}\n"

    def locate_file(self, path: str | os.PathLike[str]) -> Any:
        return Path(path)
