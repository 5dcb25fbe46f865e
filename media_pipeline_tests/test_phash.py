"""The perceptual hash against its definition, and what it is for."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from media_pipeline.media.phash import distance, phash
from media_pipeline_tests import _synth


def natural(seed: int) -> Image.Image:
    """Smooth structure at several scales, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n), np.uint8)).resize((400, 300)), float) / n
        for n in (4, 8, 16)
    ]
    total = sum(layers)
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8)).convert("RGB")


def reference(image: Image.Image) -> str:
    """imagehash.phash, written out with a plain DCT-II matrix."""
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    n = np.arange(32)
    matrix = 2 * np.cos(np.pi * np.outer(n, 2 * n + 1) / 64)
    low = (matrix @ pixels @ matrix.T)[:8, :8]
    bits = "".join("1" if value > np.median(low) else "0" for value in low.flatten())
    return f"{int(bits, 2):016x}"


def test_it_is_imagehashs_phash_but_for_a_bit_or_two() -> None:
    for seed in range(10):
        image = natural(seed)
        ours = phash(image)
        assert ours is not None
        assert len(ours) == 16
        assert distance(ours, reference(image)) <= 3
    small = Image.fromarray(_synth.scene(1, 0, 100, 100))
    assert phash(small) == reference(small)  # nothing to reduce beforehand: exactly


def test_near_for_the_same_picture_and_far_for_another() -> None:
    image = natural(1)
    jpeg = io.BytesIO()
    image.resize((200, 150)).save(jpeg, "JPEG", quality=40)
    first, again, other = phash(image), phash(Image.open(jpeg)), phash(natural(2))
    assert first and again and other
    assert distance(first, again) <= 6
    assert distance(first, other) > 12


def test_plain_pictures_have_none() -> None:
    for colour in ("black", "white", (10, 200, 30)):
        assert phash(Image.new("RGB", (300, 200), colour)) is None
