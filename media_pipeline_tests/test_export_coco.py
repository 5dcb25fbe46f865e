"""COCO: loaded and evaluated by pycocotools, which is what other people's tools load it with."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from media_pipeline.analyzers._pose_points import BLAZE_POINTS, COCO_POINTS
from media_pipeline.media.intake import Intake
from media_pipeline.results.exports.coco import HIDDEN, NOT_LABELLED, SKELETON, VISIBLE, keypoints
from media_pipeline_tests._export_home import ExportHome, box, export_home, frame, key, media_id
from media_pipeline_tests._synth import scene


def body(names: tuple[str, ...], x: float = 100, y: float = 50) -> list[dict[str, Any]]:
    """Points in a diagonal; the last two are hidden and out of the picture."""
    points = [{"name": name, "x": x + n, "y": y + 2 * n, "score": 0.95} for n, name in enumerate(names)]
    points[-2]["score"] = 0.1
    points[-1] |= {"x": None, "y": None, "score": 0.02}
    return points


def fill(home: ExportHome) -> None:
    home.add(
        "a",
        frames=[frame(0), frame(25), frame(50)],
        poses=[box(100, 50, 300, 450, 25, person_index=0, keypoints=body(COCO_POINTS))],
        faces=[box(150, 60, 190.25, 110.5, 25, track_index=3), box(10, 10, 10, 40, 25)],
        nsfw=[box(100, 50, 200, 150, label="belly_exposed"), {"frame_index": 0, "label": "explicit", "score": 0.8}],
        logos=[box(5, 5, 65, 25, logo="acme")],
        ocr=[box(0, 400, 640, 470, 50, text='SALE "50 %"', line_index=0)],
    )
    home.add(
        "b",
        "image",
        frames=[frame()],
        poses=[box(0, 0, 640, 480, keypoints=body(BLAZE_POINTS))],
        nsfw=[box(1, 1, 30, 40, label="feet_exposed")],
    )
    home.add("nothing", frames=[frame()])
    person = {"track_index": 3, "person_id": "P-1", "decided_by": "auto"}
    home.put("face_persons", {"a": [person]})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportHome]:
    home = export_home(tmp_path_factory.mktemp("coco") / "home")
    fill(home)
    yield home
    home.app.close()


@pytest.fixture(scope="module")
def file(home: ExportHome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "dataset.json"
    result = home.export("--all", "--format", "coco", "-o", path)
    assert result.return_value == 0, result.exception
    return path


def loaded(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def evaluated(truth: COCO, kind: str, results: list[dict[str, Any]], category: int) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, truth.loadRes(results), kind)
        run.params.catIds = [category]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


def names(coco: COCO) -> dict[str, int]:
    return {f"{c['supercategory']}/{c['name']}": c["id"] for c in coco.loadCats(coco.getCatIds())}


def test_pycocotools_loads_it(file: Path) -> None:
    coco = loaded(file)
    assert list(names(coco)) == [
        "person/person",
        "face/face",
        "nsfw/belly_exposed",
        "nsfw/feet_exposed",
        "logo/acme",
    ]
    images = coco.loadImgs(coco.getImgIds())
    assert {image["file_name"] for image in images} == {
        f"{key('a')}/0.jpg",
        f"{key('a')}/25.jpg",
        f"{key('b')}/0.jpg",
    }
    assert all((image["width"], image["height"]) == (640, 480) for image in images)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert sorted(a["id"] for a in annotations) == list(range(1, len(annotations) + 1))
    assert len(annotations) == 6


def test_boxes_are_corner_and_size_in_pixels(home: ExportHome, file: Path) -> None:
    coco = loaded(file)
    (face,) = coco.loadAnns(coco.getAnnIds(catIds=[names(coco)["face/face"]]))
    assert face["bbox"] == [150, 60, 40.25, 50.5]
    assert face["area"] == pytest.approx(40.25 * 50.5, abs=0.01)
    assert face["attributes"] == {"track_index": 3, "person_id": "P-1"}
    assert coco.loadImgs(face["image_id"])[0]["file_name"] == f"{key('a')}/25.jpg"
    assert coco.loadImgs(face["image_id"])[0]["media_id"] == media_id("a")


def test_evaluation_of_the_file_against_itself_is_perfect(file: Path) -> None:
    coco = loaded(file)
    person = names(coco)["person/person"]
    found = [
        {"image_id": a["image_id"], "category_id": person, "bbox": a["bbox"], "score": a["score"]}
        for a in coco.loadAnns(coco.getAnnIds(catIds=[person]))
    ]
    assert evaluated(coco, "bbox", found, person)[0] == pytest.approx(1.0)
    moved = [{**result, "bbox": [result["bbox"][0] + 500, *result["bbox"][1:]]} for result in found]
    assert evaluated(coco, "bbox", moved, person)[0] < 0.6


def test_evaluation_of_key_points(file: Path) -> None:
    coco = loaded(file)
    person = names(coco)["person/person"]
    annotations = coco.loadAnns(coco.getAnnIds(catIds=[person]))
    found = [
        {"image_id": a["image_id"], "category_id": person, "keypoints": a["keypoints"], "score": a["score"]}
        for a in annotations
    ]
    assert evaluated(coco, "keypoints", found, person)[0] == pytest.approx(1.0)
    far = [{**result, "keypoints": [value + 300 for value in result["keypoints"]]} for result in found]
    assert evaluated(coco, "keypoints", far, person)[0] < 0.1


def test_key_points_are_those_of_coco_whatever_the_network() -> None:
    coco, blaze = keypoints(body(COCO_POINTS)), keypoints(body(BLAZE_POINTS))
    assert len(coco) == len(blaze) == 3 * 17
    assert coco[:3] == [100, 50, VISIBLE]
    assert coco[-6:] == [115, 80, HIDDEN, 0, 0, NOT_LABELLED]
    at = BLAZE_POINTS.index("left_hip")
    assert blaze[3 * 11 : 3 * 12] == [100 + at, 50 + 2 * at, VISIBLE]
    assert keypoints(body(("nose", "tail", "horn")))[3:6] == [0, 0, NOT_LABELLED]


def test_the_skeleton_joins_what_belongs_together() -> None:
    edges = {frozenset((COCO_POINTS[a - 1], COCO_POINTS[b - 1])) for a, b in SKELETON}
    assert len(edges) == 19
    assert frozenset(("left_shoulder", "left_elbow")) in edges
    assert frozenset(("right_knee", "right_ankle")) in edges
    # Left is joined to right at shoulders, hips and eyes only.
    across = {edge for edge in edges if len({name.partition("_")[0] for name in edge} & {"left", "right"}) == 2}
    assert across == {frozenset((f"left_{part}", f"right_{part}")) for part in ("shoulder", "hip", "eye")}


def test_boxes_can_be_chosen(home: ExportHome) -> None:
    result = home.export(key("a"), "--format", "coco", "--boxes", "ocr,logos")
    assert result.return_value == 0, result.exception
    content = json.loads(result.stdout)
    assert [category["name"] for category in content["categories"]] == ["text", "acme"]
    assert [a["attributes"]["text"] for a in content["annotations"] if "attributes" in a] == ['SALE "50 %"']


def test_an_export_of_nothing_is_a_file_that_loads(home: ExportHome, tmp_path: Path) -> None:
    result = home.export(key("nothing"), "--format", "coco", "-o", tmp_path / "x.json")
    assert result.return_value == 0, result.exception
    assert loaded(tmp_path / "x.json").getImgIds() == []


@pytest.fixture
def empty_home(tmp_path: Path) -> Iterator[ExportHome]:
    home = export_home(tmp_path / "home")
    yield home
    home.app.close()


@pytest.mark.slow
def test_frames_are_written_and_boxes_fit_them(
    empty_home: ExportHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_SETTLE_S", "0")
    home = empty_home
    Image.fromarray(scene(1, 0, 4000, 3000)).save(tmp_path / "big.jpg", quality=50)
    pipeline = home.pipeline
    Intake(pipeline.layout, pipeline.sources, pipeline.settings).take([tmp_path / "big.jpg"], wait=True)
    (known,) = pipeline.sources.all_media()
    for stage in ("media", "frames"):
        pipeline.run_stage(stage, [known.partition_key], run_id="r")
    pipeline.cache.discard(known.media_id)  # it is decoded again
    rows = [box(1000, 500, 3000, 2500, media_id=known.media_id, keypoints=body(COCO_POINTS, 2000, 1500))]
    home.replace("poses", rows)
    result = home.export("--all", "--format", "coco", "--frames", "-o", tmp_path / "out")
    assert result.return_value == 0, result.exception
    coco = loaded(tmp_path / "out" / "annotations.json")
    (image,) = coco.loadImgs(coco.getImgIds())
    with Image.open(tmp_path / "out" / "images" / image["file_name"]) as written:
        assert written.size == (image["width"], image["height"]) == (2560, 1920)
    (person,) = coco.loadAnns(coco.getAnnIds())
    assert person["bbox"] == [640, 320, 1280, 1280]
    assert person["keypoints"][:3] == [1280, 960, VISIBLE]
    assert person["area"] == 1280 * 1280


@pytest.mark.slow
def test_media_whose_original_is_gone_are_named(home: ExportHome, tmp_path: Path) -> None:
    result = home.export(key("a"), "--format", "coco", "--frames", "-o", tmp_path / "out")
    assert result.return_value == 3
    assert f"{key('a')}: its original is not known any more" in result.stderr
    assert loaded(tmp_path / "out" / "annotations.json").getImgIds() == []
