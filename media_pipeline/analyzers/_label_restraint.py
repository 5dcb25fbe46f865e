"""What the key points of a body say about restraint: geometry only, no picture is looked at.

Three things are looked for, frame by frame and person by person, all measured in lengths of the torso:

    wrists_behind_back  both wrists close together at the height of the waist, and behind: the person is seen from
                        behind, or from the side with the wrists on the far side of the nose, or from the front with
                        both wrists hidden
    wrists_above_head   both wrists close together, clearly above the head
    ankles_together     both ankles and both knees close together while the body lies

and counted by how long they last: `n` sampled frames in a row of one person are worth 1 - 2^-n of the mean evidence,
so a single picture is never worth more than half and stays below the threshold of every shipped label. Frames that
only repeat the one before (a still in a video) count once. In a row is what lies at most 12 s apart, or twice the usual
gap where frames are sampled further apart, as in films.

Where CLIP has an opinion of the same frame, the two are combined as independent witnesses: their odds are multiplied.
CLIP's word is bounded to [0.25, 0.9], so that it can confirm or weaken what the body shows, and not veto it.

Limits, on purpose: this knows nothing of ropes, and nothing of consent or crime. Hands folded behind the back while
waiting or marching, hands in back pockets, stretching, diving, climbing, volleyball and yoga look the same; hands tied
in front of the body are not looked for, because folded hands are everywhere. A hit is a reason to look, no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from media_pipeline.analyzers._boxes import Box, iou
from media_pipeline.analyzers._label_sets import PoseEvidence
from media_pipeline.analyzers._pose_points import Keypoints

Point = npt.NDArray[np.float32]

_SAME_ACT_S = 12.0  # between two of its frames: twice the longest gap of sampling by default, and some more
_SAME_PERSON_IOU = 0.3
_SEEN = 0.5  # score from which a key point counts as visible
_CLIP_BOUNDS = (0.25, 0.9)


@dataclass(frozen=True, slots=True)
class Held:
    """A posture that lasts, as seen in one of its frames."""

    frame_index: int
    pts_s: float
    evidence: PoseEvidence
    score: float  # [0, 1]


@dataclass(slots=True)
class _Run:
    """One posture of one person, frame after frame."""

    evidence: PoseEvidence
    box: Box
    frames: list[tuple[int, float, float]] = field(default_factory=list)  # frame_index, pts_s, score
    looks: set[int] = field(default_factory=set)  # frames that were looked at: the others show the same picture

    def held(self) -> Iterator[Held]:
        worth = 1 - 0.5 ** len(self.looks)
        mean = sum(score for _, _, score in self.frames) / len(self.frames)
        for frame_index, pts_s, _ in self.frames:
            yield Held(frame_index, pts_s, self.evidence, worth * mean)


def held_postures(poses: pa.Table, frames: pa.Table | None = None) -> list[Held]:
    """Postures in the rows of `poses` of one medium; per frame and kind the strongest.

    Args:
        frames: rows of the table `frames`; None: they are not known, and no further apart than by default
    """
    max_gap_s = _max_gap_s(frames)
    open_runs: list[_Run] = []
    done: list[_Run] = []
    for pts_s, people in _by_frame(poses):
        going_on = [run for run in open_runs if pts_s - run.frames[-1][1] <= max_gap_s]
        done += [run for run in open_runs if run not in going_on]
        open_runs = _continue(going_on, people, done)
    strongest: dict[tuple[int, PoseEvidence], Held] = {}
    for run in (*done, *open_runs):
        for held in run.held():
            key = (held.frame_index, held.evidence)
            if key not in strongest or strongest[key].score < held.score:
                strongest[key] = held
    return sorted(strongest.values(), key=lambda held: (held.frame_index, held.evidence))


def combined(pose: float, clip: float | None) -> float:
    """The score of both witnesses; the pose's own where CLIP has not seen the frame."""
    if clip is None:
        return pose
    word = min(max(clip, _CLIP_BOUNDS[0]), _CLIP_BOUNDS[1])
    joint = pose * word
    return joint / (joint + (1 - pose) * (1 - word))


def evidence_of(body: Keypoints) -> dict[PoseEvidence, float]:
    """What one body shows in one frame, each in (0, 1]; what it does not show is left out."""
    torso = _length(body.places("left_shoulder", "right_shoulder"), body.places("left_hip", "right_hip"))
    if not torso > 1.0:  # NaN too: a body without shoulders or hips says nothing
        return {}
    found: dict[PoseEvidence, float] = {
        "wrists_behind_back": _wrists_behind_back(body, torso),
        "wrists_above_head": _wrists_above_head(body, torso),
        "ankles_together": _ankles_together(body, torso),
    }
    return {kind: score for kind, score in found.items() if score > 0.0}


# ---------------------------------------------------------------------- frame after frame


def _max_gap_s(frames: pa.Table | None) -> float:
    """The longest time between two frames of one act."""
    times = frames["pts_s"].drop_null().to_numpy() if frames is not None else np.empty(0)
    if len(times) < 2:
        return _SAME_ACT_S
    return max(_SAME_ACT_S, 2 * float(np.median(np.diff(np.sort(times)))))


def _by_frame(poses: pa.Table) -> Iterator[tuple[float, list[Mapping[str, Any]]]]:
    """(pts_s, rows) of each frame with people, in order of frame_index."""
    frames: dict[int, list[Mapping[str, Any]]] = {}
    for row in poses.sort_by([("frame_index", "ascending"), ("person_index", "ascending")]).to_pylist():
        frames.setdefault(row["frame_index"], []).append(row)
    for people in frames.values():
        yield float(people[0]["pts_s"] or 0.0), people


