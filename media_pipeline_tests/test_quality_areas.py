"""The areas over rows whose quality is known beforehand: a real home, asked in SQL, filled by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from demo.pictures import write_picture
from media_pipeline.execution.pipeline import table_schemas
from media_pipeline.media.intake import Intake
from quality.area import Bench
from quality.collection import Collection
from quality.duplicates import Duplicates
from quality.faces import Faces, Persons
from quality.home import Home
from quality.report import Measurement
from quality.video import Scenes
from quality.voices import Voices

pytestmark = pytest.mark.slow  # each makes a home

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # by file
BOX = {"x1": 0.0, "y1": 0.0, "x2": 40.0, "y2": 40.0}
MODEL = "dlib-resnet@0123"

TRUTH: dict[str, tuple[str, dict[str, Any]]] = {
    "faces/a1.png": ("face_reid", {"identity": "A", "min_faces": 1}),
    "faces/a2.png": ("face_reid", {"identity": "A", "min_faces": 1}),
    "faces/a3.png": ("face_reid", {"identity": "A", "min_faces": 1}),
    "faces/b1.png": ("face_reid", {"identity": "B", "min_faces": 1}),
    "faces/three.png": ("face_count", {"faces": 3}),
    "scenes/cat.png": ("image_content", {"caption": "cat", "near_duplicate_group": "cat"}),
    "scenes/cat2.png": ("image_content", {"caption": "cat", "near_duplicate_group": "cat"}),
    "voice_id/a1.png": ("speaker_id", {"speaker_id": "A"}),
    "voice_id/a2.png": ("speaker_id", {"speaker_id": "A"}),
    "voice_id/b1.png": ("speaker_id", {"speaker_id": "B"}),
    "video/cut.png": ("video", {"cuts_at_frame": [50, 90]}),
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("MEDIA_PIPELINE_MIN_FREE_BYTES", "1")
    monkeypatch.setenv("MEDIA_PIPELINE_SETTLE_S", "0")
    media = tmp_path / "media"
    draw = np.random.default_rng(0)
    for file in TRUTH:  # different bytes each; what they show does not matter here
        (media / file).parent.mkdir(parents=True, exist_ok=True)
        write_picture(media / file, draw.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    files = [{"file": file, "kind": kind, "ground_truth": truth} for file, (kind, truth) in TRUTH.items()]
    (media / "MANIFEST.json").write_text(json.dumps({"files": files}))
    home = Home(tmp_path / "home", media)
    pipeline = home.pipeline
    pipeline.ensure_tables()
    Intake(pipeline.layout, pipeline.sources, pipeline.settings).take([media / file for file in TRUTH], wait=True)
    yield Bench(Collection(media), home, tmp_path / "scratch")
    home.close()


def fill(bench: Bench, table: str, rows: Rows) -> None:
    ids = bench.home.files()
    listed = [{"media_id": ids[file], **row} for file, of_file in rows.items() for row in of_file]
    schema = table_schemas()[table]
    bench.home.pipeline.tables.replace(table, pa.Table.from_pylist(listed, schema=schema), set(ids.values()))


def found(area: Any, bench: Bench, beginning: str) -> Measurement:
    (line,) = [line for line in area.measure(bench) if line.metric.startswith(beginning)]
    return line


def face(direction: int, towards: int | None = None, **more: Any) -> dict[str, Any]:
    """A face whose embedding is a unit vector, or lies half way between two: a cosine of 0.707 to either."""
    vector = np.zeros(128, np.float32)
    vector[direction] = 1.0
    if towards is not None:
        vector[towards] = 1.0
        vector /= np.linalg.norm(vector)
    return {
        "frame_index": 0,
        "track_index": 0,
        "score": 1.0,
        **BOX,
        "embedding": vector.tolist(),
        "model": MODEL,
        **more,
    }


def test_verification_of_faces(bench: Bench) -> None:
    # a3 lies between a1, a2 and b1: at 0.93 two right pairs are refused and no wrong one is accepted.
    small = {**face(5), "track_index": 1, "x2": 10.0}  # a smaller face beside the portrait
    faces = {"a1": [small, face(0)], "a2": [face(0)], "a3": [face(0, 1)], "b1": [face(1)]}
    fill(bench, "faces", {f"faces/{name}.png": rows for name, rows in faces.items()})
    accepted, wrong = (found(Faces(), bench, f"faces: {what} accept rate at") for what in ("true", "false"))
    assert (accepted.value, accepted.n) == (1 / 3, 3)
    assert (wrong.value, wrong.n, wrong.verdict) == (0.0, 3, "met")
    assert found(Faces(), bench, "faces: true accept rate above").value == 1 / 3  # only a1 and a2 are above 0.707
    assert found(Faces(), bench, "faces: equal error rate").value == pytest.approx(1 / 6)


def test_counts_of_faces(bench: Bench) -> None:
    two = [face(0), {**face(1), "track_index": 1}]
    fill(bench, "faces", {"faces/three.png": two, "faces/a1.png": [face(0)], "scenes/cat.png": [face(3)]})
    exact = found(Faces(), bench, "faces: pictures with exactly")
    assert (exact.value, exact.n, exact.remark) == (0.0, 1, "of 3 faces 1 missed, 0 extra")
    assert found(Faces(), bench, "faces: portraits").value == 0.25
    assert found(Faces(), bench, "faces: pictures without people").value == 0.5


def test_persons_merged_and_parted(bench: Bench) -> None:
    files = ("a1", "a2", "a3", "b1")
    fill(bench, "faces", {f"faces/{name}.png": [face(0)] for name in files})
    person = dict(zip(files, ("P1", "P1", "P2", "P2"), strict=True))
    fill(bench, "face_persons", {f"faces/{n}.png": [{"track_index": 0, "person_id": person[n]}] for n in files})
    merged, together = Persons().measure(bench)
    assert (merged.value, merged.n, merged.verdict) == (1.0, 3, "missed")  # a3 and b1
    assert (together.value, together.n, together.verdict) == (1 / 3, 3, "missed")  # a1 and a2


def test_voices_by_their_longest_turn(bench: Bench) -> None:
    def turn(speaker: str, seconds: float, vector: list[float]) -> dict[str, Any]:
        return {"speaker": speaker, "start_s": 0.0, "end_s": seconds, "embedding": vector, "model": "m@1"}

    left, right = [1.0, 0.0], [0.0, 1.0]
    turns = {
        "a1": [turn("S1", 1, right), turn("S2", 9, left)],
        "a2": [turn("S1", 5, left)],
        "b1": [turn("S1", 5, right)],
    }
    fill(bench, "speakers", {f"voice_id/{name}.png": rows for name, rows in turns.items()})
    voices = {"a1": [("S1", "V2"), ("S2", "V1")], "a2": [("S1", "V1")], "b1": [("S1", "V2")]}
    rows = {n: [{"speaker": speaker, "voice_id": voice} for speaker, voice in v] for n, v in voices.items()}
    fill(bench, "speaker_voices", {f"voice_id/{name}.png": of for name, of in rows.items()})
    assert found(Voices(), bench, "voices: recordings of two").value == 0
    assert found(Voices(), bench, "voices: recordings of one").value == 1
    error = found(Voices(), bench, "voices: equal error")
    assert (error.value, error.n, error.verdict) == (0.0, 3, "met")


def test_cuts(bench: Bench) -> None:
    starts = [{"scene_index": n, "start_frame": frame} for n, frame in enumerate((0, 50, 70, 91))]
    fill(bench, "scenes", {"video/cut.png": starts})
    cuts = found(Scenes(), bench, "scenes: F1")
    assert (cuts.value, cuts.n, cuts.remark) == (0.8, 2, "0 missed, 1 extra")


def test_near_duplicates_missed_and_wrong(bench: Bench) -> None:
    ids = bench.home.files()

    def pairs(*names: tuple[str, str]) -> None:
        listed = [sorted((ids[left], ids[right]), reverse=True) for left, right in names]
        rows = [{"media_id": a, "other_id": b, "distance": 0.0, "matched": 1.0} for a, b in listed]
        table = pa.Table.from_pylist(rows, schema=table_schemas()["duplicate_pairs"])
        bench.home.pipeline.tables.replace("duplicate_pairs", table, set(ids.values()))

    pairs(("faces/a1.png", "faces/b1.png"))
    recall, precision = (found(Duplicates(), bench, f"near-duplicates: {what}") for what in ("recall", "precision"))
    assert (recall.value, recall.n, recall.remark) == (0.0, 1, "missed: cat.png and cat2.png")
    assert (precision.value, precision.remark) == (0.0, "wrong: a1.png and b1.png")
    pairs(("scenes/cat2.png", "scenes/cat.png"))
    assert all(found(Duplicates(), bench, f"near-duplicates: {w}").value == 1 for w in ("recall", "precision"))
