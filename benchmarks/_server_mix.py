"""The standard mix: of twenty files six photos, six scans, five short videos and three recordings, all synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from benchmarks.footage import landscape, write_footage
from benchmarks.mixed_set import INKS, LINES, PAPERS, SPOKEN
from demo.people import ANNA, BRUNO, portrait
from demo.pictures import Picture, paste, render_slide, write_photo, write_picture
from demo.sound import SAMPLE_RATE, Samples, silence, speak, with_room_noise, write_wav

PHOTO_PX = (4000, 3000)
SCAN_PX = (1654, 2339)  # A4 at 200 dpi
VIDEO_PX, VIDEO_S = (1280, 720), 20.0
RECORDING_S = 60.0
DESCRIPTION = (
    f"Of twenty files six are photos ({PHOTO_PX[0]} × {PHOTO_PX[1]} px, JPEG, two of three with a face), six scans "
    f"of A4 pages at 200 dpi with twenty lines of text, five videos ({VIDEO_S:.0f} s, {VIDEO_PX[1]}p, 25 fps, with a "
    f"title and speech) and three recordings of speech ({RECORDING_S:.0f} s)."
)
_ORDER = "photo scan video scan photo recording scan photo video scan photo video recording scan photo video scan photo"
_ORDER += " video recording"


def make_mix(folder: Path, count: int) -> list[Path]:
    """What is in the folder already is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {
        "photo": (_photo, "jpg"),
        "scan": (_scan, "jpg"),
        "video": (_video, "mp4"),
        "recording": (_recording, "wav"),
    }
    kinds = _ORDER.split()
    made = []
    for n in range(count):
        kind = kinds[n % len(kinds)]
        make, suffix = makers[kind]
        path = folder / f"{kind}-{n:04d}.{suffix}"
        if not path.exists():
            make(path, n)
        made.append(path)
    return made


def _photo(path: Path, n: int) -> None:
    view = np.roll(landscape(n % 4), 223 * n, axis=1) // (1 + n % 3)
    view = np.ascontiguousarray(view[:, :: -1 if n % 2 else 1])
    large: Picture = np.asarray(cv2.resize(view, PHOTO_PX, interpolation=cv2.INTER_LINEAR), np.uint8)
    if n % 2 == 0:
        face = np.asarray(cv2.resize(portrait((ANNA, BRUNO)[n // 2 % 2], shift=n % 7 - 3), (1024, 1280)), np.uint8)
        paste(large, face, 400 + 37 * n % 2000, 900)
    write_photo(path, large, captured_at=datetime(2025, 1, 1, 9, 0, 0) + timedelta(hours=7 * n))


def _scan(path: Path, n: int) -> None:
    lines = [LINES[(n + k) % len(LINES)].format(n=4000 + 20 * n + k) for k in range(20)]
    paper, ink = PAPERS[n % 2 * 3], INKS[n % 2 * 3]
    page = render_slide(lines, title=f"Vorgang {n}", size=SCAN_PX, text_px=44, paper=paper, ink=ink)
    write_picture(path, page)


def _video(path: Path, n: int) -> None:
    titles = [line.format(n=4000 + n) for line in LINES[n % 6 : n % 6 + 2]]
    write_footage(path, size=VIDEO_PX, seconds=VIDEO_S, titles=titles, sound=_talk(VIDEO_S, n), seed=n)


def _recording(path: Path, n: int) -> None:
    write_wav(path, _talk(RECORDING_S, n))


def _talk(seconds: float, n: int) -> Samples:
    """Two people in turn, with pauses."""
    parts: list[Samples] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        turn = len(parts) // 2
        parts += [_spoken((n + turn) % len(SPOKEN), turn % 2), silence(0.8)]
    return with_room_noise(np.concatenate(parts)[: int(seconds * SAMPLE_RATE)], seed=n)


@lru_cache(maxsize=8)
def _spoken(sentence: int, voice: int) -> Samples:
    return speak(SPOKEN[sentence], voice=("en-us", "en-us+f4")[voice])


def megabytes(files: Sequence[Path]) -> float:
    return sum(path.stat().st_size for path in files) / 1e6
