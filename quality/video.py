"""Shots of a video, against cuts that are known to the frame."""

from __future__ import annotations

from collections.abc import Iterator

from quality import metrics
from quality.area import Bench
from quality.metrics import Counts
from quality.report import Measurement

TOLERANCE_FRAMES = 1


class Scenes:
    name = "scenes"
    analyzers = ("scenes",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        rows = bench.home.rows("scenes", "start_frame", order="media_id, start_frame")
        counts = Counts(0, 0, 0)
        cut = bench.collection.knowing("cuts_at_frame")
        for item in cut:
            found = [row["start_frame"] for row in rows[item.file] if row["start_frame"] > 0]
            counts += metrics.event_counts(item.truth["cuts_at_frame"], found, TOLERANCE_FRAMES)
        yield Measurement(
            "scenes: F1 of cuts, to the frame",
            counts.f1,
            n=counts.hits + counts.missed,
            of=f"cuts of {len(cut)} video{'s' * (len(cut) != 1)}",
            maker=bench.home.maker("scenes"),
            remark=f"{counts.missed} missed, {counts.extra} extra",
        )
        # One recording in one go: whatever is found there is wrong.
        single = [i.file for i in bench.collection if i.file in SINGLE_SHOTS]
        extra = sum(max(0, len(rows[file]) - 1) for file in single)
        yield Measurement(
            "scenes: cuts found in videos that have none",
            float(extra),
            "count",
            n=len(single),
            of="videos",
            at_most=0,
            maker=bench.home.maker("scenes"),
        )


# Seen by eye: the camera runs through, or stands still.
SINGLE_SHOTS = frozenset(
    {
        "video/fire2_vfr_phone.mp4",
        "video/speech_jfk_over_bbb.mp4",
        "video/testcard_text_in_frame.mp4",
        "pose/pose_1.mp4",
    }
)
