"""What computes on the GPU is found out, and what does not is said with its cause. No GPU is needed to see that."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from media_pipeline.analyzers import _device
from media_pipeline.analyzers._device import DeviceReport, load_on, report, resolved, why_not
from media_pipeline.analyzers._gpu_memory import Card
from media_pipeline.analyzers._spec import AnalyzerSpec, ModelChoice, Options
from media_pipeline.errors import ModelUnavailable, UsageError

LIBRARIES = ("torch", "onnxruntime", "ctranslate2")


@pytest.fixture(autouse=True)
def _nothing_is_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "_verdicts", {})
    monkeypatch.setattr(_device, "_said", set())


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a card and a driver for CUDA 13.0; the libraries are those that are installed here."""
    monkeypatch.setattr(_device, "has_gpu", lambda: True)
    monkeypatch.setattr(_device, "card", lambda: Card("NVIDIA Pretended", 20_000, 24_000))
    monkeypatch.setattr(_device, "_driver_cuda", lambda: (13, 0))


@pytest.mark.slow
def test_without_a_gpu_nothing_is_imported_to_say_so() -> None:
    code = """
import sys
from media_pipeline.analyzers import _device
_device.has_gpu = lambda: False
print(_device.report())
print(sorted({"torch", "onnxruntime", "ctranslate2"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said, imported = done.stdout.splitlines()
    assert imported == "[]"
    assert said == str(DeviceReport("cpu", None, None, dict.fromkeys(LIBRARIES, "there is no NVIDIA GPU here")))


@pytest.mark.parametrize("library", ["torch", "onnxruntime"])
@pytest.mark.usefixtures("gpu")
def test_builds_for_the_cpu_are_told_by_their_files(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "_told", lambda _file, _name: None)
    was_imported = library in sys.modules
    why = why_not(library)
    assert why == f"the installed {library} is a build for the CPU; docs/gpu-image.md says what to install"
    assert (library in sys.modules) == was_imported


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("cuda: Optional[str] = '13.0'\nhip = None", "cuda", "13.0"),
        ("cuda: Optional[str] = None\n", "cuda", None),
        ("package_name = 'onnxruntime-gpu'\ncuda_version = '13.0'\n", "cuda_version", "13.0"),
        ("package_name = 'onnxruntime'\n", "cuda_version", None),
    ],
)
def test_the_cuda_version_of_a_build(text: str, name: str, version: str | None, tmp_path: Path) -> None:
    file = tmp_path / "version.py"
    assert _device._told(file, name) is None
    file.write_text(text)
    assert _device._told(file, name) == version


@pytest.mark.parametrize("library", ["torch", "onnxruntime", "ctranslate2"])
@pytest.mark.usefixtures("gpu")
def test_an_old_driver_is_the_cause(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "_told", lambda _file, _name: "13.0")
    monkeypatch.setattr(_device, "_driver_cuda", lambda: (11, 8))
    why = why_not(library) or ""
    needed = "12" if library == "ctranslate2" else "13.0"
    assert why.startswith(f"the driver supports CUDA 11.8, this {library} needs {needed}; ")
    assert f"MEDIA_PIPELINE_GPU__MIN_CUDA={needed}" in why


@pytest.mark.usefixtures("gpu")
def test_without_the_drivers_library_the_container_lacks_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "_driver_cuda", lambda: None)
    monkeypatch.setattr(_device, "_told", lambda _file, _name: "13.0")
    for library in LIBRARIES:
        assert "libcuda.so.1 cannot be used" in (why_not(library) or "")


@pytest.mark.parametrize(("answer", "found"), [(0, (12, 8)), (100, None)])
def test_the_version_the_driver_supports(
    answer: int, found: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        @staticmethod
        def cuDriverGetVersion(where: Any) -> int:  # noqa: N802 - CUDA's name
            where._obj.value = 12080
            return answer

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library)
    assert _device._driver_cuda() == found


@pytest.mark.usefixtures("gpu")
def test_two_builds_of_onnxruntime_are_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "_installed", lambda _distribution: True)
    assert "overwrite each other's files" in (why_not("onnxruntime") or "")


@pytest.mark.parametrize("providers", [["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]])
@pytest.mark.usefixtures("gpu")
def test_onnxruntime_is_believed_when_it_has_computed(providers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that asked for the GPU and got none is no error of onnxruntime's."""
    import onnxruntime

    asked: list[list[str]] = []
    real = onnxruntime.InferenceSession

    class Session:
        def __init__(self, model: bytes, options: Any, providers: list[str], **_more: Any) -> None:
            asked.append(providers)
            self._real = real(model, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return providers

        def run(self, *args: Any) -> Any:
            return self._real.run(*args)

    monkeypatch.setattr(_device, "_told", lambda _file, _name: "13.0")
    monkeypatch.setattr(_device, "_missing_library", lambda _file: "libcudnn.so.9: cannot open shared object file")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
    why = why_not("onnxruntime")
    assert asked == [["CUDAExecutionProvider", "CPUExecutionProvider"]]
    if providers[0] == "CUDAExecutionProvider":
        assert why is None
    else:
        assert why and "takes the CPU instead of the GPU: libcudnn.so.9: cannot open shared object file" in why


@pytest.mark.usefixtures("gpu")
def test_what_libraries_print_stays_out_of_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    monkeypatch.setattr(_device, "_told", lambda _file, _name: "13.0")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
    assert why_not("onnxruntime") is not None  # this build has no such provider
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("gpu")
def test_missing_cublas_is_named_before_the_first_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(_device, "find_spec", lambda _name: None)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    why = why_not("ctranslate2") or ""
    assert "libcublasLt.so.12: cannot open shared object file; install the package nvidia-cublas-cu12" in why


@pytest.mark.usefixtures("gpu")
def test_cublas_is_opened_from_its_package_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "nvidia" / "cublas" / "lib"
    folder.mkdir(parents=True)
    for name in ("libcublasLt.so.12", "libcublas.so.12"):
        (folder / name).touch()
    opened: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ctypes, "CDLL", opened.append)
    _device._open_cublas12()
    assert opened == [str(folder / "libcublasLt.so.12"), str(folder / "libcublas.so.12")]


