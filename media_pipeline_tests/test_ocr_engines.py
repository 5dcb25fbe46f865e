"""What takes seconds: paddleocr, and the quality goals on real scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from media_pipeline.analyzers import _ocr_paddle, _ocr_weights, ocr
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers.ocr import ANALYZER, OcrOptions
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._ocr_pages import PictureFrame, character_error_rate, read, slide, texts, word_recall

SHARED = Path(__file__).parents[2] / "shared" / "media"
# English, German and Latin print; the street signs, logos and Chinese pictures are judged by what they must contain.
PRINTED = [
    "phototest.tif",
    "phototestrot.tif",
    "phototest-rotated-R.png",
    "eurotext.tif",
    "8071_093.3B.tif",
    "en.jpg",
    "issue_170.png",
    "latin.jpg",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"), offline=True, hub_url="http://localhost:9", tier="auto")


@pytest.fixture(scope="module")
def model(store: ModelStore) -> Any:
    return ANALYZER.load(ANALYZER.choose(OcrOptions(), store), "cpu", OcrOptions())


@pytest.fixture(scope="module")
def truths() -> dict[str, dict[str, Any]]:
    manifest = SHARED / "MANIFEST.json"
    if not manifest.is_file():
        pytest.skip("../shared/media is not beside this checkout")
    return {f["file"]: f["ground_truth"] for f in json.loads(manifest.read_text())["files"] if f.get("ground_truth")}


def picture(name: str) -> np.ndarray:
    with Image.open(SHARED / "ocr" / name) as opened:
        return np.array(ImageOps.exif_transpose(opened).convert("RGB"))


@pytest.mark.parametrize("name", PRINTED)
def test_printed_pages(model: Any, truths: dict[str, dict[str, Any]], name: str) -> None:
    truth = truths[f"ocr/{name}"]["text"]
    lines = texts(read(model, PictureFrame(picture(name))))

    assert character_error_rate(truth, lines) <= 0.05
    assert word_recall(truth, lines) >= 0.95


@pytest.mark.parametrize(
    "name",
    ["return_word_debug.jpg", "sign_japanese.jpg", "logo_missvickie.jpg.bmp", "title_card_testcard.png"],
)
def test_signs_logos_and_title_cards(model: Any, truths: dict[str, dict[str, Any]], name: str) -> None:
    read_text = "\n".join(texts(read(model, PictureFrame(picture(name)))))

    for wanted in [*truths[f"ocr/{name}"]["must_contain"], *truths[f"ocr/{name}"].get("lines_ja", ())]:
        assert wanted in read_text


def test_black_picture_has_no_text(model: Any, truths: dict[str, dict[str, Any]]) -> None:
    assert texts(read(model, PictureFrame(picture("empty_black.jpg")))) == []


def test_paddleocr_reads_offline_from_the_packaged_weights(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import socket

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("paddleocr asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    options = OcrOptions(engine="paddleocr")
    choice = ANALYZER.choose(options, store)
    engine = ANALYZER.load(choice, "cpu", options)
    lines = ["Über uns: Qualität für größere Städte", "Rechnung 4711 über 125,80 €"]

    assert choice.tier == "embedded"
    assert "paddleocr" in choice.name
    assert texts(read(engine, PictureFrame(slide(lines)))) == lines
    turned = np.ascontiguousarray(np.rot90(slide(lines)))
    assert texts(read(engine, PictureFrame(turned))) == lines
    assert read(engine, PictureFrame(np.zeros((300, 400, 3), dtype=np.uint8))).num_rows == 0
    assert choice.path is not None
    with_folder = ANALYZER.choose(OcrOptions(engine="paddleocr", model=str(choice.path)), store)
    assert with_folder.tier == "standard"
    assert ocr.ANALYZER.fingerprint(with_folder, options) != ocr.ANALYZER.fingerprint(choice, options)


def test_paddleocr_says_which_folder_it_cannot_use(store: ModelStore, tmp_path: Path) -> None:
    options = OcrOptions(engine="paddleocr", model=str(tmp_path))
    for part in ("det", "rec"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "inference.onnx").write_bytes(b"no network")
        (tmp_path / part / "inference.yml").write_text("PostProcess: {}\n")
    choice = ANALYZER.choose(options, store)
    with pytest.raises(ModelUnavailable, match=rf"cannot use {tmp_path}: KeyError: 'Global'; set the engine"):
        ANALYZER.load(choice, "cpu", options)
    for part in ("det", "rec"):
        (tmp_path / part / "inference.yml").write_text(f"Global: {{model_name: PP-OCRv5_mobile_{part}}}\n")
    with pytest.raises(ModelUnavailable, match=rf"cannot use {tmp_path}: "):
        ANALYZER.load(choice, "cpu", options)


def test_packaged_weights_of_the_same_size_replace_those_of_an_older_release(tmp_path: Path) -> None:
    packaged = _ocr_weights.packaged_folder()
    _ocr_paddle.write_paddle_folder(tmp_path, packaged)
    weights, _ = _ocr_weights.paddle_files(tmp_path, "det")
    whole = weights.read_bytes()
    weights.write_bytes(b"\0" * len(whole))
    _ocr_paddle.write_paddle_folder(tmp_path, packaged)
    assert weights.read_bytes() == whole
    written = weights.stat().st_mtime_ns
    _ocr_paddle.write_paddle_folder(tmp_path, packaged)
    assert weights.stat().st_mtime_ns == written
