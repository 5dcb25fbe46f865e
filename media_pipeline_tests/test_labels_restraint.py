from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pytest

from media_pipeline.analyzers._label_restraint import combined, evidence_of, held_postures
from media_pipeline.analyzers._pose_points import Keypoints
from media_pipeline.storage.schemas import FRAMES
from media_pipeline_tests._bodies import (
    FEET_TOGETHER,
    FOLDED_HANDS,
    HANDS_ON_BACK,
    HANDS_UP,
    STANDING,
    Place,
    keypoints,
    lying,
    mirrored,
    person,
    poses,
    scaled,
)

WRISTS = ("left_wrist", "right_wrist")
FROM_BEHIND = mirrored(STANDING | HANDS_ON_BACK)
# Seen from the side, looking to the right: both wrists left of the hips.
FROM_THE_SIDE: dict[str, Place] = {name: (200 + (x - 200) * 0.1, y) for name, (x, y) in STANDING.items()} | {
    "nose": (222, 60),
    "left_wrist": (170, 212),
    "right_wrist": (168, 215),
}


def shown(body: Mapping[str, Place], **more: tuple[str, ...]) -> dict[str, float]:
    return dict(evidence_of(Keypoints.from_rows(keypoints(body, **more))))


# ---------------------------------------------------------------------- one body in one frame


@pytest.mark.parametrize("factor", [0.1, 1.0, 7.0])
def test_hands_on_the_back_seen_from_behind(factor: float) -> None:
    assert shown(scaled(FROM_BEHIND, factor))["wrists_behind_back"] > 0.9


def test_hands_on_the_back_seen_from_the_front_are_hidden() -> None:
    assert 0.5 < shown(STANDING | HANDS_ON_BACK, hidden=WRISTS)["wrists_behind_back"] < 0.9


def test_hands_on_the_back_seen_from_the_side() -> None:
    assert shown(FROM_THE_SIDE)["wrists_behind_back"] > 0.8
    folded = {name: (400 - x, y) for name, (x, y) in FROM_THE_SIDE.items()} | {
        "left_wrist": (170, 212),
        "right_wrist": (168, 215),
    }
    assert "wrists_behind_back" not in shown(folded)  # looking to the left, they are in front


def test_hands_above_the_head() -> None:
    assert shown(STANDING | HANDS_UP)["wrists_above_head"] > 0.9
    apart = HANDS_UP | {"left_wrist": (290, -10), "right_wrist": (110, -12)}
    assert shown(STANDING | apart) == {}


def test_feet_together_count_only_where_the_body_lies() -> None:
    assert shown(STANDING | FEET_TOGETHER) == {}
    assert shown(lying(STANDING | FEET_TOGETHER))["ankles_together"] > 0.9
    assert shown(lying(STANDING)) == {}


@pytest.mark.parametrize(
    "body",
    [
        STANDING,
        mirrored(STANDING),
        STANDING | FOLDED_HANDS,  # in front of the body, and seen
        STANDING | {"left_wrist": (228, 228), "right_wrist": (172, 228)},  # hands in the pockets
        mirrored(STANDING | {"left_wrist": (228, 235), "right_wrist": (172, 235)}),  # in the back pockets
        STANDING | {"left_wrist": (205, 120), "right_wrist": (195, 122)},  # praying
        STANDING | {"left_wrist": (205, 75), "right_wrist": (195, 77)},  # drinking
    ],
)
def test_what_everybody_does_is_no_evidence(body: dict[str, Place]) -> None:
    assert shown(body) == {}


def test_points_that_are_missing_prove_nothing() -> None:
    assert shown(FROM_BEHIND, missing=("left_hip",)) == {}
    assert shown(FROM_BEHIND, missing=("left_wrist",)) == {}
    assert shown(STANDING | HANDS_UP, hidden=WRISTS) == {}
    assert evidence_of(Keypoints.from_rows([])) == {}
    assert shown(scaled(FROM_BEHIND, 0.0)) == {}


