"""QR codes and barcodes in pictures and video frames, read by OpenCV: no model file, no download."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers import AnalyzerSpec, Batch, Frame, Image, ModelChoice, Options

_PIXELS = {"unit": "px of the displayed picture"}
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        pa.field("pts_s", pa.float64(), metadata={"unit": "s"}),
        ("code_index", pa.int32()),  # within the frame, from 0
        ("kind", pa.string()),  # "qr", "ean_13", "ean_8", "upc_a" …
        ("text", pa.string()),
        pa.field("x1", pa.float32(), metadata=_PIXELS),
        pa.field("y1", pa.float32(), metadata=_PIXELS),
        pa.field("x2", pa.float32(), metadata=_PIXELS),
        pa.field("y2", pa.float32(), metadata=_PIXELS),
    ]
)
_MIN_SIDE_PX = 21  # the smallest QR code has 21 x 21 modules

Code = tuple[str, str, Any]  # kind, text, corners: float32 of shape (4, 2) in pixels of the image


class QrCodesOptions(Options):
    barcodes: bool = Field(True, description="look for EAN and UPC barcodes too")


def choose(_options: QrCodesOptions, _store: Any) -> ModelChoice:
    """There is nothing to choose: the readers are part of OpenCV, whose version stands for their digest."""
    return ModelChoice("OpenCV code readers", tier="embedded", digest=f"opencv {version('opencv-python-headless')}")


def load(_choice: ModelChoice, _device: str, _options: QrCodesOptions) -> None:
    """Nothing to keep: a reader is made in a moment and serves one thread only, so `run` makes its own."""
    return


def run(_model: None, batch: Batch, options: QrCodesOptions) -> pa.Table:
    """One row per code that could be read; a frame without one has none."""
    rows = [
        row
        for medium in batch
        for frame in medium.frames
        for row in _rows(medium.media_id, frame, frame.image(), options)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _rows(media_id: str, frame: Frame, image: Image, options: QrCodesOptions) -> Iterator[dict[str, Any]]:
    # Large frames come reduced; boxes are in pixels of the picture as it is displayed.
    height, width = image.shape[:2]
    scale = (frame.width / width, frame.height / height)
    readable = (code for code in _codes(image, options) if code[1])  # found, but not read: no text to keep
    for code_index, (kind, text, corners) in enumerate(readable):
        (x1, y1), (x2, y2) = corners.min(axis=0) * scale, corners.max(axis=0) * scale
        yield {
            "media_id": media_id,
            "frame_index": frame.frame_index,
            "pts_s": frame.pts_s,
            "code_index": code_index,
            "kind": kind,
            "text": text,
            "x1": x1,
            "y1": y1,
            "x2": x2,
            "y2": y2,
        }


def _codes(image: Image, options: QrCodesOptions) -> Iterator[Code]:
    import cv2  # inside a function: listing the analyzers must stay cheap

    if min(image.shape[:2]) < _MIN_SIDE_PX:
        return
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found, contents, corners, _ = cv2.QRCodeDetector().detectAndDecodeBytesMulti(grey)
    if found:
        for content, quad in zip(contents, corners, strict=True):
            yield "qr", content.decode("utf-8", errors="replace"), quad
    if options.barcodes:
        found, texts, kinds, corners = cv2.barcode.BarcodeDetector().detectAndDecodeWithType(grey)
        if found:
            for text, kind, quad in zip(texts, kinds, corners, strict=True):
                yield kind.lower(), text, quad


def preview(rows: pa.Table) -> str:
    """What the codes say, for people."""
    texts = list(dict.fromkeys(rows["text"].to_pylist()))
    # As code and in one line: it is shown as Markdown, and nobody vouches for what stands in a code.
    return "  \n".join(f"`{' '.join(text[:80].replace('`', ' ').split())}`" for text in texts[:4]) or "no code"


ANALYZER = AnalyzerSpec(
    name="qr_codes",
    version="1",
    needs=("frames",),
    schema=SCHEMA,
    options=QrCodesOptions,
    choose=choose,
    load=load,
    run=run,
    description="QR codes and barcodes in pictures and video frames, with what they say and where they are.",
    kinds=frozenset({"image", "video"}),
    preview=preview,
    compute_kind="opencv",
)
