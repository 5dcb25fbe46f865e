"""The faces analyzer on drawn people: real weights, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from demo.people import ANNA, BRUNO, EYES_Y, MIDDLE_X, on_canvas, portrait
from media_pipeline.analyzers._face_identity import same_person_cosine
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import Image, Medium
from media_pipeline.analyzers.faces import ANALYZER, FacesOptions, Model
from media_pipeline_tests._ocr_pages import PictureFrame, slide

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute

MEDIA_ID = "a" * 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    store = ModelStore(tmp_path_factory.mktemp("models"), offline=True, hub_url="http://localhost:9", tier="embedded")
    loaded: Model = ANALYZER.load(ANALYZER.choose(FacesOptions(), store), "cpu", FacesOptions())
    return loaded


def find(model: Model, frames: Iterable[PictureFrame], kind: str = "image", **options: Any) -> list[dict[str, Any]]:
    """The rows of one medium, checked against the schema."""
    table = ANALYZER.run(model, (Medium(MEDIA_ID, kind, frames=tuple(frames)),), FacesOptions(**options))
    ANALYZER.check(table, {MEDIA_ID})
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def film(*pictures: Image, scene_of: Iterable[int] | None = None) -> list[PictureFrame]:
    scenes = list(scene_of or [0] * len(pictures))
    return [PictureFrame(p, frame_index=10 * i, pts_s=2.0 * i, scene_index=scenes[i]) for i, p in enumerate(pictures)]


def cosine(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(np.dot(one["embedding"], other["embedding"]))


def test_two_people_beside_each_other(model: Model) -> None:
    picture = on_canvas((portrait(BRUNO), 60, 40, 640), (portrait(ANNA), 700, 40, 640))

    bruno, anna = find(model, [PictureFrame(picture)])

    assert [bruno["face_index"], anna["face_index"]] == [0, 1]
    for row, left, person in ((bruno, 60, BRUNO), (anna, 700, ANNA)):
        points = {point["name"]: (point["x"], point["y"]) for point in row["landmarks"]}
        assert list(points) == ["right_eye", "left_eye", "nose", "mouth_right", "mouth_left"]
        # The person's right is the picture's left.
        assert points["right_eye"] == pytest.approx((left + MIDDLE_X - person.eye_distance, 40 + EYES_Y), abs=10)
        assert points["left_eye"] == pytest.approx((left + MIDDLE_X + person.eye_distance, 40 + EYES_Y), abs=10)
        assert points["mouth_right"][0] < points["nose"][0] < points["mouth_left"][0]
        assert row["x1"] < points["right_eye"][0] < points["left_eye"][0] < row["x2"]
        assert row["y1"] < points["right_eye"][1] < points["mouth_left"][1] < row["y2"]
        assert row["score"] > 0.95
        assert row["quality"] > 0.7
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4)
        assert row["model"].startswith("dlib-resnet@")
    assert cosine(bruno, anna) < same_person_cosine(anna["model"])


def test_the_same_person_in_another_picture(model: Model) -> None:
    (large,) = find(model, [PictureFrame(portrait(ANNA))])
    (small,) = find(model, [PictureFrame(on_canvas((portrait(ANNA, shift=14), 300, 200, 160)))])

    assert cosine(large, small) >= same_person_cosine(large["model"])


def test_boxes_are_in_pixels_of_the_displayed_picture(model: Model) -> None:
    (cached,) = find(model, [PictureFrame(portrait(ANNA))])
    (displayed,) = find(model, [PictureFrame(portrait(ANNA), reduced=3)])

    for name in ("x1", "y1", "x2", "y2"):
        assert displayed[name] == pytest.approx(3 * cached[name], abs=0.1)
    assert displayed["landmarks"][0]["x"] == pytest.approx(3 * cached["landmarks"][0]["x"], abs=0.1)


def test_a_face_at_the_border_keeps_its_box_inside(model: Model) -> None:
    (row,) = find(model, [PictureFrame(np.ascontiguousarray(portrait(ANNA)[190:, 130:]))])

    assert row["x1"] >= 0
    assert row["y1"] >= 0


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.full((1, 4000, 3), 200, np.uint8),
        np.full((3000, 2, 3), 90, np.uint8),
        np.full((480, 640, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8),
        slide(["Nobody is here,", "only text."]),
    ],
    ids=["1x1", "row", "column", "white", "noise", "text"],
)
def test_nobody(model: Model, picture: Image) -> None:
    assert find(model, [PictureFrame(picture)]) == []


def test_small_faces_are_found_in_parts_of_the_picture_but_not_identified(model: Model) -> None:
    frame = PictureFrame(on_canvas((portrait(ANNA), 900, 500, 58), (portrait(BRUNO), 200, 100, 58)))

    rows = find(model, [frame])

    assert len(rows) == 2
    assert all(24 <= row["y2"] - row["y1"] < 32 for row in rows)
    assert [row["embedding"] for row in rows] == [None, None]
    assert find(model, [frame], small_faces=False) == []
    assert find(model, [frame], min_face_px=40) == []


def test_a_blurred_face_has_a_box_and_no_embedding(model: Model) -> None:
    import cv2

    (sharp,) = find(model, [PictureFrame(portrait(ANNA))])
    (blurred,) = find(model, [PictureFrame(cv2.GaussianBlur(portrait(ANNA), (0, 0), 9))])

    assert sharp["embedding"] is not None
    assert blurred["embedding"] is None
    assert blurred["quality"] < sharp["quality"]


def test_one_person_through_forty_frames_is_one_track(model: Model) -> None:
    walking = (on_canvas((portrait(ANNA), 20 * i, 10, 300), width=1100, height=320) for i in range(40))

    rows = find(model, film(*walking), "video")

    assert len(rows) == 40
    assert {row["track_index"] for row in rows} == {0}


def both(left: Image, right: Image) -> Image:
    return on_canvas((left, 20, 10, 300), (right, 340, 10, 300), width=640, height=320)


def test_two_people_change_places_and_one_comes_back(model: Model) -> None:
    anna, bruno = portrait(ANNA), portrait(BRUNO)
    alone = on_canvas((bruno, 20, 10, 300), width=640, height=320)
    rows = find(model, film(both(anna, bruno), both(bruno, anna), alone, both(anna, bruno)), "video")

    tracks = [[r["track_index"] for r in rows if r["frame_index"] == frame] for frame in (0, 10, 20, 30)]
    assert tracks == [[0, 1], [1, 0], [1], [0, 1]]
    assert ANALYZER.preview is not None
    assert ANALYZER.preview(pa.Table.from_pylist(rows, schema=ANALYZER.schema)) == "7 faces, 2 tracks"


def test_a_face_in_an_animated_picture_is_one_track(model: Model) -> None:
    rows = find(model, film(portrait(ANNA), portrait(ANNA)))
    assert [row["track_index"] for row in rows] == [0, 0]

    couple = find(model, film(both(portrait(ANNA), portrait(ANNA))))
    assert [row["track_index"] for row in couple] == [0, 1], "two faces of one frame are two people, however alike"


class CountingFinder:
    """The real finder, and how often it was asked."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder
        self.calls = 0

    def find(self, image: Image, **options: Any) -> Any:
        self.calls += 1
        return self._finder.find(image, **options)


