"""The analyzer on pictures that the test draws: a real QR code, no file, no home."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
import pytest
from media_pipeline_qr_codes import ANALYZER, QrCodesOptions, preview

from media_pipeline.analyzers import Image, Medium

TEXT = "https://example.org/Müller?n=4711"


@dataclass(frozen=True)
class PictureFrame:
    picture: Image
    width: int
    height: int
    frame_index: int = 0
    pts_s: float = 0.0
    scene_index: int = 0

    def image(self) -> Image:
        return self.picture


def page(text: str = TEXT, left: int = 300, top: int = 100) -> Image:
    code = cv2.QRCodeEncoder.create().encode(text)
    code = cv2.resize(code, None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST)
    picture = np.full((720, 1280), 230, np.uint8)
    picture[top : top + code.shape[0], left : left + code.shape[1]] = code
    return np.repeat(picture[..., None], 3, axis=2)


def found(picture: Image, scale: int = 1) -> list[dict[str, object]]:
    frame = PictureFrame(picture, picture.shape[1] * scale, picture.shape[0] * scale)
    rows = ANALYZER.run(None, (Medium("a", "image", frames=[frame]),), QrCodesOptions())
    ANALYZER.check(rows, {"a"})
    return rows.to_pylist()


def test_text_and_place() -> None:
    (row,) = found(page())
    assert (row["kind"], row["text"], row["code_index"]) == ("qr", TEXT, 0)
    assert row["x1"] == pytest.approx(300, abs=20) and row["y1"] == pytest.approx(100, abs=20)


def test_boxes_are_in_pixels_of_the_displayed_picture() -> None:
    (small,), (large,) = found(page()), found(page(), scale=3)
    assert [large[k] for k in ("x1", "y1", "x2", "y2")] == pytest.approx(
        [3 * float(str(small[k])) for k in ("x1", "y1", "x2", "y2")]
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (20, 20), (21, 21), (720, 1280)])
def test_pictures_without_a_code_have_no_rows(shape: tuple[int, int]) -> None:
    assert found(np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)) == []


def test_preview_is_code_whatever_a_code_says() -> None:
    rows = [dict.fromkeys(ANALYZER.schema.names) | {"media_id": "a", "text": "a\n\n[x](http://y) `b`"}]
    assert preview(pa.Table.from_pylist(rows, schema=ANALYZER.schema)) == "`a [x](http://y) b`"
