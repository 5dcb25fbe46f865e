from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.cli.search import search as command
from media_pipeline.errors import UsageError
from media_pipeline.results._search_hits import SNIPPET_CHARS, snippet_of
from media_pipeline.results._search_kept import kept_vectors
from media_pipeline.results.search import Hit, Questions, Within, refresh_text_index, search
from media_pipeline_tests._text_home import Frames, TextHome, media_id, text_home, tiny_model

pytestmark = pytest.mark.slow  # indexes of a real home


@pytest.fixture
def home(tmp_path: Path) -> TextHome:
    return text_home(tmp_path)


def find(home: TextHome, query: str, k: int = 10, **more: int) -> list[Hit]:
    return search(home.tables, home.layout, home.settings, home.models, Questions(query), k, **more)


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


def long_talks(home: TextHome, count: int) -> None:
    """Recordings with a word in each of sixty passages, and four pictures with it in a longer text."""
    talk = [(n * 10.0, n * 10.0 + 5, f"apple number {n}") for n in range(60)]
    page = "one long line of text on which among many others the word apple stands"
    pages: dict[str, Frames] = {f"page{n}.jpg": [(0.0, [f"{page} {n}"])] for n in range(4)}
    home.add(pages, {f"talk{n}.wav": talk for n in range(count)}, embed=False)


@pytest.mark.parametrize(("talks", "k"), [(1, 10), (5, 20)])
def test_other_media_are_found_behind_long_ones(
    home: TextHome, monkeypatch: pytest.MonkeyPatch, talks: int, k: int
) -> None:
    long_talks(home, talks)
    hits = find(home, "apple", k)
    assert Counter(hit.name for hit in hits) == {
        **{f"talk{n}.wav": 3 for n in range(talks)},
        **{f"page{n}.jpg": 1 for n in range(4)},
    }
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    # Whoever looks once finds fewer, and finds them the same.
    monkeypatch.setattr("media_pipeline.results.search._LOOKS", 1)
    once = find(home, "apple", k)
    assert len(once) < len(hits)
    assert [hit for hit in hits if hit in once] == once
    monkeypatch.undo()
    assert find(home, "apple", 3) == once[:3]


def test_a_filter_finds_other_media_behind_long_ones(home: TextHome) -> None:
    long_talks(home, 2)
    passing = [media_id(name) for name in ("talk1.wav", "page0.jpg", "page3.jpg")]
    within = Within(frozenset(passing), tuple(passing))
    hits = search(home.tables, home.layout, home.settings, home.models, Questions("apple"), within=within)
    assert Counter(hit.name for hit in hits) == {"talk1.wav": 3, "page0.jpg": 1, "page3.jpg": 1}


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
    hits = search(home.tables, home.layout, settings, home.models, Questions("dog on the beach"))
    assert [h.why for h in hits] == ["both", "meaning"]


def test_a_search_downloads_nothing(home: TextHome, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home)
    store = ModelStore(home.layout.home / "none", offline=False, hub_url="http://127.0.0.1:9", tier="auto")
    monkeypatch.setattr(ModelStore, "obtain", lambda *_: pytest.fail("a search asked for a download"))
    hits = search(home.tables, home.layout, home.settings, store, Questions("dog on the beach"))
    assert hits[0].why == "both"


def test_the_index_is_ready_after_a_refresh(home: TextHome) -> None:
    fill(home)
    refresh_text_index(home.tables, home.layout, home.settings, home.models)
    before = {p.name: p.stat().st_mtime_ns for p in home.layout.indexes.iterdir() if p.name.startswith("text.")}
    assert "text.json" in before
    assert len(before) >= 2
    assert find(home, "dog")
    refresh_text_index(home.tables, home.layout, home.settings, home.models)
    after = {p.name: p.stat().st_mtime_ns for p in home.layout.indexes.iterdir() if p.name.startswith("text.")}
    assert after == before


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


