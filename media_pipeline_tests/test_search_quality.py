"""What search finds with the embedded model, in numbers. They are the ones the docstrings quote."""

from __future__ import annotations

import pytest

from media_pipeline.results._background import Background
from media_pipeline.results.search import Hit, Questions, search
from media_pipeline_tests._search_corpus import (
    BY_WORD,
    ENGLISH_PARAPHRASES,
    GERMAN_PARAPHRASES,
    NOISE,
    PASSAGES,
    UNANSWERABLE,
)
from media_pipeline_tests._text_home import TextHome, encoder, text_home

pytestmark = pytest.mark.slow  # a corpus is embedded


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> TextHome:
    home = text_home(tmp_path_factory.mktemp("home"))
    read = {name: [(1.5, text.split(", "))] for i, (name, text) in enumerate(PASSAGES.items()) if i % 2}
    heard = {name: [(2.5, 6.0, text)] for i, (name, text) in enumerate(PASSAGES.items()) if not i % 2}
    home.add(read | {f"noise{n}": [(0.0, [text])] for n, text in enumerate(NOISE)}, heard)
    return home


def find(home: TextHome, query: str) -> list[Hit]:
    return search(home.tables, home.layout, home.settings, home.models, Questions(query))


@pytest.mark.parametrize(("query", "expected"), BY_WORD.items())
def test_words_compounds_umlauts_and_phrases(home: TextHome, query: str, expected: str) -> None:
    hits = find(home, query)
    assert hits[0].name == expected
    assert hits[0].why in ("words", "both")
    assert hits[0].matches


def test_english_paraphrases_are_found_by_meaning(home: TextHome) -> None:
    first = {query: next((hit.name for hit in find(home, query)), None) for query in ENGLISH_PARAPHRASES}
    missed = {query: name for query, name in first.items() if name != ENGLISH_PARAPHRASES[query]}
    assert len(missed) <= 2, missed


def test_german_paraphrases_are_beyond_the_embedded_model(home: TextHome) -> None:
    # A test that must be changed when the embedded model is: the documentation says that it cannot do this.
    found = [q for q, name in GERMAN_PARAPHRASES.items() if name in {hit.name for hit in find(home, q)}]
    wrong = [
        h for q, name in GERMAN_PARAPHRASES.items() for h in find(home, q) if h.name != name and h.why == "meaning"
    ]
    assert len(found) <= 3, found
    assert len(wrong) <= 2, wrong  # and it knows that it cannot


def test_a_query_that_nothing_answers_gets_nothing(home: TextHome) -> None:
    answered = {query: hits[0].text for query in UNANSWERABLE if (hits := find(home, query))}
    assert len(answered) <= 1, answered


def test_the_floor_follows_the_language_of_the_query() -> None:
    background = Background(encoder().encode)
    english, german = encoder().encode(["beekeeping", "Bienenzucht"], "query")
    # To an English model two German texts are alike because they are German.
    assert background.floor(german) > background.floor(english) + 0.1
