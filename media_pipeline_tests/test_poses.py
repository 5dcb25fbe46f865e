"""The poses analyzer on drawn persons: real weights, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from media_pipeline.analyzers import _pose_weights, poses
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._pose_blaze import BlazePose
from media_pipeline.analyzers._pose_points import BLAZE_POINTS, COCO_POINTS, Keypoints
from media_pipeline.analyzers._spec import Image, Medium
from media_pipeline.analyzers.poses import ANALYZER, PoseModel, PosesOptions
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._ocr_pages import PictureFrame
from media_pipeline_tests._pose_figures import HANDS_UP, STANDING, draw, room

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_media = pytest.mark.skipif(not (SHARED / "media").is_dir(), reason="needs ../shared/media")
MEDIA_ID = "a" * 64


class CountingNetwork:
    """A real network, and how often it was asked."""

    def __init__(self, file: Path) -> None:
        self._network = LiteRtModel(file)
        self.calls = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._network.input_shape

    def __call__(self, values: Any) -> Any:
        self.calls += 1
        return self._network(values)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"), offline=True, hub_url="http://localhost:9", tier="auto")


@pytest.fixture(scope="module")
def model(store: ModelStore) -> PoseModel:
    return ANALYZER.load(ANALYZER.choose(PosesOptions(), store), "cpu", PosesOptions())


@pytest.fixture
def counted() -> tuple[PoseModel, CountingNetwork, CountingNetwork]:
    detector, landmarks = (CountingNetwork(file) for file in _pose_weights.blaze_files())
    return PoseModel("counted", BlazePose(detector, landmarks), None), detector, landmarks  # type: ignore[arg-type]


def look(model: PoseModel, *frames: PictureFrame | Image, kind: str = "image", **options: Any) -> list[dict[str, Any]]:
    """The rows of one medium, checked against the schema."""
    shown = [
        frame if isinstance(frame, PictureFrame) else PictureFrame(frame, frame_index=25 * number, pts_s=float(number))
        for number, frame in enumerate(frames)
    ]
    rows = ANALYZER.run(model, (Medium(MEDIA_ID, kind, frames=shown),), PosesOptions(**options))
    ANALYZER.check(rows, {MEDIA_ID})
    return rows.to_pylist()


def error(row: Mapping[str, Any], joints: Mapping[str, Any], height: int) -> float:
    """Mean distance of the key points from the joints, as a fraction of the picture's height."""
    found = Keypoints.from_rows(row["keypoints"]).places(*joints)
    return float(np.linalg.norm(found - np.stack(list(joints.values())), axis=1).mean() / height)


@pytest.mark.parametrize("height", [200, 420])
@pytest.mark.parametrize("pose", [STANDING, HANDS_UP], ids=["standing", "hands up"])
def test_joints_of_a_person(model: PoseModel, pose: Any, height: int) -> None:
    image = room()
    joints = draw(image, 300, 460, height * 0.9, pose)
    (row,) = look(model, image)

    assert row["score"] > 0.9
    assert error(row, joints, 480) < 0.02
    assert [point["name"] for point in row["keypoints"]] == list(BLAZE_POINTS)
    assert all(0 <= point["score"] <= 1 for point in row["keypoints"])
    x, y = np.stack(list(joints.values())).T
    assert row["x1"] <= x.min() <= x.max() <= row["x2"]
    assert row["y1"] <= y.min() <= y.max() <= row["y2"]
    assert row["x2"] - row["x1"] < 0.6 * height
    assert row["model"].startswith("BlazePose full@")


def test_several_persons_best_first(model: PoseModel) -> None:
    image = room(1280, 480)
    at = {250: STANDING, 620: HANDS_UP, 1000: STANDING}
    joints = {x: draw(image, x, 460, 330, pose) for x, pose in at.items()}
    rows = look(model, image)

    assert [row["person_index"] for row in rows] == [0, 1, 2]
    assert sorted(-row["score"] for row in rows) == [-row["score"] for row in rows]
    for row in rows:
        x = min(at, key=lambda x: abs(x - (row["x1"] + row["x2"]) / 2))
        assert error(row, joints.pop(x), 480) < 0.03
    assert len(look(model, image, max_persons=2)) == 2


