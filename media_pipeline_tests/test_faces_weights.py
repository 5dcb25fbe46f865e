"""Which weights `faces` takes, and that those of the standard tier run, on tiny networks of their shape."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.people import ANNA, on_canvas, portrait
from media_pipeline.analyzers._face_identity import SAME_PERSON_COSINE, SAME_PLACE_COSINE, same_person_cosine
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import Image, Medium, ModelChoice
from media_pipeline.analyzers.faces import ANALYZER, FacesOptions
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._face_networks import tiny_recogniser, tiny_yunet
from media_pipeline_tests._ocr_pages import PictureFrame


def choose(tmp_path: Path, tier: str = "auto", model: Path | None = None) -> ModelChoice:
    store = ModelStore(tmp_path / "models", offline=True, hub_url="http://localhost:9", tier=tier)
    choice: ModelChoice = ANALYZER.choose(FacesOptions(model=model and str(model)), store)
    return choice


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    tiny_yunet(folder / "face_detection_yunet_2023mar.onnx")
    tiny_recogniser(folder / "face_recognition_sface_2021dec.onnx")
    return folder


def test_without_network_the_embedded_tier_and_a_warning(tmp_path: Path) -> None:
    choice = choose(tmp_path)

    assert (choice.name, choice.tier) == ("BlazeFace + dlib-resnet", "embedded")
    assert choice.warning is not None
    assert "media-pipeline models pull yunet" in choice.warning
    assert "media-pipeline models pull sface" in choice.warning


def test_the_embedded_tier_asked_for_is_no_warning(tmp_path: Path) -> None:
    assert choose(tmp_path, "embedded").warning is None
    assert choose(tmp_path, "embedded").digest == choose(tmp_path).digest


def test_the_standard_tier_that_cannot_be_had_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as refused:
        choose(tmp_path, "standard")

    assert "models pull yunet" in str(refused.value.remedy)


def test_a_folder_of_the_users(tmp_path: Path, folder: Path) -> None:
    choice = choose(tmp_path, model=folder)

    assert (choice.name, choice.tier, choice.path) == ("YuNet + sface", "standard", folder)
    other = tmp_path / "other"
    other.mkdir()
    tiny_yunet(other / "yunet.onnx")
    tiny_recogniser(other / "sface.onnx", seed=1)
    assert choose(tmp_path, model=other).digest != choice.digest


@pytest.mark.parametrize("too_many", [False, True])
def test_a_folder_without_one_clear_recogniser(tmp_path: Path, folder: Path, too_many: bool) -> None:
    (folder / "face_recognition_sface_2021dec.onnx").rename(folder / "sface.onnx")
    if too_many:
        tiny_recogniser(folder / "mobilefacenet.onnx")
    else:
        (folder / "sface.onnx").unlink()

    with pytest.raises(ModelUnavailable, match=r"has [02] files \*mobilefacenet\*\.onnx or \*sface\*\.onnx"):
        choose(tmp_path, model=folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="is no folder"):
        choose(tmp_path, model=tmp_path / "nowhere")


def load(tmp_path: Path, folder: Path) -> Any:
    return ANALYZER.load(choose(tmp_path, model=folder), "cpu", FacesOptions())


def find(model: Any, picture: Image, **options: Any) -> list[dict[str, Any]]:
    table = ANALYZER.run(model, (Medium("a" * 64, "image", frames=[PictureFrame(picture)]),), FacesOptions(**options))
    ANALYZER.check(table, {"a" * 64})
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_yunet_alone_may_say_what_is_a_face_and_it_is_not_identified(tmp_path: Path, folder: Path) -> None:
    picture = np.full((480, 640, 3), 90, np.uint8)
    picture[192:224, 320:352] = (255, 0, 255)  # the detector of magenta takes it for a face; the mesh does not

    (row,) = find(load(tmp_path, folder), picture, min_face_px=12)

    assert [row[name] for name in ("x1", "y1", "x2", "y2")] == pytest.approx([144, 144, 272, 272], abs=1)
    assert row["score"] > 0.7
    assert row["embedding"] is None
    assert row["model"].startswith("sface@")


def test_yunet_and_sface_where_the_mesh_agrees(tmp_path: Path, folder: Path) -> None:
    model = load(tmp_path, folder)
    picture = on_canvas((portrait(ANNA), 100, 20, 256), width=480, height=320)
    picture[128:160, 320:352] = (255, 0, 255)  # so that the detector proposes the face left of it

    (row,) = find(model, picture, min_face_px=12)

    assert row["score"] > 0.9
    eyes = {point["name"]: (point["x"], point["y"]) for point in row["landmarks"]}
    assert eyes["right_eye"] == pytest.approx((100 + 198 * 0.4, 20 + 270 * 0.4), abs=6)
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4)


def test_a_recogniser_of_another_size_is_refused(tmp_path: Path, folder: Path) -> None:
    tiny_recogniser(folder / "face_recognition_sface_2021dec.onnx", dimension=64)

    with pytest.raises(ModelUnavailable, match="does not give 128 numbers"):
        load(tmp_path, folder)


@pytest.mark.parametrize("name", ["face_detection_yunet_2023mar.onnx", "face_recognition_sface_2021dec.onnx"])
def test_a_broken_file_shows_when_loading(tmp_path: Path, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"not a network")

    with pytest.raises(ModelUnavailable, match="cannot be run"):
        load(tmp_path, folder)


def test_thresholds_for_every_model_there_is() -> None:
    assert SAME_PERSON_COSINE.keys() == SAME_PLACE_COSINE.keys() == {"dlib-resnet", "mobilefacenet", "sface"}
    assert all(SAME_PLACE_COSINE[name] < SAME_PERSON_COSINE[name] for name in SAME_PERSON_COSINE)
    assert same_person_cosine("dlib-resnet@0123456789ab") == SAME_PERSON_COSINE["dlib-resnet"]
    with pytest.raises(KeyError):
        same_person_cosine("unheard-of@0123456789ab")


@pytest.mark.slow
def test_thresholds_load_no_model_library() -> None:
    code = "import sys; import media_pipeline.analyzers._face_identity; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert not {"dlib", "cv2", "onnxruntime", "ai_edge_litert"} & set(done.stdout.split())
