"""The OCR analyzer on rendered pages: real weights, no network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media_pipeline.analyzers import _ocr_weights, ocr
from media_pipeline.analyzers._markdown import escaped
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import Image
from media_pipeline.analyzers.ocr import ANALYZER, OcrOptions
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._ocr_pages import PictureFrame, blank, character_error_rate, read, slide, texts, write

GERMAN = ["Über uns: Qualität für größere Städte", "Frühstück, Öl, Äpfel, Straße, Füße", "Rechnung 4711 über 125,80 €"]


class CountingEngine:
    """The real engine, and how many lines it was asked to read and pictures to search."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.lines_read = 0
        self.glances = 0
        self.sides_px: list[int] = []

    def detect(self, image: Image) -> Any:
        self.sides_px.append(max(image.shape[:2]))
        return self._engine.detect(image)

    def may_hold_text(self, image: Image) -> bool:
        self.glances += 1
        found: bool = self._engine.may_hold_text(image)
        return found

    def recognise(self, lines: Any) -> Any:
        self.lines_read += len(lines)
        return self._engine.recognise(lines)

    def upside_down(self, lines: Any) -> Any:
        return self._engine.upside_down(lines)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"), offline=True, hub_url="http://localhost:9", tier="auto")


@pytest.fixture(scope="module")
def model(store: ModelStore) -> Any:
    return ANALYZER.load(ANALYZER.choose(OcrOptions(), store), "cpu", OcrOptions())


@pytest.fixture
def counting(model: Any) -> CountingEngine:
    return CountingEngine(model)


def test_german_slide_with_umlauts(model: Any) -> None:
    rows = read(model, PictureFrame(slide(GERMAN)))

    assert texts(rows) == GERMAN
    assert rows.column("line_index").to_pylist() == [0, 1, 2]
    assert min(rows.column("score").to_pylist()) > 0.9
    boxes = zip(*(rows.column(c).to_pylist() for c in ("x1", "y1", "x2", "y2")), strict=True)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        baseline = 120 + number * 61
        assert 60 < x1 < 85
        assert y1 < baseline - 20 < baseline < y2 < baseline + 30
        assert 500 < x2 < 800


@pytest.mark.slow
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_page_reads_upright_and_boxes_fit_the_picture_as_displayed(model: Any, quarters: int) -> None:
    page = slide(["The quick brown fox", "jumps over the lazy dog"], width=640, height=260)
    upright = read(model, PictureFrame(page))
    turned = read(model, PictureFrame(np.ascontiguousarray(np.rot90(page, quarters))))

    assert texts(turned) == texts(upright) == ["The quick brown fox", "jumps over the lazy dog"]
    for one, other in zip(upright.to_pylist(), turned.to_pylist(), strict=True):
        expected = _turned_box(one, quarters, width=640, height=260)
        assert [other[c] for c in ("x1", "y1", "x2", "y2")] == pytest.approx(expected, abs=6)
        # numpy turns counter-clockwise.
        assert (other["angle_deg"] - one["angle_deg"] + 90 * quarters + 180) % 360 - 180 == pytest.approx(0, abs=2)


def _turned_box(row: dict[str, float], quarters: int, width: int, height: int) -> list[float]:
    box = [row["x1"], row["y1"], row["x2"], row["y2"]]
    for _ in range(quarters):
        x1, y1, x2, y2 = box
        box = [y1, width - x2, y2, width - x1]
        width, height = height, width
    return box


@pytest.mark.parametrize(("quarters", "angle_deg"), [(1, -90), (3, 90)])
def test_vertical_label_beside_level_lines(model: Any, quarters: int, angle_deg: int) -> None:
    page = slide(["Revenue by year", "Growth in per cent"], width=640, height=440)
    label = write(blank(320, 60), ["Axis label"], 10, 45)
    page[100:420, 15:75] = np.rot90(label, quarters)

    found = {row["text"]: row["angle_deg"] for row in read(model, PictureFrame(page)).to_pylist()}

    assert found.keys() == {"Revenue by year", "Growth in per cent", "Axis label"}
    assert found["Axis label"] == pytest.approx(angle_deg, abs=3)
    assert found["Revenue by year"] == pytest.approx(0, abs=3)


@pytest.mark.slow
def test_two_columns_are_read_one_after_the_other(model: Any) -> None:
    left = ["The first column tells", "of a fox that jumped", "over a sleeping dog", "and ran into the wood."]
    right = ["The second column has", "nothing to do with it", "and speaks of quite", "another kind of bird."]
    page = blank(1100, 600)
    write(page, ["A headline over both of the columns"], 160, 90, px=44)
    write(page, left, 60, 200, px=32)
    write(page, right, 570, 200, px=32)

    assert texts(read(model, PictureFrame(page))) == ["A headline over both of the columns", *left, *right]