def test_a_lying_person(model: PoseModel) -> None:
    image = room(480, 640)
    joints = draw(image, 240, 600, 500)
    turned = np.ascontiguousarray(np.rot90(image))
    places = {name: np.asarray([y, 480 - x]) for name, (x, y) in joints.items()}
    (row,) = look(model, turned)

    assert error(row, places, 480) < 0.03


def test_points_beyond_the_border_have_no_place(model: PoseModel) -> None:
    image = room()
    draw(image, 320, 900, 850)
    (row,) = look(model, image)
    points = {point["name"]: point for point in row["keypoints"]}

    assert points["left_shoulder"]["x"] == pytest.approx(320 + 0.105 * 850, abs=25)
    for name in ("left_ankle", "right_ankle", "left_knee"):
        assert (points[name]["x"], points[name]["y"]) == (None, None)
    assert row["y2"] <= 480


def test_coordinates_are_those_of_the_displayed_picture(model: PoseModel) -> None:
    image = room()
    joints = draw(image, 300, 460, 400)
    (row,) = look(model, PictureFrame(image, reduced=3))

    assert error(row, {name: 3 * place for name, place in joints.items()}, 3 * 480) < 0.02
    assert 3 * 480 >= row["y2"] > 480


def test_nobody(model: PoseModel) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8)
    tiny = [np.zeros(shape, np.uint8) for shape in ((1, 1, 3), (1, 4000, 3), (4000, 1, 3), (15, 15, 3), (2000, 16, 3))]

    assert look(model, room(), room(1280, 480), noise, *tiny, person_gate=False) == []


def test_the_closer_look_finds_who_is_small(model: PoseModel) -> None:
    image = room(1280, 480)
    draw(image, 300, 460, 400)
    draw(image, 900, 400, 100)

    assert len(look(model, image, closer_look=False)) == 1
    near, far = look(model, image)
    assert abs((far["x1"] + far["x2"]) / 2 - 900) < 20 < abs((near["x1"] + near["x2"]) / 2 - 900)


def test_the_gate_saves_the_closer_look_where_nobody_is(counted: Any) -> None:
    model, detector, landmarks = counted
    empty = room(1280, 480)

    assert look(model, empty) == []
    assert (detector.calls, landmarks.calls) == (1, 0)
    assert look(model, empty, person_gate=False) == []
    assert detector.calls > 3


def test_without_the_gate_nobody_small_is_lost(model: PoseModel) -> None:
    image = room(1280, 480)
    draw(image, 900, 460, 110)

    assert look(model, image) == []
    assert len(look(model, image, person_gate=False)) == 1


def test_one_close_person_costs_one_call_of_the_second_network(counted: Any) -> None:
    model, detector, landmarks = counted
    image = room(1280, 480)
    draw(image, 640, 1000, 950)

    assert len(look(model, image)) == 1
    assert detector.calls > 1
    assert landmarks.calls == 1


def test_unchanged_frames_repeat_the_persons(counted: Any) -> None:
    model, detector, _ = counted
    image = room()
    draw(image, 300, 460, 400)
    moved = room()
    draw(moved, 340, 460, 400)
    noise = np.random.default_rng(1).integers(-3, 4, image.shape)
    same = np.clip(image + noise, 0, 255).astype(np.uint8)

    first, second, third = look(model, image, same, moved, kind="video")
    assert [row["frame_index"] for row in (first, second, third)] == [0, 25, 50]
    assert [row["pts_s"] for row in (first, second, third)] == [0.0, 1.0, 2.0]
    assert [row["read_frame_index"] for row in (first, second, third)] == [0, 0, 50]
    assert second["keypoints"] == first["keypoints"]
    assert third["x1"] - first["x1"] == pytest.approx(40, abs=8)
    once = detector.calls

    rows = look(model, image, same, kind="video", reuse_unchanged_frames=False)
    assert [row["read_frame_index"] for row in rows] == [0, 25]
    assert detector.calls == 2 * once


def test_min_score_drops(model: PoseModel) -> None:
    image = room()
    draw(image, 300, 460, 400)
    (row,) = look(model, image)

    assert len(look(model, image, min_score=row["score"] - 1e-4)) == 1
    assert look(model, image, min_score=min(1.0, row["score"] + 1e-4)) == []


