"""What a rented machine answers: what cannot be a result, and what is not the result."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.analyzers import faces, image_embeddings, ocr, speakers, transcript
from media_pipeline.analyzers._spec import AnalyzerSpec, Medium
from media_pipeline.errors import AnalyzerFailed
from media_pipeline.execution.agreement import disagreement
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.foreign import MAX_TEXT, Implausible, Plausibility
from media_pipeline.execution.trial import Item, Trial
from media_pipeline_tests._sound import Sound, silence

Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    frame_index: int
    pts_s: float
    width: int = 640
    height: int = 480
    scene_index: int = 0

    def image(self) -> Any:
        raise AssertionError("nobody needs to look at it")


VIDEO = Medium("m", "video", [Picture(n, n * 2.0) for n in range(4)], duration_s=8.0)
TALK = Medium("m", "audio", audio=Sound(silence(20)), duration_s=20.0)


def unit(*numbers: float) -> list[float]:
    vector = np.zeros(128)
    vector[: len(numbers)] = numbers
    return (vector / np.linalg.norm(vector)).astype(np.float32).tolist()  # type: ignore[no-any-return]


def face(frame: int = 0, index: int = 0, **changes: Any) -> Row:
    row = {
        "media_id": "m",
        "frame_index": frame,
        "pts_s": frame * 2.0,
        "face_index": index,
        "track_index": 0,
        "score": 0.99,
        "x1": 100.0 + 80 * index,
        "y1": 50.0,
        "x2": 160.0 + 80 * index,
        "y2": 130.0,
        "landmarks": [{"name": "nose", "x": 130.0, "y": 90.0}],
        "quality": 0.7,
        "embedding": unit(1, 2, 3 + index),
        "model": "dlib@0123",
    }
    return row | changes


def points(*places: float | None) -> list[Row]:
    return [{"name": f"point {number}", "x": place, "y": place} for number, place in enumerate(places)]


def line(frame: int = 0, index: int = 0, **changes: Any) -> Row:
    row = {
        "media_id": "m",
        "frame_index": frame,
        "pts_s": frame * 2.0,
        "line_index": index,
        "text": f"Rechnung {4711 + index}",
        "score": 0.9,
        "x1": 20.0,
        "y1": 20.0 + 30 * index,
        "x2": 300.0,
        "y2": 44.0 + 30 * index,
        "angle_deg": 0.0,
        "read_frame_index": 0,
    }
    return row | changes


def segment(index: int = 0, **changes: Any) -> Row:
    text = f"this is what was said as number {index} of the whole talk"
    row = {
        "media_id": "m",
        "segment_index": index,
        "start_s": 4.0 * index,
        "end_s": 4.0 * index + 3.0,
        "text": text,
        "language": "en",
        "speaker": None,
        "score": 0.8,
        "words": [{"word": text[:4], "start_s": 4.0 * index, "end_s": 4.0 * index + 0.3, "score": 0.7}],
        "draft": False,
        "channel": None,
    }
    return row | changes


def turn(index: int = 0, **changes: Any) -> Row:
    row = {
        "media_id": "m",
        "turn_index": index,
        "start_s": 4.0 * index,
        "end_s": 4.0 * index + 3.5,
        "speaker": f"S{1 + index % 2}",
        "channel": None,
        "embedding": unit(1, 2 + index % 2 * 9),
        "model": "ge2e@1",
    }
    return row | changes


def embedding(frame: int = 0, **changes: Any) -> Row:
    row = {"media_id": "m", "frame_index": frame, "pts_s": frame * 2.0, "model": "clip@1", "embedding": unit(1, frame)}
    return row | changes


def table(spec: AnalyzerSpec, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=spec.schema)


CASES: dict[str, tuple[AnalyzerSpec, Medium, Callable[..., Row]]] = {
    "faces": (faces.ANALYZER, VIDEO, face),
    "ocr": (ocr.ANALYZER, VIDEO, line),
    "transcript": (transcript.ANALYZER, TALK, segment),
    "speakers": (speakers.ANALYZER, TALK, turn),
    "image_embeddings": (image_embeddings.ANALYZER, VIDEO, embedding),
}


# --- what can be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_honest_rows_pass(name: str) -> None:
    spec, medium, row = CASES[name]
    plausible = Plausibility(spec)
    plausible.check(medium, table(spec, [row(n) for n in range(4)]))
    plausible.check(medium, spec.schema.empty_table())


def test_what_reaches_out_of_the_picture_a_little_passes() -> None:
    spec = faces.ANALYZER
    rows = [face(x1=-5.0, landmarks=[{"name": "ear", "x": -40.0, "y": 500.0}]), face(1, embedding=None)]
    Plausibility(spec).check(VIDEO, table(spec, rows))


@pytest.mark.parametrize(
    ("name", "rows", "complaint"),
    [
        ("faces", [face(score=1.5)], "score from 1.5"),
        ("faces", [face(score=float("nan"))], "score that is no number"),
        ("faces", [face(quality=-0.1)], "quality"),
        ("faces", [face(x2=1000.0)], "x2 outside"),
        ("faces", [face(y1=-100.0)], "y1 outside"),
        ("faces", [face(x1=200.0)], "x1 after x2"),
        ("faces", [face(x1=float("inf"))], "x1 that is no number"),
        ("faces", [face(x1=None)], "x1 after x2|half a box"),
        ("faces", [face(x1=None, x2=None)], "half a box"),
        ("faces", [face(frame_index=9)], "a frame that was not sent"),
        ("faces", [face(frame_index=None)], "frame_index without a value"),
        ("faces", [face(pts_s=0.5)], "pts_s that is not its frame's"),
        ("faces", [face(face_index=-1)], "face_index"),
        ("faces", [face(embedding=(np.array(unit(1)) * 1.01).tolist())], "not of length 1"),
        ("faces", [face(embedding=[0.0] * 128)], "not of length 1"),
        ("faces", [face(embedding=[float("nan")] * 128)], "not of length 1"),
        ("faces", [face(landmarks=[{"name": "nose", "x": 1e30, "y": 1.0}])], "x from"),
        ("faces", [face(landmarks=[{"name": "a\x1b[2J", "x": 1.0, "y": 1.0}])], "control character in name"),
        ("faces", [face(landmarks=[{"name": "n", "x": 1.0, "y": 1.0}] * 10_001)], "so many items"),
        ("faces", [face(), face(1, model="other@1")], "several models"),
        ("faces", [face(), face()], "the same row twice"),
        ("faces", [face(0, n) for n in range(4051)], "4,051 rows"),
        ("ocr", [line(text="\x1b]0;title\x07")], "control character in text"),
        ("ocr", [line(text="x" * (MAX_TEXT + 1))], "so many characters"),
        ("ocr", [line(read_frame_index=77)], "a frame that was not sent"),
        ("transcript", [segment(end_s=25.0)], "end_s from"),
        ("transcript", [segment(start_s=-3.0)], "start_s from"),
        ("transcript", [segment(start_s=9.0)], "start_s after end_s"),
        ("transcript", [segment(words=[{"word": "w", "start_s": 1e9, "end_s": 1e9, "score": 0.1}])], "start_s from"),
        ("transcript", [segment(words=[{"word": "w", "start_s": 0.0, "end_s": 1.0, "score": 7.0}])], "score from"),
        ("transcript", [segment(n, start_s=1.0, end_s=2.0) for n in range(500)], "500 rows"),
        ("speakers", [turn(embedding=unit(1)[:64])], "embedding of|not of length 1"),
        ("image_embeddings", [embedding(), embedding(1, embedding=[1.0])], "embedding of"),
        ("image_embeddings", [embedding(), embedding(1, embedding=[])], "embedding of"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_found(name: str, rows: list[Row], complaint: str) -> None:
    spec, medium, row = CASES[name]
    plausible = Plausibility(spec)
    if name in ("speakers", "image_embeddings"):  # what is alike in all answers is known from the ones before
        plausible.check(medium, table(spec, [row(3)]))
    with pytest.raises(Implausible, match=complaint):
        plausible.check(medium, table(spec, rows))


def test_what_must_be_alike_is_remembered_between_media() -> None:
    spec = faces.ANALYZER
    plausible = Plausibility(spec)
    plausible.check(VIDEO, table(spec, [face()]))
    with pytest.raises(Implausible, match="several models"):
        plausible.check(VIDEO, table(spec, [face(model="other@1")]))


# --- what is the same ---------------------------------------------------------------------------------------------


def compare(name: str, here: list[Row], there: list[Row]) -> str | None:
    spec, medium, _ = CASES[name]
    return disagreement(spec, spec.options(), medium, table(spec, here), table(spec, there))


def turned(vector: list[float], cosine: float) -> list[float]:
    """A unit vector at that cosine to this one."""
    one = np.array(vector, np.float64)
    other = np.zeros_like(one)
    other[-1] = 1
    other -= one * (one @ other)
    other /= np.linalg.norm(other)
    return (cosine * one + np.sqrt(1 - cosine**2) * other).astype(np.float32).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", CASES)
def test_the_same_agrees(name: str) -> None:
    rows = [CASES[name][2](n) for n in range(4)]
    assert compare(name, rows, rows) is None
    assert compare(name, [], []) is None


@pytest.mark.parametrize(
    ("name", "here", "there"),
    [
        ("faces", [face()], [face(x1=103.0, y2=133.0, score=0.97, quality=0.68)]),
        ("faces", [face()], [face(embedding=turned(unit(1, 2, 3), 0.9995))]),
        ("faces", [face()], [face(embedding=None)]),
        ("faces", [face(landmarks=points(9.0, 9.0, 9.0, None))], [face(landmarks=points(9.5, None, 9.0, None))]),
        ("faces", [face(), face(0, 1, score=0.955)], [face()]),
        ("faces", [face(), face(0, 1)], [face(0, 1, face_index=0), face(0, 0, face_index=1)]),
        ("faces", [face(0, n) for n in range(20)], [face(0, n) for n in range(19)]),
        ("ocr", [line()], [line(text="Rechnung 4771")]),
        ("ocr", [line(), line(0, 1, score=0.52)], [line()]),
        ("transcript", [segment(0), segment(1)], [segment(0, start_s=0.2, end_s=2.9), segment(1)]),
        (
            "transcript",
            [segment(0, text="so one says here two small things that differ"), segment(1)],
            [segment(0, text="so one sees here two small thinks that differ"), segment(1)],
        ),
        (
            "transcript",
            [segment(0, start_s=0.0, end_s=8.0, text="one two three four five six"), segment(2)],
            [
                segment(0, start_s=0.0, end_s=4.0, text="one two three"),
                segment(1, start_s=4.0, end_s=8.0, text="four five six"),
                segment(2),
            ],
        ),
        (
            "speakers",
            [turn(0, channel=0), turn(1, channel=1, start_s=0.0, end_s=3.5)],
            [turn(1, turn_index=0, channel=1, start_s=0.0, end_s=3.5), turn(0, turn_index=1, channel=0)],
        ),
        ("speakers", [turn()], [turn(embedding=turned(turn()["embedding"], 0.99))]),
    ],
)  # fmt: skip
def test_honest_differences_are_borne(name: str, here: list[Row], there: list[Row]) -> None:
    assert compare(name, here, there) is None
    assert compare(name, there, here) is None


@pytest.mark.parametrize(
    ("name", "here", "there", "why"),
    [
        ("faces", [face()], [], "no partner"),
        ("faces", [face()], [face(), face(0, 2)], "no partner"),
        ("faces", [face()], [face(x1=130.0, x2=190.0)], "no partner"),
        ("faces", [face()], [face(1)], "no partner"),
        ("faces", [face()], [face(score=0.6)], "score differs"),
        ("faces", [face()], [face(embedding=turned(unit(1, 2, 3), 0.99))], "embedding differs"),
        ("faces", [face()], [face(model="dlib@9999")], "no partner"),
        ("faces", [face()], [face(landmarks=[{"name": "nose", "x": 150.0, "y": 90.0}])], "landmarks differs"),
        ("faces", [face(landmarks=points(9.0, 9.0))], [face(landmarks=points(None, None))], "landmarks differs"),
        ("faces", [face(landmarks=points(9.0, 9.0))], [face(landmarks=points(9.0))], "landmarks differs"),
        ("ocr", [line()], [line(text="Quittung 12")], "text differs"),
        ("image_embeddings", [embedding(1)], [embedding(1, embedding=unit(0, 0, 1))], "embedding differs"),
        ("image_embeddings", [embedding(1), embedding(2)], [embedding(1)], "no partner"),
        ("transcript", [segment(n) for n in range(4)], [], "other times"),
        ("transcript", [segment(n) for n in range(4)], [segment(n, language="de") for n in range(4)], "language"),
        (
            "transcript",
            [segment(n) for n in range(4)],
            [segment(n, text="nothing of all that was ever uttered by anybody here") for n in range(4)],
            "words differ",
        ),
        ("speakers", [turn(n) for n in range(4)], [turn(n, speaker="S1") for n in range(4)], "speaker"),
        ("speakers", [turn(n) for n in range(4)], [turn(n, embedding=unit(0, 0, 1)) for n in range(4)], "embedding"),
    ],
)  # fmt: skip
def test_made_up_results_are_found(name: str, here: list[Row], there: list[Row], why: str) -> None:
    found = compare(name, here, there)
    assert found is not None
    assert why in found


def test_long_talks_are_compared_quickly() -> None:
    """Thousands of segments and words: a run waits for it."""
    chance = random.Random(1)
    vocabulary = [f"word{n}" for n in range(500)]
    long = replace(TALK, audio=Sound(silence(1)), duration_s=8000.0)
    rows = [segment(n, text=" ".join(chance.choices(vocabulary, k=8))) for n in range(1500)]
    other = [row | {"text": row["text"].replace("word1 ", "word2 ")} for row in rows]
    spec = transcript.ANALYZER
    assert disagreement(spec, spec.options(), long, table(spec, rows), table(spec, other)) is None
    wrong = [row | {"text": " ".join(chance.choices(vocabulary, k=8))} for row in rows]
    assert "words differ" in str(disagreement(spec, spec.options(), long, table(spec, rows), table(spec, wrong)))


# --- whom to believe ----------------------------------------------------------------------------------------------


@dataclass
class Court:
    """Who asks for what."""

    delivered: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    here: list[Item] = field(default_factory=list)

    def deliver(self, result: AnalyzerResult) -> None:
        self.delivered.append(result.media_id)

    def to_queue(self, items: Any) -> None:
        self.queued += [item.name for item in items]

    def to_here(self, item: Item) -> None:
        item.is_here = True
        self.here.append(item)


ONE_ROW = pa.table({"media_id": ["m"]})
NO_ROWS = ONE_ROW.slice(0, 0)


def result(item: Item, rows: pa.Table | None = ONE_ROW) -> AnalyzerResult:
    return AnalyzerResult(item.name, rows, None if rows else AnalyzerFailed("it broke"), 0.1)


class Case:
    def __init__(self, share: float = 1e-9, verdict: str | None = None) -> None:
        self.court, self.verdict = Court(), verdict
        self.items = [Item(f"i{n}", Medium(f"i{n}", "image", [None] * (n + 1))) for n in range(6)]  # type: ignore[list-item]
        self.trial = Trial(self.court, lambda *_: self.verdict, share, random.Random(3))

    def check(self, rows: pa.Table | None = ONE_ROW) -> Item:
        """This machine is through with the one it was given."""
        item = self.court.here.pop(0)
        trial = item.trial
        self.court.deliver(result(item, rows))
        if trial is not None:
            trial.computed_here(item, result(item, rows))
        return item

    def account(self) -> list[str]:
        """Where everything is in the end: each once."""
        return sorted([*self.court.delivered, *self.court.queued, *(item.name for item in self.court.here)])


ALL = [f"i{n}" for n in range(6)]


def test_results_are_held_back_until_one_has_proved_right() -> None:
    case = Case()
    for item in case.items[:5]:
        case.trial.accept(item, result(item))
    case.trial.choose([case.items[5]])
    assert case.court.delivered == []
    assert len(case.court.here) == 1
    assert case.court.here[0].medium.frame_count <= 3, "of the cheaper half"
    case.trial.choose([case.items[5]])
    assert len(case.court.here) == 1, "one is enough"
    case.check()
    assert case.trial.is_trusted
    case.trial.accept(case.items[5], result(case.items[5]))
    assert case.account() == ALL
    assert len(case.court.delivered) == 6


def test_it_is_chosen_at_random() -> None:
    chosen = set()
    for seed in range(30):
        case = Case()
        case.trial._chance = random.Random(seed)
        case.trial.choose(case.items)
        chosen.add(case.court.here[0].name)
    assert chosen == {"i0", "i1", "i2"}


def test_who_lied_loses_what_was_held_back() -> None:
    case = Case(verdict="answered with other things")
    for item in case.items:
        case.trial.accept(item, result(item))
    case.trial.choose(())
    checked = case.check()
    assert case.trial.why_not == "answered with other things"
    assert case.court.delivered == [checked.name], "what was computed here counts"
    assert case.account() == ALL
    assert case.trial.relied_on == []


@pytest.mark.parametrize("first", ["here", "there"])
def test_either_may_be_first(first: str) -> None:
    case = Case()
    case.trial.choose(case.items[:1])
    item = case.items[0]
    if first == "here":
        case.check()
        assert not case.trial.is_trusted
        case.trial.accept(item, result(item))
    else:
        case.trial.accept(item, result(item))
        assert case.court.delivered == []
        case.check()
    assert case.trial.is_trusted
    assert case.court.delivered == [item.name]


def test_empty_results_prove_little() -> None:
    case = Case()
    for item in case.items:
        case.trial.accept(item, result(item, NO_ROWS))
    for number in range(3):
        assert not case.trial.is_trusted
        case.trial.choose(())
        case.check(NO_ROWS)
        assert case.trial.is_trusted == (number == 2)
    assert case.account() == ALL


def test_what_cannot_be_computed_here_proves_nothing() -> None:
    case = Case()
    for item in case.items:
        case.trial.accept(item, result(item))
    for _ in range(6):
        case.trial.choose(())
        case.check(None)
        assert not case.trial.is_trusted
    assert case.account() == ALL, "each was decided here"


def test_later_a_share_is_computed_here() -> None:
    case = Case(share=0.5)
    case.trial.is_trusted = True
    items = [Item(f"n{n}", Medium(f"n{n}", "image")) for n in range(400)]
    for item in items:
        case.trial.accept(item, result(item))
    assert 150 < len(case.court.here) < 250
    assert len(case.trial.relied_on) == 400 - len(case.court.here)
    case.verdict = "lied"
    case.check()
    assert case.trial.why_not == "lied"
    assert case.account() == sorted(item.name for item in items)


def test_nothing_is_checked_where_nobody_wants_it() -> None:
    case = Case(share=0)
    for item in case.items:
        case.trial.accept(item, result(item))
    case.trial.choose(case.items)
    assert case.court.delivered == ALL
    assert case.court.here == []


@pytest.mark.parametrize("verdict", [None, "lied"])
def test_what_a_lost_place_answered_may_still_prove_right(verdict: str | None) -> None:
    case = Case(verdict=verdict)
    case.trial.choose(case.items[:1])  # it is lost before it answers for this one
    for item in case.items[1:]:
        case.trial.accept(item, result(item))
    case.trial.close()
    case.check()
    assert case.court.delivered == ["i0"]
    case.check()
    assert len(case.court.delivered) == (6 if verdict is None else 2)
    assert case.account() == ALL


def test_what_it_fails_on_is_computed_here() -> None:
    case = Case()
    case.trial.choose(case.items[:1])
    case.trial.failed(case.items[0])
    case.trial.failed(case.items[1])
    assert [item.name for item in case.court.here] == ["i0", "i1"]
    case.check()
    case.check()
    assert case.court.delivered == ["i0", "i1"]
    assert not case.trial.is_trusted


def test_the_machine_is_given_no_more_than_can_be_held_back() -> None:
    case = Case()
    for number in range(64):
        assert not case.trial.is_full(4)
        item = Item(f"n{number}", Medium(f"n{number}", "image"))
        case.trial.accept(item, result(item))
    assert case.trial.is_full(4)
    assert not case.trial.is_full(100)
