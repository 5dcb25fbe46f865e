"""Pixels of any kind become upright, readable RGB; EXIF is used where it is sound."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import CorruptMedia
from media_pipeline.media.cache import FrameReader
from media_pipeline.media.frames import FRAMES_FILE
from media_pipeline.media.types import MediaFacts
from media_pipeline.media.worker import decode
from media_pipeline_tests import _synth


def read(path: Path, sampling: Sampling | None = None) -> tuple[MediaFacts, list[np.ndarray], FrameReader]:
    """In this process: the files are our own."""
    folder = path.parent / f"{path.name}.out"
    folder.mkdir()
    facts = decode(path, folder, sampling or Sampling(), DecodeLimits(), 1, lambda: None)
    frames = FrameReader(folder / FRAMES_FILE)
    return facts, [frame.image() for frame in frames], frames


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(_synth.scene(1, 0, 120, 80))
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that the tag undoes
    stored = upright.transpose(Image.Transpose(inverse[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "o.png"
    stored.save(path, exif=exif)
    facts, (pixels,), _ = read(path)
    assert (facts.width, facts.height) == (120, 80)
    assert np.abs(pixels.astype(int) - np.asarray(upright)).mean() < 8


def text_picture(mode: str, ground: tuple[int, ...], ink: tuple[int, ...]) -> Image.Image:
    image = Image.new(mode, (200, 60), ground)
    ImageDraw.Draw(image).text((10, 15), "Rechnung", fill=ink, font_size=30)
    return image


@pytest.mark.parametrize("ink", [0, 255])
def test_text_on_transparency_stays_readable(tmp_path: Path, ink: int) -> None:
    path = tmp_path / "t.png"
    text_picture("RGBA", (ink, ink, ink, 0), (ink, ink, ink, 255)).save(path)
    _, (pixels,), _ = read(path)
    assert pixels.std() > 50
    assert abs(int(pixels[0, 0, 0]) - ink) == 255


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "I;16", "F", "RGB", "RGBA"])
def test_every_depth_and_palette_gives_the_same_picture(tmp_path: Path, mode: str) -> None:
    grey = text_picture("L", (20,), (230,))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    else:
        image = (grey if mode in ("1", "L", "LA") else grey.convert("RGB")).convert(mode)
    path = tmp_path / "m.tif"
    image.save(path) if mode not in ("LA", "P") else image.save(path := tmp_path / "m.png")
    _, (pixels,), _ = read(path)
    bright = np.asarray(grey) > 128
    assert pixels[bright].mean() - pixels[~bright].mean() > 150


def test_large_pictures_are_cached_reduced_with_displayed_coordinates(tmp_path: Path) -> None:
    path = tmp_path / "l.jpg"
    Image.fromarray(_synth.scene(1, 0, 1600, 1200)).save(path)
    facts, (pixels,), frames = read(path, Sampling(max_side_px=400))
    assert pixels.shape == (300, 400, 3)
    assert (facts.width, facts.height) == (1600, 1200) == (frames[0].width, frames[0].height)


def test_pages_and_animations_become_several_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(_synth.scene(n, 0)) for n in range(3)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    facts, pixels, frames = read(tmp_path / "p.tif")
    assert (facts.kind, facts.frame_count, [f.frame_index for f in frames]) == ("image", 3, [0, 1, 2])
    assert np.abs(pixels[2].astype(int) - np.asarray(pages[2])).mean() < 8

    steps = [Image.fromarray(_synth.scene(n, i)) for n in (1, 2) for i in range(30)]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"a.{suffix}"
        steps[0].save(path, save_all=True, append_images=steps[1:], duration=100)
        facts, _, frames = read(path)
        assert (facts.kind, facts.frame_count, facts.duration_s) == ("image", 60, 6.0), suffix
        assert [f.scene_index for f in frames] == [0, 0, 1], suffix
        assert frames[1].pts_s == pytest.approx(frames[1].frame_index / 10)


def test_exif_says_when_where_and_with_what(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[272] = "Canon", "Canon EOS R5"
    exif.get_ifd(0x8769).update({36867: "2024:05:01 12:30:00", 36881: "+02:00", 37521: "25"})
    exif.get_ifd(0x8825).update({1: "S", 2: (48.0, 30.0, 36.0), 3: "W", 4: (9.0, 0.0, 0.0), 5: b"\x01", 6: 12.5})
    path = tmp_path / "e.jpg"
    Image.fromarray(_synth.scene(1, 0)).save(path, exif=exif)
    facts, _, _ = read(path)
    assert facts.captured_at == datetime(2024, 5, 1, 10, 30, 0, 250000, tzinfo=UTC)
    assert facts.camera == "Canon EOS R5"
    assert facts.place is not None
    assert (facts.place.latitude, facts.place.longitude, facts.place.altitude_m) == (-48.51, -9.0, -12.5)


def test_damaged_exif_costs_nothing_but_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for i in range(20):
        path = tmp_path / f"{i}.jpg"
        junk = b"Exif\0\0II*\0\x08\0\0\0" + rng.integers(0, 256, 200, np.uint8).tobytes()
        Image.fromarray(_synth.scene(1, 0)).save(path, exif=junk)
        facts = read(path)[0]
        assert facts.width in (160, 120)


@pytest.mark.parametrize(("share", "readable"), [(0.75, True), (0.25, False)])
def test_cut_off_pictures_count_when_half_is_there(tmp_path: Path, share: float, readable: bool) -> None:
    path = tmp_path / "c.jpg"
    noise = np.random.default_rng(1).integers(0, 256, (400, 300, 3), np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    if readable:
        facts, _, _ = read(path)
        assert any("cut off" in warning for warning in facts.warnings)
    else:
        with pytest.raises(CorruptMedia, match="cut off"):
            read(path)
