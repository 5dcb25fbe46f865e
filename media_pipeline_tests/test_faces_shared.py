"""The faces analyzer on real pictures with known people: counts, false faces, and how well people are told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from media_pipeline.analyzers._face_identity import same_person_cosine
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import Image, Medium
from media_pipeline.analyzers.faces import ANALYZER, FacesOptions, Model
from media_pipeline_tests import _cli
from media_pipeline_tests._ocr_pages import PictureFrame

SHARED = (_cli.REPOSITORY.parent / "shared").resolve()
MEDIA, MODELS = SHARED / "media", SHARED / "models"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MEDIA.is_dir(), reason="the collection of real media is not beside this checkout"),
]


@pytest.fixture(scope="module", params=["embedded", "standard"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    store = ModelStore(tmp_path_factory.mktemp("m"), offline=True, hub_url="http://localhost:9", tier="embedded")
    options = FacesOptions()
    if request.param == "standard":
        if not (MODELS / "mobilefacenet").is_dir():
            pytest.skip("the weights of YuNet and MobileFaceNet are not beside this checkout")
        folder = tmp_path_factory.mktemp("weights")
        for file in ("yunet/yunet_n_dynamic.onnx", "mobilefacenet/mobilefacenet.onnx"):
            (folder / Path(file).name).symlink_to(MODELS / file)
        options = FacesOptions(model=str(folder))
    loaded: Model = ANALYZER.load(ANALYZER.choose(options, store), "cpu", options)
    return loaded


@cache
def truths() -> dict[str, dict[str, Any]]:
    listed = json.loads((MEDIA / "MANIFEST.json").read_text())["files"]
    return {entry["file"]: entry.get("ground_truth") or {} for entry in listed}


def find(model: Model, *pictures: Image, kind: str = "image") -> list[dict[str, Any]]:
    frames = [PictureFrame(picture, frame_index=i, pts_s=i / 5) for i, picture in enumerate(pictures)]
    table = ANALYZER.run(model, (Medium("a" * 64, kind, frames=frames),), FacesOptions())
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def opened(name: str) -> Image:
    with Pillow.open(MEDIA / name) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        upright.thumbnail((2560, 2560))
        return np.array(upright)


def test_counts_are_right(model: Model) -> None:
    wrong = []
    for name, truth in truths().items():
        if name.startswith("faces/") or (name.startswith("formats/hopper.") and not name.endswith(".ico")):
            found = len(find(model, opened(name)))
            # YuNet sees the people cut by the border, too, whom nobody counted.
            if found != truth["faces"] if "faces" in truth else found < truth.get("min_faces", 1):
                wrong.append((name, found, truth))
    assert wrong == []


def test_nobody_where_nobody_is(model: Model) -> None:
    pictures = [name for name in truths() if name.split("/")[0] in ("scenes", "ocr")]
    assert len(pictures) >= 25

    assert [name for name in pictures if find(model, opened(name))] == []


@pytest.mark.parametrize("name", ["bbb_example2.mp4", "av1_video.mkv", "nasa_13013.mp4", "testcard_text_in_frame.mp4"])
def test_nobody_in_cartoons_and_technology(model: Model, name: str) -> None:
    assert find(model, *video(name, 1.0), kind="video") == []


def test_a_man_who_moves_hides_his_mouth_and_looks_away_is_one_track(model: Model) -> None:
    rows = find(model, *video("chaplin.mp4", 0.2), kind="video")

    known = [row["track_index"] for row in rows if row["embedding"] is not None]
    assert len(known) >= 12
    assert len(set(known)) == 1


def test_people_are_told_apart(model: Model) -> None:
    faces = [
        (truth["identity"], find(model, opened(name)))
        for name, truth in truths().items()
        if name.startswith("faces/") and "identity" in truth and "near_duplicate_of" not in truth
    ]
    # The largest is the person it is about.
    known = [(who, max(rows, key=lambda row: row["y2"] - row["y1"])) for who, rows in faces]
    least = same_person_cosine(known[0][1]["model"])
    same, different = [], []
    for (one, a), (other, b) in combinations(known, 2):
        (same if one == other else different).append(float(np.dot(a["embedding"], b["embedding"])))

    assert len(same) >= 50
    assert len(different) >= 250
    assert min(same) >= least
    assert max(different) < least


def video(name: str, step_s: float) -> Iterator[Image]:
    import av

    with av.open(str(MEDIA / "video" / name)) as container:
        due = 0.0
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= due:
                due = frame.time + step_s
                yield frame.to_ndarray(format="rgb24")
