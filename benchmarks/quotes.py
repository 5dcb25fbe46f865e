"""How near a quote comes to what the run then takes and costs, on machines rented from the stand-in.

python -m benchmarks.quotes [--scale 1.0] [--only NAME]

Five workloads. Of each a first set is analysed on a rented machine, from which the costs of its analyzers are learnt;
then a second set of the same kind, with other words, faces and lengths, is quoted, analysed and compared. The rented
machine is a real worker over real sshd on this one: it has no GPU and is as fast as this machine is at the moment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from demo.people import ANNA, BRUNO, on_canvas, portrait
from demo.pictures import render_landscape, render_slide, write_picture
from demo.samples import VOICES
from demo.sound import Samples, silence, speak, with_room_noise, write_wav
from demo.video import write_video
from media_pipeline_tests._rental_home import KEY, market

WORDS = [
    "the",
    "contract",
    "museum",
    "opening",
    "guided",
    "tour",
    "invoice",
    "amount",
    "payment",
    "until",
    "monday",
    "report",
    "quarter",
    "revenue",
    "growth",
    "plan",
    "meeting",
    "investor",
    "government",
    "company",
    "market",
    "station",
    "library",
    "concert",
    "ticket",
    "winter",
    "summer",
    "garden",
    "bridge",
    "river",
]
GOAL = 0.15


def sentence(chance: random.Random, words: int = 9) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def talk(chance: random.Random, sentences: int) -> Samples:
    parts = [silence(0)]
    for number in range(sentences):
        parts.append(with_room_noise(silence(chance.uniform(0.4, 0.9)), seed=number))
        parts.append(speak(sentence(chance), voice=chance.choice(list(VOICES.values())), seed=number))
    return np.concatenate(parts)


def pages(folder: Path, chance: random.Random, count: int) -> None:
    for number in range(count):
        lines = [sentence(chance, 5).title() for _ in range(chance.randint(4, 9))]
        write_picture(folder / f"page-{number}.jpg", render_slide(lines, title=f"Page {number}"))


def photos(folder: Path, chance: random.Random, count: int) -> None:
    for number in range(count):
        if number % 2:
            picture = render_landscape(seed=chance.randrange(10_000))
        else:
            x, y = chance.randint(0, 80), chance.randint(0, 120)  # no two are alike: equal files are analysed once
            faces = [(portrait(p, shift=chance.uniform(-6, 6)), x + at, y, 560) for p, at in ((ANNA, 0), (BRUNO, 600))]
            picture = on_canvas(*faces)
        write_picture(folder / f"photo-{number}.jpg", picture)


def videos(folder: Path, chance: random.Random, count: int) -> None:
    for number in range(count):
        shots = []
        for _ in range(chance.randint(3, 5)):
            lines = [sentence(chance, 4).title() for _ in range(3)]
            slide = render_slide(lines, size=(960, 540))
            face = on_canvas((portrait(ANNA, shift=chance.uniform(-6, 6)), 280, 40, 460), width=960, height=540)
            shots.append((chance.choice([slide, face]), chance.uniform(3, 7)))
        write_video(folder / f"video-{number}.mp4", shots, sound=talk(chance, 4))


def recordings(folder: Path, chance: random.Random, count: int) -> None:
    for number in range(count):
        write_wav(folder / f"recording-{number}.wav", talk(chance, chance.randint(5, 9)))


def mixed(folder: Path, chance: random.Random, count: int) -> None:
    pages(folder, chance, count // 3)
    photos(folder, chance, count // 3)
    videos(folder, chance, max(1, count // 10))
    recordings(folder, chance, max(1, count // 10))


WORKLOADS: dict[str, tuple[Callable[[Path, random.Random, int], None], int]] = {
    "pages of text": (pages, 60),
    "photos": (photos, 120),
    "videos with speech": (videos, 12),
    "recordings": (recordings, 16),
    "a mixture": (mixed, 60),
}


def command(home: Path, url: str, *args: str | Path) -> dict[str, Any]:
    environment = {
        **os.environ,
        "VAST_API_KEY": KEY,
        "MEDIA_PIPELINE_VAST_URL": url,
        "MEDIA_PIPELINE_OFFLINE": "1",
        "MEDIA_PIPELINE_LANGUAGE": "en",
        "MEDIA_PIPELINE_GPU__NEEDS_CUDA": "false",
        "MEDIA_PIPELINE_GPU__PYTHON": sys.executable,
        "MEDIA_PIPELINE_GPU__MAX_USD_PER_HOUR": "10",
    }
    done = subprocess.run(
        [sys.executable, "-m", "media_pipeline", "--home", home, *args, "--format", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(name: str, folder: Path, scale: float) -> list[str]:
    make, count = WORKLOADS[name]
    for part in ("first", "second"):
        (folder / part).mkdir(parents=True)
        make(folder / part, random.Random(f"{name} {part}"), max(1, round(count * scale)))
    with market(6, 3.0, ssh=True) as server:
        home = folder / "home"
        command(home, server.url, "analyze", folder / "first", "--target", "gpu", "--max-usd", "5")
        quoted = command(home, server.url, "quote", folder / "second", "--target", "gpu", "--max-usd", "5")
        before, began = server.spent(), time.monotonic()
        command(home, server.url, "analyze", folder / "second", "--target", "gpu", "--max-usd", "5")
        minutes, usd = (time.monotonic() - began) / 60, server.spent() - before
    said = (quoted["expected_minutes"], quoted["expected_usd"])
    off = [said[0] / minutes - 1, said[1] / usd - 1]
    return [
        name,
        f"{said[0]:.2f} / {minutes:.2f} min ({off[0]:+.0%})",
        f"{said[1]:.4f} / {usd:.4f} USD ({off[1]:+.0%})",
        "ok" if max(map(abs, off)) <= GOAL else "MISSED",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of media")
    parser.add_argument("--only", help="one workload")
    arguments = parser.parse_args()
    print("| workload | minutes: quote / run | money: quote / provider | |\n| --- | ---: | ---: | --- |")
    for name in WORKLOADS:
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="quotes-") as folder:
                print("| " + " | ".join(measure(name, Path(folder), arguments.scale)) + " |", flush=True)


if __name__ == "__main__":
    main()
