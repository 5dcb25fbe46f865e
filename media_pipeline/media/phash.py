"""Perceptual hash of a picture: equal or near for what looks the same.

The definition is that of imagehash.phash (JohannesBuchner/imagehash, after hackerfactor.com/blog/?/archives/432):
luma reduced to 32 x 32, two-dimensional DCT-II, its lowest 8 x 8 coefficients compared with their median.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

HASH_SIDE = 8
INPUT_SIDE = 32
# Grey levels (standard deviation) below which a picture is plain: its coefficients are noise around zero, and every
# black frame would become a near-duplicate of every other plain one.
FLAT_LEVELS = 1.0

# Only the lowest rows of the DCT matrix are needed; without norm, as imagehash calls scipy.fftpack.dct.
_BASIS = 2 * np.cos(np.pi * np.arange(HASH_SIDE)[:, None] * (2 * np.arange(INPUT_SIDE)[None, :] + 1) / (2 * INPUT_SIDE))


def phash(image: Image.Image) -> str | None:
    """64-bit hash as 16 hex digits, or None for a plain picture, which has nothing to compare."""
    factor = (max(1, image.width // (4 * INPUT_SIDE)), max(1, image.height // (4 * INPUT_SIDE)))
    grey = image.reduce(factor).convert("L")  # first smaller: a tenth of the time, and the same bits but for a few
    pixels = np.asarray(grey.resize((INPUT_SIDE, INPUT_SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    if pixels.std() < FLAT_LEVELS:
        return None
    low = _BASIS @ pixels @ _BASIS.T
    bits = (low > np.median(low)).flatten()
    return np.packbits(bits).tobytes().hex()


def distance(left: str, right: str) -> int:
    """Hamming distance of two hashes, 0 to 64."""
    return (int(left, 16) ^ int(right, 16)).bit_count()
