"""What analyzers declare of the GPU is what they do: with the device "cuda" they ask their library for it.

No GPU is needed: the libraries' constructors note what they are asked for, and the model is opened on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from media_pipeline.analyzers import _device, _gpu_memory
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._onnx import CPU_PROVIDER, GPU_PROVIDER
from media_pipeline.analyzers._registry import registry
from media_pipeline.analyzers._spec import ModelChoice, Options
from media_pipeline.analyzers.nsfw import Choice as NsfwChoice
from media_pipeline_tests._clip import tiny_clip
from media_pipeline_tests._face_networks import tiny_recogniser, tiny_yunet
from media_pipeline_tests._voices import write_x_vector
from media_pipeline_tests.test_emotion import voice_folder
from media_pipeline_tests.test_poses_points import spot_network

MIB = 1024**2


class Asked(NamedTuple):
    library: str
    settings: dict[str, Any]


class EnoughError(BaseException):
    """The library was asked; its answer would need a GPU. No analyzer may take it for a broken model."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What libraries are asked to do on the GPU; all of them can compute there, as far as anybody is told."""
    import faster_whisper
    import onnxruntime

    found: list[Asked] = []
    real = onnxruntime.InferenceSession

    def session(source: Any, sess_options: Any, providers: list[str], provider_options: list[Any], **more: Any) -> Any:
        if providers[0] == GPU_PROVIDER:
            found.append(Asked("onnxruntime", provider_options[0]))
        return real(source, sess_options, providers=[CPU_PROVIDER], **more)

    def whisper(_folder: str, *, device: str, compute_type: str, **_more: Any) -> Any:
        if device.startswith("cuda"):
            found.append(Asked("ctranslate2", {"device": device, "compute_type": compute_type}))

    card = _gpu_memory.Card("Pretended", free_mb=20_000, total_mb=24_000)
    monkeypatch.setattr(_device, "has_gpu", lambda: True)
    monkeypatch.setattr(_device, "_verdicts", dict.fromkeys(_device._PROBES))
    monkeypatch.setattr(_device, "card", lambda: card)
    monkeypatch.setattr(_gpu_memory, "card", lambda: card)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [GPU_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(faster_whisper, "WhisperModel", whisper)
    monkeypatch.setattr("ctranslate2.get_supported_compute_types", lambda _device: {"float32", "int8_float16"})
    return found


@pytest.fixture
def clip_asked(asked: list[Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of open_clip, whose import takes seconds."""
    from media_pipeline.analyzers._torch import import_torch

    import_torch()
    import open_clip

    def create_model(_name: str, *, device: str, **_more: Any) -> Any:
        if device.startswith("cuda"):
            asked.append(Asked("torch", {"device": device}))
        raise EnoughError

    monkeypatch.setattr(open_clip, "create_model", create_model)


class Case(NamedTuple):
    analyzer: str
    options: Callable[[Path], dict[str, Any]]  # made in this folder
    library: str | None  # that computes on the GPU; None: nothing does
    sessions: int = 1  # that are opened there


def yunet_and_sface(folder: Path) -> Path:
    tiny_yunet(folder / "yunet.onnx")
    tiny_recogniser(folder / "sface.onnx")
    return folder


def whisper_folder(folder: Path) -> Path:
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.json"):
        (folder / name).write_text("")
    return folder


CASES = {
    "ocr rapidocr": Case("ocr", lambda _: {}, "onnxruntime", 3),
    "ocr paddleocr": Case("ocr", lambda _: {"engine": "paddleocr"}, "onnxruntime", 3),
    "faces embedded": Case("faces", lambda _: {}, "onnxruntime"),
    "faces standard": Case("faces", lambda folder: {"model": str(yunet_and_sface(folder))}, "onnxruntime"),
    "poses embedded": Case("poses", lambda _: {}, None),
    "poses RTMPose": Case("poses", lambda folder: {"model": str(spot_network(folder / "rtm.onnx"))}, "onnxruntime"),
    "nsfw NudeNet": Case("nsfw", lambda _: {}, "onnxruntime"),
    "image_embeddings": Case("image_embeddings", lambda folder: {"clip_model": str(tiny_clip(folder / "c"))}, "torch"),
    "transcript draft": Case("transcript", lambda _: {"language": "en"}, None),
    "transcript Whisper": Case("transcript", lambda folder: {"model": str(whisper_folder(folder))}, "ctranslate2"),
    "speakers GE2E": Case("speakers", lambda _: {}, None),
    "speakers x-vector": Case(
        "speakers", lambda folder: {"model": str(write_x_vector(folder / "x.onnx"))}, "onnxruntime"
    ),
    "emotion faces": Case("emotion", lambda _: {}, None),
    "emotion voices": Case("emotion", lambda folder: {"voice_model": str(voice_folder(folder / "v"))}, "onnxruntime"),
}


SLOW = [name for name in CASES if "paddle" in name or name == "image_embeddings"]  # to import their libraries


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_declared_is_done(name: str, asked: list[Asked], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    case = CASES[name]
    if case.library == "torch":
        request.getfixturevalue("clip_asked")
    spec = registry()[case.analyzer]
    folder = tmp_path / "given"
    folder.mkdir()
    options = spec.options.model_validate(case.options(folder))
    choice = spec.choose(options, ModelStore(tmp_path / "models", offline=True, hub_url="http://[::1]:9", tier="auto"))
    assert spec.uses_gpu is not None

    assert spec.uses_gpu(choice) is (case.library is not None)
    try:
        _, device = _device.load_on(spec, choice, "auto", options)
    except EnoughError:
        device = "cuda"

    assert device == ("cuda" if case.library else "cpu")
    assert [one.library for one in asked] == ([case.library] * case.sessions if case.library else [])


def test_every_declaration_is_tried() -> None:
    assert {case.analyzer for case in CASES.values()} == {s.name for s in registry().values() if s.uses_gpu is not None}


def test_judging_frames_by_vectors_needs_no_gpu() -> None:
    clip = ModelChoice("tiny", "standard", "0" * 64)
    uses_gpu = registry()["nsfw"].uses_gpu
    assert uses_gpu is not None
    assert not uses_gpu(NsfwChoice("tiny", "standard", "0" * 64, clip=clip))
    assert uses_gpu(NsfwChoice("both", "standard", "0" * 64, clip=clip, detector=Path("320n.onnx")))


def test_settings_keep_results_near_those_of_the_cpu(asked: list[Asked], tmp_path: Path) -> None:
    from media_pipeline.analyzers._onnx import open_session

    open_session(write_x_vector(tmp_path / "x.onnx"), device="cuda")
    ((_, settings),) = asked
    assert settings["use_tf32"] == "0"
    assert settings["cudnn_conv_algo_search"] == "HEURISTIC"
    assert settings["gpu_mem_limit"] == str(5000 * MIB)  # a quarter of what is free


@pytest.mark.slow
def test_torch_keeps_all_bits() -> None:
    from media_pipeline.analyzers._torch import import_torch

    torch = import_torch()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_a_session_on_the_cpu_instead_is_said(
    asked: list[Asked], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As onnxruntime does where a library is missing: no error, another provider."""
    from media_pipeline.analyzers._onnx import open_session

    monkeypatch.setattr(_device, "_said", set())
    for name in ("a.onnx", "b.onnx"):
        open_session(write_x_vector(tmp_path / name), device="cuda")
    assert len(asked) == 2
    assert [r.message for r in caplog.records] == [
        "what needs onnxruntime computes on the CPU: it took the CPU for a session that was to be on the GPU"
    ]


def test_a_session_the_gpu_refuses_is_opened_on_the_cpu(
    asked: list[Asked], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    from media_pipeline.analyzers._onnx import open_session

    real = onnxruntime.InferenceSession

    def full(*args: Any, providers: list[str], **more: Any) -> Any:
        if providers[0] == GPU_PROVIDER:
            raise RuntimeError("CUDA failure 2: out of memory")
        return real(*args, providers=providers, **more)

    monkeypatch.setattr(_device, "_said", set())
    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    session = open_session(write_x_vector(tmp_path / "x.onnx"), device="cuda")
    assert session.get_providers() == [CPU_PROVIDER]
    assert "out of memory" in caplog.text


@pytest.mark.parametrize(
    ("supported", "chosen"),
    [
        ({"float32", "int8_float16", "float16", "int8_float32"}, "int8_float16"),
        ({"float32", "float16", "bfloat16"}, "float16"),  # a card without 8-bit products
        ({"float32", "int8_float32", "int8"}, "int8_float32"),  # a card without quick float16
        ({"float32"}, "float32"),
    ],
)
def test_whisper_computes_in_what_the_card_can(
    supported: set[str], chosen: str, asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from media_pipeline.analyzers._speech_whisper import Whisper

    monkeypatch.setattr("ctranslate2.get_supported_compute_types", lambda _device: supported)
    Whisper(whisper_folder(tmp_path), "cuda", beam_size=5, threads=1)
    assert asked == [Asked("ctranslate2", {"device": "cuda", "compute_type": chosen})]


def test_analyzers_of_other_packages_get_the_gpu_only_if_they_can_use_it(asked: list[Asked]) -> None:
    """They may know nothing of our libraries: what they were given is what is said."""
    opened: list[str] = []

    def load(_choice: ModelChoice, device: str, _options: Options) -> str:
        opened.append(device)
        return device

    choice = ModelChoice("any", "embedded", "0" * 64)
    plain = replace(registry()["scenes"], load=load)
    able = replace(registry()["image_embeddings"], load=load)
    wanted = ("cpu", "auto", "cuda")
    assert [_device.load_on(plain, choice, device, Options())[1] for device in wanted] == ["cpu"] * 3
    assert [_device.load_on(able, choice, device, Options())[1] for device in wanted] == ["cpu", "cuda", "cuda"]
    assert opened == ["cpu", "cpu", "cpu", "cpu", "cuda", "cuda"]
