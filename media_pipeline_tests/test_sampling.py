"""Which frames are kept: after cuts, at least one per gap, never more than allowed, spread over the whole length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from media_pipeline.config import Sampling
from media_pipeline.media.sampling import ContentScore, CutDetector, FrameSampler, Pick, Seen, Spread, reduce
from media_pipeline_tests import _synth

SHARED = Path(__file__).parents[2] / "shared" / "media"
TEXTURE = np.random.default_rng(1).integers(0, 256, (36, 64, 3)).astype(np.uint8)
BLACK = np.zeros_like(TEXTURE)


def sample(
    count: int,
    score: Callable[[int], float],
    fps: float = 25,
    small: Callable[[int], np.ndarray] = lambda i: TEXTURE,
    sampling: Sampling | None = None,
    claimed_s: float | None = None,
) -> list[Pick[int]]:
    spread = Spread(sampling or Sampling())
    sampler: FrameSampler[int] = FrameSampler(spread.gap_s, claimed_s)

    def keep(pick: Pick[int]) -> None:
        spread.add(pick.seen.time_s, pick.opens_scene, pick)

    for i in range(count):
        for pick in sampler.push(Seen(i, i / fps, score(i), small(i), i)):
            keep(pick)
    for pick in sampler.finish():
        keep(pick)
    return spread.items()


def cuts_of(path: Path) -> list[int]:
    detector, score = CutDetector(), ContentScore()
    with av.open(str(path)) as container:
        found = [detector.push(score(reduce(frame))) for frame in container.decode(video=0)]
    return [i - CutDetector.DELAY for i, cut in enumerate(found) if cut]


def test_cuts_of_a_real_encoding_are_found_on_their_frames(tmp_path: Path) -> None:
    frames = [_synth.scene(n, i, 320, 180) for n, length in ((1, 30), (2, 20), (3, 40)) for i in range(length)]
    assert cuts_of(_synth.movie(tmp_path / "v.mp4", frames)) == [30, 50]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_every_pixel_layout_gives_the_same_picture(pix_fmt: str) -> None:
    frame = av.VideoFrame.from_ndarray(_synth.scene(1, 0, 640, 360), format="rgb24")
    expected = reduce(frame)  # not planar: by swscale
    strided = reduce(frame.reformat(format=pix_fmt))
    assert strided.shape == expected.shape
    assert np.abs(strided.astype(int) - expected.astype(int)).mean() < 12


def test_the_detector_is_that_of_pyscenedetect() -> None:
    from scenedetect import AdaptiveDetector, FrameTimecode

    rng = np.random.default_rng(5)
    scores = rng.gamma(2.0, 3.0, 3000)
    scores[rng.integers(0, 3000, 60)] += rng.uniform(10, 90, 60)

    class Replay(AdaptiveDetector):
        def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: np.ndarray) -> float:
            return float(frame_img[0])

    theirs, ours = Replay(), CutDetector()
    expected = [
        cut.frame_num
        for i, score in enumerate(scores)
        for cut in theirs.process_frame(FrameTimecode(i, 25.0), np.array([score]))
    ]
    found = [i - CutDetector.DELAY for i, score in enumerate(scores) if ours.push(float(score))]
    assert len(expected) > 10
    assert found == expected


def test_content_score_is_pyscenedetects_mean_of_three_channels() -> None:
    import cv2

    left, right = TEXTURE, np.roll(TEXTURE, 3, axis=1)
    score = ContentScore()
    assert score(left) == 0.0
    hsv = [cv2.cvtColor(x, cv2.COLOR_BGR2HSV).astype(int) for x in (left, right)]
    expected = np.mean([np.abs(hsv[0][:, :, c] - hsv[1][:, :, c]).mean() for c in range(3)])
    assert score(right) == pytest.approx(expected)


def test_every_shot_is_seen_even_a_short_one() -> None:
    cuts = {50, 70, 90}
    picks = sample(150, lambda i: 60.0 if i in cuts else 1.0)
    assert [p.scene_index for p in picks if p.opens_scene] == [0, 1, 2, 3]
    bounds = [0, 50, 70, 90, 150]
    assert all(bounds[p.scene_index] <= p.seen.index < bounds[p.scene_index + 1] for p in picks)


def test_no_gap_is_longer_than_allowed() -> None:
    picks = sample(25 * 60, lambda i: 1.0)
    times = [p.seen.time_s for p in picks]
    assert times[0] <= 1.0
    assert max(np.diff(times)) <= 5.0
    assert 60 - times[-1] <= 5.0


@pytest.mark.parametrize("count", [3, 4, 7, 12, 25, 50, 75, 100, 150, 240])
def test_short_videos_get_three_frames_over_their_length(count: int) -> None:
    length_s = count / 25
    times = [p.seen.time_s for p in sample(count, lambda i: 1.0, claimed_s=length_s)]
    assert 3 <= len(times) <= 4
    assert times == sorted(set(times))
    assert times[0] <= max(0.5, length_s / 3)
    assert times[-1] >= length_s / 2


@pytest.mark.parametrize("claimed_s", [None, 0.4, 600.0])
def test_three_frames_are_kept_whatever_the_container_claims(claimed_s: float | None) -> None:
    for count in (60, 75, 120):
        assert len(sample(count, lambda i: 1.0, claimed_s=claimed_s)) >= 3


def test_a_copy_that_was_cut_shorter_has_the_frames_of_the_whole() -> None:
    motion = np.random.default_rng(3).uniform(0.5, 5, 1500)
    whole, part = (
        [p.seen.index for p in sample(count, lambda i: motion[i], claimed_s=count / 25)] for count in (1500, 350)
    )
    assert len(part) >= 4
    assert part == whole[: len(part)]


def test_of_the_first_frame_it_is_not_known_whether_it_is_sharp() -> None:
    picks = sample(50, lambda i: 2.0 if i else 0.0, claimed_s=2.0)
    assert picks[0].seen.index > 0


def test_black_at_the_beginning_of_a_shot_is_passed_over() -> None:
    picks = sample(100, lambda i: 1.0, small=lambda i: BLACK if i < 35 else TEXTURE)
    assert picks[0].seen.index >= 35
    only_black = sample(100, lambda i: 0.0, small=lambda i: BLACK)
    assert len(only_black) == 1


def test_one_frame_is_enough() -> None:
    assert [p.seen.index for p in sample(1, lambda i: 0.0)] == [0]
    assert sample(0, lambda i: 0.0) == []


@pytest.mark.parametrize("cap", [1, 2, 10, 37])
def test_too_many_picks_are_thinned_evenly(cap: int) -> None:
    seconds = 2000
    picks = sample(seconds * 2, lambda i: 1.0, fps=2, sampling=Sampling(max_frames=cap, max_gap_s=1.0))
    times = [p.seen.time_s for p in picks]
    assert len(times) == cap
    assert times == sorted(times)
    if cap >= 10:
        holes = np.diff([0, *times, seconds])
        assert max(holes) < 3 * seconds / cap


def test_few_frames_are_alive_at_once() -> None:
    import weakref

    class Picture:
        pass

    spread = Spread(Sampling())
    sampler: FrameSampler[Picture] = FrameSampler(spread.gap_s)
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    most = 0
    for i in range(1000):
        picture = Picture()
        alive.add(picture)
        for pick in sampler.push(Seen(i, i / 25, 60.0 if i % 100 == 0 else 1.0, TEXTURE, picture)):
            spread.add(pick.seen.time_s, pick.opens_scene, pick.seen.index)
            del pick
        del picture
        most = max(most, len(alive))
    assert most <= CutDetector.DELAY + 2


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs the shared media ({SHARED})")
def test_cuts_of_the_four_shot_clip() -> None:
    assert cuts_of(SHARED / "video" / "scenes_4shots.mp4") == [50, 90, 110]
