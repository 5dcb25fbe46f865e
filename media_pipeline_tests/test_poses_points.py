"""Key points as rows and arrays, one person or two, and networks of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._onnx_graph import OnnxGraph
from media_pipeline.analyzers._pose_blaze import refined
from media_pipeline.analyzers._pose_coco import open_point_network
from media_pipeline.analyzers._pose_crop import Crop, Region, inside
from media_pipeline.analyzers._pose_person import Pose, different_persons, similarity
from media_pipeline.analyzers._pose_points import BLAZE_POINTS, COCO_POINTS, Keypoints
from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers.poses import ANALYZER, PosesOptions
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._ocr_pages import PictureFrame
from media_pipeline_tests._pose_figures import draw, room

MOVENET = Path(__file__).resolve().parents[2] / "shared/models/movenet_lightning"
NAN = float("nan")


# --- rows and arrays ----------------------------------------------------------------------------------------------


def test_rows_and_arrays_are_the_same() -> None:
    rows = [
        {"name": "nose", "x": 1.5, "y": 2.0, "score": 0.75},
        {"name": "left_wrist", "x": None, "y": None, "score": 0.25},
    ]
    points = Keypoints.from_rows(rows)

    assert points.to_rows() == rows
    place, score = points.point("nose")
    assert (place.tolist(), score) == ([1.5, 2.0], 0.75)
    assert np.isnan(points.point("left_wrist")[0]).all()
    assert np.isnan(points.point("right_pinky")[1])
    assert points.places("right_pinky", "nose").shape == (2, 2)
    assert Keypoints.from_rows([]).xy.shape == (0, 2)


def test_blaze_points_contain_those_of_coco() -> None:
    assert (len(BLAZE_POINTS), len(COCO_POINTS)) == (33, 17)
    assert set(COCO_POINTS) < set(BLAZE_POINTS)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"2 names, points \(3, 2\)"):
        Keypoints(("a", "b"), np.zeros((3, 2), np.float32), np.zeros(2, np.float32))


# --- crops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_a_crop_shows_the_region_and_knows_the_way_back(angle: float) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[90:94, 180:184] = 255
    crop = Crop(image, Region(160, 100, 120, 160, angle), (60, 80))
    bright = np.argwhere(crop.image[..., 0] > 100).mean(axis=0)[::-1]

    assert crop.image.shape == (80, 60, 3)
    assert crop.to_picture(bright.astype(np.float32)) == pytest.approx([181.5, 91.5], abs=1)


def test_the_head_of_a_leaning_person_is_up_in_its_crop() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[95:105, 145:155] = 255  # to the right of the centre
    crop = Crop(image, Region(100, 100, 160, 160, np.pi / 2), (80, 80))
    row, column = np.argwhere(crop.image[..., 0] > 100).mean(axis=0)

    assert (row, column) == (pytest.approx(15, abs=1), pytest.approx(40, abs=1))


def test_regions_without_size_are_not_used() -> None:
    assert Region(1, 1, 10, 10).is_usable
    for region in (Region(1, 1, 0, 0), Region(NAN, 1, 10, 10), Region(1, 1, 1e9, 1e9), Region(1, 1, NAN, 10)):
        assert not region.is_usable


def test_points_outside_are_unknown() -> None:
    points = inside(np.float32([[0, 0], [30, 20], [-1, 5], [5, 21]]), np.zeros((20, 30, 3), np.uint8))
    assert np.isnan(points[:, 0]).tolist() == [False, False, True, True]


def test_refinement_moves_to_the_heat_nearby() -> None:
    heat = np.full((64, 64, 3), -20, np.float32)
    heat[10, 12, 0] = heat[10, 13, 0] = heat[11, 12, 0] = heat[11, 13, 0] = 20
    heat[50, 50, 1] = 20  # too far away
    heat[30, 30, 2] = -3  # too cold
    points = np.float32([[44, 44], [44, 44], [121, 121]])
    moved = refined(points, heat, 256)

    assert moved[0] == pytest.approx([50, 42])
    assert (moved[1:] == points[1:]).all()
    outside = np.float32([[-5, 300]] * 3)
    assert (refined(outside, heat, 256) == outside).all()


# --- one person or two --------------------------------------------------------------------------------------------


def figure(x: float, score: float = 0.9, size: float = 100) -> Pose:
    unit = np.random.default_rng(0).random((17, 2)).astype(np.float32)
    points = Keypoints(COCO_POINTS, unit * np.float32(size) + np.float32([x, 0]), np.ones(17, np.float32))
    return Pose(score, (x, 0, x + size, size), points)


def test_similarity_falls_with_distance() -> None:
    one = figure(0)
    similarities = [similarity(one, figure(x)) for x in (0, 5, 20, 100)]

    assert similarities[0] == 1
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[-1] < 0.01
    unknown = Pose(0.9, one.box, Keypoints(COCO_POINTS, np.full((17, 2), NAN, np.float32), np.ones(17, np.float32)))
    assert similarity(one, unknown) == 0


def test_a_person_is_reported_once() -> None:
    kept = different_persons([figure(0, 0.7), figure(3, 0.9), figure(60, 0.8)])
    assert [pose.score for pose in kept] == [0.9, 0.8]


# --- networks of the user's own -----------------------------------------------------------------------------------


def spot_network(file: Path, points: int = len(COCO_POINTS), outputs: tuple[str, str] = ("simcc_x", "simcc_y")) -> Path:
    """An RTMPose in form: point k is where colour k % 3 is brightest."""
    weights = np.zeros((points, 3, 1, 1), np.float32)
    weights[np.arange(points), np.arange(points) % 3] = 1
    graph = OnnxGraph("spots")
    graph.input("input", ("batch", 3, 256, 192))
    graph.constant("weights", weights)
    black = np.asarray([123.675 / 58.395, 116.28 / 57.12, 103.53 / 57.375], np.float32)  # what is taken from it
    graph.constant("bias", black[np.arange(points) % 3])
    graph.node("Conv", ["input", "weights", "bias"], "seen")
    for axis, size, name in ((2, 192, outputs[0]), (3, 256, outputs[1])):
        graph.node("ReduceMean", ["seen"], f"mean{axis}", axes=[axis], keepdims=0)
        graph.constant(f"twice{axis}", np.repeat(np.eye(size, dtype=np.float32), 2, axis=1))
        graph.node("MatMul", [f"mean{axis}", f"twice{axis}"], name)
        graph.output(name, ("batch", points, 2 * size))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(graph.model())
    return file


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", offline=True, hub_url="http://localhost:9", tier="auto")


@pytest.mark.parametrize("box", [(100, 50, 200, 250), (60, 120, 260, 200), (-50, -50, 260, 260)])
def test_rtmpose_points_return_to_the_picture(tmp_path: Path, box: Any) -> None:
    import cv2

    spots = {0: (130, 150), 1: (190, 130), 2: (160, 180)}
    image = np.zeros((300, 400, 3), np.uint8)
    for channel, (x, y) in spots.items():
        image[y - 10 : y + 11, x - 10 : x + 11, channel] = 255
    image = cv2.GaussianBlur(image, (31, 31), 6)
    network = open_point_network(spot_network(tmp_path / "tiny.onnx"), threads=1, device="cpu")
    found = network.keypoints(image, box)

    assert found.names == COCO_POINTS
    for number, place in enumerate(found.xy):
        assert place == pytest.approx(spots[number % 3], abs=3)
    assert ((found.scores > 0.05) & (found.scores <= 1)).all()


def test_points_nobody_sees_have_no_place(tmp_path: Path) -> None:
    network = open_point_network(spot_network(tmp_path / "tiny.onnx"), threads=1, device="cpu")
    image = np.zeros((300, 400, 3), np.uint8)
    image[100:120, 200:220, 0] = 255
    found = network.keypoints(image, (150, 50, 250, 200))

    assert np.isnan(found.xy[:, 0]).tolist() == [number % 3 != 0 for number in range(17)]


def test_analyzer_with_a_folder(store: ModelStore, tmp_path: Path) -> None:
    file = spot_network(tmp_path / "download/rtmpose-tiny/end2end.onnx")
    options = PosesOptions(model=str(tmp_path / "download"))
    choice = ANALYZER.choose(options, store)
    image = room()
    draw(image, 300, 460, 400)
    frames = (PictureFrame(image, reduced=2),)
    rows = ANALYZER.run(ANALYZER.load(choice, "cpu", options), (Medium("a", "image", frames=frames),), options)
    ANALYZER.check(rows, {"a"})
    (row,) = rows.to_pylist()

    assert (choice.name, choice.tier, choice.path) == ("rtmpose-tiny on BlazePose full", "standard", file)
    assert ANALYZER.choose(PosesOptions(model=str(file)), store) == choice
    assert choice.digest != ANALYZER.choose(PosesOptions(), store).digest
    assert [point["name"] for point in row["keypoints"]] == list(COCO_POINTS)
    assert row["model"].startswith("rtmpose-tiny on BlazePose full@")
    assert row["y2"] > 480


def test_folders_that_do_not_name_one_network(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="holds 0 networks, not one; set MEDIA_PIPELINE_OPTIONS__POSES__MODEL"):
        ANALYZER.choose(PosesOptions(model=str(tmp_path)), store)
    with pytest.raises(ModelUnavailable, match="no folder"):
        ANALYZER.choose(PosesOptions(model=str(tmp_path / "missing")), store)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelUnavailable, match="holds 2 networks"):
        ANALYZER.choose(PosesOptions(model=str(tmp_path)), store)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    def reason(file: Path) -> str:
        with pytest.raises(ModelUnavailable) as caught:
            open_point_network(file, threads=1, device="cpu")
        return str(caught.value)

    for name in ("broken.onnx", "broken.tflite"):
        (tmp_path / name).write_bytes(b"no network")
        assert f"{name} cannot be run" in reason(tmp_path / name)
    assert "17 points" in reason(spot_network(tmp_path / "hand.onnx", points=21))
    assert "simcc_x" in reason(spot_network(tmp_path / "other.onnx", outputs=("x", "y")))


@pytest.mark.skipif(not MOVENET.is_dir(), reason="needs ../shared/models")
def test_movenet_agrees_with_blazepose(store: ModelStore) -> None:
    image = room()
    joints = draw(image, 300, 460, 400)
    options = PosesOptions(model=str(MOVENET))
    model = ANALYZER.load(ANALYZER.choose(options, store), "cpu", options)
    (pose,) = model.poses(image, options)
    found = pose.keypoints.places(*joints)

    assert pose.keypoints.names == COCO_POINTS
    assert np.linalg.norm(found - np.stack(list(joints.values())), axis=1).mean() < 0.05 * 480
