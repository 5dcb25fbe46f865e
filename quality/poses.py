"""Poses: how far key points lie from known ones, and whether persons are found where there are some."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from quality import metrics
from quality.area import Bench
from quality.collection import Item
from quality.report import Maker, Measurement

# Order of the COCO data set, in which the manifest gives its points.
COCO_17 = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
GAP_S = 0.07  # between sampled frames of the videos whose points are known

Points = Mapping[str, tuple[float, float]]  # px of the displayed picture


class Poses:
    name = "poses"
    analyzers = ("poses",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        maker = bench.home.maker("poses")
        known = [item.file for item in bench.collection.of_kind("pose") if _is_known(item)]
        # A short clip has few sampled frames as it comes; here every other one is looked at.
        home = bench.extra_home("poses", bench.collection.root, {"MEDIA_PIPELINE_SAMPLING__MAX_GAP_S": str(GAP_S)})
        home.analyze([bench.collection.path(file) for file in known], ["poses"], bench.options)
        rows = home.rows("poses", "frame_index, score, keypoints", order="media_id, frame_index, score DESC")
        sizes = home.rows("media", "width, height")
        home.close()
        for file in known:
            size = sizes[file][0]
            truth = _truth(bench, file, size["width"], size["height"])
            yield _point_error(file, truth, rows[file], size["height"], maker)
        yield from _counts(bench, bench.home.rows("poses", "frame_index", order="media_id, frame_index"), maker)


def _point_error(
    file: str, truth: Mapping[int, Points], rows: list[dict[str, Any]], height: int, maker: Maker
) -> Measurement:
    """Of the best person of each sampled frame, over the points that both sides have."""
    best: dict[int, dict[str, Any]] = {}
    for row in rows:
        best.setdefault(row["frame_index"], row)
    errors = []
    for frame_index, row in best.items():
        wanted = truth.get(frame_index, {})
        errors += [
            math.dist(wanted[point["name"]], (point["x"], point["y"])) / height
            for point in row["keypoints"]
            if point["name"] in wanted
        ]
    return Measurement(
        f"poses: mean error of key points, share of the height, {file.rpartition('/')[2]}",
        sum(errors) / len(errors) if errors else None,
        n=len(errors),
        of=f"points in {len(best)} frame{'s' * (len(best) != 1)}",
        at_most=0.05,
        maker=maker,
        remark="the known points are another model's" if errors else "no person was found",
    )


def _counts(bench: Bench, rows: Mapping[str, list[dict[str, Any]]], maker: Maker) -> Iterator[Measurement]:
    counted = {i.file: i.truth["persons"] for i in bench.collection.knowing("persons")}
    # A video is judged by its first sampled frame that has anybody.
    found = {file: _first_frame(rows[file]) for file in counted}
    exact = sum(found[file] == number for file, number in counted.items())
    yield Measurement(
        "poses: media with exactly the right number of persons",
        exact / len(counted) if counted else None,
        n=len(counted),
        of="media",
        interval=metrics.wilson(exact, len(counted)),
        maker=maker,
        remark="; ".join(f"{f.rpartition('/')[2]}: {found[f]} of {n}" for f, n in counted.items() if found[f] != n),
    )
    empty = [item.file for item in bench.collection.of_kind("image_content")]
    wrong = sum(bool(rows[file]) for file in empty)
    yield Measurement(
        "poses: pictures without people in which one was found",
        wrong / len(empty) if empty else None,
        n=len(empty),
        of="pictures of animals, food and streets",
        interval=metrics.wilson(wrong, len(empty)),
        maker=maker,
    )


def _truth(bench: Bench, file: str, width: int, height: int) -> dict[int, Points]:
    """Known points by frame."""
    known = bench.collection[file].truth
    if "coco17_reference" in known:
        points = zip(COCO_17, known["coco17_reference"], strict=True)
        return {0: {name: (x * width, y * height) for name, (x, y, _) in points}}
    if "keypoints_file" in known:
        frames = json.loads(bench.collection.path(known["keypoints_file"]).read_text(encoding="utf-8"))
        return {n: {name: (at["x"], at["y"]) for name, at in frame.items()} for n, frame in enumerate(frames)}
    return {}


def _first_frame(rows: list[dict[str, Any]]) -> int:
    return sum(row["frame_index"] == rows[0]["frame_index"] for row in rows) if rows else 0


def _is_known(item: Item) -> bool:
    return "coco17_reference" in item.truth or "keypoints_file" in item.truth
