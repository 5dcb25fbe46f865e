from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.analyzers import text_embeddings
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers._speech_windows import interpolated_words
from media_pipeline.analyzers._summary_rank import centrality, choose_sentences, distinct
from media_pipeline.analyzers._summary_sentences import sentences, split
from media_pipeline.analyzers._vad import Span
from media_pipeline.analyzers.summary import _MOST_SENTENCES, ANALYZER, Model, SummaryOptions, preview
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._text_home import OCR, TRANSCRIPT, encoder

# A main topic, and remarks between that have nothing to do with it. The topic's sentences are marked.
GERMAN = [
    "Guten Abend und willkommen zu unserer Sendung.",
    "Das Wetter war heute sehr schön.",
    "*Der Stadtrat hat gestern den Bau einer neuen Straßenbahnlinie beschlossen.",
    "*Die Straßenbahn soll vom Bahnhof bis zur Universität fahren.",
    "*Die Kosten der Straßenbahnlinie liegen bei 80 Millionen Euro.",
    "Im Restaurant gab es frischen Kuchen.",
    "*Der Bau der Straßenbahn beginnt im nächsten Frühjahr.",
    "*Anwohner der Universität befürchten Lärm durch die Straßenbahn.",
    "Mein Hund heißt schon immer Bello.",
    "*Bis zur Fertigstellung der Straßenbahnlinie fahren Busse zum Bahnhof.",
    "Ich wünsche Ihnen einen schönen Abend.",
]
ENGLISH = [
    "Good evening and welcome to our programme.",
    "The weather was very nice today.",
    "*The city council decided yesterday to build a new tram line.",
    "*The tram will run from the station to the university.",
    "*The tram line will cost eighty million euros.",
    "There was fresh cake at the restaurant.",
    "*Construction of the tram starts next spring.",
    "*Neighbours of the university fear noise from the tram.",
    "My dog has always been called Bello.",
    "*Until the tram line is finished buses will go to the station.",
    "I wish you all a very nice evening.",
]


def plain(text: list[str]) -> list[str]:
    return [line.removeprefix("*") for line in text]


def spoken(lines: list[str], step_s: float = 4.0, gap_s: float = 0.2, **columns: list[Any]) -> pa.Table:
    rows = [
        {
            "media_id": "m",
            "segment_index": n,
            "start_s": n * step_s,
            "end_s": (n + 1) * step_s - gap_s,
            "text": text,
            **{name: values[n] for name, values in columns.items()},
        }
        for n, text in enumerate(lines)
    ]
    return pa.Table.from_pylist(rows, schema=TRANSCRIPT)


def shown(*frames: tuple[float, list[str]]) -> pa.Table:
    rows = [
        {"media_id": "m", "frame_index": number, "pts_s": pts_s, "line_index": line, "text": text}
        for number, (pts_s, lines) in enumerate(frames)
        for line, text in enumerate(lines)
    ]
    return pa.Table.from_pylist(rows, schema=OCR)


def medium(ocr: pa.Table | None = None, transcript: pa.Table | None = None, kind: str = "video") -> Medium:
    given = {"ocr": ocr, "transcript": transcript}
    return Medium("m", kind, rows={name: table for name, table in given.items() if table is not None})


@cache
def model() -> Model:
    return Model(encoder(), None)


def summarise(given: Medium, **options: Any) -> list[dict[str, Any]]:
    table = ANALYZER.run(model(), (given,), SummaryOptions(**options))
    ANALYZER.check(table, {"m"})
    rows: list[dict[str, Any]] = table.to_pylist()
    assert [row["row_index"] for row in rows] == list(range(len(rows)))
    assert all(row["kind"] == "key_sentence" and 0 <= row["score"] <= 1 for row in rows)
    return rows