@pytest.mark.parametrize(("reuse", "searched"), [(True, 2), (False, 4)])
def test_unchanged_frames_repeat_the_faces(model: Model, reuse: bool, searched: int) -> None:
    finder: Any = CountingFinder(model.finder)
    frames = film(portrait(ANNA), portrait(ANNA), portrait(BRUNO), portrait(BRUNO))

    rows = find(Model(finder, model.recogniser), frames, "video", reuse_unchanged_frames=reuse)

    assert finder.calls == searched
    assert [row["frame_index"] for row in rows] == [0, 10, 20, 30]
    assert [row["track_index"] for row in rows] == [0, 0, 1, 1]


def test_only_the_largest_faces_of_a_crowd(model: Model) -> None:
    heights = (300, 200, 150)
    crowd = on_canvas(*((portrait(ANNA), 20 + 330 * i, 20, tall) for i, tall in enumerate(heights)), width=1000)

    rows = find(model, [PictureFrame(crowd)], max_faces=2)

    assert [round(row["y2"] - row["y1"]) for row in rows] == pytest.approx([150, 100], abs=12)


def test_threads_share_one_model(model: Model) -> None:
    pictures = [PictureFrame(portrait(person, shift=shift)) for person in (ANNA, BRUNO) for shift in (0, 8)]
    alone = [find(model, [picture]) for picture in pictures]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: find(model, [picture]), pictures * 3))

    assert together == alone * 3


def test_media_of_a_batch_are_kept_apart(model: Model) -> None:
    media = [Medium(name * 64, "image", frames=film(portrait(p))) for name, p in (("a", ANNA), ("b", BRUNO))]

    table = ANALYZER.run(model, (*media, Medium("c" * 64, "image")), FacesOptions())

    assert Counter(table["media_id"].to_pylist()) == {"a" * 64: 1, "b" * 64: 1}


def test_preview_of_nobody() -> None:
    assert ANALYZER.preview is not None
    assert ANALYZER.preview(ANALYZER.schema.empty_table()) == "no faces"


def test_the_graph_of_the_embedded_recogniser_gives_what_dlib_gives(model: Model) -> None:
    import dlib

    from media_pipeline.analyzers._face_weights import weights

    chip = model.recogniser.chip(
        portrait(ANNA), np.asarray([[198, 270], [314, 270], [256, 348], [208, 403], [304, 403]])
    )
    network = dlib.face_recognition_model_v1(str(weights(None).recogniser))
    both = [np.asarray(network.compute_face_descriptor(np.ascontiguousarray(c))) for c in (chip, chip[:, ::-1])]
    expected = sum(vector / np.linalg.norm(vector) for vector in both)

    assert model.recogniser.embed([chip])[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_a_broken_recogniser_is_a_message(tmp_path: Path) -> None:
    from media_pipeline.analyzers._face_embed import Recogniser
    from media_pipeline.analyzers._face_weights import weights
    from media_pipeline.errors import ModelUnavailable

    broken = tmp_path / "cut.dat"
    broken.write_bytes(weights(None).recogniser.read_bytes()[:1_000_000])
    with pytest.raises(ModelUnavailable, match=r"cut\.dat is not dlib's"):
        Recogniser("dlib-resnet", broken, "dlib-resnet@0")