# ---------------------------------------------------------------------- frame after frame


def test_what_lasts_counts_more() -> None:
    scores = [
        held_postures(poses(*(person(FROM_BEHIND, frame) for frame in range(count))))[0].score for count in (1, 2, 3, 5)
    ]
    assert scores == sorted(scores)
    assert scores[0] <= 0.5 < scores[1] < 0.8 < scores[2] < scores[3] < 1


def test_every_frame_of_it_is_named() -> None:
    held = held_postures(poses(*(person(FROM_BEHIND, frame) for frame in (2, 3, 4)), person(STANDING, 5)))
    assert [(h.frame_index, h.pts_s, h.evidence) for h in held] == [
        (2, 4.0, "wrists_behind_back"),
        (3, 6.0, "wrists_behind_back"),
        (4, 8.0, "wrists_behind_back"),
    ]


def test_a_still_in_a_video_counts_once() -> None:
    held = held_postures(poses(*(person(FROM_BEHIND, frame, read_frame_index=0) for frame in range(6))))
    assert len(held) == 6
    assert all(h.score <= 0.5 for h in held)


def test_other_people_and_later_scenes_do_not_go_on() -> None:
    # Two people far apart, one frame each; the same place much later; a break in between.
    elsewhere = held_postures(poses(person(FROM_BEHIND, 0), person(FROM_BEHIND, 1, shift=900.0)))
    later = held_postures(poses(person(FROM_BEHIND, 0), person(FROM_BEHIND, 1, gap_s=60.0)))
    broken = held_postures(poses(person(FROM_BEHIND, 0), person(STANDING, 1), person(FROM_BEHIND, 2)))
    assert all(h.score <= 0.5 for h in (*elsewhere, *later, *broken))


def sampled(gap_s: float, count: int = 300) -> pa.Table:
    """Rows of the table `frames`."""
    rows = [{"media_id": "a", "frame_index": n, "pts_s": n * gap_s} for n in range(count)]
    return pa.Table.from_pylist(rows, schema=FRAMES)


@pytest.mark.parametrize("gap_s", [5.0, 12.1, 24.0, 60.0])
def test_in_long_videos_frames_that_lie_far_apart_go_on(gap_s: float) -> None:
    held = held_postures(poses(*(person(FROM_BEHIND, frame, gap_s=gap_s) for frame in range(20, 24))), sampled(gap_s))
    assert [h.score > 0.8 for h in held] == [True] * 4


def test_what_lies_further_apart_than_the_frames_around_does_not_go_on() -> None:
    for gap_s in (1.0, 24.0):
        rows = (person(FROM_BEHIND, 0, gap_s=gap_s), person(FROM_BEHIND, 13, gap_s=gap_s))
        assert all(h.score <= 0.5 for h in held_postures(poses(*rows), sampled(gap_s)))
    one = held_postures(poses(person(FROM_BEHIND, 0)), sampled(1.0, count=1))  # a picture
    assert [h.score <= 0.5 for h in one] == [True]


def test_the_one_of_several_people_is_followed() -> None:
    rows = [
        row
        for frame in range(3)
        for row in (
            person(STANDING, frame, person_index=frame % 2, shift=900.0),
            person(FROM_BEHIND, frame, person_index=1 - frame % 2),
        )
    ]
    assert [h.score > 0.8 for h in held_postures(poses(*rows))] == [True] * 3


def test_nobody() -> None:
    assert held_postures(poses()) == []


# ---------------------------------------------------------------------- with CLIP


def test_clip_confirms_and_weakens_but_does_not_veto() -> None:
    assert combined(0.7, None) == 0.7
    assert combined(0.7, 0.5) == pytest.approx(0.7)
    assert combined(0.7, 0.99) > 0.9
    assert 0.3 < combined(0.7, 0.0) < 0.5
    assert combined(0.9, 0.0) > 0.7
    assert 0 < combined(0.999, 1.0) < 1
