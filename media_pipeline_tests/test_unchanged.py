"""Which frames need a second look."""

from __future__ import annotations

import numpy as np
import pytest

from media_pipeline.analyzers._spec import Image
from media_pipeline.analyzers._unchanged import is_unchanged, new_pictures, thumbnail
from media_pipeline_tests._ocr_pages import PictureFrame, blank, slide


def looked_at(*frames: PictureFrame, reuse: bool = True) -> list[int]:
    """Numbers of the frames that come with their picture."""
    found = list(new_pictures(frames, reuse))
    assert [frame for frame, _ in found] == list(frames)
    assert all(image is None or image is frame.picture for frame, image in found)
    return [number for number, (_, image) in enumerate(found) if image is not None]


def noisy(picture: Image, seed: int) -> Image:
    noise = np.random.default_rng(seed).integers(-3, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_frames_differ_when_one_digit_does() -> None:
    one = thumbnail(slide(["Slide 3 of 20"], px=28, width=1920, height=1080))

    assert is_unchanged(one, thumbnail(slide(["Slide 3 of 20"], px=28, width=1920, height=1080)))
    assert not is_unchanged(one, thumbnail(slide(["Slide 8 of 20"], px=28, width=1920, height=1080)))
    assert not is_unchanged(one, thumbnail(blank(640, 480)))


def test_only_new_pictures_are_given() -> None:
    one, other = slide(["Page 1"], width=480, height=200), slide(["Page 2"], width=480, height=200)
    frames = [PictureFrame(p) for p in (one, noisy(one, 1), noisy(one, 2), other, other, one)]

    assert looked_at(*frames) == [0, 3, 5]
    assert looked_at(*frames, reuse=False) == [0, 1, 2, 3, 4, 5]
    assert looked_at() == []


def test_slow_change_is_seen_at_last() -> None:
    # Each frame is like the one before it, but not like the one that was looked at.
    frames = [PictureFrame(blank(64, 64, grey)) for grey in range(100, 112)]

    assert looked_at(*frames) == [0, 4, 8]


def test_a_stream_that_changes_its_size_is_looked_at_again() -> None:
    small, large = blank(1280, 720), blank(1920, 1080)
    assert is_unchanged(thumbnail(small), thumbnail(large))

    assert looked_at(PictureFrame(small), PictureFrame(large), PictureFrame(large), PictureFrame(small)) == [0, 1, 3]


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    assert looked_at(PictureFrame(blank(*size)), PictureFrame(blank(*size))) == [0]
