"""The comparison of GPU and CPU: what it counts, and what it says where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks import gpu_worker
from benchmarks.gpu_worker import Line, agreement, measured, table
from media_pipeline.analyzers import _device
from media_pipeline.analyzers._spec import Medium
from media_pipeline_tests._clip import StillFrame, picture

WORD = pa.struct([("word", pa.string()), ("score", pa.float32())])
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("text", pa.string()),
        ("x1", pa.float32()),
        ("embedding", pa.list_(pa.float32(), 2)),
        ("words", pa.list_(WORD)),
    ]
)


def rows(text: str = "a", x1: float | None = 1.0, away: float = 0.0, word: str = "b") -> pa.Table:
    row = {
        "media_id": "m",
        "text": text,
        "x1": x1,
        "embedding": [0.5 + away, 0.5],
        "words": [{"word": word, "score": 0.5}],
    }
    return pa.Table.from_pylist([row, row], schema=SCHEMA)


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (rows(), "2 rows, 0 values differ; at most nothing away"),
        (rows(away=0.25), "2 rows, 0 values differ; at most embedding 0.2 away"),
        (rows(x1=3.0), "2 rows, 0 values differ; at most x1 2 away"),
        (rows(text="c"), "2 rows, 2 values differ; at most nothing away"),
        (rows(word="c"), "2 rows, 2 values differ; at most nothing away"),
        (rows(x1=None), "2 rows, 2 values differ; at most nothing away"),
        (rows().slice(1), "2 rows, 1 on the GPU"),
    ],
)
def test_agreement_of_rows(gpu: pa.Table, said: str) -> None:
    assert agreement(rows(), gpu) == said


def test_the_table_shows_rates_and_their_ratio() -> None:
    lines = [
        Line("ocr", "PP-OCR", "pictures/s", cpu=2.0, gpu=30.0, agreement="10 rows"),
        Line("transcript", "small", "RTF", cpu=4.0, gpu=40.0),
        Line("poses", "BlazePose", "pictures/s", cpu=8.0, gpu=None, why_not="no GPU here"),
    ]
    assert table(lines)[2:] == [
        "| ocr | PP-OCR | pictures/s | 2.0 | 30.0 | 15.0 | 10 rows |",
        "| transcript | small | RTF | 0.2500 | 0.0250 | 10.0 |  |",
        "| poses | BlazePose | pictures/s | 8.0 |  |  | no GPU here |",
    ]


@pytest.mark.slow
def test_without_a_gpu_the_cpu_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setattr(_device, "has_gpu", lambda: False)
    monkeypatch.setattr(_device, "_verdicts", {})
    frames = [StillFrame(0, 0.0, picture(0))]
    lines = {line.analyzer: line for line in measured([Medium("m", "image", frames=frames)], {"faces", "poses"})}
    assert {name: (line.gpu, line.why_not) for name, line in lines.items()} == {
        "faces": (None, "no GPU here"),
        "poses": (None, "computes on the CPU everywhere"),
    }
    assert all(line.cpu > 0 and line.unit == "pictures/s" for line in lines.values())


@pytest.mark.slow
def test_with_a_gpu_both_are_measured_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is pretended: what was asked for it is opened on the CPU, so both must agree."""
    import onnxruntime

    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setattr(_device, "_verdicts", dict.fromkeys(_device._PROBES))
    real, asked = onnxruntime.InferenceSession, []

    def session(source: object, options: object, providers: list[str], **more: object) -> object:
        asked.append(providers[0])
        return real(source, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    frames = [StillFrame(0, 0.0, picture(0))]
    (line,) = measured([Medium("m", "image", frames=frames)], {"faces"})
    assert asked == ["CPUExecutionProvider", "CUDAExecutionProvider"]
    assert line.gpu is not None and line.ratio is not None and line.ratio > 0
    assert line.agreement == "0 rows, 0 values differ; at most nothing away"


def test_samples_are_made_where_none_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Path, int]] = []
    monkeypatch.setattr("benchmarks.mixed_set.make_mixed_set", lambda folder, count: made.append((folder, count)))
    assert gpu_worker._samples(tmp_path) == tmp_path
    assert made == [(tmp_path, gpu_worker.SAMPLES)]
