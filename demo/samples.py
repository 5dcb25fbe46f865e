"""The sample media: what they are, and what an analysis of them should find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from demo.people import ANNA, BRUNO, on_canvas, portrait
from demo.pictures import (
    BOLD,
    WHITE,
    Picture,
    draw_text,
    paste,
    render_landscape,
    render_logo,
    render_slide,
    render_title,
    write_photo,
    write_picture,
)
from demo.sound import SAMPLE_RATE, Samples, silence, speak, with_room_noise, write_wav
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
    seen: tuple[str, ...] = ()  # whose faces are in it
    heard: tuple[str, ...] = ()  # who speaks, one name per sentence
    has_logo: bool = False

    @property
    def broken(self) -> bool:
        return self.kind is None


Talk = Sequence[tuple[str, str]]  # who says it, and what, in lower case and without punctuation

_PAUSE_S = 0.7  # with the silence around each sentence long enough to be heard as the end of it

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
    "are dry. The insurance will pay",
    "for the old maps. The archive is",
    "open again from May. Visitors",
    "may see the maps of the city.",
)
ANNA_BERG, BRUNO_KELLER = "Anna Berg", "Bruno Keller"
VOICES = {ANNA_BERG: "en-us+f4", BRUNO_KELLER: "en-us"}
TOUR_TITLES = ("Welcome to the museum", "Opening hours", "Thank you")
TOUR_CAPTION = (ANNA_BERG, "Head of the museum")
TOUR_SHOTS_S = (2.0, 4.4, 4.8, 2.0)
TOUR_TALK = (
    (ANNA_BERG, "there will be a concert at the museum in the summer"),
    (BRUNO_KELLER, "several people visited the museum yesterday afternoon"),
)
MEETING_TALK = (
    (BRUNO_KELLER, "our company is looking for new investors in the united states"),
    (ANNA_BERG, "the government will pay more than two hundred thousand dollars"),
    (BRUNO_KELLER, "the contract will be signed on monday morning"),
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
    page = render_slide(REPORT[1:], title=REPORT[0], paper=(24, 40, 72), ink=(240, 240, 245))
    paste(page, render_logo(260), 940, 540)
    write_picture(path, page)
    return Sample(path, "image", texts=REPORT, language="en", has_logo=True)


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


def portrait_of_anna(folder: Path) -> Sample:
    path = folder / "portrait.jpg"
    write_photo(path, portrait(ANNA, shift=4), captured_at=datetime(2024, 5, 3, 10, 5, 0))
    return Sample(path, "image", seen=(ANNA_BERG,))


def team(folder: Path) -> Sample:
    path = folder / "team.jpg"
    both = on_canvas((portrait(BRUNO), 90, 110, 530), (portrait(ANNA), 720, 60, 580))
    write_photo(path, both, captured_at=datetime(2024, 5, 4, 16, 30, 0))
    return Sample(path, "image", seen=(ANNA_BERG, BRUNO_KELLER))


def tour(folder: Path) -> Sample:
    """A title card, Anna with her name below and speaking, and a slide to which somebody else speaks."""
    path = folder / "museum tour.mp4"
    papers, inks = ((32, 60, 96), (250, 226, 170), (40, 40, 44)), ((245, 245, 245), (60, 30, 10), (230, 230, 120))
    welcome, hours, thanks = (
        render_title(title, size=(960, 540), px=64, paper=paper, ink=ink)
        for title, paper, ink in zip(TOUR_TITLES, papers, inks, strict=True)
    )
    paste(hours, render_logo(150), 760, 40)
    shots = list(zip((welcome, _captioned(portrait(ANNA)), hours, thanks), TOUR_SHOTS_S, strict=True))
    starts_s = [round(sum(TOUR_SHOTS_S[:n]), 3) for n in range(len(TOUR_SHOTS_S) + 1)]
    write_video(path, shots, sound=_talk(TOUR_TALK, begins_s=starts_s[1:3], ends_s=starts_s[-1]))
    return Sample(
        path,
        "video",
        texts=(TOUR_TITLES[0], *TOUR_CAPTION, *TOUR_TITLES[1:]),
        language="en",
        spoken=tuple(sentence for _, sentence in TOUR_TALK),
        cuts_s=tuple(starts_s[1:-1]),
        seen=(ANNA_BERG,),
        heard=tuple(name for name, _ in TOUR_TALK),
        has_logo=True,
    )


def meeting(folder: Path) -> Sample:
    path = folder / "meeting.wav"
    write_wav(path, _talk(MEETING_TALK))
    return Sample(
        path,
        "audio",
        spoken=tuple(sentence for _, sentence in MEETING_TALK),
        heard=tuple(name for name, _ in MEETING_TALK),
    )


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


def _captioned(face: Picture) -> Picture:
    """Somebody on the screen with a lower third: name and function."""
    screen = on_canvas((face, 420, 0, 420), width=960, height=540)
    screen[420:] = (24, 40, 72)
    draw_text(screen, TOUR_CAPTION[0], 64, 464, 28, WHITE, BOLD)
    draw_text(screen, TOUR_CAPTION[1], 64, 502, 22, WHITE)
    return screen


def _talk(talk: Talk, *, begins_s: Sequence[float] = (), ends_s: float = 0.0) -> Samples:
    """The sentences one after the other; each waits for its second where one is given, and pauses are turns."""
    sound = silence(0)
    for number, (name, sentence) in enumerate(talk):
        wait_s = begins_s[number] - len(sound) / SAMPLE_RATE if number < len(begins_s) else _PAUSE_S * (number > 0)
        sound = np.concatenate(
            [sound, _room(wait_s, number), speak(sentence, voice=VOICES[name], words_per_minute=150, seed=number)]
        )
    return np.concatenate([sound, _room(ends_s - len(sound) / SAMPLE_RATE, len(talk))])


def _room(seconds: float, seed: int) -> Samples:
    return with_room_noise(silence(max(0.0, seconds)), seed=100 + seed)


MAKERS: tuple[Callable[[Path], Sample], ...] = (
    invoice,
    two_columns,
    report,
    turned_letter,
    photo,
    smaller_photo,
    portrait_of_anna,
    team,
    tour,
    meeting,
    cut_off_video,
    text_as_picture,
)
