"""Frames that still show what a frame before them showed: they need no second look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Frame, Image

Thumbnail = npt.NDArray[np.float32]  # grey, shape (h, w), values 0 to 255

_SIDE_PX = 640
_BLOCK_PX = 8
# Of 255, mean over one block. Compression noise stays below 2; one changed digit of readable size is above 8.
_MOVED = 4.0
_NOTHING: Thumbnail = np.zeros((0, 0), np.float32)


def new_pictures(frames: Iterable[Frame], reuse: bool) -> Iterator[tuple[Frame, Image | None]]:
    """Every frame, with its picture where that must be looked at.

    None in place of the picture: what was found in the last one that was given holds for this frame too, in the same
    pixels. The first frame always has its picture; without ``reuse`` all have.
    """
    seen, seen_size = _NOTHING, (0, 0)
    for frame in frames:
        image = frame.image()
        if reuse:
            now, size = thumbnail(image), (frame.width, frame.height)
            # A stream may change its size between two frames that look alike, and boxes are in pixels.
            if size == seen_size and is_unchanged(seen, now):
                yield frame, None
                continue
            seen, seen_size = now, size
        yield frame, image


def thumbnail(image: Image) -> Thumbnail:
    """Grey copy, longer side 640 px at most."""
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, _SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, dtype=np.float32)


def is_unchanged(one: Thumbnail, other: Thumbnail) -> bool:
    """No block of 8 by 8 pixels differs by more than noise."""
    import cv2

    if one.shape != other.shape:
        return False
    return float(cv2.blur(np.abs(one - other), (_BLOCK_PX, _BLOCK_PX)).max()) < _MOVED
