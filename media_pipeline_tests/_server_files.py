"""Small files of every kind, quickly analysed, the same for the same seed: what a server works on while it is hurt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from demo.people import ANNA, BRUNO, on_canvas, portrait
from demo.pictures import render_landscape, render_slide, render_title, write_picture
from demo.sound import SAMPLE_RATE, silence, speak, with_room_noise, write_wav
from demo.video import write_video

_LINES = ("Rechnung {n}", "Delivery note {n}", "Gesamtbetrag {n},50 Euro", "Quarterly report {n}", "Lieferschein {n}")
_SPOKEN = ("the contract will be signed on monday morning", "several people visited the museum yesterday afternoon")
_VOICES = ("en-us", "en-us+f4")
_PAPERS = ((255, 255, 255), (250, 226, 170), (236, 236, 236), (32, 60, 96))
_INKS = ((20, 20, 30), (60, 30, 10), (10, 10, 10), (245, 245, 245))
_SMALL = (480, 320)


def make_files(folder: Path, count: int, seed: int = 1) -> list[Path]:
    """Of twenty files ten are pictures with text or of people, four photos, two sounds, two videos, two broken.

    No two have the same content, and any twenty in a row are of every kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    views = [render_landscape((900, 600), seed=n) for n in range(3)]
    sentences = [speak(text, voice=voice) for text, voice in zip(_SPOKEN, _VOICES, strict=True)]

    def slide(path: Path, n: int) -> None:
        style = n % len(_PAPERS)
        lines = [line.format(n=4000 + n) for line in chance.sample(_LINES, 2)]
        write_picture(path, render_slide(lines, size=(640, 300), paper=_PAPERS[style], ink=_INKS[style]))

    def photo(path: Path, n: int) -> None:
        view = views[n % len(views)]
        left, top = chance.randrange(view.shape[1] - _SMALL[0]), chance.randrange(view.shape[0] - _SMALL[1])
        part = view[top : top + _SMALL[1], left : left + _SMALL[0]]
        write_picture(path, np.ascontiguousarray(part // (1 + n % 2)))

    def person(path: Path, n: int) -> None:
        face = portrait((ANNA, BRUNO)[n % 2], shift=chance.uniform(-4, 4))
        write_picture(path, on_canvas((face, 40 + n % 200, 10, 340), width=640, height=360))

    def sound(path: Path, n: int) -> None:
        write_wav(path, with_room_noise(sentences[n % len(sentences)], seed=n))

    def video(path: Path, n: int) -> None:
        paper, ink = _PAPERS[n % len(_PAPERS)], _INKS[n % len(_INKS)]
        title = render_title(f"Part {n}", size=_SMALL, px=44, paper=paper, ink=ink)
        view = np.asarray(cv2.resize(views[n % len(views)], _SMALL), np.uint8)
        spoken = np.concatenate([sentences[n % len(sentences)][: 2 * SAMPLE_RATE], silence(0.2)])
        write_video(path, [(title, 1.0), (view, 1.2)], fps=10, sound=with_room_noise(spoken, seed=n))

    def cut_off(path: Path, n: int) -> None:
        """An upload that broke off elsewhere: the index of the container is missing."""
        write_video(path, [(render_title(str(n), size=_SMALL, px=40, paper=_PAPERS[0], ink=_INKS[0]), 0.5)], fps=10)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def text_as_picture(path: Path, n: int) -> None:
        path.write_text(f"This is text file {n} that somebody renamed.\n", encoding="utf-8")

    of_twenty: Sequence[tuple[str, Callable[[Path, int], None]]] = (
        *[("slide-{n:04d}.png", slide), ("photo-{n:04d}.jpg", photo), ("sound-{n:04d}.wav", sound)],
        *[("slide-{n:04d}.png", slide), ("video-{n:04d}.mp4", video), ("person-{n:04d}.jpg", person)],
        *[("slide-{n:04d}.jpg", slide), ("renamed-{n:04d}.jpg", text_as_picture), ("photo-{n:04d}.png", photo)],
        *[("slide-{n:04d}.png", slide), ("person-{n:04d}.jpg", person), ("slide-{n:04d}.jpg", slide)],
        *[("cut-off-{n:04d}.mp4", cut_off), ("photo-{n:04d}.jpg", photo), ("slide-{n:04d}.png", slide)],
        *[("sound-{n:04d}.wav", sound), ("person-{n:04d}.jpg", person), ("video-{n:04d}.mp4", video)],
        *[("photo-{n:04d}.jpg", photo), ("slide-{n:04d}.png", slide)],
    )
    made = []
    for n in range(count):
        name, make = of_twenty[n % len(of_twenty)]
        path = folder / name.format(n=n)
        make(path, n)
        made.append(path)
    return made
