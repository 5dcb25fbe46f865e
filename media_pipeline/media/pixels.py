"""Pixels of any Pillow mode to RGB that can be read: depth, palettes, inks and transparency."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from media_pipeline.grey import eight_bits, is_deep
from media_pipeline.media.frames import fit

_RESIZABLE = frozenset({"RGB", "RGBX", "L", "CMYK", "YCbCr", "LAB"})


def to_rgb(image: Image.Image, max_side: int) -> Image.Image:
    """RGB, at most ``max_side`` pixels long, transparency laid on a ground that keeps the content visible."""
    size = fit(*image.size, max_side)
    if image.mode in _RESIZABLE and size != image.size:  # first smaller, then converted: half the memory
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if is_deep(image):
        image = eight_bits(image)
    elif image.mode in ("CMYK", "LAB"):
        image = _managed(image)
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        return flatten(image)
    rgb = image.convert("RGB")
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def flatten(rgba: Image.Image) -> Image.Image:
    """Lays a picture on black where what can be seen of it is bright, else on white: white text stays readable."""
    alpha = rgba.getchannel("A")
    lowest, _ = alpha.getextrema()
    if lowest == 255:
        return rgba.convert("RGB")
    weights = np.asarray(alpha, dtype=np.float32)
    luma = np.asarray(rgba.convert("RGB").convert("L"), dtype=np.float32)
    seen = float(weights.sum())
    bright = seen > 0 and float((luma * weights).sum()) / seen > 127.5
    ground = Image.new("RGBA", rgba.size, (0, 0, 0, 255) if bright else (255, 255, 255, 255))
    return Image.alpha_composite(ground, rgba).convert("RGB")


def _managed(image: Image.Image) -> Image.Image:
    """Inks to sRGB by the picture's own profile. A missing or damaged profile only costs exact colours."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            managed = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            managed = None
        if managed is not None:
            return managed
    return image.convert("RGB")


def decoded_share(image: Image.Image) -> float:
    """Share of the rows up to the last that holds anything.

    Decoders leave what is missing at the end of a cut-off file in one colour: rows without any variation.
    """
    pixels = np.asarray(image)
    rows = pixels.reshape(image.height, image.width, -1)
    plain = (rows == rows[:, :1]).all(axis=(1, 2))
    filled = np.flatnonzero(~plain)
    return float(filled[-1] + 1) / len(rows) if len(filled) else 0.0
