"""A recorded talk: slides that stand still for a while, as an office has hours of."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from demo.pictures import Picture, render_slide

FPS = 5
SECONDS_PER_SLIDE = 20
_SLIDES = (
    ("Revenue of the year", ("Berlin 1.284,50 Euro", "Lübeck 912,30 Euro", "Nürnberg 2.011,00 Euro")),
    ("What we learnt", ("Customers read the first page", "Nobody reads the second one", "Prices belong on top")),
    ("Nächste Schritte", ("Verträge bis März prüfen", "Größere Räume suchen", "Zwei Leute einstellen")),
    ("Thank you", ("Questions?",)),
)


def write_talk(path: Path) -> None:
    """Four slides with the sensor noise of a capture card, H.264."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        number = 0
        for title, lines in _SLIDES:
            slide = render_slide(lines, title=title)
            for _ in range(FPS * SECONDS_PER_SLIDE):
                frame = av.VideoFrame.from_ndarray(_noisy(slide, rng), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                container.mux(stream.encode(frame))
                number += 1
        container.mux(stream.encode(None))


def _noisy(slide: Picture, rng: np.random.Generator) -> Picture:
    noise = rng.integers(-2, 3, slide.shape, dtype=np.int16)
    return np.clip(slide + noise, 0, 255).astype(np.uint8)
