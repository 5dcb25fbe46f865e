"""The measurement itself: what it says of small samples, what it takes for the truth, a run over a tiny collection."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import Field

from demo.pictures import render_slide, write_picture
from media_pipeline.analyzers import AnalyzerSpec, ModelChoice, Options
from media_pipeline.analyzers._registry import registry
from media_pipeline_tests import _cli
from quality import gates, report, run
from quality.collection import Collection, CollectionMissing
from quality.conversations import PAUSE_S, Sentence, one_microphone, two_microphones
from quality.models import KNOWN, given_models
from quality.report import Grid, Maker, Measurement

RATE = 16_000


def test_small_samples_are_called_so() -> None:
    assert "says nothing" in Measurement("m", 1.0, n=2, of="clips").remarks
    assert "a hint" in Measurement("m", 1.0, n=12, of="clips").remarks
    assert Measurement("m", 1.0, n=300, of="clips").remarks == ""


def test_goals() -> None:
    assert Measurement("m", 0.05, at_most=0.05).verdict == "met"
    assert Measurement("m", 0.89, at_least=0.9).verdict == "missed"
    assert Measurement("m", 0.5).verdict == ""
    nothing = report.absent("m", "no weights")
    assert (nothing.shown, nothing.verdict, nothing.remarks) == ("not measured", "", "no weights")


def test_markdown_is_one_table_whatever_the_cells_hold() -> None:
    line = Measurement("a|b", 0.5, n=40, of="x", interval=(0.25, 0.75), maker=Maker("net\n2", "3 ms/frame"))
    text = report.measurements_grid("How good", [line]).markdown()
    rows = [row for row in text.splitlines() if row.startswith("|")]
    assert len(rows) == 3
    assert rows[2] == "| a\\|b | 50.0 % (25.0 % to 75.0 %) |  |  | 40 x | net 2 | 3 ms/frame |  |"
    assert report.document("Intro.", [Grid("T", ("c",), (("1",),))]).startswith("# Quality\n\nIntro.\n\n## T\n\n| c |")


def test_a_folder_without_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionMissing, match=r"MANIFEST\.json"):
        Collection(tmp_path)
    (tmp_path / "MANIFEST.json").write_text('{"files": [{"no": "name"}]}')
    with pytest.raises(CollectionMissing, match="KeyError"):
        Collection(tmp_path)


# ---------------------------------------------------------------------- areas and weights


def test_areas_speak_of_analyzers_that_exist() -> None:
    names = [area.name for area in run.AREAS]
    assert len(set(names)) == len(names)
    assert {name for area in run.AREAS for name in area.analyzers} <= registry().keys()


def test_given_weights_become_options(tmp_path: Path) -> None:
    folder, scratch = tmp_path / "models", tmp_path / "scratch"
    for weights in KNOWN.values():
        for place in weights.places:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).touch()
    options = given_models(folder, scratch)
    assert options.keys() == KNOWN.keys()  # each analyzer is there and has that option
    assert sorted(p.name for p in Path(str(options["faces"]["model"])).iterdir()) == [
        "mobilefacenet.onnx",
        "yunet_n_640_640.onnx",
    ]
    (folder / "mobilefacenet" / "mobilefacenet.onnx").unlink()
    assert given_models(folder, scratch).keys() == KNOWN.keys() - {"faces"}


# ---------------------------------------------------------------------- gates


class _GatedOptions(Options):
    face_gate: bool = True
    reuse_unchanged_frames: bool = Field(True, description="as others have it")
    second_look: bool = True
    dark_gate: bool = False  # off as it comes: nothing to switch off


def _gated() -> AnalyzerSpec:
    return AnalyzerSpec(
        name="gated",
        version="1",
        needs=("frames",),
        schema=pa.schema([("media_id", pa.string())]),
        options=_GatedOptions,
        choose=lambda options, store: ModelChoice("none", "embedded", "0"),
        load=lambda choice, device, options: None,
        run=lambda model, batch, options: pa.table({"media_id": pa.array([], pa.string())}),
        description="for this test",
    )


def test_gates_are_found_by_their_names() -> None:
    found = gates.gates_of([_gated()])
    assert [gate.option for gate in found] == ["face_gate", "reuse_unchanged_frames"]
    assert gates.all_off(found) == {"gated": {"face_gate": False, "reuse_unchanged_frames": False}}


# ---------------------------------------------------------------------- conversations


def write_tone(path: Path, seconds: float, silent_s: float, hertz: float) -> None:
    """A tone with silence before and after it."""
    at = np.arange(round(seconds * RATE)) / RATE
    tone = (8000 * np.sin(2 * np.pi * hertz * at)).astype("<i2")
    room = np.zeros(round(silent_s * RATE), "<i2")
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(np.concatenate([room, tone, room]).tobytes())


@pytest.fixture
def sentences(tmp_path: Path) -> list[Sentence]:
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        write_tone(tmp_path / f"{name}.wav", seconds, 0.25, 200)
    return [Sentence(tmp_path / "a.wav", "anna"), Sentence(tmp_path / "b.wav", "ben")]


def test_turns_of_a_conversation_are_where_the_sound_is(sentences: list[Sentence], tmp_path: Path) -> None:
    talk = one_microphone(tmp_path / "talk.wav", sentences)
    assert [speaker for _, _, speaker in talk.turns] == ["anna", "ben"]
    assert [end - start for start, end, _ in talk.turns] == pytest.approx([1.0, 2.0], abs=0.01)
    with wave.open(str(talk.file)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    loud = np.zeros(len(samples), bool)
    for start, end, _ in talk.turns:
        loud[round(start * RATE) : round(end * RATE)] = True
    assert np.abs(samples[loud].astype(int)).mean() > 1000
    assert not samples[~loud].any()
    assert talk.turns[0][0] == PAUSE_S


def test_each_has_a_channel_of_their_own(sentences: list[Sentence], tmp_path: Path) -> None:
    talk = two_microphones(tmp_path / "talk.wav", sentences)
    with wave.open(str(talk.file)) as sound:
        assert sound.getnchannels() == 2
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").reshape(-1, 2)
    (start, end, _), _ = talk.turns
    anna = samples[round(start * RATE) : round(end * RATE)]
    assert anna[:, 0].any() and not anna[:, 1].any()


# ---------------------------------------------------------------------- a whole run

TEXT = "Permission is hereby granted\nfree of charge\nto any person"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of three files, whose answers are known because the test makes them."""
    root = tmp_path_factory.mktemp("media")
    for folder in ("ocr", "scenes", "video"):
        (root / folder).mkdir()
    write_picture(root / "ocr" / "en.jpg", render_slide(tuple(TEXT.splitlines()), size=(1280, 720)))
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    blocks = np.kron(noise, np.ones((16, 16, 1), np.uint8))
    write_picture(root / "scenes" / "large.png", blocks)
    write_picture(root / "scenes" / "small.png", np.ascontiguousarray(blocks[::2, ::2]))
    files: list[dict[str, Any]] = [
        {"file": "ocr/en.jpg", "kind": "ocr", "ground_truth": {"language": "en", "text": TEXT}},
        *(
            {
                "file": f"scenes/{n}.png",
                "kind": "image_content",
                "ground_truth": {"near_duplicate_group": "x", "text": None},
            }
            for n in ("large", "small")
        ),
    ]
    (root / "MANIFEST.json").write_text(json.dumps({"files": files}))
    return root


