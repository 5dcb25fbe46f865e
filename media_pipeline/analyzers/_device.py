"""What computes on the GPU here, library by library: a missing CUDA library costs only its own analyzers the GPU.

A library is believed only once it has computed something there. onnxruntime, for one, takes the CPU without an error
where cuDNN or cuBLAS is missing, and CTranslate2 fails in the middle of the first recording.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from media_pipeline.analyzers._gpu_memory import card, in_brief
from media_pipeline.analyzers._onnx_graph import OnnxGraph
from media_pipeline.analyzers._spec import AnalyzerSpec, ModelChoice, Options
from media_pipeline.errors import MediaPipelineError, ModelUnavailable

CPU, CUDA = "cpu", "cuda"
NO_GPU = "there is no NVIDIA GPU here"
REMEDY = "docs/gpu-image.md says what to install"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What there is to compute on."""

    device: str  # "cuda" where at least one library computes on the GPU, else "cpu"
    gpu: str | None  # its name, whether anything can use it or not
    free_vram_mb: int | None
    libraries: Mapping[str, str]  # by name: "cuda", or why not, and the remedy


def report() -> DeviceReport:
    """Quick where there is no GPU; where there is one, each library is made to compute on it, once per process."""
    libraries = {library: why_not(library) or CUDA for library in _PROBES}
    found = card() if has_gpu() else None
    return DeviceReport(
        device=CUDA if CUDA in libraries.values() else CPU,
        gpu=found.name if found else None,
        free_vram_mb=found.free_mb if found else None,
        libraries=libraries,
    )


