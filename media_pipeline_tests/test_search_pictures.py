"""Search by picture, by description and by example, with a tiny CLIP model and frames as the analyzer embeds them."""

from __future__ import annotations

import json
import logging
import wave
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from PIL import Image as Pillow

from media_pipeline.analyzers._spec import Medium
from media_pipeline.analyzers.image_embeddings import ANALYZER, ImageEmbeddingsOptions
from media_pipeline.cli.search import search as command
from media_pipeline.errors import CorruptMedia, UnsupportedMedia, UsageError
from media_pipeline.results import _search_pictures
from media_pipeline.results._search_indexes import Look
from media_pipeline.results._search_pictures import Pictures
from media_pipeline.results.search import (
    Hit,
    Questions,
    Within,
    refresh_image_index,
    search,
)
from media_pipeline.storage.schemas import FRAMES
from media_pipeline_tests._clip import Picture, frames, picture, shared_clip, tiny_clip
from media_pipeline_tests._text_home import TextHome, media_id, ocr_rows, text_home

pytestmark = pytest.mark.slow  # torch and open_clip alone take seconds to import


@pytest.fixture
def home(tmp_path: Path) -> TextHome:
    return with_model(text_home(tmp_path))


def with_model(home: TextHome, folder: Path | None = None) -> TextHome:
    path = folder or shared_clip()[0].path
    options = {"image_embeddings": {"clip_model": str(path)}}
    return TextHome(home.settings.model_copy(update={"options": options}), home.layout, home.tables, home.models)


def show(home: TextHome, media: Mapping[str, Sequence[Picture]], kind: str = "video") -> None:
    """Frames as `image_embeddings` writes them; what is known of the media besides comes from `TextHome.add`."""
    home.add(ocr={name: [] for name in media}, embed=False, kind=kind)
    options = ImageEmbeddingsOptions(clip_model=home.settings.options["image_embeddings"]["clip_model"])
    model = ANALYZER.load(ANALYZER.choose(options, home.models), "cpu", options)
    rows = [
        ANALYZER.run(model, (Medium(media_id(name), kind, frames=frames(seen)),), options)
        for name, seen in media.items()
    ]
    home.tables.ensure(ANALYZER.name, ANALYZER.schema)
    home.tables.replace(ANALYZER.name, pa.concat_tables(rows), [media_id(name) for name in media])


def saved(folder: Path, pixels: Picture, name: str = "query.png") -> Path:
    path = folder / name
    Pillow.fromarray(pixels).save(path)
    return path


def by_image(home: TextHome, path: Path, k: int = 10) -> list[Hit]:
    return search(home.tables, home.layout, home.settings, home.models, Questions(image=path), k)


def by_text(home: TextHome, query: str, *, pictures: bool = True, **more: Any) -> list[Hit]:
    asked = Questions(query, pictures=pictures)
    return search(home.tables, home.layout, home.settings, home.models, asked, **more)


def like(home: TextHome, medium: str, k: int = 10) -> list[Hit]:
    return search(home.tables, home.layout, home.settings, home.models, Questions(like=medium), k)


FILMS = {
    "one.mp4": [picture(n) for n in range(6)],
    "two.mp4": [picture(n) for n in range(100, 104)],
    "three.mp4": [picture(200)],
}


# ---------------------------------------------------------------------- by picture


def test_the_frame_itself_comes_first(home: TextHome, tmp_path: Path) -> None:
    show(home, FILMS)
    hits = by_image(home, saved(tmp_path, picture(102)))
    first = hits[0]
    assert (first.name, first.frame_index, first.pts_s, first.source, first.why) == (
        "two.mp4",
        2,
        2.0,
        "picture",
        "picture",
    )
    assert first.score == pytest.approx(1.0, abs=1e-3)
    assert (first.text, first.snippet, first.matches) == (None, None, ())
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert max(sum(hit.name == name for hit in hits) for name in FILMS) == 3  # moments of one medium
    assert len(by_image(home, saved(tmp_path, picture(102)), k=2)) == 2


def test_erased_and_replaced_media_are_not_found(home: TextHome, tmp_path: Path) -> None:
    show(home, FILMS)
    assert by_image(home, saved(tmp_path, picture(200)))[0].name == "three.mp4"
    home.tables.delete(ANALYZER.name, [media_id("three.mp4")])
    home.erase("three.mp4")
    assert "three.mp4" not in {hit.name for hit in by_image(home, saved(tmp_path, picture(200)))}


