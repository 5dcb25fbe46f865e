"""Text in pictures, slides, scans and video frames, line by line in reading order.

The detector first looks at a small copy; only where the text it finds is small does it look again, larger. Pages that
lie on their side or stand on their head are turned before they are read, and the boxes turned back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers import _ocr_weights
from media_pipeline.analyzers._markdown import escaped
from media_pipeline.analyzers._ocr_onnx import Engine, OnnxEngine
from media_pipeline.analyzers._ocr_page import Page, read_page
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Frame, Medium, ModelChoice, Options
from media_pipeline.analyzers._unchanged import new_pictures
from media_pipeline.errors import ModelUnavailable

_PIXELS = {"unit": "px of the displayed picture"}
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        pa.field("pts_s", pa.float64(), metadata={"unit": "s"}),
        ("line_index", pa.int32()),  # reading order within the frame, from 0
        ("text", pa.string()),
        ("score", pa.float32()),  # mean probability of the characters, [0, 1]
        pa.field("x1", pa.float32(), metadata=_PIXELS),
        pa.field("y1", pa.float32(), metadata=_PIXELS),
        pa.field("x2", pa.float32(), metadata=_PIXELS),
        pa.field("y2", pa.float32(), metadata=_PIXELS),
        pa.field("angle_deg", pa.float32(), metadata={"unit": "degrees clockwise from left-to-right, [-180, 180)"}),
        # The frame this was read from: an earlier one where the picture has not changed since.
        ("read_frame_index", pa.int64()),
    ]
)


class OcrOptions(Options):
    engine: Literal["rapidocr", "paddleocr"] = Field(
        "rapidocr", description="rapidocr: PP-OCR on onnxruntime directly; paddleocr: the same through paddleocr"
    )
    model: str | None = Field(None, description="folder with other weights of that engine")
    min_score: float = Field(0.5, ge=0, le=1, description="mean character probability below which a line is dropped")
    max_side_px: int = Field(1600, ge=640, description="longer side of the picture in which small text is looked for")
    text_gate: bool = Field(True, description="pass over pictures in which a glance shows nothing like text")
    reuse_unchanged_frames: bool = Field(True, description="repeat the lines of the frame before if nothing moved")
    # Not part of the fingerprint: it changes the time, not the text.
    threads: int = Field(1, ge=1, exclude=True, description="threads per picture; media run in parallel anyway")


def choose(options: OcrOptions, store: Any) -> ModelChoice:
    return _ocr_weights.choose(options.engine, options.model, store)


def load(choice: ModelChoice, device: str, options: OcrOptions) -> Engine:
    """Open the sessions of what `choose` found.

    Raises:
        ModelUnavailable: one of the files cannot be used, and which.
    """
    if choice.path is None:
        raise ModelUnavailable(f"{choice.name} names no folder", "choose the model again")
    if options.engine == "paddleocr":
        from media_pipeline.analyzers._ocr_paddle import PaddleEngine  # yaml and its settings, seldom wanted

        return PaddleEngine(choice.path, _ocr_weights.packaged_folder(), threads=options.threads, device=device)
    det, rec, cls = _ocr_weights.weight_files(choice.path)
    return OnnxEngine(det, rec, cls, threads=options.threads, device=device)


def run(engine: Engine, batch: Batch, options: OcrOptions) -> pa.Table:
    """One row per line of text; a frame without text has none."""
    rows = [row for medium in batch for row in _medium_rows(engine, medium, options)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _medium_rows(engine: Engine, medium: Medium, options: OcrOptions) -> Iterator[dict[str, Any]]:
    page, read_frame_index, scale = Page((), 0), 0, (1.0, 1.0)
    for frame, image in new_pictures(medium.frames, options.reuse_unchanged_frames):
        if image is not None:
            page = read_page(
                engine, image, min_score=options.min_score, max_side_px=options.max_side_px, text_gate=options.text_gate
            )
            read_frame_index = frame.frame_index
            scale = (frame.width / image.shape[1], frame.height / image.shape[0])
        yield from _frame_rows(medium.media_id, frame, page, scale, read_frame_index)


def _frame_rows(
    media_id: str, frame: Frame, page: Page, scale: tuple[float, float], read_frame_index: int
) -> Iterator[dict[str, Any]]:
    for line_index, line in enumerate(page.lines):
        x1, y1, x2, y2 = line.box
        yield {
            "media_id": media_id,
            "frame_index": frame.frame_index,
            "pts_s": frame.pts_s,
            "line_index": line_index,
            "text": line.text,
            "score": line.score,
            "x1": x1 * scale[0],
            "y1": y1 * scale[1],
            "x2": x2 * scale[0],
            "y2": y2 * scale[1],
            "angle_deg": line.angle_deg,
            "read_frame_index": read_frame_index,
        }


def preview(rows: pa.Table) -> str:
    """The first lines, and how many there are."""
    texts = list(dict.fromkeys(rows.column("text").to_pylist()))
    if not texts:
        return "no text"
    first = "  \n".join(escaped(text[:80]) for text in texts[:4])
    return f"{first}\n\n{len(texts)} different lines" if len(texts) > 4 else first


ANALYZER = AnalyzerSpec(
    name="ocr",
    version="2",
    needs=("frames",),
    schema=SCHEMA,
    options=OcrOptions,
    choose=choose,
    load=load,
    run=run,
    description="Text in pictures and video frames, line by line in reading order, with boxes and scores.",
    kinds=frozenset({"image", "video"}),
    preview=preview,
    compute_kind="onnx",
    uses_gpu=lambda _choice: True,
)
