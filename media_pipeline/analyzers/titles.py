"""Title cards and lower thirds, from where the lines of OCR stand and how long they stay.

In videos (heights and places are shares of the frame, all but the smallest are options):
    title card    at most 4 lines, the largest at least 5 % high, none of them below 40 % of it; their common middle
                  within 10 % of the frame's in width and 25 % in height; besides them at most 2 small lines.
    lower third   at most 3 lines below each other, all of them below 55 % of the height, each at most 60 % wide and 9 %
                  high; at most 6 other lines in the frame.
    Both          stay for at least 1.5 s or two sampled frames, and for at most 30 s: what stays longer is the name of
                  the channel; of the time after the last frame that shows it 5 s count, however far the next one is.
                  Readings whose characters agree to 75 % are one title; OCR may miss it in one frame. It ends where the
                  next sampled frame no longer shows it, so ends are as exact as frames are dense.
    Neither       centred lines low in the frame where three different texts stand one after the other: subtitles.
                  Slides full of text.
In pictures a title card is as above, or else the heading of a slide or page, both without times: what is 1.3 times as
high as the median of at least two other lines and stands in the upper half; at least 2.5 % high.

The mean OCR score of a title's lines is at least 0.8: patterns and lettering that is cut off score less.

Costs less than a millisecond per frame: no picture is decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Frame, Medium, ModelChoice
from media_pipeline.analyzers._title_blocks import Block, Line, Rules, heading, lines_of, lower_thirds, title_card
from media_pipeline.analyzers._title_spans import spans_of, without_subtitles

# The longest gap of sampling by default. Between the frames of a film, which lie further apart, a title may be gone for
# most of the time until its end.
_UNSEEN_S = 5.0

_PIXELS = {"unit": "px of the displayed picture"}
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("title_index", pa.int32()),  # in order of time, from 0
        pa.field("start_s", pa.float64(), metadata={"unit": "s; null in pictures"}),
        pa.field("end_s", pa.float64(), metadata={"unit": "s; null in pictures"}),
        ("frame_index", pa.int64()),  # where it was read best; text, score and box are from there
        ("text", pa.string()),  # lines separated by line feeds
        ("kind", pa.string()),  # title_card, lower_third
        pa.field("score", pa.float32(), metadata={"range": "[0, 1], mean of the lines' OCR scores"}),
        pa.field("x1", pa.float32(), metadata=_PIXELS),
        pa.field("y1", pa.float32(), metadata=_PIXELS),
        pa.field("x2", pa.float32(), metadata=_PIXELS),
        pa.field("y2", pa.float32(), metadata=_PIXELS),
    ]
)


class TitlesOptions(Rules):
    """Options of `titles`; heights and places are shares of the frame's height, widths of its width."""

    min_s: float = Field(1.5, ge=0, description="seconds a title stays, unless two sampled frames show it")
    max_s: float = Field(30.0, gt=0, description="seconds after which it is no title but a mark of the channel")


def choose(_options: TitlesOptions, _store: Any) -> ModelChoice:
    return ModelChoice("rules", "embedded", "rules")


def load(_choice: ModelChoice, _device: str, _options: TitlesOptions) -> None:
    """There is nothing to load."""


def run(_model: None, batch: Batch, options: TitlesOptions) -> pa.Table:
    """One row per title, in order of time."""
    rows = []
    for medium in batch:
        titles = _of_pictures(medium, options) if medium.kind == "image" else _of_video(medium, options)
        for index, row in enumerate(titles):
            rows.append({"media_id": medium.media_id, "title_index": index, **row})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _of_pictures(medium: Medium, options: TitlesOptions) -> Iterator[dict[str, Any]]:
    for frame, lines in _frames(medium):
        found = title_card(lines, options) or heading(lines, options)
        if found is not None and found.score >= options.min_score:
            yield {"start_s": None, "end_s": None, **_row(found, frame.frame_index, frame.width, frame.height)}


def _of_video(medium: Medium, options: TitlesOptions) -> Iterator[dict[str, Any]]:
    places: list[tuple[int, float, int, int]] = []  # frame_index, pts_s, width, height
    blocks: list[list[Block]] = []
    for frame, lines in _frames(medium):
        places.append((frame.frame_index, frame.pts_s, frame.width, frame.height))
        card = title_card(lines, options)
        blocks.append([card] if card is not None else list(lower_thirds(lines, options)))
    for span in without_subtitles(spans_of(blocks)):
        start_s = places[span.first][1]
        end_s = places[span.last + 1][1] if span.last + 1 < len(places) else _end(medium, places[-1][1])
        if span.best[1].score < options.min_score:
            continue
        stays = end_s - start_s >= options.min_s or len(span.readings) > 1
        if stays and min(end_s, places[span.last][1] + _UNSEEN_S) - start_s <= options.max_s:
            position, block = span.best
            frame_index, _, width, height = places[position]
            yield {"start_s": start_s, "end_s": end_s, **_row(block, frame_index, width, height)}


def _end(medium: Medium, last_s: float) -> float:
    return max(last_s, medium.duration_s or last_s)


def _frames(medium: Medium) -> Iterator[tuple[Frame, list[Line]]]:
    """Every frame with its lines; frames without text have none."""
    lines: dict[int, list[dict[str, Any]]] = defaultdict(list)
    ocr = medium.rows.get("ocr")
    if ocr is not None:
        columns = ["frame_index", "text", "score", "x1", "y1", "x2", "y2", "angle_deg"]
        for row in ocr.select(columns).to_pylist():
            lines[row["frame_index"]].append(row)
    for frame in medium.frames:
        yield frame, lines_of(lines.get(frame.frame_index, []), frame.width, frame.height)


def _row(block: Block, frame_index: int, width: int, height: int) -> dict[str, Any]:
    x1, y1, x2, y2 = block.box
    return {
        "frame_index": frame_index,
        "text": block.text,
        "kind": block.kind,
        "score": block.score,
        "x1": x1 * width,
        "y1": y1 * height,
        "x2": x2 * width,
        "y2": y2 * height,
    }


def preview(rows: pa.Table) -> str:
    """How many titles of which kind."""
    if rows.num_rows == 0:
        return "no title"
    counts = {c["values"]: c["counts"] for c in rows["kind"].value_counts().to_pylist()}
    named = [f"{n} {kind.replace('_', ' ')}{'s' * (n != 1)}" for kind, n in sorted(counts.items())]
    return ", ".join(named)


ANALYZER = AnalyzerSpec(
    name="titles",
    version="2",
    needs=("frames", "ocr"),
    schema=SCHEMA,
    options=TitlesOptions,
    choose=choose,
    load=load,
    run=run,
    description="Title cards and lower thirds of videos with their times, headings of slides.",
    kinds=frozenset({"image", "video"}),
    preview=preview,
)