def test_what_is_no_picture_is_refused(home: TextHome, tmp_path: Path) -> None:
    show(home, FILMS)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "broken.png").write_bytes(saved(tmp_path, picture(1)).read_bytes()[:60])
    with pytest.raises(UnsupportedMedia):
        by_image(home, tmp_path / "notes.txt")
    with pytest.raises(CorruptMedia):
        by_image(home, tmp_path / "broken.png")
    with pytest.raises(UsageError, match="there is no file"):
        by_image(home, tmp_path / "nothing.png")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as tone:
        tone.setparams((1, 2, 16_000, 0, "NONE", ""))
        tone.writeframes(np.random.default_rng(0).integers(-999, 999, 16_000, dtype=np.int16).tobytes())
    with pytest.raises(UsageError, match="is no picture but audio"):
        by_image(home, tmp_path / "tone.wav")


def test_nothing_of_the_query_is_kept(home: TextHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show(home, FILMS)
    path = saved(tmp_path, picture(1))
    monkeypatch.setattr(_search_pictures.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert by_image(home, path)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_weights_the_same_picture_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = text_home(tmp_path)
    home.add(ocr={"one.mp4": [], "two.mp4": []}, embed=False)
    path = saved(tmp_path, picture(1, 300, 400))
    phash = _search_pictures.read_picture(path, home.settings)[1]
    assert phash is not None
    near, far = (f"{int(phash, 16) ^ bits:016x}" for bits in (0b11, 2**40 - 1))
    rows = [
        {"media_id": media_id("one.mp4"), "frame_index": 4, "pts_s": 8.0, "phash": near},
        {
            "media_id": media_id("two.mp4"),
            "frame_index": 0,
            "pts_s": 0.0,
            "phash": far,
        },
        {"media_id": media_id("two.mp4"), "frame_index": 1, "pts_s": 2.0, "phash": None},
    ]
    home.tables.ensure("frames", FRAMES)
    home.tables.replace("frames", pa.Table.from_pylist(rows, schema=FRAMES), {r["media_id"] for r in rows})
    with caplog.at_level(logging.WARNING):
        (hit,) = by_image(home, path)
    assert (hit.name, hit.frame_index, hit.why, hit.score) == ("one.mp4", 4, "same picture", 1 - 2 / 64)
    assert "media-pipeline models pull ViT-B-32-laion2b` and analyse the media again" in caplog.text


def test_vectors_of_a_model_that_is_gone(home: TextHome, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    show(home, FILMS)
    gone = TextHome(home.settings.model_copy(update={"options": {}}), home.layout, home.tables, home.models)
    with caplog.at_level(logging.WARNING):
        assert by_image(gone, saved(tmp_path, picture(1))) == []
    assert "the frames' vectors are of tiny@" in caplog.text
    with caplog.at_level(logging.WARNING):
        assert by_text(gone, "anything") == []
    assert "frames are not searched by what they show" in caplog.text
    assert [hit.name for hit in like(gone, media_id("one.mp4"))] != []  # needs no model


def test_vectors_of_two_models(home: TextHome, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    show(home, {"old.mp4": [picture(1), picture(2), picture(3)]})
    newer = with_model(home, tiny_clip(tmp_path / "newer", seed=7))
    show(newer, {"new.mp4": [picture(1)]})
    with caplog.at_level(logging.WARNING):
        assert [hit.name for hit in by_image(newer, saved(tmp_path, picture(1)))] == ["new.mp4"]
    assert "3 frames are left out: their vectors are of another model than newer@" in caplog.text


# ---------------------------------------------------------------------- by description


def described(home: TextHome, monkeypatch: pytest.MonkeyPatch, scale: float = 1000.0) -> None:
    """Random weights understand nothing: the scale of the softmax decides what passes as described."""
    loaded = _search_pictures._loaded

    def sharper(choice: Any, threads: int) -> Any:
        model = loaded(choice, threads)
        return SimpleNamespace(encode_texts=model.encode_texts, logit_scale=scale, multilingual=model.multilingual)

    monkeypatch.setattr(_search_pictures, "_loaded", sharper)


def test_frames_are_found_by_what_they_show(home: TextHome) -> None:
    # A frame whose vector is that of a text is what the text describes.
    _, clip = shared_clip()
    words = clip.encode_texts(["a red bus in the rain", "a quiet library"])
    show(home, FILMS)
    rows = home.tables.read(ANALYZER.name, [media_id("three.mp4")])
    bus = pa.Table.from_pylist([rows.to_pylist()[0] | {"embedding": words[0].tolist()}], schema=rows.schema)
    home.tables.replace(ANALYZER.name, bus, [media_id("three.mp4")])
    hits = by_text(home, "a red bus in the rain")
    found = [hit for hit in hits if hit.why == "picture"]
    assert (found[0].name, found[0].frame_index, found[0].source, found[0].score) == ("three.mp4", 0, "picture", 0.5)
    assert by_text(home, "a red bus in the rain", pictures=False) == []
    assert by_text(home, '"a red bus"') == []  # who quotes wants words


def test_a_description_that_fits_no_frame_finds_none(home: TextHome, monkeypatch: pytest.MonkeyPatch) -> None:
    described(home, monkeypatch)
    _, clip = shared_clip()
    show(home, FILMS)
    background = _search_pictures.shared_background().texts(multilingual=False)
    everyday = clip.encode_texts(background[:1])[0]
    table = home.tables.read(ANALYZER.name)
    same = table.set_column(
        table.schema.get_field_index("embedding"),
        table.schema.field("embedding"),
        pa.array([everyday.tolist()] * table.num_rows, pa.list_(pa.float32())),
    )
    home.tables.replace(ANALYZER.name, same, set(table["media_id"].to_pylist()))
    assert by_text(home, "zebra crossing the xylophone") == []


def test_words_come_before_pictures_of_the_same_rank(home: TextHome) -> None:
    show(home, {"film.mp4": [picture(1)]})
    home.add(ocr={"slide.mp4": [(3.0, ["quarterly figures"])]})
    hits = by_text(home, "quarterly figures")
    assert (hits[0].name, hits[0].why) == ("slide.mp4", "both")
    assert {hit.why for hit in hits[1:]} <= {"picture"}


def test_a_picture_and_a_text_together(home: TextHome, tmp_path: Path) -> None:
    show(home, {"plain.mp4": [picture(1)], "slide.mp4": [picture(2)]})
    slide = {"slide.mp4": [(0.0, ["quarterly figures"])]}
    home._replace("ocr", ocr_rows("slide.mp4", slide["slide.mp4"]), [media_id("slide.mp4")])
    asked = Questions(text='"quarterly figures"', image=saved(tmp_path, picture(1)))
    hits = search(home.tables, home.layout, home.settings, home.models, asked)
    # The other one is nearer to the picture, but only this one has the words too.
    assert [hit.name for hit in hits] == ["slide.mp4", "slide.mp4", "plain.mp4"]
    assert {hit.why for hit in hits[:2]} == {"words", "picture"}


def test_a_filter_holds_for_pictures(home: TextHome, tmp_path: Path) -> None:
    show(home, FILMS)
    only = Within(frozenset([media_id("three.mp4")]), ())
    asked = Questions(image=saved(tmp_path, picture(102)))
    hits = search(home.tables, home.layout, home.settings, home.models, asked, within=only)
    assert [hit.name for hit in hits] == ["three.mp4"]


STILL = {"still.mp4": [picture(300)] * 60, "photo.jpg": [picture(300)], **FILMS}  # a minute of the same picture


def test_other_media_are_found_behind_many_like_frames(home: TextHome, tmp_path: Path) -> None:
    show(home, STILL)
    hits = by_image(home, saved(tmp_path, picture(300)))
    assert Counter(hit.name for hit in hits[:4]) == {"still.mp4": 3, "photo.jpg": 1}
    assert len(hits) == 10


def test_other_media_are_found_behind_many_described_frames(home: TextHome) -> None:
    _, clip = shared_clip()
    bus = clip.encode_texts(["a red bus in the rain"])[0].tolist()
    show(home, STILL)
    same = [media_id("still.mp4"), media_id("photo.jpg")]
    rows = home.tables.read(ANALYZER.name, same)
    shown = pa.Table.from_pylist([row | {"embedding": bus} for row in rows.to_pylist()], schema=rows.schema)
    home.tables.replace(ANALYZER.name, shown, same)
    assert "photo.jpg" in {hit.name for hit in by_text(home, "a red bus in the rain")}


# ---------------------------------------------------------------------- by example


def test_other_media_like_one_are_found_behind_many_like_frames(home: TextHome) -> None:
    show(home, STILL)
    hits = like(home, media_id("photo.jpg"))
    assert hits[0].name == "still.mp4"
    assert sorted(hit.name for hit in hits) == sorted(STILL.keys() - {"photo.jpg"})


def test_media_like_another(home: TextHome) -> None:
    copy = [picture(n, 90, 120) for n in range(6)]
    show(home, FILMS | {"copy.mp4": copy})
    hits = like(home, media_id("one.mp4"))
    assert hits[0].name == "copy.mp4"
    assert "one.mp4" not in {hit.name for hit in hits}
    assert len({hit.name for hit in hits}) == len(hits) == 3
    assert hits[0].why == "picture"
    assert like(home, media_id("one.mp4")[:10])[0] == hits[0]
    assert like(home, f"one.mp4~{media_id('one.mp4')[:12]}") == hits
    assert len(like(home, media_id("one.mp4"), k=1)) == 1


def test_media_that_say_the_same(tmp_path: Path) -> None:
    home = text_home(tmp_path)
    home.add(
        ocr={"slides.mp4": [(12.0, ["The dog runs on the beach"])], "bill.png": [(0.0, ["Invoice number 4711"])]},
        transcript={"talk.wav": [(61.5, 65.0, "A dog was running on a beach.")]},
    )
    (hit,) = like(home, media_id("talk.wav"))
    assert (hit.name, hit.source, hit.why, hit.pts_s) == ("slides.mp4", "ocr", "meaning", 12.0)


def test_a_medium_that_is_not_there(home: TextHome) -> None:
    with pytest.raises(UsageError, match="no medium is called"):
        like(home, "abcdef0123")
    show(home, FILMS)
    with pytest.raises(UsageError, match="no medium is called"):
        like(home, media_id("one.mp4")[:5])
    assert like(home, media_id("one.mp4"))


def test_ambiguous_beginnings(home: TextHome) -> None:
    home.add(ocr={"one.mp4": []}, embed=False)
    rows = home.tables.read("media").to_pylist()
    twins = [rows[0] | {"media_id": f"{'0' * 10}{n}" * 4} for n in (1, 2)]
    home.tables.replace(
        "media",
        pa.Table.from_pylist(twins, schema=home.tables.read("media").schema),
        [twin["media_id"] for twin in twins],
    )
    with pytest.raises(UsageError, match="2 media begin with"):
        like(home, "0" * 9)


# ---------------------------------------------------------------------- the index


def test_the_index_follows_the_table(home: TextHome) -> None:
    parts = (home.tables, home.layout, home.settings, home.models)
    refresh_image_index(*parts)
    assert [p.name for p in home.layout.indexes.iterdir() if p.name.startswith("image.")] == []
    show(home, FILMS)
    refresh_image_index(*parts)
    before = {p.name: p.stat().st_mtime_ns for p in home.layout.indexes.iterdir() if p.name.startswith("image.")}
    assert "image.json" in before
    assert Pictures(*parts).neighbours(np.eye(32, dtype=np.float32)[:1])(Look(3)).hits
    assert {p.name: p.stat().st_mtime_ns for p in home.layout.indexes.iterdir() if p.name in before} == before
    home.tables.delete(ANALYZER.name, [media_id(name) for name in FILMS])
    refresh_image_index(*parts)
    assert [p.name for p in home.layout.indexes.iterdir() if p.name.startswith("image.")] == []


# ---------------------------------------------------------------------- the command


def run(home: TextHome, *arguments: str | Path) -> Result:
    parts = SimpleNamespace(settings=home.settings, layout=home.layout, tables=home.tables, models=home.models)
    return CliRunner().invoke(command, [str(a) for a in arguments], obj=parts, catch_exceptions=False)


def test_table_and_json(home: TextHome, tmp_path: Path) -> None:
    show(home, FILMS)
    show(home, {"photo.jpg": [picture(300)]}, kind="image")
    path = saved(tmp_path, picture(300))
    table = run(home, "--image", path, "-k", "3")
    assert table.exit_code == 0
    lines = table.stdout.splitlines()
    assert "the picture" in lines[next(number for number, line in enumerate(lines) if "photo.jpg" in line) + 1]
    first, *_ = json.loads(run(home, "--image", path, "--format", "json").stdout)
    assert (first["name"], first["text"], first["frame_index"]) == ("photo.jpg", None, 0)
    assert "frame " in run(home, "--like", media_id("one.mp4")).stdout


def test_nothing_alike_is_said(home: TextHome) -> None:
    show(home, {"one.mp4": [picture(1)]})
    result = run(home, "--like", media_id("one.mp4"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing like it was found" in result.stderr
