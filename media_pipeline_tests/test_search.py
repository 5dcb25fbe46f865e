from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.cli.search import search as command
from media_pipeline.results._search_hits import SNIPPET_CHARS, snippet_of
from media_pipeline.results.search import Hit, refresh_text_index, search_text
from media_pipeline_tests._text_home import TextHome, media_id, text_home, tiny_model

pytestmark = pytest.mark.slow  # indexes of a real home


@pytest.fixture
def home(tmp_path: Path) -> TextHome:
    return text_home(tmp_path)


def find(home: TextHome, query: str, k: int = 10, **more: int) -> list[Hit]:
    return search_text(home.tables, home.layout, home.settings, home.models, query, k, **more)


def fill(home: TextHome) -> None:
    home.add(
        ocr={
            "slides.mp4": [(0.0, ["Annual meeting"]), (12.0, ["The dog runs on the beach", "and chases waves"])],
            "bill.png": [(0.0, ["Rechnungsnummer 4711", "Müller & Söhne"])],
        },
        transcript={"talk.wav": [(61.5, 65.0, "A puppy was playing by the sea."), (70, 72, "Goodbye.")]},
    )


# ---------------------------------------------------------------------- search


def test_an_empty_home_has_no_hits(home: TextHome) -> None:
    assert find(home, "anything at all") == []
    assert find(home, "") == []
    assert find(home, "   ") == []


def test_a_hit_says_where_and_why(home: TextHome) -> None:
    fill(home)
    (hit,) = find(home, '"mueller"')
    assert hit == Hit(
        media_id=media_id("bill.png"),
        partition_key=f"bill.png~{media_id('bill.png')[:12]}",
        name="bill.png",
        path="/x/bill.png",
        kind="video",
        source="ocr",
        pts_s=0.0,
        text="Rechnungsnummer 4711\nMüller & Söhne",
        snippet="Rechnungsnummer 4711 Müller & Söhne",
        matches=((21, 27),),
        score=0.5,
        why="words",
    )


def test_words_and_meaning_are_fused_across_screen_and_speech(home: TextHome) -> None:
    fill(home)
    hits = find(home, "dog on the beach")
    assert [(h.name, h.source, h.pts_s, h.why) for h in hits] == [
        ("slides.mp4", "ocr", 12.0, "both"),
        ("talk.wav", "transcript", 61.5, "meaning"),
    ]
    assert hits[0].score == 1.0
    assert [hits[0].snippet[a:b] for a, b in hits[0].matches] == ["dog", "beach"]
    assert hits[1].matches == ()


def test_quotes_ask_for_these_words_only(home: TextHome) -> None:
    fill(home)
    assert [h.why for h in find(home, '"on the beach"')] == ["words"]
    assert find(home, '"dog on the sand"') == []


def test_the_best_moments_of_a_medium(home: TextHome) -> None:
    home.add(
        ocr={"long.mp4": [(n * 10.0, [f"apple number {n}"]) for n in range(20)], "other.mp4": [(5.0, ["an apple"])]}
    )
    names = [h.name for h in find(home, "apple")]
    assert sorted(names) == ["long.mp4"] * 3 + ["other.mp4"]
    assert len(find(home, "apple", k=2)) == 2
    assert len({h.pts_s for h in find(home, "apple", moments_per_medium=20, k=50) if h.name == "long.mp4"}) == 20


def test_erased_and_replaced_media_are_not_found(home: TextHome) -> None:
    fill(home)
    assert find(home, "puppy")
    home.erase("talk.wav")
    assert "talk.wav" not in {h.name for h in [*find(home, "puppy"), *find(home, "playing by the sea")]}
    home.add(ocr={"bill.png": [(0.0, ["something else"])]})
    assert find(home, "4711") == []


def test_a_medium_without_facts_is_no_hit(home: TextHome) -> None:
    fill(home)
    home.tables.delete("media", [media_id("bill.png")])
    assert find(home, "4711") == []


@pytest.mark.parametrize("query", ["\x00", '"', "\udcff broken", "x" * 50_000, "dog " * 3_000, "🐕", "a OR b) NEAR("])
def test_strange_queries(home: TextHome, query: str) -> None:
    fill(home)
    for hit in find(home, query):
        assert hit.name in {"slides.mp4", "talk.wav"}


def test_vectors_of_a_model_that_is_not_here(home: TextHome, caplog: pytest.LogCaptureFixture) -> None:
    fill(home)
    rows = home.tables.read("text_embeddings")
    other = rows.set_column(rows.schema.get_field_index("model"), "model", [["other@1"] * rows.num_rows])
    home.tables.replace("text_embeddings", other, set(rows["media_id"].to_pylist()))
    with caplog.at_level(logging.WARNING):
        refresh_text_index(home.tables, home.layout, home.settings, home.models)
        assert [h.why for h in find(home, "dog on the beach")] == ["words"]
    assert "5 of 5 passages are found by words only: their vectors are of other@1" in caplog.text