def test_a_filter_loses_no_words_and_no_meaning(home: TextHome) -> None:
    home.add(ocr={f"near{n}.mp4": [(0.0, ["The dog runs on the beach"])] for n in range(330)}, embed=False)
    home.add(ocr={"far.mp4": [(0.0, ["A long text about other things that names a dog once and forgets it"])]})
    only = Within(frozenset([media_id("far.mp4")]), ())
    nobody = Within(frozenset(), ())
    assert "far.mp4" not in {hit.name for hit in find(home, '"dog"')}
    parts = (home.tables, home.layout, home.settings, home.models)
    assert [hit.name for hit in search(*parts, Questions('"dog"'), within=only)] == ["far.mp4"]
    assert [hit.why for hit in search(*parts, Questions("dog named in a text"), within=only)] == ["both"]
    assert search(*parts, Questions("dog"), within=nobody) == []


def test_a_search_asks_something(home: TextHome) -> None:
    with pytest.raises(UsageError, match="nothing was asked"):
        search(home.tables, home.layout, home.settings, home.models, Questions())


def test_vectors_are_kept_and_made_again(tmp_path: Path) -> None:
    models = ModelStore(tmp_path / "models", offline=True, hub_url="", tier="embedded")
    asked: list[Sequence[str]] = []

    def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        asked.append(texts)
        return np.arange(2 * len(texts), dtype=np.float32).reshape(-1, 2)

    first = kept_vectors(models, "m@1", ("a", "b"), encode)
    assert np.array_equal(kept_vectors(models, "m@1", ("a", "b"), encode), first)
    assert len(asked) == 1
    kept_vectors(models, "m@2", ("a", "b"), encode)
    kept_vectors(models, "m@1", ("a", "c"), encode)
    assert len(asked) == 3
    for damage in (b"", b"no numbers", next((tmp_path / "models/.captions").iterdir()).read_bytes()[:-5]):
        for file in (tmp_path / "models/.captions").iterdir():
            file.write_bytes(damage)
        assert np.array_equal(kept_vectors(models, "m@1", ("a", "b"), encode), first)
    assert len(asked) == 6
    nowhere = ModelStore(Path("/proc/no/such/folder"), offline=True, hub_url="", tier="embedded")
    assert np.array_equal(kept_vectors(nowhere, "m@1", ("a", "b"), encode), first)


# ---------------------------------------------------------------------- the command


def run(home: TextHome, *arguments: str) -> Result:
    parts = SimpleNamespace(settings=home.settings, layout=home.layout, tables=home.tables, models=home.models)
    return CliRunner().invoke(command, arguments, obj=parts, catch_exceptions=False)


def test_table(home: TextHome) -> None:
    fill(home)
    result = run(home, "--text", "puppy")
    assert result.exit_code == 0
    medium, moment, *_ = [line for line in result.stdout.splitlines() if "talk.wav" in line or "puppy" in line]
    assert "talk.wav" in medium
    assert "1:01" in moment
    assert "transcript" in moment


def test_json(home: TextHome) -> None:
    fill(home)
    result = run(home, "--text", "dog beach", "-k", "1", "--format", "json")
    (hit,) = json.loads(result.stdout)
    assert (hit["name"], hit["pts_s"], hit["why"], hit["source"]) == ("slides.mp4", 12.0, "both", "ocr")
    assert hit["matches"] == [[4, 7], [20, 25]]
    assert hit["text"] == "The dog runs on the beach\nand chases waves"


def test_the_text_may_stand_alone(home: TextHome) -> None:
    fill(home)
    assert run(home, "puppy").stdout == run(home, "--text", "puppy").stdout
    twice = run(home, "puppy", "--text", "puppy")
    assert twice.exit_code == 2
    assert "give the text once" in twice.stderr


def test_the_page(home: TextHome, tmp_path: Path) -> None:
    fill(home)
    result = run(home, "puppy", "--kind", "video", "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 0
    assert "talk.wav" in result.stdout
    page = (tmp_path / "page.html").read_text()
    assert "<bdi>puppy · video</bdi>" in page
    assert "<mark>puppy</mark>" in page


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


@pytest.mark.parametrize(
    "arguments", [(), ("-k", "3"), ("x", "-k", "0"), ("--text", "x", "--format", "xml"), ("x", "--kind", "film")]
)
def test_wrong_usage(home: TextHome, arguments: tuple[str, ...]) -> None:
    assert run(home, *arguments).exit_code == 2
