"""`quote`: what the screen says before anything is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from media_pipeline.cli import main
from media_pipeline.config import load_settings
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.media.intake import Intake
from media_pipeline.storage.costs import Cost
from media_pipeline_tests._rental_home import KEY, market

Quote = Callable[..., tuple[int, str, str]]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for level in (40, 120, 200):
        Image.new("RGB", (64, 48), (level, level, 90)).save(folder / f"grey {level}.bmp")  # all of one size
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {"OFFLINE": "1", "HOME": str(tmp_path / "home"), "SETTLE_S": "0"}.items():
        monkeypatch.setenv(f"MEDIA_PIPELINE_{name}", value)
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    return tmp_path / "home"


@pytest.fixture
def quote(home: Path, capsys: pytest.CaptureFixture[str]) -> Quote:
    def ask(*args: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["quote", *map(str, args)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return ask


def facts(quote: Quote, *args: str | Path) -> dict[str, Any]:
    code, out, _ = quote(*args, "--format", "json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def take_in(home: Path, *paths: Path) -> None:
    pipeline = Pipeline(load_settings(home=home))
    Intake(pipeline.layout, pipeline.sources, pipeline.settings).take(paths, wait=True)
    pipeline.close()


def test_equal_files_count_once_and_nothing_is_taken_in(quote: Quote, files: Path, home: Path) -> None:
    shutil.copy(files / "grey 40.bmp", files / "again.bmp")
    found = facts(quote, files)
    assert (found["media"], found["frames"], found["guessed_media"]) == (3, 3, 3)
    assert found["target"] == "cpu"
    assert {"starting", "media", "ocr", "around the stages"} <= {part["stage"] for part in found["stages"]}
    assert found["expected_minutes"] == pytest.approx(sum(part["seconds"] for part in found["stages"]) / 60, abs=0.01)
    pipeline = Pipeline(load_settings(home=home))
    assert pipeline.sources.count() == 0
    pipeline.close()


@pytest.mark.slow
def test_a_medium_under_another_name_is_the_one_that_is_known(quote: Quote, files: Path, home: Path) -> None:
    take_in(home, files / "grey 40.bmp")
    (files / "grey 40.bmp").rename(files / "renamed.bmp")
    pipeline = Pipeline(load_settings(home=home))
    [medium] = pipeline.sources.all_media()
    for stage in ("media", "frames", "audio"):
        pipeline.run_stage(stage, [medium.partition_key], run_id="r")
    pipeline.close()
    found = facts(quote, files, "--analyzers", "frames")
    assert (found["media"], found["guessed_media"]) == (2, 2), "one of the three has been decoded"


@pytest.mark.slow
def test_what_was_measured_is_what_is_quoted(quote: Quote, files: Path, home: Path) -> None:
    pipeline = Pipeline(load_settings(home=home))
    pipeline.judge.own_fingerprint("ocr")
    stage = pipeline.judge.stages["ocr"]
    assert stage.choice is not None
    pipeline.costs.record(Cost("ocr", stage.choice.name, "cpu", 1, 1, 0.0, 100.0, 100.0))
    pipeline.costs.record_overhead("run", 1, 77.0)
    pipeline.close()
    parts = {part["stage"]: (part["seconds"], part["basis"]) for part in facts(quote, files)["stages"]}
    assert parts["ocr"] == (300.0, "measured")
    assert parts["around the stages"] == (77.0, "measured")
    assert parts["media"][1] == "estimated"


@pytest.mark.slow
def test_the_screen_compares_and_says_why_and_what_is_left_out(
    quote: Quote, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "letter.mp4").write_text("Dear Sir or Madam")
    code, out, _ = quote(files, "--target", "gpu")
    assert code == 0
    assert "VAST_API_KEY" in out, "why there is no other choice"
    assert "letter.mp4" in out
    with market(2) as server:
        monkeypatch.setenv("VAST_API_KEY", KEY)
        monkeypatch.setenv("MEDIA_PIPELINE_VAST_URL", server.url)
        monkeypatch.setenv("MEDIA_PIPELINE_GPU__NEEDS_CUDA", "false")
        monkeypatch.setenv("MEDIA_PIPELINE_GPU__EUR_PER_USD", "0.9")
        code, out, _ = quote(files, "--target", "gpu", "--max-usd", "5")
        assert server.live() == [], "nothing is rented"
    assert code == 0
    assert "3 media with work to do: 3 frames" in out
    assert "RTX 3090 in SE" in out
    assert "this machine" in out
    assert "EUR" in out
    assert "a GPU was asked for" in out


@pytest.mark.slow
def test_what_there_is_not_ends_with_the_remedy(quote: Quote, files: Path) -> None:
    code, _, err = quote(files / "gone")
    assert code == 2
    assert "does not exist" in err
    code, _, err = quote(files, "--analyzers", "palmistry")
    assert code == 2
    assert "there are" in err
