"""Slides and photographs, drawn in code: RGB uint8 arrays of shape (height, width, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (25, 28, 38)
MARGIN_PX = 64
BOLD, REGULAR = 700, 400

_EXIF_MAKE, _EXIF_MODEL, _EXIF_ORIENTATION = 0x010F, 0x0110, 0x0112
_EXIF_IFD, _EXIF_DATETIME_ORIGINAL = 0x8769, 0x9003
_GPS_IFD = 0x8825


def draw_text(
    picture: Picture, text: str, x: int, y: int, px: int, colour: Colour = INK, weight: int = REGULAR
) -> None:
    """Draw one line, its baseline at y, in place. Covers German and western European letters."""
    # OpenCV brings a Unicode font with it; Pillow's built-in one has no umlauts, and no system font may be needed.
    cv2.putText(picture, text, (x, y), colour, cv2.FontFace("sans"), px, weight)


def render_slide(
    lines: Sequence[str],
    *,
    title: str | None = None,
    size: tuple[int, int] = (1280, 720),
    text_px: int = 34,
    columns: int = 1,
    turn_deg: int = 0,
    paper: Colour = WHITE,
    ink: Colour = INK,
) -> Picture:
    """A page of text: the title across the top, the lines below it, column after column.

    Args:
        lines: one drawn line each; they are shared out evenly over the columns.
        size: width and height in pixels before turning.
        turn_deg: 0, 90, 180 or 270, counter-clockwise, like a page that lay wrongly on the scanner.

    Raises:
        ValueError: the lines do not fit the page.
    """
    width, height = size
    page: Picture = np.full((height, width, 3), paper, np.uint8)
    top = MARGIN_PX
    if title is not None:
        draw_text(page, title, MARGIN_PX, top + 2 * text_px, int(text_px * 1.6), ink, BOLD)
        top += int(text_px * 3.4)
    pitch = int(text_px * 1.7)
    per_column = -(-len(lines) // columns)
    if top + per_column * pitch > height:
        raise ValueError(f"{len(lines)} lines of {text_px} px do not fit a page of {width}x{height} px")
    column_width = (width - MARGIN_PX) // columns
    for number, line in enumerate(lines):
        column, row = divmod(number, per_column)
        draw_text(page, line, MARGIN_PX + column * column_width, top + row * pitch + text_px, text_px, ink)
    return np.ascontiguousarray(np.rot90(page, turn_deg // 90))


def render_landscape(size: tuple[int, int] = (1200, 800), seed: int = 7) -> Picture:
    """Something like a photograph: sky, sun, three ranges of hills, grain."""
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    down = (y / height)[..., None]
    view = (1 - down) * np.array([70, 130, 210], np.float32) + down * np.array([250, 200, 150], np.float32)
    sun_x, sun_y = rng.uniform(0.2, 0.8) * width, 0.25 * height
    glow = np.exp(-((x - sun_x) ** 2 + (y - sun_y) ** 2) / (0.006 * width**2))
    view += glow[..., None] * np.array([120, 110, 40], np.float32)
    for number, colour in enumerate(([96, 112, 130], [60, 92, 70], [34, 58, 38])):
        phase = rng.uniform(0, 6.28, size=3)
        waves = sum(np.sin(x[0] / width * f * 6.28 + p) / f for f, p in zip((1.5, 3.2, 7.1), phase, strict=True))
        ridge = height * (0.5 + 0.15 * number + 0.06 * waves)
        view[y > ridge[None, :]] = colour
    view += rng.normal(0, 4, size=view.shape)
    picture: Picture = view.clip(0, 255).astype(np.uint8)
    return picture


def render_logo(width: int) -> Picture:
    """The sample museum's: a crooked house with its name beside it, of as many corners as logos are recognised by."""
    logo: Picture = np.full((200, 420, 3), (244, 240, 228), np.uint8)
    for colour, corners in (
        ((22, 44, 92), [(20, 90), (92, 24), (176, 78), (150, 96), (20, 104)]),
        ((200, 40, 52), [(34, 104), (66, 104), (60, 180), (24, 180)]),
        ((246, 194, 72), [(78, 100), (104, 100), (116, 180), (84, 180)]),
        ((40, 122, 150), [(124, 98), (152, 96), (172, 180), (130, 180)]),
        ((244, 240, 228), [(84, 50), (112, 62), (88, 78), (74, 68)]),
        ((120, 28, 36), [(10, 182), (186, 176), (190, 192), (14, 192)]),
    ):
        cv2.fillPoly(logo, [np.asarray(corners, np.int32)], colour, cv2.LINE_AA)
    draw_text(logo, "Pharos", 196, 104, 56, (22, 44, 92), BOLD)
    draw_text(logo, "Museum", 196, 164, 44, (200, 40, 52), BOLD)
    return np.asarray(cv2.resize(logo, (width, width * 200 // 420), interpolation=cv2.INTER_AREA), np.uint8)


def render_title(text: str, *, size: tuple[int, int], px: int, paper: Colour, ink: Colour) -> Picture:
    """A title card: one line in the middle."""
    width, height = size
    card: Picture = np.full((height, width, 3), paper, np.uint8)
    text_width = cv2.getTextSize(size, text, (0, 0), cv2.FontFace("sans"), px, BOLD)[2]
    draw_text(card, text, (width - text_width) // 2, height // 2 + px // 3, px, ink, BOLD)
    return card


def paste(picture: Picture, part: Picture, left: int, top: int) -> None:
    """Lay the part over the picture, in place."""
    picture[top : top + part.shape[0], left : left + part.shape[1]] = part


def write_picture(path: Path, picture: Picture, *, quality: int = 92) -> None:
    """In the format of the path's suffix; quality counts where that format is lossy."""
    Image.fromarray(picture).save(path, quality=quality)


def write_photo(
    path: Path,
    picture: Picture,
    *,
    captured_at: datetime,
    camera: tuple[str, str] = ("Sample", "Camera One"),
    latitude: float | None = None,
    longitude: float | None = None,
    orientation: int = 1,
) -> None:
    """A JPEG with EXIF as a camera writes it: time without zone, maker and model, place in degrees, orientation tag."""
    exif = Image.Exif()
    exif[_EXIF_MAKE], exif[_EXIF_MODEL] = camera
    exif[_EXIF_ORIENTATION] = orientation
    exif.get_ifd(_EXIF_IFD)[_EXIF_DATETIME_ORIGINAL] = captured_at.strftime("%Y:%m:%d %H:%M:%S")
    if latitude is not None and longitude is not None:
        gps = exif.get_ifd(_GPS_IFD)
        gps[1], gps[2] = ("N" if latitude >= 0 else "S"), _degrees_minutes_seconds(latitude)
        gps[3], gps[4] = ("E" if longitude >= 0 else "W"), _degrees_minutes_seconds(longitude)
    Image.fromarray(picture).save(path, "JPEG", quality=92, exif=exif)


def _degrees_minutes_seconds(degrees: float) -> tuple[float, float, float]:
    whole, rest = divmod(abs(degrees), 1)
    minutes, rest = divmod(rest * 60, 1)
    return whole, minutes, round(rest * 60, 3)
