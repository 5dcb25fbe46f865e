"""The NSFW analyzer: a network of our own that sees coloured squares, and the real one on safe pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from media_pipeline.analyzers import _packaged, image_embeddings, nsfw
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._nsfw_clip import _EXPLICIT, _SUGGESTIVE, FrameJudge, frame_judge
from media_pipeline.analyzers._nsfw_detector import EXPLICIT, LABELS, Detector
from media_pipeline.analyzers._onnx_graph import OnnxGraph
from media_pipeline.analyzers._spec import Image, Medium, ModelChoice
from media_pipeline.analyzers.nsfw import ANALYZER, Model, NsfwOptions
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._clip import tiny_clip
from media_pipeline_tests._ocr_pages import MEDIA_ID, PictureFrame, blank

WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)
# What the network below takes white, red and blue squares for. Red is gone in the grey second look, white is not.
SEEN_AS = {"female_breast_exposed": (1, 1, 1), "male_genitalia_exposed": (3, -3, -3), "feet_covered": (-3, -3, 3)}
BOX_PX = 80  # of all boxes, in pixels of the network
MARK = 0.1625  # side of a square that it sees well, as a share of the longer side of the picture
SHARED = Path(__file__).parents[2] / "shared" / "media"


def squares_network() -> bytes:
    """A YOLOv8 in its layout, (1, 4 + 18, cells of 8 px): sees squares of at least 40 px, white, red or blue."""
    graph = OnnxGraph("squares")
    graph.input("images", ("batch", 3, "height", "width"))
    graph.output("output0", ("batch", 4 + len(LABELS), "cells"))
    graph.node("AveragePool", ["images"], "mean", kernel_shape=(40, 40), strides=(8, 8), pads=(16, 16, 16, 16))
    weights, bias = np.zeros((len(LABELS), 3, 1, 1), np.float32), np.full(len(LABELS), -40, np.float32)
    for label, colour in SEEN_AS.items():
        weights[LABELS.index(label), :, 0, 0] = np.array(colour) * 40 / 3
        bias[LABELS.index(label)] = -37.2  # sigmoid(40 * (x - 0.93))
    scores = graph.node("Conv", ["mean", graph.constant("w", weights), graph.constant("b", bias)], "logits")
    scores = graph.node("Sigmoid", [scores], "scores")
    ones = graph.node(
        "Conv",
        [
            "mean",
            graph.constant("zeros", np.zeros((1, 3, 1, 1), np.float32)),
            graph.constant("one", np.ones(1, np.float32)),
        ],
        "ones",
    )
    eight, four = graph.constant("eight", np.float32([8])), graph.constant("four", np.float32([4]))
    centres = []
    for name, axis in (("x", 3), ("y", 2)):
        counted = graph.node("CumSum", [ones, graph.constant(f"axis_{name}", np.int64(axis))], f"count_{name}")
        counted = graph.node("Mul", [counted, eight], f"scaled_{name}")
        centres.append(graph.node("Sub", [counted, four], f"centre_{name}"))
    side = graph.node("Mul", [ones, graph.constant("box", np.float32([BOX_PX]))], "side")
    whole = graph.node("Concat", [*centres, side, side, scores], "whole", axis=1)
    shape = graph.constant("shape", np.array([1, 4 + len(LABELS), -1]))
    graph.node("Reshape", [whole, shape], "output0")
    return graph.model()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nsfw") / "squares.onnx"
    file.write_bytes(squares_network())
    return file


@pytest.fixture(scope="module")
def squares(network: Path) -> Detector:
    return Detector(network)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path, offline=True, hub_url="http://localhost:9", tier="auto")


def picture(width: int, height: int, *marks: tuple[int, int, int, tuple[int, int, int]]) -> Image:
    """Grey, with squares given as x, y, side and colour."""
    image = blank(width, height, 100)
    for x, y, side, colour in marks:
        image[y : y + side, x : x + side] = colour
    return image


def found(detector: Detector | None, *frames: PictureFrame, **how: Any) -> pa.Table:
    """What the analyzer says about one medium, checked against its schema."""
    clip, rows = how.pop("clip", None), how.pop("rows", {})
    kind = "image" if len(frames) == 1 else "video"
    medium = Medium(MEDIA_ID, kind, frames=frames, rows=rows)
    table = ANALYZER.run(Model(detector, clip), (medium,), NsfwOptions(**how))
    ANALYZER.check(table, {MEDIA_ID})
    return table


def boxes(table: pa.Table) -> list[list[float]]:
    return [[row[c] for c in ("x1", "y1", "x2", "y2")] for row in table.to_pylist()]


@pytest.mark.parametrize(("width", "height"), [(640, 360), (360, 640), (200, 200), (1500, 300)])
def test_boxes_are_in_pixels_of_the_picture_whatever_its_shape(squares: Detector, width: int, height: int) -> None:
    longer = max(width, height)
    side = round(MARK * longer)
    x, y = width - side - 20, height - side - 15
    rows = found(squares, PictureFrame(picture(width, height, (x, y, side, BLUE))))

    assert rows.column("label").to_pylist() == ["feet_covered"]
    assert rows.column("explicit").to_pylist() == [False]
    centre, half = (x + side / 2, y + side / 2), BOX_PX / 320 * longer / 2
    expected = [*(max(0, c - half) for c in centre), min(width, centre[0] + half), min(height, centre[1] + half)]
    assert boxes(rows)[0] == pytest.approx(expected, abs=longer / 40)


def test_boxes_of_a_reduced_picture_are_in_displayed_pixels(squares: Detector) -> None:
    image = picture(320, 320, (30, 200, 52, BLUE))
    as_is, reduced = found(squares, PictureFrame(image)), found(squares, PictureFrame(image, reduced=4))

    assert boxes(reduced)[0] == pytest.approx([4 * c for c in boxes(as_is)[0]])


def test_what_the_second_look_does_not_see_is_no_finding(squares: Detector) -> None:
    image = PictureFrame(picture(320, 320, (20, 20, 52, WHITE), (200, 40, 52, RED)))

    once = found(squares, image, second_look=False)
    twice = found(squares, image)

    assert sorted(once.column("label").to_pylist()) == ["female_breast_exposed", "male_genitalia_exposed"]
    assert twice.column("label").to_pylist() == ["female_breast_exposed"]
    assert twice.column("explicit").to_pylist() == [True]
    # The second look is mirrored and smaller: its box is the same only if it was brought back to the right place.
    assert boxes(twice)[0] == pytest.approx([6, 6, 86, 86], abs=14)
    assert (
        0.3 <= twice.column("score")[0].as_py() < once.filter(pa.compute.field("explicit")).column("score")[0].as_py()
    )


def test_one_part_of_the_body_is_one_finding(squares: Detector) -> None:
    labels = [f.label for f in squares.find(picture(320, 320, (40, 40, 52, BLUE), (200, 200, 52, BLUE)), 0.1)]

    assert labels == ["feet_covered", "feet_covered"]


def test_thresholds_of_single_labels(squares: Detector) -> None:
    frame = PictureFrame(picture(320, 320, (20, 20, 52, BLUE), (200, 40, 52, WHITE)))

    assert found(squares, frame, min_scores={"feet_covered": 1.0}).column("label").to_pylist() == [
        "female_breast_exposed"
    ]
    only_feet = found(squares, frame, min_score=1.0, min_scores={"feet_covered": 0.1})
    assert only_feet.column("label").to_pylist() == ["feet_covered"]
    assert NsfwOptions.model_validate({"min_scores": '{"feet_covered": 0.1}'}).threshold("feet_covered") == 0.1
    with pytest.raises(ValidationError, match="no label is called 'foot'"):
        NsfwOptions(min_scores={"foot": 0.5})
    with pytest.raises(ValidationError):
        NsfwOptions.model_validate({"min_scores": "feet"})


def test_unchanged_frames_are_not_looked_at_again(squares: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Image] = []
    find = squares.find
    monkeypatch.setattr(squares, "find", lambda image, *a, **k: looks.append(image) or find(image, *a, **k))
    still, other = picture(320, 320, (20, 20, 52, BLUE)), picture(320, 320, (200, 200, 52, BLUE))
    frames = [PictureFrame(p, frame_index=25 * i, pts_s=float(i)) for i, p in enumerate((still, still, other))]

    rows = found(squares, *frames)

    assert len(looks) == 2
    assert rows.column("frame_index").to_pylist() == [0, 25, 50]
    assert boxes(rows)[0] == boxes(rows)[1] != boxes(rows)[2]
    assert found(squares, *frames, reuse_unchanged_frames=False) == rows
    assert len(looks) == 5


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 4000), (4000, 20), (33, 3000), (16, 16)])
def test_odd_sizes_do_no_harm(squares: Detector, width: int, height: int) -> None:
    assert found(squares, PictureFrame(blank(width, height, 0))).num_rows == 0


def test_threads_share_one_detector_and_agree(squares: Detector) -> None:
    pictures = [picture(320, 200 + 40 * n, (20 * n, 20, 52, WHITE)) for n in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda p: squares.find(p, 0.1), pictures))

    assert together == [squares.find(p, 0.1) for p in pictures]


def test_another_network_is_refused(tmp_path: Path, store: ModelStore) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    graph = OnnxGraph("other")
    graph.input("images", (1, 3, 32, 32))
    graph.output("images_again", (1, 3, 32, 32))
    graph.node("Identity", ["images"], "images_again")
    (tmp_path / "other.onnx").write_bytes(graph.model())

    with pytest.raises(ModelUnavailable, match=r"broken\.onnx cannot be run"):
        Detector(tmp_path / "broken.onnx")
    with pytest.raises(ModelUnavailable, match="no detector of NudeNet"):
        Detector(tmp_path / "other.onnx")
    with pytest.raises(ModelUnavailable, match="there is no file"):
        ANALYZER.choose(NsfwOptions(model=str(tmp_path / "missing.onnx")), store)


def test_a_file_of_the_users_is_the_model(network: Path, store: ModelStore) -> None:
    options = NsfwOptions(model=str(network))
    choice = ANALYZER.choose(options, store)

    assert (choice.name, choice.tier) == ("NudeNet squares", "standard")
    model = ANALYZER.load(choice, "cpu", options)
    rows = ANALYZER.run(model, (Medium("a", "image", (PictureFrame(picture(200, 200, (9, 9, 35, BLUE))),)),), options)
    assert rows.column("label").to_pylist() == ["feet_covered"]


def test_without_the_package_the_remedy_is_a_command(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packaged, "find_spec", lambda _name: None)
    with pytest.raises(ModelUnavailable, match=r"nudenet is not installed; run `.*uv pip install .*nudenet`"):
        ANALYZER.choose(NsfwOptions(), store)


class Captions:
    """CLIP for one purpose: naked, seductive and all other captions have an axis each."""

    logit_scale, multilingual = 20.0, False

    def encode_texts(self, texts: tuple[str, ...]) -> np.ndarray:
        axes = [0 if t in _EXPLICIT.en else 1 if t in _SUGGESTIVE.en else 2 for t in texts]
        return np.eye(3, dtype=np.float32)[axes]


def embeddings(*vectors: list[float], model: str = "axes@0") -> dict[str, pa.Table]:
    rows = [
        {"media_id": MEDIA_ID, "frame_index": 25 * n, "pts_s": float(n), "model": model, "embedding": v}
        for n, v in enumerate(vectors)
    ]
    return {"image_embeddings": pa.Table.from_pylist(rows, schema=image_embeddings.SCHEMA)}


@pytest.fixture(scope="module")
def judge() -> FrameJudge:
    return frame_judge(Captions(), "axes@0")


def test_whole_frames_are_judged_from_their_vectors(judge: FrameJudge) -> None:
    rows = found(None, clip=judge, rows=embeddings([1, 0, 0], [0, 1, 0], [0, 0, 1])).to_pylist()

    assert [(r["frame_index"], r["pts_s"], r["label"], r["source"], r["explicit"]) for r in rows] == [
        (0, 0.0, "explicit", "clip", True),
        (25, 1.0, "suggestive", "clip", False),
    ]
    assert all(r["x1"] is None for r in rows)
    assert all(0.9 < r["score"] <= 1 for r in rows)


def test_boxes_and_whole_frames_stand_side_by_side(squares: Detector, judge: FrameJudge) -> None:
    frame = PictureFrame(picture(320, 320, (40, 40, 52, BLUE)))

    rows = found(squares, frame, clip=judge, rows=embeddings([1, 0, 0])).to_pylist()

    assert [(r["label"], r["source"]) for r in rows] == [("feet_covered", "detector"), ("explicit", "clip")]
    assert found(squares, frame, clip=judge).num_rows == 1  # CLIP is there, its vectors are not


def test_vectors_of_another_model_are_not_judged(judge: FrameJudge) -> None:
    with pytest.raises(ModelUnavailable, match=r"other@1.*axes@0"):
        found(None, clip=judge, rows=embeddings([1, 0, 0], model="other@1"))


@pytest.mark.parametrize("tier", ["auto", "standard", "embedded"])
def test_what_is_chosen_where(tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModelStore(tmp_path, offline=True, hub_url="http://localhost:9", tier=tier)
    if tier == "standard":
        with pytest.raises(ModelUnavailable, match="models pull"):
            ANALYZER.choose(NsfwOptions(), store)
    else:
        choice = ANALYZER.choose(NsfwOptions(), store)
        assert (choice.name, choice.tier, choice.clip) == (nsfw.EMBEDDED, "embedded", None)
    here = ModelChoice("ViT", "standard", "1" * 64, tmp_path)
    monkeypatch.setattr(nsfw, "choose_clip", lambda _model, _store: here)
    both = ANALYZER.choose(NsfwOptions(), store)
    assert (both.name, both.tier, both.clip) == (f"{nsfw.EMBEDDED} + ViT", "standard", here)
    monkeypatch.setattr(_packaged, "find_spec", lambda _name: None)
    alone = ANALYZER.choose(NsfwOptions(), store)
    assert (alone.name, alone.detector, alone.clip) == ("ViT", None, here)
    assert alone.warning and "nothing has a box" in alone.warning
    assert len({both.digest, alone.digest}) == 2


@pytest.mark.slow
def test_a_real_clip_model_of_a_folder_judges_its_own_vectors(tmp_path: Path, store: ModelStore) -> None:
    folder = tiny_clip(tmp_path / "tiny")
    options = NsfwOptions(clip_model=str(folder), min_score=0.001)
    frames = (PictureFrame(picture(64, 64)),)
    upstream = image_embeddings.ImageEmbeddingsOptions(clip_model=str(folder))
    spec = image_embeddings.ANALYZER
    vectors = spec.run(
        spec.load(spec.choose(upstream, store), "cpu", upstream), (Medium(MEDIA_ID, "image", frames),), upstream
    )

    model = ANALYZER.load(ANALYZER.choose(options, store), "cpu", options)
    table = ANALYZER.run(model, (Medium(MEDIA_ID, "image", frames, rows={"image_embeddings": vectors}),), options)

    ANALYZER.check(table, {MEDIA_ID})
    by_clip = table.filter(pa.compute.equal(table["source"], "clip"))
    assert by_clip.column("label").to_pylist() == ["explicit", "suggestive"]
    assert all(0 < score < 1 for score in by_clip.column("score").to_pylist())


def test_preview_names_the_worst() -> None:
    rows = [
        {"media_id": "a", "frame_index": n, "label": label, "score": score, "explicit": label in EXPLICIT}
        for n, (label, score) in enumerate([("feet_exposed", 0.9), ("buttocks_exposed", 0.5), ("anus_exposed", 0.4)])
    ]
    table = pa.Table.from_pylist(rows, schema=nsfw.SCHEMA)

    assert nsfw.preview(table) == "buttocks exposed 0.50; explicit in 2 frames"
    assert nsfw.preview(table.slice(0, 1)) == nsfw.preview(nsfw.SCHEMA.empty_table()) == "nothing explicit"


def real_detector() -> Detector:
    return Detector(_packaged.packaged_file("nudenet", "320n.onnx"))


@pytest.mark.slow
def test_the_real_detector_finds_nothing_in_patterns() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for image in (blank(320, 240, 0), blank(320, 240, 255), noise):
        assert found(real_detector(), PictureFrame(image)).num_rows == 0


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the media collection ../shared/media is not there")
def test_no_safe_picture_is_called_explicit_and_people_are_found() -> None:
    from PIL import Image as Pillow

    detector = real_detector()
    files = [p for f in ("faces", "moderation", "pose", "scenes") for p in sorted((SHARED / f).iterdir())]
    seen: dict[str, set[str]] = {}
    for file in files:
        if file.suffix in (".jpg", ".bmp"):
            rows = found(detector, PictureFrame(np.asarray(Pillow.open(file).convert("RGB"))))
            seen[file.name] = set(rows.column("label").to_pylist())

    assert len(seen) > 40
    assert {name: labels & EXPLICIT for name, labels in seen.items() if labels & EXPLICIT} == {}
    assert "belly_exposed" in seen["borderline_squat_shirtless.bmp"]
    faces = [bool(labels & {"face_female", "face_male"}) for name, labels in seen.items() if name.startswith("P0")]
    assert np.mean(faces) > 0.9
