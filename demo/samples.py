"""The sample media: what they are, and what an analysis of them should find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from demo.pictures import Picture, render_landscape, render_slide, write_photo, write_picture
from demo.sound import silence, speak, with_room_noise, write_wav
from demo.video import write_video


@dataclass(frozen=True, slots=True)
class Sample:
    """One file and the truth about it."""

    path: Path
    kind: Literal["image", "video", "audio"] | None  # None: cannot be analysed, must be reported as failed
    texts: tuple[str, ...] = ()  # lines that can be read in it
    language: str | None = None  # of the texts: "de" or "en"
    spoken: tuple[str, ...] = ()  # English sentences, in lower case and without punctuation
    cuts_s: tuple[float, ...] = ()  # seconds at which a new scene begins, the first at 0 left out
    turned_deg: int = 0
    duplicate_of: str | None = None  # file name of the picture that it nearly equals

    @property
    def broken(self) -> bool:
        return self.kind is None


INVOICE = ("Rechnung 4711", "Kunde: Müller & Söhne, Lübeck", "Zahlbar bis 30. November", "Gesamtbetrag 1.284,50 Euro")
OPENING_HOURS = (
    "Die Ausstellung über die",
    "Geschichte der Stadt öffnet",
    "am Dienstag um neun Uhr.",
    "Führungen gibt es täglich.",
    "Der Eintritt kostet fünf Euro.",
    "Für Schüler ist er frei.",
    "Bitte lassen Sie große",
    "Taschen in der Garderobe.",
)
REPORT = ("Quarterly report", "Revenue grew in every region", "Hiring continues in Berlin", "Next review on 14 March")
LETTER = (
    "Dear members of the board,",
    "the water damage in the archive",
    "has been repaired. All shelves",
    "are dry, and the insurance will",
    "pay for the restoration of the",
    "old maps.",
)
TOUR_TITLES = ("Welcome to the museum", "The new building", "Opening hours", "Thank you")
TOUR_SHOTS_S = (2.4, 2.0, 2.6, 2.0)
TOUR_SPOKEN = (
    "several people visited the museum yesterday afternoon",
    "in the summer there will be a concert in the garden",
)
MEETING_SPOKEN = (
    "the contract will be signed on monday morning",
    "our company is looking for new investors in the united states",
)


def make_samples(folder: Path) -> list[Sample]:
    """Write all sample media into the folder, which is made where needed. The same pixels and samples every time."""
    folder.mkdir(parents=True, exist_ok=True)
    return [make(folder) for make in MAKERS]


def invoice(folder: Path) -> Sample:
    path = folder / "rechnung-4711.png"
    write_picture(path, render_slide(INVOICE[1:], title=INVOICE[0]))
    return Sample(path, "image", texts=INVOICE, language="de")


def two_columns(folder: Path) -> Sample:
    path = folder / "Öffnungszeiten Museum.png"
    write_picture(path, render_slide(OPENING_HOURS, columns=2, size=(1400, 560)))
    return Sample(path, "image", texts=OPENING_HOURS, language="de")


def report(folder: Path) -> Sample:
    path = folder / "quarterly-report.jpg"
    write_picture(path, render_slide(REPORT[1:], title=REPORT[0], paper=(24, 40, 72), ink=(240, 240, 245)))
    return Sample(path, "image", texts=REPORT, language="en")


def turned_letter(folder: Path) -> Sample:
    path = folder / "scanned-letter-turned.jpg"
    write_picture(path, render_slide(LETTER, size=(900, 640), turn_deg=90))
    return Sample(path, "image", texts=LETTER, language="en", turned_deg=90)


def photo(folder: Path) -> Sample:
    path = folder / "hills.jpg"
    write_photo(
        path,
        render_landscape(),
        captured_at=datetime(2024, 5, 17, 18, 42, 5),
        latitude=47.5576,
        longitude=10.7498,
    )
    return Sample(path, "image")


def smaller_photo(folder: Path) -> Sample:
    path = folder / "hills-for-the-web.jpg"
    smaller = np.asarray(Image.fromarray(render_landscape()).resize((720, 480)))
    write_picture(path, smaller, quality=60)
    return Sample(path, "image", duplicate_of="hills.jpg")


def tour(folder: Path) -> Sample:
    path = folder / "museum tour.mp4"
    papers = ((255, 255, 255), (32, 60, 96), (250, 226, 170), (40, 40, 44))
    inks = ((20, 20, 30), (245, 245, 245), (60, 30, 10), (230, 230, 120))
    slides: list[Picture] = [
        render_slide((), title=title, size=(960, 540), text_px=40, paper=paper, ink=ink)
        for title, paper, ink in zip(TOUR_TITLES, papers, inks, strict=True)
    ]
    sound = _sentences(TOUR_SPOKEN)
    rest = with_room_noise(silence(max(0.0, sum(TOUR_SHOTS_S) - len(sound) / 16_000)))
    write_video(path, list(zip(slides, TOUR_SHOTS_S, strict=True)), sound=np.concatenate([sound, rest]))
    cuts = tuple(round(sum(TOUR_SHOTS_S[:n]), 3) for n in range(1, len(TOUR_SHOTS_S)))
    return Sample(path, "video", texts=TOUR_TITLES, language="en", spoken=TOUR_SPOKEN, cuts_s=cuts)


def meeting(folder: Path) -> Sample:
    path = folder / "meeting-note.wav"
    write_wav(path, _sentences(MEETING_SPOKEN))
    return Sample(path, "audio", spoken=MEETING_SPOKEN)


def cut_off_video(folder: Path) -> Sample:
    """An upload that broke off: the container promises more than there is, its index is missing."""
    path = folder / "broken-upload.mp4"
    whole = folder / ".whole.mp4"
    write_video(whole, [(render_landscape((320, 240)), 1.0)])
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()
    return Sample(path, None)


def text_as_picture(folder: Path) -> Sample:
    path = folder / "not-a-picture.jpg"
    path.write_text("This is a text file that somebody renamed.\n", encoding="utf-8")
    return Sample(path, None)


def _sentences(sentences: tuple[str, ...]) -> np.ndarray:
    parts = [speak(sentence, seed=number) for number, sentence in enumerate(sentences)]
    pause = with_room_noise(silence(0.6), seed=99)
    return np.concatenate([part for spoken in parts for part in (spoken, pause)])


MAKERS: tuple[Callable[[Path], Sample], ...] = (
    invoice,
    two_columns,
    report,
    turned_letter,
    photo,
    smaller_photo,
    tour,
    meeting,
    cut_off_video,
    text_as_picture,
)
