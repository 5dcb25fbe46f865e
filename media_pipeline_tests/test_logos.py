"""The logos analyzer: drawn logos on slides and photographs, and pictures that show none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as Pillow

from media_pipeline.analyzers import logos
from media_pipeline.analyzers._logo_gallery import Gallery
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import Image, Medium
from media_pipeline.analyzers.logos import ANALYZER, LogosOptions
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._logo_pictures import jpeg, logo, overlap, photo, place
from media_pipeline_tests._ocr_pages import MEDIA_ID, PictureFrame, blank, slide

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute

SHARED = Path(__file__).parents[2] / "shared" / "media"
SIZE = (640, 400)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", offline=True, hub_url="http://localhost:9", tier="auto", home=tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logos")
    for number in range(3):
        Pillow.fromarray(logo(number)).save(folder / f"brand {number}.png")
    return folder


@pytest.fixture(scope="module")
def gallery(folder: Path) -> Gallery:
    options = LogosOptions(folder=str(folder))
    nowhere = ModelStore(folder, offline=True, hub_url="http://localhost:9", tier="auto")
    return ANALYZER.load(ANALYZER.choose(options, nowhere), "cpu", options)


def found(gallery: Gallery, *pictures: Image, reduced: int = 1, **how: Any) -> list[dict[str, Any]]:
    """What the analyzer says about one medium, checked against its schema."""
    frames = [PictureFrame(p, frame_index=i, pts_s=i / 2, reduced=reduced) for i, p in enumerate(pictures)]
    medium = Medium(MEDIA_ID, "image" if len(frames) == 1 else "video", frames=frames)
    table = ANALYZER.run(gallery, (medium,), LogosOptions(**how))
    ANALYZER.check(table, {MEDIA_ID})
    return list(table.to_pylist())


def corners(row: dict[str, Any]) -> np.ndarray:
    return np.float32([(c["x"], c["y"]) for c in row["corners"]])


def view() -> Image:
    return photo(3, *SIZE)


def page() -> Image:
    return slide(["Quarterly report", "Costs stayed below plan"], px=30, width=SIZE[0], height=SIZE[1])


@pytest.mark.parametrize(
    ("background", "how"),
    [
        pytest.param(page, {"turn_deg": 0}, id="on a slide"),
        pytest.param(page, {"turn_deg": -100, "scale": 0.7}, id="on a slide, turned and reduced"),
        pytest.param(view, {"scale": 0.5}, id="half the size"),
        pytest.param(view, {"turn_deg": 20}, id="turned by 20 degrees"),
        pytest.param(view, {"tilt": 0.3}, id="in perspective"),
    ],
)
def test_a_logo_is_found_where_it_is(gallery: Gallery, background: Callable[[], Image], how: dict[str, float]) -> None:
    shown = place(background(), logo(1), (320, 230), **how)

    rows = found(gallery, jpeg(shown.picture, 60))

    assert [row["logo"] for row in rows] == ["brand 1"]
    assert overlap(corners(rows[0]), shown.corners) > 0.85
    # The order of the corners says how it is turned.
    assert np.linalg.norm(corners(rows[0])[0] - shown.corners[0]) < 15
    assert 0.7 < rows[0]["score"] <= 1
    assert rows[0]["matches"] >= 6
    low, high = np.maximum(shown.corners.min(axis=0), 0), np.minimum(shown.corners.max(axis=0), SIZE)
    assert [rows[0][c] for c in ("x1", "y1", "x2", "y2")] == pytest.approx([*low, *high], abs=12)


def test_several_logos_and_several_times_the_same(gallery: Gallery) -> None:
    picture = photo(5, 960, 600)
    places = [(0, (200, 120)), (0, (700, 140)), (0, (250, 450)), (2, (700, 430))]
    for number, centre in places:
        picture = place(picture, logo(number), centre, scale=0.8, turn_deg=5).picture

    rows = found(gallery, picture)

    middles = sorted((row["logo"], *np.round(corners(row).mean(axis=0), -1).tolist()) for row in rows)
    expected = sorted((f"brand {number}", float(x), float(y)) for number, (x, y) in places)
    assert [m[0] for m in middles] == [e[0] for e in expected]
    for got, wanted in zip(middles, expected, strict=True):
        assert got[1:] == pytest.approx(wanted[1:], abs=15)


def test_a_logo_that_is_half_hidden_gets_about_half_the_score(gallery: Gallery) -> None:
    shown = place(photo(8, *SIZE), logo(2), (320, 200))
    hidden = shown.picture.copy()
    hidden[120:280, 160:310] = 128

    whole, half = found(gallery, shown.picture)[0], found(gallery, hidden, min_score=0.2)[0]

    assert half["logo"] == "brand 2"
    assert overlap(corners(half), shown.corners) > 0.8
    assert 0.3 < half["score"] < 0.75 < whole["score"]


def test_a_logo_cut_by_the_edge_has_its_box_inside_the_picture(gallery: Gallery) -> None:
    shown = place(photo(9, *SIZE), logo(0), (80, 200))

    row = found(gallery, shown.picture)[0]

    assert row["x1"] == 0
    assert corners(row)[0][0] == pytest.approx(-80, abs=15)


@pytest.mark.parametrize("seed", [9, 10, 11, 15])  # logos with other words than those of the gallery
def test_nothing_is_found_where_there_is_none(gallery: Gallery, seed: int) -> None:
    lines = ["Nordwest wind tomorrow", "Acme and other works", "Coffee at eight, blue dots"]
    assert found(gallery, photo(seed, *SIZE)) == []
    assert found(gallery, slide(lines, px=20 + 2 * seed)) == []
    assert found(gallery, place(photo(seed, *SIZE), logo(seed), (320, 200)).picture) == []


def test_boxes_of_a_reduced_picture_are_in_displayed_pixels(gallery: Gallery) -> None:
    picture = place(page(), logo(0), (320, 230)).picture
    as_is, reduced = found(gallery, picture)[0], found(gallery, picture, reduced=3)[0]

    assert corners(reduced) == pytest.approx(3 * corners(as_is), rel=1e-5)
    assert reduced["x2"] == pytest.approx(3 * as_is["x2"], rel=1e-5)


def test_unchanged_frames_repeat_what_was_found(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    find = logos.find_logos
    monkeypatch.setattr(logos, "find_logos", lambda *a: searched.append(1) or find(*a))
    still, other = place(page(), logo(0), (320, 230)).picture, page()

    rows = found(gallery, still, still.copy(), other)

    assert [(row["frame_index"], row["pts_s"]) for row in rows] == [(0, 0.0), (1, 0.5)]
    assert len(searched) == 2
    assert found(gallery, still, still.copy(), other, reuse_unchanged_frames=False) == rows
    assert len(searched) == 5


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 20), (33, 3000)])
def test_odd_sizes_do_no_harm(gallery: Gallery, size: tuple[int, int]) -> None:
    assert found(gallery, blank(*size)) == []


@pytest.mark.slow
def test_threads_share_one_gallery_and_agree(gallery: Gallery) -> None:
    pictures = [place(photo(n, *SIZE), logo(n % 3), (320, 200)).picture for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: found(gallery, p), pictures))

    assert together == [found(gallery, p) for p in pictures]
    assert [rows[0]["logo"] for rows in together] == ["brand 0", "brand 1", "brand 2", "brand 0"]


def test_without_logos_the_remedy_names_the_folder(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=f"put pictures of logos into {tmp_path}/logos"):
        ANALYZER.choose(LogosOptions(), store)
    (tmp_path / "logos").mkdir()
    (tmp_path / "logos" / "notes.txt").write_text("no picture")
    with pytest.raises(ModelUnavailable, match="there is no logo to look for"):
        ANALYZER.choose(LogosOptions(), store)


def test_a_new_logo_changes_the_digest(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "logos").mkdir()
    Pillow.fromarray(logo(0)).save(tmp_path / "logos" / "one.png")
    first = ANALYZER.choose(LogosOptions(), store)
    assert ANALYZER.choose(LogosOptions(), store) == first
    Pillow.fromarray(logo(1)).save(tmp_path / "logos" / "two.png")
    second = ANALYZER.choose(LogosOptions(), store)

    assert (first.name, second.name) == ("SIFT, 1 picture", "SIFT, 2 pictures")
    assert first.digest != second.digest


def test_bad_pictures_are_named_and_the_others_go_on(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logos"
    folder.mkdir()
    Pillow.fromarray(logo(0)).save(folder / "good.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "text.jpg").write_text("no picture")
    Pillow.new("L", (8, 8)).save(folder / "tiny.png")
    Pillow.new("L", (200, 200), 255).save(folder / "plain.png")
    Pillow.new("1", (9_000, 6_000)).save(folder / "bomb.png")
    swoosh = blank(400, 200, 255)
    swoosh[90:110, 40:360] = 0
    Pillow.fromarray(swoosh).save(folder / "swoosh.png")

    with caplog.at_level(logging.WARNING):
        model = ANALYZER.load(ANALYZER.choose(LogosOptions(), store), "cpu", LogosOptions())

    said = {record.getMessage().split(" ")[2]: record.getMessage() for record in caplog.records}
    assert said.keys() == {"broken.png", "text.jpg", "tiny.png", "plain.png", "bomb.png", "swoosh.png"}
    assert "will hardly be found" in said["swoosh.png"]
    assert "no texture" in said["plain.png"]
    assert {entry.name for entry in model.logos} == {"good", "swoosh"}
    assert [row["logo"] for row in found(model, place(page(), logo(0), (320, 230)).picture)] == ["good"]


def test_a_gallery_of_nothing_usable_says_so(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "logos").mkdir()
    (tmp_path / "logos" / "text.jpg").write_text("no picture")
    with pytest.raises(ModelUnavailable, match=r"no picture in .* can be used"):
        ANALYZER.load(ANALYZER.choose(LogosOptions(), store), "cpu", LogosOptions())


@pytest.mark.parametrize(("kind", "name"), [(np.uint16, "mark.png"), (np.int32, "mark.tif"), (np.float32, "mark.tif")])
def test_grey_of_more_than_eight_bits_is_seen_as_it_is(
    store: ModelStore, tmp_path: Path, kind: type, name: str
) -> None:
    grey = np.asarray(Pillow.fromarray(logo(2)).convert("L"))
    (tmp_path / "logos").mkdir()
    Pillow.fromarray(grey).save(tmp_path / "logos" / "plain.png")
    deep = tmp_path / "logos" / name
    Pillow.fromarray(grey.astype(kind) * kind(257)).save(deep)
    model = ANALYZER.load(ANALYZER.choose(LogosOptions(), store), "cpu", LogosOptions())
    by_name = {entry.name: entry for entry in model.logos}
    assert by_name.keys() == {"mark", "plain"}
    alike = np.corrcoef(by_name["mark"].template.ravel(), by_name["plain"].template.ravel())[0, 1]
    assert alike > 0.99  # floating point is stretched to its range


@pytest.mark.parametrize("light", [False, True], ids=["dark logo", "light logo"])
def test_a_transparent_logo_is_found_on_the_background_it_is_made_for(
    store: ModelStore, tmp_path: Path, light: bool
) -> None:
    drawn = logo(4).astype(int)
    ink = np.clip(255 - drawn.min(axis=2), 0, 255).astype(np.uint8)  # what is not paper
    rgba = np.dstack([np.full((*ink.shape, 3), 240 if light else 15, np.uint8), np.where(ink > 70, 255, 0)])
    (tmp_path / "logos").mkdir()
    Pillow.fromarray(rgba.astype(np.uint8)).save(tmp_path / "logos" / "mark.png")
    model = ANALYZER.load(ANALYZER.choose(LogosOptions(), store), "cpu", LogosOptions())
    shown = blank(*SIZE, 20 if light else 240)
    shown[100:260, 150:470] = np.where(rgba[..., 3:] > 0, rgba[..., :3], shown[100:260, 150:470])

    assert [row["logo"] for row in found(model, shown)] == ["mark"]


def test_preview_counts_frames() -> None:
    rows = [{"media_id": "a", "frame_index": i, "logo": name} for i, name in enumerate(["b", "<a>", "b"])]

    assert logos.preview(pa.Table.from_pylist(rows, schema=logos.SCHEMA)) == r"\<a\> (1 frame), b (2 frames)"
    assert logos.preview(logos.SCHEMA.empty_table()) == "no logo"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the media collection ../shared/media is not there")
def test_the_word_mark_of_a_real_packet(store: ModelStore, tmp_path: Path) -> None:
    packet = np.asarray(Pillow.open(SHARED / "ocr" / "logo_missvickie.jpg.bmp").convert("RGB"))
    (tmp_path / "logos").mkdir()
    Pillow.fromarray(packet[120:225, 120:405]).save(tmp_path / "logos" / "miss vickies.png")
    model = ANALYZER.load(ANALYZER.choose(LogosOptions(), store), "cpu", LogosOptions())

    row = found(model, packet)[0]
    assert [row[c] for c in ("x1", "y1", "x2", "y2")] == pytest.approx([120, 120, 405, 225], abs=8)
    on_a_shelf = place(photo(2, 960, 600), packet, (480, 300), scale=0.7, turn_deg=15)
    assert [row["logo"] for row in found(model, jpeg(on_a_shelf.picture, 60))] == ["miss vickies"]
    other = np.asarray(Pillow.open(SHARED / "ocr" / "sign_french.jpg").convert("RGB"))
    assert found(model, other) == []