@pytest.mark.slow
def test_threads_share_one_model_and_agree(model: PoseModel) -> None:
    images = [room(400 + 20 * n, 400) for n in range(3)]
    for n, image in enumerate(images):
        draw(image, 150 + 20 * n, 380, 330)
    alone = [look(model, image) for image in images]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda image: look(model, image), images)) == alone


def test_choice_names_model_and_digest(store: ModelStore) -> None:
    choice = ANALYZER.choose(PosesOptions(), store)

    assert (choice.name, choice.tier, choice.warning) == ("BlazePose full", "embedded", None)
    assert len(choice.digest) == 64
    same = ANALYZER.fingerprint(choice, PosesOptions())
    assert ANALYZER.fingerprint(choice, PosesOptions(threads=4)) == same
    assert ANALYZER.fingerprint(choice, PosesOptions(closer_look=False)) != same
    assert ANALYZER.fingerprint(replace(choice, digest="0" * 64), PosesOptions()) != same


def test_the_standard_tier_has_no_weights_of_its_own(tmp_path: Path) -> None:
    standard = ModelStore(tmp_path, offline=True, hub_url="", tier="standard")
    with pytest.raises(ModelUnavailable, match="MEDIA_PIPELINE_OPTIONS__POSES__MODEL"):
        ANALYZER.choose(PosesOptions(), standard)


def test_preview_counts() -> None:
    def rows(*frames: int) -> Any:
        empty = dict.fromkeys(poses.SCHEMA.names)
        return poses.pa.Table.from_pylist([empty | {"frame_index": f} for f in frames], schema=poses.SCHEMA)

    assert poses.preview(rows()) == "no person"
    assert poses.preview(rows(3)) == "up to 1 person at once, in 1 frame"
    assert poses.preview(rows(3, 3, 9)) == "up to 2 persons at once, in 2 frames"


# --- pictures of real persons -------------------------------------------------------------------------------------


def picture(name: str) -> Image:
    with Pillow.open(SHARED / "media" / name) as opened:
        return np.asarray(opened.convert("RGB"))


@needs_media
def test_reference_key_points_of_a_squat(model: PoseModel) -> None:
    manifest = json.loads((SHARED / "media/MANIFEST.json").read_text())
    truth = next(f["ground_truth"] for f in manifest["files"] if f["file"] == "pose/squat.bmp")
    image = picture("pose/squat.bmp")
    height, width = image.shape[:2]
    joints = {
        name: np.asarray([x * width, y * height])
        for name, (x, y, _) in zip(COCO_POINTS, truth["coco17_reference"], strict=True)
    }
    (row,) = look(model, image)

    assert error(row, joints, height) < 0.05


@needs_media
@pytest.mark.slow
def test_reference_key_points_of_a_moving_figure(model: PoseModel) -> None:
    import av

    truth = json.loads((SHARED / "media/pose/pose_1.json").read_text())
    with av.open(str(SHARED / "media/pose/pose_1.mp4")) as container:
        frames = [
            PictureFrame(frame.to_ndarray(format="rgb24"), frame_index=number, pts_s=number / 30)
            for number, frame in enumerate(container.decode(video=0))
            if number % 10 == 0
        ]
    rows = look(model, *frames, kind="video")

    assert [row["frame_index"] for row in rows] == [frame.frame_index for frame in frames]
    errors = [
        error(row, {name: np.asarray([at["x"], at["y"]]) for name, at in truth[row["frame_index"]].items()}, 576)
        for row in rows
    ]
    assert np.mean(errors) < 0.02
    assert max(errors) < 0.05


@needs_media
@pytest.mark.slow
def test_real_persons_and_things(model: PoseModel) -> None:
    """Every portrait has a person; no animal, thing or page has (one page has a photo of a person)."""
    folder = SHARED / "media"
    portraits = sorted((folder / "faces").iterdir())
    things = [file for name in ("scenes", "ocr") for file in sorted((folder / name).iterdir())]
    images = {file.name: picture(str(file.relative_to(folder))) for file in (*portraits, *things) if is_picture(file)}
    seen = {name: len(look(model, image)) for name, image in images.items()}

    assert [file.name for file in portraits if not seen[file.name]] == []
    assert {file.name for file in things if seen.get(file.name)} <= {"8071_093.3B.tif"}


def is_picture(file: Path) -> bool:
    try:
        with Pillow.open(file):
            return True
    except OSError:
        return False
