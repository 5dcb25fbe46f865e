from __future__ import annotations

import sqlite3
from multiprocessing import get_context
from pathlib import Path

import pytest

from media_pipeline.results._search_text import word_index
from media_pipeline.storage._folding import EXACT, INSIDE, MAX_QUERY_CHARS, PREFIX, answer, parse_query, words
from media_pipeline.storage.words import WordHit, WordIndex
from media_pipeline_tests._text_home import TextHome, media_id, text_home

# ---------------------------------------------------------------------- folding


def grade(query: str, text: str) -> float:
    (term,) = parse_query(query)
    return answer(term, words(text))[0]


@pytest.mark.parametrize("asked", ["Müller", "mueller", "MULLER", "Mu\u0308ller", "MÜLLER"])
@pytest.mark.parametrize("written", ["Müller", "MÜLLER", "müller"])
def test_umlauts_any_way(asked: str, written: str) -> None:
    assert grade(asked, written) == EXACT


@pytest.mark.parametrize(
    ("asked", "written", "expected"),
    [
        ("Müller", "Mueller", EXACT),
        ("Straße", "STRASSE", EXACT),
        ("strasse", "Straße", EXACT),
        ("cafe", "Café", EXACT),
        ("Ærø", "Aeroe", EXACT),
        ("Łódź", "Lodz", EXACT),
        ("Rechnung", "Rechnungsnummer", PREFIX),
        ("Nummer", "Rechnungsnummer", INSIDE),
        ("Oel", "Ölstand", PREFIX),
        ("fluessigkeit", "Bremsflüssigkeit", INSIDE),
        ("is", "Island", 0.0),
        ("art", "party", 0.0),
        ("4711", "47111", PREFIX),
        ("привет", "Привет", EXACT),
    ],
)
def test_grades(asked: str, written: str, expected: float) -> None:
    assert grade(asked, written) == expected


def test_queries_are_words_and_quotes() -> None:
    parsed = [
        (" ".join(w.plain for w in t.words), t.quoted)
        for t in parse_query('The "annual meeting" of the „Großen Vier“ x')
    ]
    assert parsed == [("annual meeting", True), ("grossen vier", True), ("x", False)]
    assert [t.words[0].plain for t in parse_query("to be or not to be")] == ["to", "be", "or", "not"]
    assert [t.words[0].plain for t in parse_query('unclosed "quote')] == ["unclosed", "quote"]
    assert len(parse_query("word " * 10_000)) == 1
    assert len(parse_query(" ".join(f"w{n}" for n in range(500)))) == 32
    assert parse_query("x" * 10_000)[0].words[0].end == MAX_QUERY_CHARS


# ---------------------------------------------------------------------- the index


@pytest.fixture
def home(tmp_path: Path) -> TextHome:
    return text_home(tmp_path)


def index(home: TextHome) -> WordIndex:
    return word_index(home.tables, home.layout)


def find(home: TextHome, query: str) -> list[str]:
    return [hit.text for hit in index(home).search(query, 10)]


def add(home: TextHome, **texts: str) -> None:
    home.add({name: [(1.0, text.split("\n"))] for name, text in texts.items()}, embed=False)


def database(home: TextHome) -> Path:
    (path,) = home.layout.indexes.glob("words-*.sqlite")
    return path


def test_nothing_yet(home: TextHome) -> None:
    assert find(home, "anything") == []
    assert find(home, "") == []


def test_better_matches_come_first(home: TextHome) -> None:
    add(
        home,
        a="Rechnungsnummer 12",
        b="Sammelrechnung",
        c="Rechnung 4711",
        d="eine Rechnung ohne Nummer und mit vielen anderen Wörtern auf der Seite",
    )
    assert find(home, "Rechnung")[0] == "Rechnung 4711"
    assert find(home, "Rechnung")[2:] == ["Rechnungsnummer 12", "Sammelrechnung"]
    assert find(home, "Rechnung 4711")[0] == "Rechnung 4711"


def test_half_of_the_words_must_be_there(home: TextHome) -> None:
    add(home, a="red apple", b="green pear")
    assert find(home, "apple") == ["red apple"]
    assert find(home, "apple juice") == ["red apple"]
    assert find(home, "apple juice bottle") == []


