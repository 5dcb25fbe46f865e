"""Scenes (shots) of a video: PySceneDetect's adaptive detector, replayed on the scores stored while decoding.

The decoding sandbox writes PySceneDetect's content value of every frame; the decision where to cut needs nothing else,
so no frame is decoded again when an option changes. A dissolve is no cut; a fade is one only where it is black.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice, Options
from media_pipeline.errors import CorruptMedia

SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("scene_index", pa.int32()),  # not that of `frames`: frames lie in the scene that their time is in
        pa.field("start_s", pa.float64(), metadata={"unit": "s"}),
        pa.field("end_s", pa.float64(), metadata={"unit": "s"}),
        ("start_frame", pa.int64()),  # number of the frame in its video, from 0
        ("end_frame", pa.int64()),  # half-open: the first frame of the next scene
    ]
)

_US = 1_000_000


class ScenesOptions(Options):
    adaptive_threshold: float = Field(
        3.0, gt=0, description="how many times its neighbours' mean a frame's score must be"
    )
    min_content_val: float = Field(15.0, ge=0, description="score below which nothing is a cut")
    min_scene_s: float = Field(0.6, ge=0, description="seconds after a cut before the next one")
    window_frames: int = Field(2, ge=1, description="neighbours on each side")


def choose(_options: ScenesOptions, _store: Any) -> ModelChoice:
    return ModelChoice(name="PySceneDetect adaptive", tier="embedded", digest=f"scenedetect {version('scenedetect')}")


def load(_choice: ModelChoice, _device: str, _options: ScenesOptions) -> None:
    return None


def run(_model: None, batch: Batch, options: ScenesOptions) -> pa.Table:
    """One row per scene; scenes follow each other without gaps and cover the whole video.

    Raises:
        CorruptMedia: no frame of the video could be decoded.
    """
    rows = [row for medium in batch if medium.kind == "video" for row in _scenes(medium, options)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def find_cuts(pts_s: npt.NDArray[np.float64], scores: npt.NDArray[np.float32], options: ScenesOptions) -> list[int]:
    """Numbers of the frames that begin a new scene.

    Args:
        pts_s: seconds, shape (frames,), not decreasing.
        scores: PySceneDetect's content value, shape (frames,).
    """
    # `Any`: scenedetect brings cv2 and is imported when needed only, so its classes have no static names here.
    from fractions import Fraction

    from scenedetect.common import FrameTimecode, Timecode
    from scenedetect.detectors import AdaptiveDetector

    class Replay(AdaptiveDetector):  # type: ignore[misc]
        def _calculate_frame_score(self, timecode: Any, frame_img: Any) -> float:
            return float(frame_img)  # the score of the frame travels in the place of its picture

    detector = Replay(
        adaptive_threshold=options.adaptive_threshold,
        min_scene_len=float(options.min_scene_s),
        window_width=options.window_frames,
        min_content_val=options.min_content_val,
    )
    tick, fps = Fraction(1, _US), Fraction(25)  # with a Timecode the rate only serves frame numbers, unused here
    cuts = []
    for number, (ticks, score) in enumerate(zip(np.rint(pts_s * _US).astype(np.int64), scores, strict=True)):
        if detector.process_frame(FrameTimecode(Timecode(int(ticks), tick), fps), score):
            cuts.append(number - detector.event_buffer_length)
    return cuts


def preview(rows: pa.Table) -> str:
    starts = rows.column("start_s").to_pylist()
    noun = "scene" if len(starts) == 1 else "scenes"
    shown = ", ".join(f"{int(s // 60)}:{s % 60:04.1f}" for s in starts[:12])
    return f"{len(starts)} {noun} from {shown}{' …' if len(starts) > 12 else ''}"


def _scenes(medium: Medium, options: ScenesOptions) -> list[dict[str, Any]]:
    table = medium.frame_scores
    if table is None or table.num_rows == 0:
        raise CorruptMedia("no frame of the video could be decoded", "check that the file plays")
    # Broken files step back in time; a scene must not.
    pts_s = np.maximum.accumulate(table.column("pts_s").to_numpy())
    cuts = find_cuts(pts_s, table.column("score").to_numpy(), options)
    bounds = [0, *cuts, len(pts_s)]
    times = [*(float(pts_s[frame]) for frame in bounds[:-1]), _end_s(medium, pts_s)]
    return [
        {
            "media_id": medium.media_id,
            "scene_index": index,
            "start_s": times[index],
            "end_s": times[index + 1],
            "start_frame": bounds[index],
            "end_frame": bounds[index + 1],
        }
        for index in range(len(bounds) - 1)
    ]


def _end_s(medium: Medium, pts_s: npt.NDArray[np.float64]) -> float:
    """The medium's duration, or where it is unknown or too short for its frames, the end of the last frame."""
    frame_s = float(np.median(np.diff(pts_s))) if len(pts_s) > 1 else 0.0
    return max(medium.duration_s or 0.0, float(pts_s[-1]) + frame_s)


ANALYZER = AnalyzerSpec(
    name="scenes",
    version="1",
    needs=("frames",),
    schema=SCHEMA,
    options=ScenesOptions,
    choose=choose,
    load=load,
    run=run,
    description="Shots of a video, cut where the picture changes at once.",
    kinds=frozenset({"video"}),
    batch_media=64,
    preview=preview,
    compute_kind="scenedetect",
    reads_scores=True,
)
