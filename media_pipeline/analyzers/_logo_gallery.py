"""The gallery: one picture per logo, its file name is the logo's name.

Several pictures of one logo (`acme.png`, `acme.jpg`) are several looks of it. Pictures are the user's own, and still
decoded with limits: a folder on a server may be filled by others.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._logo_features import Features, Floats, Grey, extract, joined
from media_pipeline.grey import eight_bits, is_deep

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_MAX_BYTES = 64 * 1024**2
_MAX_PIXELS = 50_000_000
_MIN_SIDE_PX = 16

_SIDES_PX = (320, 160)  # longer side of the pictures whose features are kept: fine ones, and those of a small logo
_MARGIN = 0.08  # of background around the logo: its outline has features too
_FEATURES_PER_LOOK = 250
FEW_FEATURES = 30  # below, a logo is found only where it is large and sharp

_TEMPLATE_AREA_PX = 64 * 64
CELL_PX = 8
_MIN_TEXTURE = 6.0  # standard deviation of a cell's grey values, of 255, from which it can be compared


@dataclass(frozen=True, slots=True)
class Logo:
    """One look of a logo. All coordinates are those of its picture reduced to `width` by `height`, 320 px at most."""

    name: str
    width: int
    height: int
    features: Features
    template: Grey  # a copy of about 64 by 64 pixels, whole cells of 8
    textured: npt.NDArray[np.bool_]  # (rows, columns) of cells that have something to compare


@dataclass(frozen=True, slots=True)
class Gallery:
    """All logos, and their descriptors in one array."""

    logos: tuple[Logo, ...]
    descriptors: Floats  # (n, 128)
    starts: tuple[int, ...]  # where each logo's descriptors begin, and n


def pictures_in(folder: Path) -> list[Path]:
    """Hidden files are left out: file managers put thumbnails and forks of their own beside pictures."""
    return sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    )


def load_gallery(files: Sequence[Path]) -> Gallery:
    """Features of all pictures, 10 ms each. One that cannot be used is named in a warning and left out."""
    logos = []
    for file in files:
        try:
            logo = make_logo(file.stem, read_grey(file))
        except ValueError as error:
            log.warning("the logo %s is left out: %s", file.name, error)
            continue
        if len(logo.features) < FEW_FEATURES:
            log.warning(
                "the logo %s has only %d features and will hardly be found; "
                "give a larger picture, or one with its lettering",
                file.name,
                len(logo.features),
            )
        logos.append(logo)
    counts = [len(logo.features) for logo in logos]
    return Gallery(
        tuple(logos),
        np.concatenate([np.zeros((0, 128), np.float32), *(logo.features.descriptors for logo in logos)]),
        (0, *(int(n) for n in np.cumsum(counts))),
    )


def read_grey(file: Path) -> Grey:
    """The picture upright and without transparency.

    Raises:
        ValueError: it is none, too large or too small; says so in words.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES // 1024**2} MB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(f"more than {_MAX_PIXELS // 10**6} million pixels")
                upright = ImageOps.exif_transpose(image)
                upright = (eight_bits(upright) if is_deep(upright) else upright).convert("RGBA")
    except UnidentifiedImageError:
        raise ValueError("not a picture in PNG, JPEG, WebP, BMP, GIF or TIFF") from None
    except (OSError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be read ({str(error)[:100]})") from None
    if min(upright.size) < _MIN_SIDE_PX:
        raise ValueError(f"{upright.width} x {upright.height} pixels are too few")
    return _on_background(np.asarray(upright))


def _on_background(rgba: npt.NDArray[np.uint8]) -> Grey:
    """On white, or on black where what is visible is light: what a logo without background is drawn for."""
    import cv2

    grey = cv2.cvtColor(rgba, cv2.COLOR_RGBA2GRAY).astype(np.float32)
    alpha = rgba[..., 3].astype(np.float32) / 255
    if alpha.min() == 1:
        return np.asarray(grey, np.uint8)
    visible = float((grey * alpha).sum() / max(alpha.sum(), 1.0))
    background = 0.0 if visible > 170 else 255.0
    return np.asarray(grey * alpha + background * (1 - alpha), np.uint8)


def make_logo(name: str, grey: Grey) -> Logo:
    """Features and template of one picture.

    Raises:
        ValueError: there is nothing in it that could be found again.
    """
    import cv2

    whole = _reduced(grey, _SIDES_PX[0])
    height, width = whole.shape
    looks = [_features_of(_reduced(whole, side_px), width) for side_px in _SIDES_PX]
    features = joined(looks)
    stretch = (_TEMPLATE_AREA_PX / (width * height)) ** 0.5
    columns, rows = (max(1, round(side * stretch / CELL_PX)) for side in (width, height))
    size = (columns * CELL_PX, rows * CELL_PX)
    template = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)
    textured = cells(template).std(axis=(1, 3)) >= _MIN_TEXTURE
    if len(features) == 0 or not textured.any():
        raise ValueError("it has no texture: there are no features in it to be found by")
    return Logo(name, width, height, features, template, textured)


def cells(template: npt.NDArray[np.generic]) -> Floats:
    """A template as (rows, 8, columns, 8)."""
    height, width = template.shape
    return template.reshape(height // CELL_PX, CELL_PX, width // CELL_PX, CELL_PX).astype(np.float32)


def _features_of(grey: Grey, width: int) -> Features:
    """In pixels of the picture that is `width` wide; those of the margin itself are left out."""
    import cv2

    margin = round(_MARGIN * max(grey.shape)) + 8
    padded = cv2.copyMakeBorder(grey, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    found = extract(np.asarray(padded, np.uint8), _FEATURES_PER_LOOK).moved(-margin, -margin)
    inside = ((found.points >= 0) & (found.points < grey.shape[::-1])).all(axis=1)
    kept = Features(*(getattr(found, field)[inside] for field in Features.__slots__))
    return kept.scaled(width / grey.shape[1])


def _reduced(grey: Grey, side_px: int) -> Grey:
    import cv2

    scale = side_px / max(grey.shape)
    if scale >= 1:
        return grey
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
