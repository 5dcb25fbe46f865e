"""Logos: a word mark cut out of one picture, looked for in others that show the package smaller, turned and worse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from quality import metrics
from quality.area import Bench
from quality.collection import Collection
from quality.home import Home
from quality.report import Measurement, absent

PACKAGE = "ocr/logo_missvickie.jpg.bmp"
WORD_MARK = (100, 110, 405, 210)  # x1, y1, x2, y2 in pixels of the package's picture, read off by eye
GROUNDS = ("hot_dog.jpg", "parrot.jpg", "sunflower.bmp", "cityscapes_segmentation.bmp", "cat_720p.jpg", "dragonfly.bmp")
SIDES_PX = (420, 330, 260, 210, 170, 140)  # of the package in the scene; the mark is about three fifths as wide
TURNS_DEG = (0, 12, -18, 25, -8, 4)
SCENE_PX = 900
JPEG_QUALITY = 70


class Logos:
    name = "logos"
    analyzers = ("logos",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        grounds = [f"scenes/{name}" for name in GROUNDS if f"scenes/{name}" in bench.collection]
        if PACKAGE not in bench.collection or not grounds:
            yield absent("logos: found", "the collection lacks the package or the scenes it is put into")
            return
        folder = (bench.scratch / "logo-scenes").resolve()
        with_mark, without = self._scenes(bench, folder, grounds)
        home = bench.extra_home("logos", folder)
        make_gallery(bench.collection, home)
        home.analyze([folder], ["logos"])
        rows = home.rows("logos", "logo, score")
        maker = home.maker("logos")
        home.close()
        for what, scenes in (("found where it is", with_mark), ("found where it is not", without)):
            hits = [file for file in scenes if rows[file]]
            yield Measurement(
                f"logos: {what}",
                len(hits) / len(scenes),
                n=len(scenes),
                of="scenes",
                interval=metrics.wilson(len(hits), len(scenes)),
                at_most=0.0 if scenes is without else None,
                maker=maker,
                remark="one mark, put into photographs here, so without shadows and folds"
                if scenes is with_mark
                else "",
            )

        judged = [file for file in bench.home.files() if not file.startswith("bad/") and file != PACKAGE]
        everywhere = bench.home.rows("logos", "logo")
        wrong = [file for file in judged if everywhere[file]]
        yield Measurement(
            "logos: files of the collection in which it is found and is not",
            float(len(wrong)),
            "count",
            n=len(judged),
            of="files",
            at_most=0,
            maker=bench.home.maker("logos"),
            remark="; ".join(wrong),
        )

    @staticmethod
    def _scenes(bench: Bench, folder: Path, grounds: list[str]) -> tuple[list[str], list[str]]:
        folder.mkdir(parents=True, exist_ok=True)
        with_mark, without = [], []
        package = Image.open(bench.collection.path(PACKAGE)).convert("RGB")
        for number, (file, side, turn) in enumerate(zip(grounds, SIDES_PX, TURNS_DEG, strict=False)):
            ground = ImageOps.contain(Image.open(bench.collection.path(file)).convert("RGB"), (SCENE_PX, SCENE_PX))
            plain, marked = f"plain-{number}.jpg", f"package-{number}.jpg"
            ground.save(folder / plain, quality=JPEG_QUALITY)
            _with_package(ground, package, side, turn).save(folder / marked, quality=JPEG_QUALITY)
            with_mark.append(marked)
            without.append(plain)
        return with_mark, without


def _with_package(ground: Image.Image, package: Image.Image, side_px: int, turn_deg: int) -> Image.Image:
    """The package in the middle of the scene; its white ground is left out."""
    small = ImageOps.contain(package, (side_px, side_px))
    mask = Image.fromarray(np.where(np.asarray(small).min(axis=2) < 245, 255, 0).astype(np.uint8))
    small, mask = (p.rotate(turn_deg, Image.Resampling.BICUBIC, expand=True) for p in (small, mask))
    scene = ground.copy()
    scene.paste(small, ((scene.width - small.width) // 2, (scene.height - small.height) // 2), mask)
    return scene


def make_gallery(collection: Collection, home: Home) -> None:
    """The word mark into the home's folder of logos, where a user would put it."""
    if PACKAGE in collection:
        target = home.folder / "logos" / "vickie.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(collection.path(PACKAGE)).convert("RGB").crop(WORD_MARK).save(target)
