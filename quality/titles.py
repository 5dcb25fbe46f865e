"""Title cards and lower thirds, in a film put together here, so that what stands where and when is known."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from demo.pictures import Picture, draw_text, render_landscape
from demo.video import Shot, write_video
from quality import metrics
from quality.area import Bench
from quality.report import Measurement

SIZE = (1280, 720)
CARD, THIRD = "title_card", "lower_third"
_REMARK = "one film, drawn here: type as clean as this is the easy case"


@dataclass(frozen=True, slots=True)
class Scene:
    """Some seconds of the film, with the title it shows."""

    seconds: float
    kind: str | None = None
    text: str = ""


FILM = (
    Scene(4, CARD, "The New Museum"),
    Scene(5),
    Scene(4, THIRD, "Dr. Anna Groß"),
    Scene(6),
    Scene(3, CARD, "Ein Jahr später"),
    Scene(5, THIRD, "Jonas Weber, Lübeck"),
    Scene(4),
    Scene(4, CARD, "Thank you"),
)


class Titles:
    name = "titles"
    analyzers = ("titles",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        folder = (bench.scratch / "titles").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / "film.mp4", [_shot(scene, number) for number, scene in enumerate(FILM)])
        home = bench.extra_home("titles-home", folder)
        home.analyze([folder], ["titles"])
        rows = home.rows("titles", "start_s, text, kind", order="media_id, start_s")["film.mp4"]
        home.close()
        starts = np.cumsum([0.0, *(scene.seconds for scene in FILM)])
        wanted = {(s.kind, _plain(s.text)): start for s, start in zip(FILM, starts, strict=False) if s.kind}
        found = {(row["kind"], _plain(row["text"])): row["start_s"] for row in rows}
        counts = metrics.set_counts(wanted, found)
        maker = bench.home.maker("titles")
        yield Measurement(
            "titles: F1, with text and kind",
            counts.f1,
            n=len(wanted),
            of="titles",
            maker=maker,
            remark="; ".join(
                [*(f"missed: {text}" for title in wanted if title not in found for text in title[1:]), _REMARK]
            ),
        )
        late = [abs(found[title] - start) for title, start in wanted.items() if title in found]
        yield Measurement(
            "titles: error of a title's start, median",
            statistics.median(late) if late else None,
            "s",
            n=len(late),
            of="titles",
            maker=maker,
            remark=_REMARK,
        )


def _shot(scene: Scene, number: int) -> Shot:
    if scene.kind == CARD:
        card: Picture = np.full((SIZE[1], SIZE[0], 3), 12, np.uint8)
        draw_text(card, scene.text, 0, SIZE[1] // 2, 84, (240, 240, 240), 700)
        inked = np.flatnonzero((card > 12).any(axis=(0, 2)))
        return np.roll(card, (SIZE[0] - int(inked[-1]) - 1) // 2, axis=1), scene.seconds
    # Seen from elsewhere each time, or there would be no cut between two scenes.
    view = render_landscape(SIZE, seed=number)
    if scene.kind == THIRD:
        view[-150:-70, 60:640] //= 4
        draw_text(view, scene.text, 80, SIZE[1] - 97, SIZE[1] // 20, (250, 250, 250), 700)
    return view, scene.seconds


def _plain(text: str) -> str:
    return " ".join(metrics.words(text))
