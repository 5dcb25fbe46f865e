"""A set of media like a small company's: pictures with and without text, short videos with sound, recordings."""

from __future__ import annotations

import itertools
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.footage import landscape, write_footage
from demo.pictures import render_slide, write_picture
from demo.sound import SAMPLE_RATE, Samples, silence, speak, with_room_noise, write_wav

LINES = (
    "Rechnung {n} vom 14. März",
    "Kundin: Frau Groß, Nürnberg",
    "Gesamtbetrag {n},50 Euro",
    "Delivery note {n}",
    "Shipped to Berlin on Friday",
    "The warranty ends after two years",
    "Öffnungszeiten der Werkstatt",
    "Please sign on the last page",
)
SPOKEN = (
    "we need more money for the new building",
    "the contract will be signed on monday morning",
    "several people visited the museum yesterday afternoon",
    "please send me the report before the end of the week",
)
PAPERS = ((255, 255, 255), (32, 60, 96), (250, 226, 170), (236, 236, 236))
INKS = ((20, 20, 30), (245, 245, 245), (60, 30, 10), (10, 10, 10))
FRAMES = ((1280, 720), (640, 360))
SIZES = ((1280, 720), (1920, 1080), (960, 540), (1200, 1600))


def make_mixed_set(folder: Path, count: int = 64) -> dict[str, tuple[str, ...]]:
    """Five pictures to one and a half videos and recordings; returns the lines that can be read, by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = itertools.cycle((_slide, _photo, _slide, _video, _photo, _slide, _recording, _photo))
    return {path.name: lines for path, lines in (next(makers)(folder, n) for n in range(count))}


def _lines(n: int) -> tuple[str, ...]:
    return tuple(LINES[(n + k) % len(LINES)].format(n=4000 + n) for k in range(4))


def _slide(folder: Path, n: int) -> tuple[Path, tuple[str, ...]]:
    path = folder / f"slide-{n:03d}.png"
    style = n % len(PAPERS)
    write_picture(path, render_slide(_lines(n), size=SIZES[n // 3 % len(SIZES)], paper=PAPERS[style], ink=INKS[style]))
    return path, _lines(n)


def _photo(folder: Path, n: int) -> tuple[Path, tuple[str, ...]]:
    path = folder / f"photo-{n:03d}.jpg"
    # Rendering is dear. Turned about, darkened and mirrored, four views make photographs that no one takes for copies.
    view = np.roll(landscape(n % 4), 223 * n, axis=1) // (1 + n % 3)
    write_picture(path, np.ascontiguousarray(view[:, :: -1 if n % 2 else 1]))
    return path, ()


def _video(folder: Path, n: int) -> tuple[Path, tuple[str, ...]]:
    path = folder / f"video-{n:03d}.mp4"
    number = n // 8
    seconds = 4.0 + number % 3
    speech = _spoken(SPOKEN[number % len(SPOKEN)])[: int(seconds * SAMPLE_RATE)]
    sound = np.concatenate([speech, with_room_noise(silence(seconds - len(speech) / SAMPLE_RATE), seed=n)])
    titles = _lines(n)[:2]
    write_footage(path, size=FRAMES[number % 2], seconds=seconds, titles=titles, sound=sound, seed=n)
    return path, titles


def _recording(folder: Path, n: int) -> tuple[Path, tuple[str, ...]]:
    path = folder / f"recording-{n:03d}.wav"
    parts = [part for text in SPOKEN[:2] for part in (_spoken(text), with_room_noise(silence(0.8), seed=n))]
    write_wav(path, np.concatenate(parts))
    return path, ()


@lru_cache(maxsize=len(SPOKEN))
def _spoken(text: str) -> Samples:
    return speak(text)
