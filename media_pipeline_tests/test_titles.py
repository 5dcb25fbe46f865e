"""Titles from lines of OCR: made up here, and read from a rendered video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.analyzers import ocr, titles
from media_pipeline.analyzers._spec import Image, Medium
from media_pipeline.analyzers._title_spans import similarity
from media_pipeline.analyzers.titles import ANALYZER, TitlesOptions
from media_pipeline_tests._ocr_pages import MEDIA_ID, PictureFrame, slide

WIDTH, HEIGHT = 1280, 720
PICTURE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
Line = tuple[str, int, int, int, int]  # text, x1, y1, x2, y2

NAME: list[Line] = [("Dr. Erika Müller", 100, 560, 420, 600), ("Institut für Optik", 100, 610, 380, 640)]
CARD: list[Line] = [("Die Reise", 420, 280, 860, 360), ("nach Norden", 460, 380, 820, 450)]


def ocr_rows(frames: Sequence[Sequence[Line]], gap_s: float = 2.0) -> pa.Table:
    rows = [
        {
            "media_id": MEDIA_ID,
            "frame_index": 50 * n,
            "pts_s": n * gap_s,
            "line_index": i,
            "text": text,
            "score": 0.9,
            "x1": x1,
            "y1": y1,
            "x2": x2,
            "y2": y2,
            "angle_deg": 0.0,
            "read_frame_index": 50 * n,
        }
        for n, lines in enumerate(frames)
        for i, (text, x1, y1, x2, y2) in enumerate(lines)
    ]
    return pa.Table.from_pylist(rows, schema=ocr.SCHEMA)


def found(
    frames: Sequence[Sequence[Line]], kind: str = "video", gap_s: float = 2.0, **how: Any
) -> list[dict[str, Any]]:
    """What the analyzer says about one medium, checked against its schema."""
    pictures = [PictureFrame(PICTURE, frame_index=50 * n, pts_s=n * gap_s) for n in range(len(frames))]
    medium = Medium(
        MEDIA_ID,
        kind,
        frames=pictures,
        duration_s=len(frames) * gap_s if kind == "video" else None,
        rows={"ocr": ocr_rows(frames, gap_s)},
    )
    table = ANALYZER.run(None, (medium,), TitlesOptions(**how))
    ANALYZER.check(table, {MEDIA_ID})
    return list(table.to_pylist())


def spans(rows: list[dict[str, Any]]) -> list[tuple[str, str, float, float]]:
    return [(row["kind"], row["text"], row["start_s"], row["end_s"]) for row in rows]


def test_a_lower_third_lasts_until_the_frame_that_does_not_show_it() -> None:
    rows = found([[], NAME, NAME, [], []])

    assert spans(rows) == [("lower_third", "Dr. Erika Müller\nInstitut für Optik", 2.0, 6.0)]
    assert [rows[0][c] for c in ("x1", "y1", "x2", "y2")] == pytest.approx([100, 560, 420, 640])
    assert rows[0]["score"] == pytest.approx(0.9)
    assert rows[0]["frame_index"] in (50, 100)


def test_a_title_card_at_the_end_lasts_as_long_as_the_medium() -> None:
    assert spans(found([[], [], CARD])) == [("title_card", "Die Reise\nnach Norden", 4.0, 6.0)]


def test_readings_that_differ_a_little_are_one_title() -> None:
    misread = [("Dr. Erlka Muller", 101, 561, 419, 600), ("lnstitut für Optik", 100, 610, 380, 640)]
    rows = found([NAME, misread, [], NAME, [], [], []])  # and one frame in which nothing was read

    assert spans(rows) == [("lower_third", "Dr. Erika Müller\nInstitut für Optik", 0.0, 8.0)]


def test_different_names_at_one_place_are_different_titles() -> None:
    other = [("Hans Peter Schmidt", 100, 560, 430, 600), ("Bürgermeister", 100, 610, 330, 640)]

    assert [row["text"].split("\n")[0] for row in found([NAME, NAME, other, other])] == [
        "Dr. Erika Müller",
        "Hans Peter Schmidt",
    ]
    assert [row["title_index"] for row in found([NAME, NAME, other, other])] == [0, 1]


def test_subtitles_are_no_titles() -> None:
    sentences = ["Guten Abend und willkommen", "Heute geht es um den Hafen", "Er wurde vor hundert Jahren gebaut"]
    said = [[(text, 640 - 9 * len(text), 620, 640 + 9 * len(text), 655)] for text in sentences]

    assert found([said[0], said[1], said[1], said[2]]) == []
    # One centred line that stays is a lower third as good as another.
    assert [row["kind"] for row in found([[], said[0], said[0], []])] == ["lower_third"]
    # A name beside them is found all the same.
    rows = found([said[0], said[1] + [("Erika Müller", 60, 500, 300, 540)], said[2]])
    assert [row["text"] for row in rows] == ["Erika Müller"]


def test_a_slide_full_of_text_is_no_title() -> None:
    page = [(f"Point number {n} of the agenda", 100, 80 + 60 * n, 700, 115 + 60 * n) for n in range(9)]

    assert found([page, page, page]) == []


def test_a_crawling_ticker_is_no_title() -> None:
    frames = [
        [(f"+++ news {n} of the day that crawl along the whole lower edge +++", 0, 670, 1280, 700)] for n in range(4)
    ]

    assert found(frames) == []


def test_a_mark_that_is_always_there_is_no_title() -> None:
    mark = [("channel one", 1050, 640, 1200, 670)]

    assert found([mark] * 20) == []
    assert len(found([mark] * 20, max_s=60)) == 1


@pytest.mark.parametrize(("gap_s", "readings"), [(24.0, 1), (24.0, 2), (31.0, 1), (120.0, 1)])
def test_titles_of_films_whose_frames_lie_far_apart(gap_s: float, readings: int) -> None:
    rows = found([[], [], *[CARD] * readings, [], []], gap_s=gap_s)

    assert spans(rows) == [("title_card", "Die Reise\nnach Norden", 2 * gap_s, (2 + readings) * gap_s)]
    assert found([CARD] * 20, gap_s=gap_s) == []  # that is the mark of the channel all the same


@pytest.mark.parametrize(("readings", "is_title"), [(6, True), (7, False)])
def test_where_frames_are_dense_all_the_time_until_the_end_counts(readings: int, is_title: bool) -> None:
    assert bool(found([[], *[CARD] * readings, []], gap_s=5.0)) is is_title


def test_what_flashes_by_is_no_title() -> None:
    assert found([[], CARD, []], gap_s=0.5) == []
    assert len(found([[], CARD, CARD, []], gap_s=0.5)) == 1
    assert len(found([[], CARD, []], gap_s=0.5, min_s=0.4)) == 1


def test_text_that_stands_upright_or_in_a_corner_is_no_title_card() -> None:
    assert found([[("EXIT", 1000, 40, 1200, 120)]] * 2) == []
    table = ocr_rows([CARD, CARD])
    turned = table.set_column(
        table.schema.get_field_index("angle_deg"), "angle_deg", pa.array([90.0] * 4, pa.float32())
    )
    frames = [PictureFrame(PICTURE, frame_index=50 * n, pts_s=2.0 * n) for n in range(2)]
    medium = Medium(MEDIA_ID, "video", frames=frames, duration_s=4.0, rows={"ocr": turned})
    assert ANALYZER.run(None, (medium,), TitlesOptions()).num_rows == 0


def test_the_heading_of_a_slide() -> None:
    heading: list[Line] = [("Jahresbericht 2024", 80, 60, 700, 120)]
    points: list[Line] = [(f"Punkt {n}: etwas Text dazu", 80, 200 + 60 * n, 600, 232 + 60 * n) for n in range(6)]

    rows = found([heading + points], kind="image")

    assert spans(rows) == [("title_card", "Jahresbericht 2024", None, None)]
    assert found([points], kind="image") == []
    assert (
        found([[(text, x1, y1 + 300, x2, y2 + 300) for text, x1, y1, x2, y2 in heading] + points[:2]], kind="image")
        == []
    )
    two = [("Ein Titel über", 80, 40, 600, 100), ("zwei ganze Zeilen", 80, 115, 640, 175), *points]
    assert spans(found([two], kind="image")) == [("title_card", "Ein Titel über\nzwei ganze Zeilen", None, None)]


def test_without_text_or_without_ocr_there_is_nothing() -> None:
    assert found([[], []]) == []
    assert found([[("?!", 420, 280, 860, 360)]] * 2) == []
    medium = Medium(MEDIA_ID, "video", frames=[PictureFrame(PICTURE)], duration_s=None)
    assert ANALYZER.run(None, (medium,), TitlesOptions()).num_rows == 0


def test_the_best_reading_is_the_text() -> None:
    rows = ocr_rows([NAME, NAME]).to_pylist()
    for row in rows[2:]:
        row.update(score=0.99, text=row["text"].replace("ü", "u"))
    medium = Medium(
        MEDIA_ID,
        "video",
        frames=[PictureFrame(PICTURE, frame_index=50 * n, pts_s=2.0 * n) for n in range(2)],
        rows={"ocr": pa.Table.from_pylist(rows, schema=ocr.SCHEMA)},
    )
    (row,) = ANALYZER.run(None, (medium,), TitlesOptions()).to_pylist()

    assert (row["text"], row["frame_index"]) == ("Dr. Erika Muller\nInstitut fur Optik", 50)
    assert (row["start_s"], row["end_s"]) == (0.0, 2.0)  # the length is not known: until the last frame


def test_similarity_overlooks_what_ocr_gets_wrong() -> None:
    assert similarity("Dr. Erika Müller", "dr erika  MÜLLER") == 1
    assert similarity("Erika Müller", "Hans Schmidt") < 0.5


def test_preview_counts_kinds() -> None:
    rows = [{"media_id": "a", "kind": kind} for kind in ("title_card", "lower_third", "lower_third")]

    assert titles.preview(pa.Table.from_pylist(rows, schema=titles.SCHEMA)) == "2 lower thirds, 1 title card"
    assert titles.preview(titles.SCHEMA.empty_table()) == "no title"


def _drawn(lines: Sequence[tuple[str, int, int, int]], grey: int = 40) -> Image:
    """Light text on a dark picture: text, x, baseline y, height."""
    import cv2

    picture = np.full((HEIGHT, WIDTH, 3), grey, np.uint8)
    cv2.circle(picture, (900, 300), 180, (90, 120, 60), -1)
    for text, x, y, px in lines:
        cv2.putText(picture, text, (x, y), (240, 240, 240), cv2.FontFace("sans"), px, 500)
    return picture


@pytest.mark.slow
def test_a_rendered_video_through_ocr(tmp_path: Path) -> None:
    import av

    from demo.video import write_video
    from media_pipeline.analyzers._models import ModelStore

    shots = [
        (_drawn([("Die Reise", 420, 340, 110), ("nach Norden", 430, 470, 90)]), 3.0),
        (_drawn([]), 3.0),
        (_drawn([("Erika Müller", 100, 590, 44), ("Kapitänin", 100, 640, 32)]), 4.0),
        (slide([f"Point number {n} of a long agenda" for n in range(8)]), 3.0),
    ]
    write_video(tmp_path / "film.mp4", shots)
    frames = []
    with av.open(str(tmp_path / "film.mp4")) as container:
        for n, picture in enumerate(container.decode(video=0)):
            if n % 25 == 0:
                frames.append(PictureFrame(picture.to_ndarray(format="rgb24"), frame_index=n, pts_s=n / 25))
    store = ModelStore(tmp_path, offline=True, hub_url="http://localhost:9", tier="embedded")
    model = ocr.ANALYZER.load(ocr.ANALYZER.choose(ocr.OcrOptions(), store), "cpu", ocr.OcrOptions())
    medium = Medium(MEDIA_ID, "video", frames=frames, duration_s=13.0)
    lines = ocr.ANALYZER.run(model, (medium,), ocr.OcrOptions())

    medium = Medium(MEDIA_ID, "video", frames=frames, duration_s=13.0, rows={"ocr": lines})
    rows = ANALYZER.run(None, (medium,), TitlesOptions()).to_pylist()

    assert spans(rows) == [
        ("title_card", "Die Reise\nnach Norden", 0.0, 3.0),
        ("lower_third", "Erika Müller\nKapitänin", 6.0, 10.0),
    ]