def quality(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quality.run", *map(str, args)]
    env = _cli.environment(COLUMNS="240")
    return subprocess.run(command, cwd=_cli.REPOSITORY, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_areas_by_name(tiny: Path, tmp_path: Path) -> None:
    page = tmp_path / "quality.md"
    done = quality("--media", tiny, "--only", "ocr,duplicates", "--output", page)
    assert done.returncode == 0, done.stderr
    (error,) = [line for line in done.stdout.splitlines() if "character error, English" in line]
    assert "0.0 %" in error and "met" in error and "1 pages" in error and "PP-OCR" in error and "ms/frame" in error
    (recall,) = [line for line in done.stdout.splitlines() if "near-duplicates: recall" in line]
    assert "100.0 %" in recall and "1 pairs" in recall
    assert not page.exists()  # a part is not the page


@pytest.mark.slow
def test_what_cannot_be_measured_says_why(tiny: Path, tmp_path: Path) -> None:
    done = quality("--media", tiny, "--only", "pictures", "--home", tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    assert "not measured" in done.stdout and "image_embeddings" in done.stdout
    assert (tmp_path / "kept" / "home" / "tables").is_dir()


def test_a_missing_collection_and_wrong_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--media", str(tmp_path)]) == 2
    assert "MANIFEST.json" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run.main(["--media", str(tmp_path), "--only", "ocr,orc"])
    assert "unknown: orc" in capsys.readouterr().err
