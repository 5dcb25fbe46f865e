"""The command line as a person and a script meet it: real processes, exit codes, one-line errors."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest
from PIL import Image

from media_pipeline.config import load_settings
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline_tests import _cli

pytestmark = pytest.mark.slow  # each command is a process of its own


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from demo.pictures import render_slide, write_picture

    folder = tmp_path_factory.mktemp("pictures") / "nested folder"
    folder.mkdir()
    write_picture(folder / "-rechnung ü\n4711.png", render_slide(("Kunde: Müller", "Betrag 50 Euro"), title="Rechnung"))
    Image.new("RGB", (320, 200), (90, 120, 30)).save(folder / "green.webp")
    return folder.parent


@pytest.fixture(scope="module")
def home(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    finished = _cli.run(home, "analyze", pictures)
    assert finished.returncode == 0, finished.stderr
    assert "2 files: 2 done, 0 failed" in finished.stderr
    assert "transcript unavailable" not in finished.stderr  # pictures have no sound: nothing is missing
    return home


def test_again_does_nothing_and_says_so(home: Path, pictures: Path) -> None:
    finished = _cli.run(home, "analyze", pictures, "--format", "json")
    report = json.loads(finished.stdout)
    assert (finished.returncode, report["new"], report["known"], report["done"]) == (0, 0, 2, 2)


def test_text_is_found_by_sql_and_by_search(home: Path) -> None:
    rows = json.loads(_cli.run(home, "sql", "SELECT text FROM ocr ORDER BY line_index", "--format", "json").stdout)
    assert [row["text"] for row in rows] == ["Rechnung", "Kunde: Müller", "Betrag 50 Euro"]
    hits = json.loads(_cli.run(home, "search", "--text", "mueller", "--format", "json").stdout)
    assert "Müller" in json.dumps(hits, ensure_ascii=False)


def test_a_bad_file_is_listed_and_ends_with_three(home: Path, pictures: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0" + b"0" * 100)
    finished = _cli.run(home, "analyze", bad, pictures / "nested folder" / "green.webp")
    assert finished.returncode == 3
    assert "bad.jpg" in finished.stderr and "Traceback" not in finished.stderr
    status = json.loads(_cli.run(home, "status", "--format", "json").stdout)
    assert [f["name"] for f in status["failures"]] == ["bad.jpg"]
    assert status["stages"]["ocr"]["done"] == 2


def test_only_some_analyzers_and_what_they_need(pictures: Path, tmp_path: Path) -> None:
    assert _cli.run(tmp_path, "analyze", pictures, "--analyzers", "ocr").returncode == 0
    stages = json.loads(_cli.run(tmp_path, "status", "--format", "json").stdout)["stages"]
    assert {name for name, counts in stages.items() if counts["done"]} == {"media", "frames", "ocr"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["analyze", "x", "--analyzers", "orc"], "unknown analyzer orc"),
        (["analyze"], "PATHS"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_usage_errors_end_with_two(tmp_path: Path, arguments: list[str], said: str) -> None:
    finished = _cli.run(tmp_path, *arguments)
    assert finished.returncode == 2
    assert said in finished.stderr and "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("MEDIA_PIPELINE_OCR", "1"), ("MEDIA_PIPELINE_TIER", "golden"), ("MEDIA_PIPELINE_BATCH__MAX_MEDIA", "0")],
)
def test_a_wrong_setting_is_named(tmp_path: Path, name: str, value: str) -> None:
    finished = _cli.run(tmp_path, "status", **{name: value})
    assert finished.returncode == 2
    assert name in finished.stderr and len(finished.stderr.strip().splitlines()) == 1


def test_a_missing_path_is_said_and_the_rest_is_done(home: Path, pictures: Path, tmp_path: Path) -> None:
    finished = _cli.run(home, "analyze", tmp_path / "nowhere.jpg", pictures)
    assert finished.returncode in (2, 3)
    assert "nowhere.jpg" in finished.stderr


def test_what_is_unavailable_is_said_again_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "tone.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"".join((6000 * (n // 9 % 2)).to_bytes(2, "little") for n in range(8000)))
    runs = [_cli.run(tmp_path / "home", "analyze", tmp_path / "tone.wav", "--format", "json") for _ in range(2)]
    first, second = [json.loads(run.stdout)["unavailable"] for run in runs]
    assert "models pull" in first["transcript"]
    assert second == first


def test_a_model_that_cannot_be_opened_is_said_and_the_run_goes_to_its_end(pictures: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for part in ("det", "rec"):
        (weights / f"{part}.onnx").write_bytes(b"half of a network")
    home, broken = tmp_path / "home", {"MEDIA_PIPELINE_OPTIONS__OCR__MODEL": str(weights)}
    finished = _cli.run(home, "analyze", pictures, "--analyzers", "ocr,titles", "--format", "json", **broken)
    assert finished.returncode == 0, finished.stderr
    assert "det.onnx cannot be run" in json.loads(finished.stdout)["unavailable"]["ocr"]
    pipeline = Pipeline(load_settings(home=home))
    counts = pipeline.ledger.counts()
    assert (counts["ocr"], counts["titles"]) == ({"unavailable": 2}, {"done": 2})
    judged = pipeline.tables.read("moderation", columns=["media_id"])["media_id"]
    assert len(set(judged.to_pylist())) == 2, "what comes after all stages ran as well"


def test_a_home_that_cannot_be_is_a_usage_error() -> None:
    finished = _cli.run(Path("/proc/no-home"), "status")
    assert finished.returncode == 2
    assert "--home" in finished.stderr and len(finished.stderr.strip().splitlines()) == 1


def test_doctor_finds_nothing_broken(tmp_path: Path) -> None:
    finished = _cli.run(tmp_path, "doctor", "--format", "json")
    checks = {check["name"]: check for check in json.loads(finished.stdout)}
    assert finished.returncode == 0, finished.stdout
    assert checks["transcript"]["level"] == "warning" and "models pull" in checks["transcript"]["remedy"]
    assert checks["ocr"]["level"] == "ok"