# --- sentences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One thing. Another thing! A third?", ["One thing.", "Another thing!", "A third?"]),
        ("Das kostet z. B. 3.50 Euro am 3. Mai. Gut.", ["Das kostet z. B. 3.50 Euro am 3. Mai.", "Gut."]),
        ("Dr. Meier kam. Mr. Hill ging.", ["Dr. Meier kam.", "Mr. Hill ging."]),
        ('"Gut!" sagte er. Das war 2024. Dann kam sie.', ['"Gut!" sagte er.', "Das war 2024.", "Dann kam sie."]),
        ("see example.com for more", ["see example.com for more"]),
        ("今日は晴れ。明日は雨。", ["今日は晴れ。", "明日は雨。"]),
        ("", []),
        ("...", ["..."]),
    ],
)
def test_a_text_is_split_where_sentences_end(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_a_sentence_over_several_segments_has_the_time_of_all() -> None:
    (only,) = sentences(None, spoken(["And so, my fellow Americans,", "ask not what your country can do for you."]))
    assert only.text == "And so, my fellow Americans, ask not what your country can do for you."
    assert (only.start_s, only.end_s) == pytest.approx((0.0, 7.8))


def test_sentences_of_one_segment_share_its_time() -> None:
    (first, second) = sentences(None, spoken(["The first is this one. The second is that one."], step_s=8.2))
    assert first.start_s == 0.0
    assert first.end_s == pytest.approx(8.0 * 22 / 46)
    assert first.end_s is not None
    assert second.start_s is not None
    assert first.end_s <= second.start_s < 5.0
    assert second.end_s == pytest.approx(8.0)


def test_words_tell_when_a_sentence_begins() -> None:
    words = [{"word": f"w{n}", "start_s": t, "end_s": t + 0.4} for n, t in enumerate([0.0, 0.5, 1.0, 5.0, 5.5, 6.0])]
    table = spoken(["Alpha bravo charlie. Delta echo foxtrott."], step_s=8.2)
    kind = pa.list_(pa.struct([("word", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]))
    table = table.append_column("words", pa.array([words], kind))
    first, second = sentences(None, table)
    assert (first.start_s, first.end_s) == pytest.approx((0.0, 1.4))
    assert (second.start_s, second.end_s) == pytest.approx((5.0, 8.0))


def with_interpolated_words(text: str, start_s: float = 0.0, end_s: float = 8.0) -> pa.Table:
    """One segment with words as `transcript` spreads them over it."""
    span = Span(start_s, end_s)
    words = [
        {"word": word.text, "start_s": word.start_s, "end_s": word.end_s}
        for word in interpolated_words(text, span, [span])
    ]
    kind = pa.list_(pa.struct([("word", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]))
    return spoken([text], step_s=end_s, gap_s=0.0).append_column("words", pa.array([words], kind))


@pytest.mark.parametrize(
    "text",
    [
        "今日は天気がとてもいいですね。明日は雨が降るでしょうか。",  # no space at all: one word
        "今天天气非常好，我们出去走走。明天会不会下雨而且刮大风呢？ 后天我们再看看情况怎么样。",
    ],
)
def test_sentences_that_end_within_a_word_share_the_time_by_their_length(text: str) -> None:
    found = sentences(None, with_interpolated_words(text))
    assert [s.text for s in found] == split(text)
    for sentence in found:
        at = text.index(sentence.text)
        expected = (at * 8.0 / len(text), (at + len(sentence.text)) * 8.0 / len(text))
        assert (sentence.start_s, sentence.end_s) == pytest.approx(expected)


def test_whatever_is_said_its_sentences_follow_each_other_within_the_segment() -> None:
    parts = ["Hallo", "z. B.", "3.", "Mai", "Dr.", "the end.", "Really?!", "好的今天天气非常好我们走。", "。", "!", "…",
             "שלום", "مرحبا،", "a", "\u00a0", "»So ist das eben immer.«", "U.S.", "1.284,50", "ok...", ")", "\u2028",
             '"Ja, das stimmt."', " ", " "]  # fmt: skip
    random = Random(7)
    several = 0
    for _ in range(400):
        text = random.choice(["", " "]).join(random.choices(parts, k=random.randint(1, 14)))
        found = sentences(None, with_interpolated_words(text, end_s=6.0))
        times = [at for sentence in found for at in (sentence.start_s, sentence.end_s)]
        assert times == sorted(times), text
        assert not times or 0.0 <= times[0] <= times[-1] <= 6.0 + 1e-9, text
        several += len(found) > 1
    assert several > 50


def test_speech_without_punctuation_is_divided_at_pauses_and_speakers() -> None:
    draft = ["so we begin with", "the first topic today", "and then there is", "the second topic"]
    assert [s.text for s in sentences(None, spoken(draft, gap_s=0.2))] == [" ".join(draft)]
    assert [s.text for s in sentences(None, spoken(draft, gap_s=2.0))] == draft
    turns = spoken(draft).set_column(5, "speaker", pa.array(["S1", "S1", "S2", "S2"]))
    assert [s.text for s in sentences(None, turns)] == [" ".join(draft[:2]), " ".join(draft[2:])]
    long = sentences(None, spoken(["some words without any end to them at all"] * 40))
    assert long == [] or max(len(s.text) for s in long) <= 300


def test_wrapped_lines_of_a_slide_are_one_sentence() -> None:
    slide = shown(
        (3.0, ["The new tram line con-", "nects the station with", "the university", "It costs eighty millions", "12"])
    )
    assert [s.text for s in sentences(slide, None)] == [
        "The new tram line connects the station with the university",
        "It costs eighty millions",
    ]


def test_a_slide_that_stays_counts_once() -> None:
    lines = ["The tram line costs eighty millions", "Page 3", "OK"]
    again = ["THE TRAM LINE costs eighty millions!", "Page 4"]
    (only,) = sentences(shown((0.0, lines), (5.0, again), (900.0, lines)), None)
    assert (only.text, only.start_s, only.end_s, only.source) == (lines[0], 0.0, None, "ocr")


def test_speech_and_slides_come_in_order_of_appearance() -> None:
    found = sentences(
        shown((5.0, ["The second thing is on a slide"])),
        spoken(["The first is said here.", "The last is said here."], 10.0),
    )
    assert [s.source for s in found] == ["transcript", "ocr", "transcript"]


# --- choice ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("text", [GERMAN, ENGLISH], ids=["german", "english"])
def test_the_main_topic_is_found(text: list[str]) -> None:
    rows = summarise(medium(transcript=spoken(plain(text))))
    assert len(rows) == 3
    assert all(f"*{row['text']}" in text for row in rows)
    assert [row["start_s"] for row in rows] == sorted(4.0 * plain(text).index(row["text"]) for row in rows)
    assert {row["source"] for row in rows} == {"transcript"}
    assert {row["model"] for row in rows} == {encoder().fingerprint}


def test_the_topic_of_slides_is_found() -> None:
    frames = [(5.0 * n, [line]) for n, line in enumerate(plain(ENGLISH))]
    rows = summarise(medium(ocr=shown(*frames)))
    assert all(f"*{row['text']}" in ENGLISH and row["source"] == "ocr" for row in rows)


def test_two_topics_are_both_told() -> None:
    bees = [
        "Bees collect nectar from flowers and make honey of it.",
        "The honey is stored in the combs of the hive.",
        "A hive of bees has one queen and many workers.",
        "Beekeepers take the honey from the hive in summer.",
        "Without bees many flowers would not be pollinated.",
    ]
    tram = [line[1:] for line in ENGLISH if line.startswith("*")]
    texts = {row["text"] for row in summarise(medium(transcript=spoken(tram + bees)))}
    assert texts & set(tram)
    assert texts & set(bees)


def test_nearly_the_same_is_said_once() -> None:
    text = plain(ENGLISH)
    smudged = [text[2].replace("decided", "dec1ded"), text[3] + ".."]
    once, twice = (summarise(medium(transcript=spoken(t))) for t in (text, text + smudged))
    assert {row["text"] for row in once} == {row["text"] for row in twice}


def test_the_number_of_sentences_grows_with_the_text_up_to_a_limit() -> None:
    text = plain(ENGLISH)
    assert len(summarise(medium(transcript=spoken(text[:5])))) == 1
    assert len(summarise(medium(transcript=spoken(text)), max_sentences=2)) == 2


@pytest.mark.parametrize(
    "given", [medium(), medium(spoken([]).select([]), None), medium(None, spoken(plain(ENGLISH)[:3]))]
)
def test_too_little_text_has_no_rows(given: Medium) -> None:
    assert summarise(given) == []


def test_a_picture_has_no_time() -> None:
    rows = summarise(medium(ocr=shown((0.0, plain(ENGLISH))), kind="image"))
    assert rows
    assert {(row["start_s"], row["end_s"]) for row in rows} == {(None, None)}


@pytest.mark.slow
def test_ten_hours_cost_no_more_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    whole = type(encoder()).encode

    def counting(self: Any, texts: list[str], kind: Any = "passage") -> Any:
        counts.append(len(texts))
        return np.repeat(whole(self, texts[:1]), len(texts), axis=0) + np.eye(len(texts), 384, dtype=np.float32)

    monkeypatch.setattr(type(encoder()), "encode", counting)
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lines = [" ".join("".join(word) for word in rng.choice(letters, (6, 7))) + "." for _ in range(6000)]
    rows = summarise(medium(transcript=spoken(lines, 6.0)))
    assert counts == [_MOST_SENTENCES]
    assert len(rows) == 8


def test_sentences_without_any_likeness_are_equally_central() -> None:
    assert centrality(np.eye(4, dtype=np.float32)).tolist() == [1, 1, 1, 1]
    assert centrality(np.ones((1, 4), np.float32)).tolist() == [1]


def test_the_same_is_known_by_meaning_or_by_letters() -> None:
    apart, same = np.eye(3, dtype=np.float32), np.ones((3, 1), np.float32)
    words = ["The tram line costs eighty millions", "An apple", "The tram lIne c0sts eighty millions"]
    assert distinct(words, apart) == [0, 1]
    assert distinct(words, same) == [0]
    assert distinct(["a", "b", ""], apart) == [0, 1, 2]


def test_the_second_choice_does_not_repeat_the_first() -> None:
    vectors = np.array([[1, 0], [0.99, 0.14], [0, 1]], np.float32)
    assert choose_sentences(vectors, np.array([1.0, 0.99, 0.9]), 2) == [0, 2]
    assert choose_sentences(vectors, np.array([1.0, 0.99, 0.9]), 9) == [0, 1, 2]


def test_the_encoder_is_that_of_text_embeddings(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, offline=True, hub_url="http://127.0.0.1:9", tier="embedded")
    wanted = text_embeddings.choose(text_embeddings.TextEmbeddingsOptions(), store)
    choice = ANALYZER.choose(SummaryOptions(), store)
    assert (choice.name, choice.digest) == (wanted.name, wanted.digest)
    held = text_embeddings.load(wanted, "cpu", text_embeddings.TextEmbeddingsOptions())
    assert ANALYZER.load(choice, "cpu", SummaryOptions()).encoder is held
    with pytest.raises(ModelUnavailable):
        ANALYZER.choose(SummaryOptions(model="/nowhere/at/all"), store)


def test_a_slide_cannot_put_a_link_into_the_preview() -> None:
    lines = ["Click ![here](http://example.com/x.png) to win", *plain(ENGLISH)[2:5]]
    table = ANALYZER.run(
        model(), (medium(ocr=shown(*((1.0 * n, [x]) for n, x in enumerate(lines)))),), SummaryOptions()
    )
    assert "![" not in preview(table)
    assert preview(table)
    assert preview(ANALYZER.schema.empty_table()) == "too little text"