@pytest.mark.slow
def test_small_text_in_a_large_picture_is_looked_for_closer(counting: CountingEngine) -> None:
    lines = ["Fußnote: Preise zuzüglich Versand", "Second line of small print"]
    rows = read(counting, PictureFrame(slide(lines, px=20, width=2560, height=640)))

    assert character_error_rate("\n".join(lines), texts(rows)) < 0.05
    assert counting.sides_px[0] < 1000 < counting.sides_px[-1] <= 1600


def test_large_text_is_read_from_the_first_look(counting: CountingEngine) -> None:
    rows = read(counting, PictureFrame(slide(["Große Überschrift"], px=80, height=240)))

    assert texts(rows) == ["Große Überschrift"]
    assert counting.sides_px == [640]


@pytest.mark.parametrize("grey", [0, 255])
def test_nothing_is_read_from_a_blank_picture(counting: CountingEngine, grey: int) -> None:
    assert read(counting, PictureFrame(blank(480, 320, grey))).num_rows == 0
    assert counting.lines_read == 0
    assert (counting.glances, counting.sides_px) == (1, []), "a glance is enough"


@pytest.mark.slow
def test_small_print_passes_the_glance_and_the_glance_can_be_left_out(counting: CountingEngine) -> None:
    lines = ["Fußnote: Preise zuzüglich Versand"]
    page = PictureFrame(slide(lines, px=16, width=1600, height=900))
    found = [texts(read(counting, page, text_gate=gate)) for gate in (True, False)]
    assert found[0] == found[1] == lines
    assert counting.glances == 1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 900), (900, 3), (40, 16)])
def test_pictures_of_odd_sizes_do_no_harm(model: Any, width: int, height: int) -> None:
    assert read(model, PictureFrame(blank(width, height))).num_rows == 0


def test_boxes_of_a_reduced_picture_are_in_displayed_pixels(model: Any) -> None:
    page = slide(["Grüße"], width=480, height=200)
    as_is = read(model, PictureFrame(page)).to_pylist()[0]
    reduced = read(model, PictureFrame(page, reduced=3)).to_pylist()[0]

    assert reduced["text"] == as_is["text"]
    for corner in ("x1", "y1", "x2", "y2"):
        assert reduced[corner] == pytest.approx(3 * as_is[corner], rel=1e-5)


def test_unchanged_frames_repeat_the_lines_and_say_where_they_were_read(counting: CountingEngine) -> None:
    noise = np.random.default_rng(1).integers(-3, 4, (200, 480, 3))
    first = slide(["Invoice 4711"], width=480, height=200)
    same = np.clip(first + noise, 0, 255).astype(np.uint8)
    other = slide(["Invoice 4712"], width=480, height=200)
    frames = [PictureFrame(p, frame_index=i * 25, pts_s=float(i)) for i, p in enumerate((first, same, other))]

    rows = read(counting, *frames, kind="video")

    assert texts(rows) == ["Invoice 4711", "Invoice 4711", "Invoice 4712"]
    assert rows.column("frame_index").to_pylist() == [0, 25, 50]
    assert rows.column("pts_s").to_pylist() == [0.0, 1.0, 2.0]
    assert rows.column("read_frame_index").to_pylist() == [0, 0, 50]
    assert counting.lines_read == 2


def test_every_frame_is_read_when_reuse_is_off(counting: CountingEngine) -> None:
    frames = [PictureFrame(slide(["Hello"], width=480, height=200), frame_index=i) for i in range(2)]
    rows = read(counting, *frames, kind="video", reuse_unchanged_frames=False)

    assert rows.column("read_frame_index").to_pylist() == [0, 1]
    assert counting.lines_read == 2


@pytest.mark.slow
def test_threads_share_one_model_and_agree(model: Any) -> None:
    pages = [slide([f"Page number {n}"], width=480 + 32 * n, height=200) for n in range(3)]
    alone = [read(model, PictureFrame(p)) for p in pages]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda p: read(model, PictureFrame(p)), pages))

    assert together == alone


def test_lines_below_the_score_are_dropped(model: Any) -> None:
    page = PictureFrame(slide(["Clear enough"], width=480, height=200))
    score = read(model, page).column("score").to_pylist()[0]

    assert read(model, page, min_score=score - 0.01).num_rows == 1
    assert read(model, page, min_score=min(1.0, score + 1e-4)).num_rows == 0


