"""Grey pictures with more than 8 bits, which Pillow's own conversion clips to white."""

from __future__ import annotations

import numpy as np
from PIL import Image


def is_deep(image: Image.Image) -> bool:
    """Whether its grey values have 16 or 32 bits."""
    return image.mode[0] in "IF" or image.mode.startswith("I;")


def eight_bits(image: Image.Image) -> Image.Image:
    """A deep grey picture in 8 bits: integers by the depth they use, floating point by their range."""
    values = np.asarray(image).astype(np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode != "F" and low >= 0:
        low, high = 0.0, next((top for top in (255.0, 4095.0, 65535.0) if high <= top), high)
    scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
    return Image.fromarray(scaled.astype(np.uint8), "L")
