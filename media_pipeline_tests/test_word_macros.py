"""`found_word` as SQL sees it, without a library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import duckdb
import pytest

from media_pipeline.storage._word_macros import WORD_MACROS


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with closing(duckdb.connect()) as made:
        for macro in WORD_MACROS:
            made.execute(macro)
        yield made


@pytest.mark.parametrize("words", [["🖕"], ["$$$", "…"], []])
@pytest.mark.parametrize("text", ["Hello, world", "Rechnung 4711 - Kunde", "🖕", "", "Größe: 3 €"])
def test_words_without_letters_and_digits_are_found_nowhere(
    connection: duckdb.DuckDBPyConnection, words: list[str], text: str
) -> None:
    asked = connection.execute("SELECT found_word($text, $words::VARCHAR[])", {"text": text, "words": words})
    assert asked.fetchone() == (None,)


@pytest.mark.parametrize(("text", "found"), [("die BOMBE!", "bombe"), ("Hello, world", None)])
def test_symbols_beside_words_change_nothing(
    connection: duckdb.DuckDBPyConnection, text: str, found: str | None
) -> None:
    asked = connection.execute("SELECT found_word($text, ['🖕', 'Bombe'])", {"text": text})
    assert asked.fetchone() == (found,)
