"""CPU seconds and lines of the OCR analyzer and of rapidocr with its own defaults, over a folder of pictures.

    python benchmarks/ocr_sizes.py FOLDER... [--max-side-px 2560]

Both run on one thread, so that what they cost can be compared on any machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from media_pipeline.analyzers import _ocr_weights
from media_pipeline.analyzers._ocr_onnx import OnnxEngine
from media_pipeline.analyzers._ocr_page import read_page

Picture = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--max-side-px", type=int, default=2560, help="larger pictures are reduced, as in the cache")
    arguments = parser.parse_args()
    ours, theirs = _ours(), _rapidocr()
    total = [0.0, 0.0]
    print(f"{'picture':44} {'size':>11} {'ours s':>7} {'lines':>5} {'rapidocr s':>10} {'lines':>5}")
    for path, picture in _pictures(arguments.folders, arguments.max_side_px):
        (own_s, own), (their_s, their) = _timed(ours, picture), _timed(theirs, picture)
        total[0] += own_s
        total[1] += their_s
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        print(f"{path.name[:44]:44} {size:>11} {own_s:7.2f} {len(own):5} {their_s:10.2f} {len(their):5}")
    print(f"{'sum':44} {'':11} {total[0]:7.1f} {'':5} {total[1]:10.1f}   ratio {total[1] / total[0]:.2f}")


def _pictures(folders: list[Path], max_side_px: int) -> Iterator[tuple[Path, Picture]]:
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
        try:
            with Image.open(path) as opened:
                upright = ImageOps.exif_transpose(opened).convert("RGB")
        except (UnidentifiedImageError, OSError):
            continue  # not a picture
        upright.thumbnail((max_side_px, max_side_px))
        yield path, np.asarray(upright)


def _timed(read: Callable[[Picture], list[str]], picture: Picture) -> tuple[float, list[str]]:
    start = time.process_time()
    lines = read(picture)
    return time.process_time() - start, lines


def _ours() -> Callable[[Picture], list[str]]:
    engine = OnnxEngine(*_ocr_weights.weight_files(_ocr_weights.packaged_folder()), threads=1)
    return lambda picture: [line.text for line in read_page(engine, picture, min_score=0.5, max_side_px=1600).lines]


def _rapidocr() -> Callable[[Picture], list[str]]:
    from rapidocr import RapidOCR

    reader = RapidOCR(params={"EngineConfig.onnxruntime.intra_op_num_threads": 1, "Global.log_level": "error"})
    return lambda picture: list(reader(np.ascontiguousarray(picture[:, :, ::-1])).txts or ())


if __name__ == "__main__":
    main()
