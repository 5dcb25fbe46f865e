"""What `doctor` says of a GPU."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from media_pipeline.analyzers import _device
from media_pipeline.cli import doctor


def checks() -> list[tuple[str, str, str | None]]:
    found = list(doctor._gpu())
    assert {check.name for check in found} == {"gpu"}
    return [(check.level, check.found, check.remedy) for check in found]


def test_no_gpu_is_nothing_to_worry_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_device, "has_gpu", lambda: False)
    [(level, found, remedy)] = checks()
    assert (level, remedy) == ("ok", None)
    assert found.startswith("none here")


@pytest.mark.parametrize("usable", [True, False])
def test_each_library_that_cannot_use_it_is_named(usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "ctranslate2 needs cuBLAS 12: libcublas.so.12; install the package nvidia-cublas-cu12"
    state = "cuda" if usable else "the installed torch is a build for the CPU; docs/gpu-image.md says what to install"
    report = _device.DeviceReport("cuda", "RTX 4090", 23_552, {"torch": state, "ctranslate2": why})
    monkeypatch.setattr(_device, "has_gpu", lambda: True)
    monkeypatch.setattr(_device, "report", lambda: report)
    card, *warnings = checks()
    if usable:
        assert card == ("ok", "RTX 4090, 23.0 GiB free; torch compute on it", None)
    else:
        assert card == ("warning", "RTX 4090, 23.0 GiB free; nothing computes on it", None)
    assert warnings[-1] == (
        "warning",
        "ctranslate2 needs cuBLAS 12: libcublas.so.12",
        "install the package nvidia-cublas-cu12",
    )
    assert len(warnings) == 2 - usable


def test_the_gpus_onnxruntime_is_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(distribution: str) -> str:
        if distribution == "onnxruntime":
            raise PackageNotFoundError(distribution)
        return "1.0"

    monkeypatch.setattr(doctor, "PACKAGES", {"onnxruntime": None})
    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "OTHER_OPENCV", ())
    (check,) = doctor._packages()
    assert (check.level, check.found) == ("ok", "1.0")