def _continue(runs: Sequence[_Run], people: Sequence[Mapping[str, Any]], done: list[_Run]) -> list[_Run]:
    """Runs that are open after this frame; those that ended in it are added to ``done``."""
    going_on: list[_Run] = []
    left = list(runs)
    for row in people:
        box = (row["x1"], row["y1"], row["x2"], row["y2"])
        for kind, score in evidence_of(Keypoints.from_rows(row["keypoints"])).items():
            fitting = [run for run in left if run.evidence == kind and iou(run.box, box) >= _SAME_PERSON_IOU]
            run = max(fitting, key=lambda known: iou(known.box, box)) if fitting else _Run(kind, box)
            if fitting:
                left.remove(run)
            run.box = box
            run.frames.append((row["frame_index"], float(row["pts_s"] or 0.0), score))
            run.looks.add(row["read_frame_index"])
            going_on.append(run)
    done += left
    return going_on


# ---------------------------------------------------------------------- one body


def _wrists_behind_back(body: Keypoints, torso: float) -> float:
    wrists, shoulders, hips = _pair(body, "wrist"), _pair(body, "shoulder"), _pair(body, "hip")
    together = _falling(_apart(wrists) / torso, 0.2, 0.4)
    neck, waist, hands = shoulders.mean(axis=0), hips.mean(axis=0), wrists.mean(axis=0)
    down = (waist - neck) / torso
    along = float((hands - neck) @ down) / torso  # 0 at the shoulders, 1 at the hips
    at_waist = _rising(along, 0.5, 0.7) * _falling(along, 1.15, 1.4)
    aside = abs(float((hands - neck) @ _across(down))) / torso
    known = _rising(_score(body, "shoulder"), 0.4, 0.7) * _rising(_score(body, "hip"), 0.4, 0.7)
    return _number(together * at_waist * known * _behind(body, torso, down, aside))


def _behind(body: Keypoints, torso: float, down: Point, aside: float) -> float:
    """How certainly the wrists are on the far side of the body from where it looks."""
    shoulders, wrists = _pair(body, "shoulder"), _pair(body, "wrist")
    right_to_left = float((shoulders[0] - shoulders[1]) @ _across(down)) / torso
    seen = _score(body, "wrist")
    if abs(right_to_left) < 0.25:  # from the side
        looks = float((body.point("nose")[0] - shoulders.mean(axis=0)) @ _across(down)) / torso
        hands = float((wrists.mean(axis=0) - _pair(body, "hip").mean(axis=0)) @ _across(down)) / torso
        return _rising(-np.sign(looks) * hands, 0.1, 0.25) * _rising(abs(looks), 0.05, 0.12)
    between = _falling(aside, 0.25, 0.4)  # beside the body they are in front of nothing
    if right_to_left < 0:  # from behind: the left shoulder is left in the picture
        return between * _rising(seen, 0.3, _SEEN)
    return between * _falling(seen, 0.2, _SEEN) * 0.8  # from the front: hidden wrists are half a guess


def _wrists_above_head(body: Keypoints, torso: float) -> float:
    wrists, shoulders = _pair(body, "wrist"), _pair(body, "shoulder")
    hips = _pair(body, "hip")
    up = (shoulders.mean(axis=0) - hips.mean(axis=0)) / torso
    together = _falling(_apart(wrists) / torso, 0.2, 0.4)
    above = min(float((wrist - body.point("nose")[0]) @ up) for wrist in wrists) / torso
    seen = _rising(_score(body, "wrist"), 0.4, 0.7) * _rising(_score(body, "shoulder"), 0.4, 0.7)
    return _number(together * _rising(above, 0.25, 0.5) * seen)


def _ankles_together(body: Keypoints, torso: float) -> float:
    ankles, knees = _pair(body, "ankle"), _pair(body, "knee")
    down = (_pair(body, "hip").mean(axis=0) - _pair(body, "shoulder").mean(axis=0)) / torso
    lies = _rising(abs(float(down[0])), 0.7, 0.9)  # sine of the angle against upright
    together = _falling(_apart(ankles) / torso, 0.2, 0.35) * _falling(_apart(knees) / torso, 0.3, 0.5)
    seen = _rising(min(_score(body, "ankle"), _score(body, "knee")), 0.4, 0.7)
    return _number(together * lies * seen)


def _pair(body: Keypoints, part: str) -> Point:
    """Places of the left and the right one, shape (2, 2)."""
    return body.places(f"left_{part}", f"right_{part}")


def _score(body: Keypoints, part: str) -> float:
    return min(body.point(f"left_{part}")[1], body.point(f"right_{part}")[1])


def _length(one: Point, other: Point) -> float:
    return float(np.linalg.norm(one.mean(axis=0) - other.mean(axis=0)))


def _apart(pair: Point) -> float:
    return float(np.linalg.norm(pair[0] - pair[1]))


def _across(down: Point) -> Point:
    """Unit vector at a right angle to the torso; to the right of the picture for a person who stands."""
    return np.array([down[1], -down[0]], np.float32)


def _rising(value: float, low: float, high: float) -> float:
    """0 up to ``low``, 1 from ``high`` on, linear between; NaN stays NaN."""
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))


def _falling(value: float, low: float, high: float) -> float:
    return 1.0 - _rising(value, low, high)


def _number(score: float) -> float:
    """A product in which any point was missing is no evidence."""
    return 0.0 if np.isnan(score) else float(score)