def has_gpu() -> bool:
    """Whether there is anything of an NVIDIA GPU to be seen."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None


def resolved(library: str, device: str) -> str:
    """Where this library is to open a model: `device`, or "cpu", with a warning, where it cannot compute there.

    Args:
        library: one of the libraries of `DeviceReport`
        device: "cpu", "cuda" or "cuda:<number>"
    """
    why = why_not(library) if device.startswith(CUDA) else None
    if why:
        say_lower(library, why)
        device = CPU
    used = _used.get()
    if used is not None:
        used.add(device)
    return device


def say_lower(library: str, why: str) -> None:
    """Warn, once per process and reason, that something which was to run on the GPU runs on the CPU."""
    with _lock:
        if (library, why) in _said:
            return
        _said.add((library, why))
    log.warning("what needs %s computes on the CPU: %s", library, why)


def load_on(spec: AnalyzerSpec, choice: ModelChoice, wanted: str, options: Options) -> tuple[Any, str]:
    """The model, and what it computes on: "cuda" or "cpu".

    Args:
        wanted: "auto" and "cuda" mean the GPU for analyzers that have a path to it and where a library can use it

    Raises:
        MediaPipelineError: as `spec.load`.
        ModelUnavailable: it raised something else, of whatever library the model is for.
    """
    declared = wanted != CPU and spec.uses_gpu is not None and spec.uses_gpu(choice)
    device = report().device if declared else CPU
    used: set[str] = set()
    token = _used.set(used)
    try:
        model = spec.load(choice, device, options)
    except (MediaPipelineError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        where = f" ({choice.path})" if choice.path is not None else ""
        raise ModelUnavailable(
            f"{spec.name} cannot open {choice.name}{where}: {in_brief(error)}",
            "get its files again; where they are whole, report this",
        ) from error
    finally:
        _used.reset(token)
    # Analyzers of other packages may know nothing of `resolved`; then what they were given stands.
    return model, CUDA if any(one.startswith(CUDA) for one in used or {device}) else CPU


def why_not(library: str) -> str | None:
    """Why this library does not compute on the GPU, with the remedy; None: it does. Asked once per process."""
    with _lock:
        if library not in _verdicts:
            _verdicts[library] = _ask(library)
        return _verdicts[library]


class _UnusableError(Exception):
    """Cause and remedy in one line."""


_lock = threading.RLock()
_verdicts: dict[str, str | None] = {}
_said: set[tuple[str, str]] = set()
_used: ContextVar[set[str] | None] = ContextVar("_used", default=None)  # devices that the model at hand was opened on


def _ask(library: str) -> str | None:
    if not has_gpu():
        return NO_GPU
    try:
        _PROBES[library]()
    except _UnusableError as error:
        return str(error)
    except Exception as error:  # CUDA fails in as many ways as there are libraries
        return f"{library} fails on the GPU: {in_brief(error)}; {REMEDY}"
    return None


def _probe_torch() -> None:
    _check_driver("torch", _told(_beside("torch", "version.py"), "cuda"))
    from media_pipeline.analyzers._torch import import_torch

    ones = import_torch().ones(16, 16, device=CUDA)
    if float((ones @ ones).sum()) != 16.0**3:
        raise _UnusableError("torch computes wrong numbers on this GPU; take another machine")


def _probe_onnxruntime() -> None:
    if _installed("onnxruntime-gpu") and _installed("onnxruntime"):
        raise _UnusableError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "remove both and install onnxruntime-gpu again"
        )
    _check_driver("onnxruntime", _told(_beside("onnxruntime", "capi/build_and_package_info.py"), "cuda_version"))
    import onnxruntime

    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it cannot load
        onnxruntime.preload_dlls()  # finds the CUDA libraries that torch brings as packages
    graph = OnnxGraph("probe")
    graph.input("x", (1, 1, 4, 4))
    # A convolution: what needs cuDNN is what goes missing.
    weights = graph.constant("w", np.full((1, 1, 3, 3), 2, np.float32))
    graph.output(graph.node("Conv", ["x", weights], "y", kernel_shape=[3, 3]), (1, 1, 2, 2))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would log is said below
    session = onnxruntime.InferenceSession(
        graph.model(), options, providers=["CUDAExecutionProvider", "CPUExecutionProvider"], enable_fallback=0
    )
    if session.get_providers()[0] != "CUDAExecutionProvider":
        missing = _missing_library(_beside("onnxruntime", "capi/libonnxruntime_providers_cuda.so"))
        because = missing or " ".join(said.getvalue().split())[:300] or "it gives no reason"
        raise _UnusableError(f"onnxruntime takes the CPU instead of the GPU: {because}; {REMEDY}")
    (result,) = session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
    if not np.array_equal(result, np.full((1, 1, 2, 2), 18, np.float32)):
        raise _UnusableError("onnxruntime computes wrong numbers on this GPU; take another machine")


def _probe_ctranslate2() -> None:
    _check_driver("ctranslate2", "12")
    _open_cublas12()
    import ctranslate2

    if ctranslate2.get_cuda_device_count() == 0:
        raise _UnusableError(f"ctranslate2 finds no GPU; {REMEDY}")
    # There and back: without a model it offers no arithmetic.
    ones = ctranslate2.StorageView.from_array(np.ones(16, np.float32)).to_device(ctranslate2.Device.cuda)
    if not np.array_equal(np.array(ones.to_device(ctranslate2.Device.cpu)), np.ones(16, np.float32)):
        raise _UnusableError("ctranslate2 computes wrong numbers on this GPU; take another machine")


def _open_cublas12() -> None:
    """CTranslate2's wheels open libcublas.so.12 by its name, and only when they need it. Once it is in the process by
    that name, wherever it came from, they find it."""
    spec = find_spec("nvidia")
    folders = [Path(place) / "cublas" / "lib" for place in spec.submodule_search_locations or ()] if spec else []
    for name in ("libcublasLt.so.12", "libcublas.so.12"):  # the second needs the first
        file = next((folder / name for folder in folders if (folder / name).is_file()), name)
        try:
            ctypes.CDLL(str(file))
        except OSError as error:
            raise _UnusableError(
                f"ctranslate2 needs cuBLAS 12: {error}; install the package nvidia-cublas-cu12"
            ) from None


_PROBES: dict[str, Callable[[], None]] = {
    "torch": _probe_torch,
    "onnxruntime": _probe_onnxruntime,
    "ctranslate2": _probe_ctranslate2,
}


def _check_driver(library: str, needed: str | None) -> None:
    """Said beforehand, because what CUDA itself says of an old driver sends people looking in the wrong place."""
    if needed is None:
        raise _UnusableError(f"the installed {library} is a build for the CPU; {REMEDY}")
    supported = _driver_cuda()
    if supported is None:
        raise _UnusableError("the NVIDIA driver's libcuda.so.1 cannot be used; start the container with the GPU")
    # Within one major version any driver runs any build (NVIDIA's minor version compatibility).
    if supported[0] < int(needed.partition(".")[0]):
        raise _UnusableError(
            f"the driver supports CUDA {supported[0]}.{supported[1]}, this {library} needs {needed}; "
            f"take a machine with a newer driver (MEDIA_PIPELINE_GPU__MIN_CUDA={needed})"
        )


def _driver_cuda() -> tuple[int, int] | None:
    """The highest CUDA version the driver supports, major and minor."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def _beside(package: str, file: str) -> Path:
    """A file of a package, which is not imported to find it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _UnusableError(f"{package} is not installed; run `make setup`")
    return Path(spec.submodule_search_locations[0]) / file


def _told(file: Path, name: str) -> str | None:
    """The CUDA version that a build names in a line like ``cuda_version = '13.0'``."""
    try:
        found = re.search(rf"^{name}\b[^=\n]*= *['\"]([\d.]+)['\"]", file.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def _missing_library(file: Path) -> str | None:
    """Why the loader would not open this file."""
    try:
        ctypes.CDLL(str(file))
    except OSError as error:
        return str(error)
    return None


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