def test_a_part_of_a_word_is_half_an_answer(home: TextHome) -> None:
    add(home, a="No one assigned, Assignee: nobody", b="Rechnungsnummer und Bremsflüssigkeit")
    assert find(home, "sign") == ["No one assigned, Assignee: nobody"]
    assert find(home, "sign street") == []
    assert find(home, "Nummer Flüssigkeit") == ["Rechnungsnummer und Bremsflüssigkeit"]


def test_phrases(home: TextHome) -> None:
    add(home, a="the annual meeting", b="a meeting, annual or not", c="annual\nmeeting", d="Grüße aus Köln")
    assert sorted(find(home, '"annual meeting"')) == ["annual\nmeeting", "the annual meeting"]
    assert find(home, '"annual meeting" nowhere') == find(home, '"annual meeting"')
    assert find(home, '"gruesse aus koeln"') == ["Grüße aus Köln"]
    assert find(home, '"annual meet"') == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        '"', '""', '"""', '" "', "'", "NOT apple", "plain:apple", "-apple", "^apple", "apple*", "(apple", "apple)",
        "{apple}", "apple OR", "apple + pear", "\x00", "apple\x00pear", "'; DROP TABLE passage; --", "%", "*", "NEAR",
        "apple " * 5_000, "a" * 100_000, "🍎", "\u202eapple", "“apple", "AND", "\n", "apple AND NOT NEAR",
    ],
)  # fmt: skip
def test_queries_are_never_syntax(home: TextHome, query: str) -> None:
    add(home, a="an apple a day", b="OR AND NOT NEAR")
    found = find(home, query)
    assert ("an apple a day" in found) == ("apple" in query)


def test_spans_and_moments(home: TextHome) -> None:
    home.add(
        transcript={"talk": [(3, 5, "We begin with the agenda."), (5, 8, "Then the Budgetplanung follows.")]},
        embed=False,
    )
    (hit,) = index(home).search("budget agenda", 5)
    assert [hit.text[a:b] for a, b in hit.spans] == ["agenda", "Budgetplanung"]
    assert (hit.media_id, hit.source, hit.row_index, hit.pts_s) == (media_id("talk"), "transcript", 0, 3.0)
    assert hit.score == pytest.approx((EXACT + PREFIX) / 2)
    (later,) = index(home).search("planung", 5)
    assert later.pts_s == 5.0


def test_added_replaced_and_erased(home: TextHome) -> None:
    add(home, a="alpha", b="beta")
    assert index(home).refresh() == 2
    assert index(home).refresh() == 0
    add(home, c="gamma")
    assert index(home).refresh() == 1
    add(home, a="delta")
    assert find(home, "alpha") == []
    assert find(home, "delta") == ["delta"]
    home.add(transcript={"b": [(0, 1, "epsilon")]}, embed=False)
    assert (find(home, "beta"), find(home, "epsilon")) == ([], ["epsilon"])
    home.erase("c")
    assert find(home, "gamma") == []
    assert find(home, "delta") == ["delta"]
    with sqlite3.connect(database(home)) as db:
        assert db.execute("SELECT count(*) FROM medium").fetchone() == (2,)
        for table in ("whole", "inside"):
            db.execute(f"INSERT INTO {table}({table}) VALUES ('integrity-check')")


def test_what_moved_between_files_is_not_written_again(home: TextHome) -> None:
    for name in "abc":
        add(home, **{name: f"text of {name}"})
    index(home).refresh()
    home.tables.compact("ocr")
    assert index(home).refresh() == 0
    assert len(find(home, "text")) == 3
    home.erase("b")
    assert sorted(find(home, "text")) == ["text of a", "text of c"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["garbage", "truncated", "deleted", "pages"])
def test_a_damaged_index_is_made_again(home: TextHome, damage: str) -> None:
    add(home, **{f"m{n}": f"apple number {n}" for n in range(200)})
    before = index(home)
    before.refresh()
    before._db().close()
    path = database(home)
    content = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"\xff" * len(content))
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    for leftover in home.layout.indexes.glob("*-wal"):
        leftover.unlink()
    assert "apple number 77" in find(home, "apple number 77")
    assert len(index(home).search("apple", 500)) == 200


