from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers.scenes import ANALYZER, ScenesOptions, find_cuts, preview
from media_pipeline.errors import CorruptMedia
from media_pipeline_tests._sound import SHARED, needs_media

FPS = 25


def scored(pts_s: np.ndarray, scores: np.ndarray) -> pa.Table:
    return pa.table({"pts_s": pa.array(pts_s, pa.float64()), "score": pa.array(scores, pa.float32())})


def video(scores: np.ndarray, pts_s: np.ndarray | None = None, duration_s: float | None = None) -> Medium:
    times = np.arange(len(scores)) / FPS if pts_s is None else pts_s
    return Medium("v", "video", frame_scores=scored(times, scores), duration_s=duration_s)


def scenes(medium: Medium, **options: float) -> list[dict[str, object]]:
    table = ANALYZER.run(None, (medium,), ScenesOptions(**options))
    ANALYZER.check(table, {medium.media_id})
    return table.to_pylist()


def calm(frames: int, cuts: dict[int, float]) -> np.ndarray:
    scores = np.random.default_rng(0).uniform(0.5, 2.0, frames)
    for frame, score in cuts.items():
        scores[frame] = score
    return scores


def test_cuts_divide_the_video_without_gaps() -> None:
    found = scenes(video(calm(170, {50: 60, 90: 40, 110: 80}), duration_s=6.8))
    assert [(s["start_frame"], s["end_frame"]) for s in found] == [(0, 50), (50, 90), (90, 110), (110, 170)]
    assert [(s["start_s"], s["end_s"]) for s in found] == [(0.0, 2.0), (2.0, 3.6), (3.6, 4.4), (4.4, 6.8)]
    assert [s["scene_index"] for s in found] == [0, 1, 2, 3]


def test_a_video_without_cuts_is_one_scene() -> None:
    (only,) = scenes(video(calm(100, {}), duration_s=4.0))
    assert (only["start_s"], only["end_s"], only["start_frame"], only["end_frame"]) == (0.0, 4.0, 0, 100)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_very_short_videos_are_one_scene(frames: int) -> None:
    (only,) = scenes(video(np.array([0.0, 90.0, 0.0, 80.0, 0.0])[:frames]))
    assert only["end_frame"] == frames


def test_a_scene_lasts_at_least_its_minimum() -> None:
    scores = calm(100, {40: 60, 46: 60, 70: 60})
    assert find_cuts(np.arange(100) / FPS, scores, ScenesOptions()) == [40, 70]
    assert find_cuts(np.arange(100) / FPS, scores, ScenesOptions(min_scene_s=0.1)) == [40, 46, 70]


def test_variable_frame_rate_is_measured_in_seconds_of_the_frames() -> None:
    # 25 frames a second, then 5: ten frames later is 0.4 s in the first half and 2 s in the second.
    pts_s = np.concatenate([np.arange(50) / 25, 2 + np.arange(50) / 5])
    found = scenes(video(calm(100, {20: 60, 30: 60, 60: 60, 70: 60}), pts_s))
    assert [s["start_frame"] for s in found] == [0, 20, 60, 70]
    assert [s["start_s"] for s in found] == pytest.approx([0.0, 0.8, 4.0, 6.0])
    assert found[-1]["end_s"] >= pts_s[-1]


def test_unknown_or_too_short_durations_end_with_the_last_frame() -> None:
    for duration_s in (None, 1.0):
        assert scenes(video(calm(100, {}), duration_s=duration_s))[-1]["end_s"] == pytest.approx(4.0)


def test_a_long_movement_is_not_a_cut() -> None:
    scores = calm(100, {})
    scores[40:60] = 40.0
    assert len(scenes(video(scores))) == 1


def test_times_never_step_back() -> None:
    pts_s = np.arange(100) / FPS
    pts_s[51] = 0.1
    found = scenes(video(calm(100, {50: 60}), pts_s))
    assert all(s["start_s"] < s["end_s"] for s in found)  # type: ignore[operator]


def test_a_video_without_frames_is_corrupt() -> None:
    with pytest.raises(CorruptMedia, match="no frame"):
        scenes(video(np.zeros(0)))


def test_pictures_have_no_scenes() -> None:
    assert ANALYZER.run(None, (Medium("i", "image"),), ScenesOptions()).num_rows == 0


def test_preview_says_where_scenes_begin() -> None:
    table = ANALYZER.run(None, (video(calm(170, {50: 60}), duration_s=6.8),), ScenesOptions())
    assert preview(table) == "2 scenes from 0:00.0, 0:02.0"


def decide_while_decoding(pictures: list[np.ndarray]) -> tuple[list[int], np.ndarray]:
    """PySceneDetect itself over pictures: its cuts, and its content values as the sandbox stores them."""
    from scenedetect.common import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    detector = AdaptiveDetector(min_scene_len=15)
    cuts, scores = [], []
    for number, picture in enumerate(pictures):
        cuts += [cut.frame_num for cut in detector.process_frame(FrameTimecode(number, float(FPS)), picture)]
        scores.append(detector._frame_score)
    return cuts, np.array(scores, np.float32)


def test_replay_decides_as_pyscenedetect_does_while_decoding() -> None:
    random = np.random.default_rng(3)
    shots = [random.integers(0, 256, (36, 64, 3), np.uint8) for _ in range(5)]
    pictures = [
        np.clip(shot.astype(int) + random.integers(-6, 7, shot.shape), 0, 255).astype(np.uint8)
        for shot, frames in zip(shots, (30, 18, 44, 16, 25), strict=True)
        for _ in range(frames)
    ]
    expected, scores = decide_while_decoding(pictures)
    assert expected == [30, 48, 92, 108]
    assert find_cuts(np.arange(len(scores)) / FPS, scores, ScenesOptions()) == expected


def mixed(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    return [(first * (1 - k / 24) + second * (k / 24)).astype(np.uint8) for k in range(25)]


def test_a_dissolve_is_not_a_cut_and_a_fade_is_cut_in_the_black_at_most() -> None:
    shot, other = (np.random.default_rng(n).integers(0, 256, (36, 64, 3), np.uint8) for n in (1, 2))
    black = np.zeros_like(shot)
    for middle, allowed in ((mixed(shot, other), range(0)), (mixed(shot, black) + mixed(black, other), range(52, 58))):
        expected, scores = decide_while_decoding([shot] * 30 + middle + [other] * 30)
        cuts = find_cuts(np.arange(len(scores)) / FPS, scores, ScenesOptions())
        assert cuts == expected
        assert set(cuts) <= set(allowed)


@needs_media
def test_the_four_shot_clip_is_cut_exactly() -> None:
    import av

    with av.open(str(SHARED / "media/video/scenes_4shots.mp4")) as container:
        frames = list(container.decode(video=0))
    _, scores = decide_while_decoding([frame.to_ndarray(format="bgr24") for frame in frames])
    pts_s = np.array([float(frame.pts * frame.time_base) for frame in frames])
    found = scenes(video(scores, pts_s, duration_s=6.8))
    assert [s["start_frame"] for s in found] == [0, 50, 90, 110]
    assert found[-1]["end_s"] == pytest.approx(6.8)
