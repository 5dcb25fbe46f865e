"""Decoding of BlazeFace-like detectors: anchors, suppression, the way back to the picture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from media_pipeline.analyzers._blaze import (
    FACE_FULL_RANGE,
    POSE,
    AnchorLayout,
    BlazeDetector,
    Detection,
    decoded,
    letterboxed,
    merged,
    merged_detections,
)
from media_pipeline.analyzers._litert import LiteRtModel
from media_pipeline.analyzers._packaged import packaged_file
from media_pipeline_tests._pose_figures import draw, room

NETWORKS = {
    "face, full range": ("face_detection/face_detection_full_range_sparse.tflite", FACE_FULL_RANGE),
    "pose": ("pose_detection/pose_detection.tflite", POSE),
}


def open_network(name: str) -> tuple[LiteRtModel, AnchorLayout]:
    path, layout = NETWORKS[name]
    return LiteRtModel(packaged_file("mediapipe", f"modules/{path}")), layout


@pytest.fixture(scope="module")
def poses() -> BlazeDetector:
    return BlazeDetector(*open_network("pose"))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_anchor_per_output(name: str) -> None:
    network, layout = open_network(name)
    raw, scores = network(np.zeros(network.input_shape))

    assert network.input_shape == (1, layout.side_px, layout.side_px, 3)
    assert layout.centres().shape == (raw.shape[1], 2) == (scores.shape[1], 2)


def test_anchors_run_along_rows_of_each_grid() -> None:
    centres = AnchorLayout(32, (8, 16, 16), 2).centres()

    assert len(centres) == 4 * 4 * 2 + 2 * 2 * 4
    assert centres[:3].tolist() == [[0.125, 0.125], [0.125, 0.125], [0.375, 0.125]]
    assert (centres[32:36] == [0.25, 0.25]).all()
    assert centres[36].tolist() == [0.75, 0.25]


def test_offsets_are_counted_from_the_anchor() -> None:
    raw = np.asarray([[1, 2, 10, 20, 3, 4]], np.float32)
    found = decoded(raw, np.asarray([[0.5, 0.25]], np.float32), 100)

    assert found.tolist() == [[[46, 17], [56, 37], [53, 29]]]


def test_overlapping_findings_become_their_mean_by_score() -> None:
    found = np.asarray([[[0, 0], [10, 10], [5, 5]], [[1, 0], [11, 10], [7, 5]], [[50, 50], [60, 60], [55, 55]]])
    first, second = merged(np.asarray([0.6, 0.9, 0.7], np.float32), found.astype(np.float32), 0.3)

    assert first.score == pytest.approx(0.9)
    assert first.box == pytest.approx((0.6, 0, 10.6, 10))
    assert first.points[0].tolist() == pytest.approx([6.2, 5])
    assert (second.score, second.box) == (pytest.approx(0.7), (50, 50, 60, 60))


def test_boxes_without_area_do_not_stop_suppression() -> None:
    flat = np.zeros((2, 3, 2), np.float32)

    assert len(merged(np.asarray([0.9, 0.8], np.float32), flat, 0.3)) == 2


def test_findings_of_several_looks_are_merged() -> None:
    one = Detection(0.6, (0, 0, 10, 10), np.float32([[5, 5]]))
    assert merged_detections([], 0.3) == []

    (both,) = merged_detections([one, Detection(0.6, (-8, 0, 2, 10), np.float32([[-1, 5]])).moved(8, 0)], 0.3)
    assert both.box == (0, 0, 10, 10)
    assert both.points.tolist() == [[6, 5]]


@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (3, 1), (1000, 700), (64, 64)])
def test_letterbox_keeps_the_shape_and_knows_the_way_back(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 255, np.uint8)
    values, scale, offset = letterboxed(image, 64)
    corners = np.asarray([[0, 0], [shape[1], shape[0]]]) * scale + offset

    assert values.shape == (1, 64, 64, 3)
    assert set(np.unique(values)) <= {-1, 1}
    (x1, y1), (x2, y2) = corners.round().astype(int)
    assert (values[0, y1:y2, x1:x2] == 1).all()
    assert (values == 1).sum() == (y2 - y1) * (x2 - x1) * 3
    assert max(x2 - x1, y2 - y1) == 64


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 700)])
def test_a_person_is_found_where_it_stands(poses: BlazeDetector, size: tuple[int, int]) -> None:
    image = room(*size)
    height = 0.8 * min(size)
    joints = draw(image, 0.4 * size[0], 0.9 * size[1], height)
    hips = (joints["left_hip"] + joints["right_hip"]) / 2
    (person,) = poses.detect(image)

    assert person.score > 0.9
    assert np.linalg.norm(person.points[0] - hips) < 0.05 * height
    x1, y1, x2, y2 = person.box
    assert x1 < joints["nose"][0] < x2
    assert y1 < joints["nose"][1] < y2


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "pose"])
def test_a_face_is_found_where_it_is(name: str) -> None:
    image = room(640, 640)
    joints = draw(image, 330, 1250, 1200)
    (face,) = BlazeDetector(*open_network(name)).detect(image)
    right_eye, left_eye, nose = face.points[:3]

    assert np.linalg.norm(nose - joints["nose"]) < 25
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] == pytest.approx(1250 - 0.93 * 1200, abs=25)


def test_nobody_is_found_where_nobody_is(poses: BlazeDetector) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8)
    for image in (room(), noise, np.zeros((1, 1, 3), np.uint8), np.full((4000, 1, 3), 128, np.uint8)):
        assert poses.detect(image) == []


def test_threads_share_a_detector_and_agree(poses: BlazeDetector) -> None:
    images = [room(400 + 20 * n, 400) for n in range(4)]
    for n, image in enumerate(images):
        draw(image, 150 + 20 * n, 380, 330)

    def boxes(image: Any) -> list[tuple[float, ...]]:
        return [person.box for person in poses.detect(image)]

    alone = [boxes(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(boxes, images)) == alone