def test_choice_names_model_and_digest_without_loading(store: ModelStore) -> None:
    choice = ANALYZER.choose(OcrOptions(), store)

    assert choice.tier == "embedded"
    assert "PP-OCRv6 small" in choice.name
    assert len(choice.digest) == 64
    assert ANALYZER.choose(OcrOptions(), store) == choice
    more_threads = ANALYZER.fingerprint(choice, OcrOptions(threads=4))
    assert more_threads == ANALYZER.fingerprint(choice, OcrOptions())
    assert ANALYZER.fingerprint(replace(choice, digest="0" * 64), OcrOptions()) != more_threads


def test_local_folder_of_weights(store: ModelStore, tmp_path: Path) -> None:
    det, rec, _ = _ocr_weights.weight_files(_ocr_weights.packaged_folder())
    (tmp_path / "my_det.onnx").symlink_to(det)
    (tmp_path / "my_rec.onnx").symlink_to(rec)
    options = OcrOptions(model=str(tmp_path))

    choice = ANALYZER.choose(options, store)

    assert (choice.tier, choice.path) == ("standard", tmp_path)
    assert texts(
        read(ANALYZER.load(choice, "cpu", options), PictureFrame(slide(["Hello"], width=480, height=200)))
    ) == ["Hello"]


def test_folder_without_weights_says_what_is_missing(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"det.*onnx.*; name a folder"):
        ANALYZER.choose(OcrOptions(model=str(tmp_path)), store)
    with pytest.raises(ModelUnavailable, match=r"inference\.onnx.*; export"):
        ANALYZER.choose(OcrOptions(model=str(tmp_path), engine="paddleocr"), store)


@pytest.mark.slow
def test_weights_that_cannot_be_used_are_named(store: ModelStore, tmp_path: Path) -> None:
    det, rec, cls = _ocr_weights.weight_files(_ocr_weights.packaged_folder())
    options = OcrOptions(model=str(tmp_path))
    (tmp_path / "my_det.onnx").symlink_to(det)
    (tmp_path / "my_rec.onnx").symlink_to(cls)  # a network, but one without an alphabet
    with pytest.raises(ModelUnavailable, match=r"my_rec\.onnx .*no 'character'; .*MEDIA_PIPELINE_OPTIONS__OCR__MODEL"):
        ANALYZER.load(ANALYZER.choose(options, store), "cpu", options)
    (tmp_path / "my_det.onnx").unlink()
    (tmp_path / "my_det.onnx").write_bytes(det.read_bytes()[:5000])
    with pytest.raises(ModelUnavailable, match=r"my_det\.onnx cannot be run.*; get the file again"):
        ANALYZER.load(ANALYZER.choose(options, store), "cpu", options)
    (tmp_path / "my_cls.onnx").write_bytes(b"")
    (tmp_path / "my_det.onnx").write_bytes(det.read_bytes())
    (tmp_path / "my_rec.onnx").unlink()
    (tmp_path / "my_rec.onnx").symlink_to(rec)
    with pytest.raises(ModelUnavailable, match=r"my_cls\.onnx cannot be run"):
        ANALYZER.load(ANALYZER.choose(options, store), "cpu", options)


def test_missing_package_says_how_to_mend_it(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ocr_weights, "find_spec", lambda _name: None)
    with pytest.raises(ModelUnavailable, match="paddleocr is not installed; run `pip install paddleocr`"):
        ANALYZER.choose(OcrOptions(engine="paddleocr"), store)
    with pytest.raises(ModelUnavailable, match="rapidocr is not installed; run `pip install rapidocr`"):
        ANALYZER.choose(OcrOptions(), store)


def test_preview_shows_first_lines_without_markup() -> None:
    rows = [dict.fromkeys(ocr.SCHEMA.names) | {"media_id": "a", "text": t} for t in ("<b>*1*</b>", *"abcdef")]
    shown = ocr.preview(ocr.pa.Table.from_pylist(rows, schema=ocr.SCHEMA))

    assert shown.startswith(r"\<b\>\*1\*\</b\>")
    assert shown.endswith("7 different lines")
    assert ocr.preview(ocr.SCHEMA.empty_table()) == "no text"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("https://evil.example", r"https\://evil\.example"), ("a@b.example", r"a\@b\.example"), ("a\n===", r"a \=\=\=")],
)
def test_bare_addresses_and_lines_of_a_medium_are_no_markdown(text: str, shown: str) -> None:
    assert escaped(text) == shown