def test_the_model_that_made_the_vectors_answers(home: TextHome) -> None:
    # The embedded one made them; meanwhile another was configured and is here too.
    fill(home)
    folder = tiny_model(home.layout.home / "tiny")
    settings = home.settings.model_copy(update={"options": {"text_embeddings": {"model": str(folder)}}})
    hits = search_text(home.tables, home.layout, settings, home.models, "dog on the beach")
    assert [h.why for h in hits] == ["both", "meaning"]


def test_a_search_downloads_nothing(home: TextHome, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home)
    store = ModelStore(home.layout.home / "none", offline=False, hub_url="http://127.0.0.1:9", tier="auto")
    monkeypatch.setattr(ModelStore, "obtain", lambda *_: pytest.fail("a search asked for a download"))
    assert search_text(home.tables, home.layout, home.settings, store, "dog on the beach")[0].why == "both"


def test_the_index_is_ready_after_a_refresh(home: TextHome) -> None:
    fill(home)
    refresh_text_index(home.tables, home.layout, home.settings, home.models)
    before = {p.name: p.stat().st_mtime_ns for p in home.layout.indexes.iterdir() if p.suffix in (".json", ".faiss")}
    assert len(before) == 2
    assert find(home, "dog")
    refresh_text_index(home.tables, home.layout, home.settings, home.models)
    assert {p.name: p.stat().st_mtime_ns for p in home.layout.indexes.iterdir() if p.name in before} == before


def test_an_emptied_home_leaves_no_vectors_behind(home: TextHome) -> None:
    fill(home)
    refresh_text_index(home.tables, home.layout, home.settings, home.models)
    home.erase("slides.mp4", "bill.png", "talk.wav")
    refresh_text_index(home.tables, home.layout, home.settings, home.models)
    assert [p.name for p in home.layout.indexes.iterdir() if p.name.startswith("text.")] == []
    fill(home)
    assert find(home, "dog on the beach")[0].why == "both"


def test_snippets() -> None:
    words = [f"word{n:03}" for n in range(100)]
    text = "\n".join(words)
    start = text.index("word050")
    snippet, ((a, b),) = snippet_of(text, ((start, start + 7),))
    assert snippet[a:b] == "word050"
    assert snippet.startswith("… word0")
    assert snippet.endswith(" …")
    assert set(snippet.strip("… ").split()) <= set(words)
    assert len(snippet) <= SNIPPET_CHARS + 4
    assert snippet_of("short\ntext", ((6, 10),)) == ("short text", ((6, 10),))
    assert snippet_of(text, ())[0].startswith("word000")
    end = text.index("word099")
    last, ((a, b),) = snippet_of(text, ((end, end + 7),))
    assert last[a:b] == "word099"
    unbroken, _ = snippet_of("x" * 1000, ((900, 1000),))
    assert len(unbroken) <= SNIPPET_CHARS + 4


# ---------------------------------------------------------------------- the command


def run(home: TextHome, *arguments: str) -> Result:
    parts = SimpleNamespace(settings=home.settings, layout=home.layout, tables=home.tables, models=home.models)
    return CliRunner().invoke(command, arguments, obj=parts, catch_exceptions=False)


def test_table(home: TextHome) -> None:
    fill(home)
    result = run(home, "--text", "puppy")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if "talk.wav" in line)
    assert "1:01" in line
    assert "transcript" in line


def test_json(home: TextHome) -> None:
    fill(home)
    result = run(home, "--text", "dog beach", "-k", "1", "--format", "json")
    (hit,) = json.loads(result.stdout)
    assert (hit["name"], hit["pts_s"], hit["why"], hit["source"]) == ("slides.mp4", 12.0, "both", "ocr")
    assert hit["matches"] == [[4, 7], [20, 25]]
    assert hit["text"] == "The dog runs on the beach\nand chases waves"


def test_an_empty_home_says_what_to_do(home: TextHome) -> None:
    result = run(home, "--text", "dog")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "media-pipeline analyze" in result.stderr
    as_json = run(home, "--text", "dog", "--format", "json")
    assert (as_json.exit_code, json.loads(as_json.stdout)) == (0, [])


def test_nothing_found_is_said(home: TextHome) -> None:
    fill(home)
    result = run(home, "--text", "xylophone")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing found" in result.stderr


def test_foreign_text_does_not_command_the_terminal(home: TextHome) -> None:
    home.add(ocr={"x\x1b[31m[bold].png": [(0.0, ["apple \x1b]0;owned\x07 [red]pie[/red]"])]})
    result = run(home, "--text", "apple")
    assert "\x1b" not in result.stdout
    assert "[red]pie[/red]" in result.stdout
    assert "[bold]" in result.stdout


@pytest.mark.parametrize("arguments", [(), ("--text", "x", "-k", "0"), ("--text", "x", "--format", "xml")])
def test_wrong_usage(home: TextHome, arguments: tuple[str, ...]) -> None:
    assert run(home, *arguments).exit_code == 2