@pytest.mark.usefixtures("gpu")
def test_a_library_that_breaks_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setitem(_device._PROBES, "torch", broken)
    assert "no kernel image is available" in (why_not("torch") or "")


@pytest.mark.usefixtures("gpu")
def test_one_library_that_cannot_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    def fails() -> None:
        tried.append("ctranslate2")
        raise _device._UnusableError("ctranslate2 needs cuBLAS 12; install it")

    for library in ("torch", "onnxruntime"):
        monkeypatch.setitem(_device._PROBES, library, lambda: None)
    monkeypatch.setitem(_device._PROBES, "ctranslate2", fails)
    found = report()
    assert (found.device, found.gpu, found.free_vram_mb) == ("cuda", "NVIDIA Pretended", 20_000)
    assert found.libraries == {
        "torch": "cuda",
        "onnxruntime": "cuda",
        "ctranslate2": "ctranslate2 needs cuBLAS 12; install it",
    }
    assert [resolved(library, "cuda") for library in LIBRARIES] == ["cuda", "cuda", "cpu"]
    assert [resolved(library, "cpu") for library in LIBRARIES] == ["cpu"] * 3
    assert resolved("torch", "cuda:1") == "cuda:1"
    assert resolved("ctranslate2", "cuda") == "cpu"
    assert tried == ["ctranslate2"]  # asked once
    assert [r.message for r in caplog.records] == [  # and said once
        "what needs ctranslate2 computes on the CPU: ctranslate2 needs cuBLAS 12; install it"
    ]


@pytest.mark.parametrize(
    "error", [KeyError("character"), RuntimeError("invalid payload\n size"), OSError("no such file")]
)
def test_whatever_a_library_raises_over_a_file_says_which_and_why(error: Exception) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        load_on(_reader(error), ModelChoice("PP-OCR mine", "standard", "0", Path("/mine/rec.onnx")), "cpu", Options())
    assert caught.value.cause.startswith(f"reader cannot open PP-OCR mine (/mine/rec.onnx): {type(error).__name__}: ")
    assert caught.value.remedy


@pytest.mark.parametrize("error", [UsageError("a wrong language"), ModelUnavailable("no"), MemoryError()])
def test_what_says_itself_what_is_wrong_is_not_told_otherwise(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        load_on(_reader(error), ModelChoice("mean", "embedded", "0"), "cpu", Options())
    assert caught.value is error


def _reader(error: Exception) -> AnalyzerSpec:
    def load(_choice: ModelChoice, _device: str, _options: Options) -> object:
        raise error

    return AnalyzerSpec(
        name="reader",
        version="1",
        needs=("frames",),
        schema=pa.schema([("media_id", pa.string())]),
        options=Options,
        choose=lambda _options, _store: ModelChoice("mean", "embedded", "0"),
        load=load,
        run=lambda _model, _batch, _options: pa.table({}),
        description="Reads.",
    )