def test_only_chosen_media_are_found(home: TextHome) -> None:
    add(home, **{f"m{n}": f"Rechnung Nummer {n}" for n in range(20)})
    words_of = index(home)
    for query in ("Rechnung", "Nummer", "echnun", '"Rechnung Nummer"'):
        found = words_of.search(query, 50, media_ids=[media_id("m3"), media_id("m7"), "unknown"])
        assert sorted(hit.text for hit in found) == ["Rechnung Nummer 3", "Rechnung Nummer 7"]
        assert words_of.search(query, 50, media_ids=()) == []
    assert len(words_of.search("Rechnung", 50)) == 20


def test_chosen_media_are_left_out(home: TextHome) -> None:
    add(home, **{f"m{n}": f"Rechnung Nummer {n}" for n in range(5)})
    words_of, out = index(home), [media_id("m0"), media_id("m3"), "unknown"]
    for query in ("Rechnung", "echnun", '"Rechnung Nummer"'):
        found = words_of.search(query, 50, without=out)
        assert sorted(hit.text for hit in found) == [f"Rechnung Nummer {n}" for n in (1, 2, 4)]
    found = words_of.search("Rechnung", 50, [media_id("m0"), media_id("m1")], without=out)
    assert [hit.text for hit in found] == ["Rechnung Nummer 1"]


def test_who_wants_more_gets_more(home: TextHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_pipeline.storage.words.CANDIDATES", 5)
    add(home, **{f"m{n}": f"Rechnung {n}" for n in range(12)})
    assert len(index(home).search("Rechnung", 3)) == 3
    assert len(index(home).search("Rechnung", 12)) == 12


def test_what_is_rare_is_found_among_many(home: TextHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_pipeline.storage.words._RANKED", 5)
    add(home, rare="Rechnung vom Bootsverleih", part="Sammelrechnung", **{f"m{n}": f"Rechnung {n}" for n in range(40)})
    assert find(home, "Rechnung Bootsverleih")[0] == "Rechnung vom Bootsverleih"
    assert find(home, "verleih") == ["Rechnung vom Bootsverleih"]
    assert len(find(home, "Rechnung")) == 5


def test_a_refresh_that_was_cut_off_goes_on(home: TextHome, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        add(home, **{name: f"text of {name}"})
    real = WordIndex._take
    taken: list[str] = []

    def dying(self: WordIndex, name: str, held: list[str], done: set[str]) -> int:
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(name)
        return real(self, name, held, done)

    monkeypatch.setattr(WordIndex, "_take", dying)
    with pytest.raises(KeyboardInterrupt):
        index(home).refresh()
    monkeypatch.setattr(WordIndex, "_take", real)
    assert index(home).refresh() == 1
    assert len(find(home, "text")) == 3


def test_words_that_nobody_has_any_more_are_forgotten(home: TextHome) -> None:
    add(home, a="Donaudampfschiff Hafen", b="Hafenmeister")
    assert find(home, "dampf") == ["Donaudampfschiff Hafen"]
    home.erase("a")
    words_of = index(home)
    words_of.purge()
    words_of.close()
    assert b"donaudampf" not in database(home).read_bytes()
    assert find(home, "dampf") == []
    assert find(home, "meister") == ["Hafenmeister"]


def _add_often(folder: Path, prefix: str) -> None:
    home = text_home(folder)
    for n in range(4):
        add(home, **{f"{prefix}{n}": f"shared text {prefix}{n}"})
        index(home).refresh()


@pytest.mark.slow
def test_two_processes_at_once(home: TextHome) -> None:
    processes = [get_context("spawn").Process(target=_add_often, args=(home.layout.home, p)) for p in "xy"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert len(index(home).search("shared", 50)) == 8


@pytest.mark.slow
def test_a_batch_costs_little(home: TextHome) -> None:
    frames = [(float(n), [f"slide {n} shows the figures of quarter {n % 4} and some more words"]) for n in range(20)]
    home.add({f"old{n}": frames for n in range(200)}, embed=False)
    index(home).refresh()
    home.add({f"new{n}": frames for n in range(64)}, embed=False)
    assert index(home).refresh() == 64, "only what is new is indexed"


def test_hits_are_plain_values(home: TextHome) -> None:
    add(home, a="alpha")
    (hit,) = index(home).search("alpha", 1)
    assert hit == WordHit(media_id("a"), "ocr", 0, 1.0, "alpha", ((0, 5),), 1.0)
