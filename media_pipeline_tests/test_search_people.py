"""Search by face and by voice, alone, inside a filter, and together with words."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from PIL import Image as Pillow

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.cli.search import search as command
from media_pipeline.config import Settings
from media_pipeline.errors import UsageError
from media_pipeline.results._identity_samples import SampleTrack
from media_pipeline.results._search_hits import Found, Key, fused, ranked
from media_pipeline.results.search import (
    Hit,
    Questions,
    Sampled,
    Within,
    everybody_in,
    refresh_people_indexes,
    search,
)
from media_pipeline_tests._identity_home import PERSONS, VOICES, Face, IdentityHome, identity_home, look, media_id

pytestmark = pytest.mark.slow  # indexes of a real home

MODEL = "mobilefacenet@1"  # measured: from a cosine of 0.48 on two faces are one person's
HEARD = "resemblyzer GE2E@1"


@pytest.fixture
def home(tmp_path: Path) -> IdentityHome:
    home = identity_home(tmp_path)
    home.model = MODEL
    return home


def parts(home: IdentityHome) -> tuple[Any, ...]:
    settings = Settings(home=home.layout.home)
    models = ModelStore(home.layout.home / "models", offline=True, hub_url="", tier="embedded")
    return home.tables, home.layout, settings, models


def sample(who: str, model: str = MODEL) -> SampleTrack:
    return SampleTrack("sample.jpg", model, look(who, "sample", model, 0.4))


def faces_like(home: IdentityHome, who: str, k: int = 10, within: Collection[str] | None = None) -> list[Hit]:
    passing = None if within is None else Within(frozenset(within), tuple(within))
    return search(*parts(home), Questions(face=sample(who)), k, within=passing)


def test_a_face_is_found_where_it_is_seen_best(home: IdentityHome) -> None:
    home.show_all(
        {
            "party": [Face("Anna", 0, (2, 4), x=10, noise=0.3), Face("Ben", 1, x=300)],
            "beach": [Face("Anna", noise=0.5)],
            "office": [Face("Ben")],
        }
    )
    home.update("party", "beach", "office")
    hits = faces_like(home, "Anna")
    assert {hit.name for hit in hits} == {"party.jpg", "beach.jpg"}
    party = next(hit for hit in hits if hit.name == "party.jpg")
    assert (party.why, party.source, party.box) == ("face", "face", (10.0, 10.0, 110.0, 120.0))
    assert party.pts_s in (1.0, 2.0)
    assert party.person_id == home.of("party")
    assert party.person is None
    assert party.score == party.similarity
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert min(hit.score for hit in hits) >= 0.48
    with closing(home.identities()) as identities:
        identities.name(home.of("party"), "Anna Berg")
    assert {hit.person for hit in faces_like(home, "Anna")} == {"Anna Berg"}


def test_strangers_are_no_hits(home: IdentityHome) -> None:
    assert faces_like(home, "Anna") == []
    home.show("office", Face("Ben"))
    home.update("office")
    assert faces_like(home, "Anna") == []


def test_erased_faces_are_not_found_and_not_kept(home: IdentityHome) -> None:
    home.show_all({"beach": [Face("Anna")], "office": [Face("Ben")]})
    home.update("beach", "office")
    assert len(faces_like(home, "Anna")) == 1
    vector = np.array(home.tables.read("face_persons", [media_id("beach")])["embedding"][0].as_py(), np.float32)
    for table in ("media", "faces", "face_persons"):
        home.tables.delete(table, [media_id("beach")])
    refresh_people_indexes(home.tables, home.layout, Settings(home=home.layout.home))
    assert faces_like(home, "Anna") == []
    kept = b"".join(path.read_bytes() for path in home.layout.indexes.iterdir() if path.is_file())
    assert vector.tobytes() not in kept
    home.tables.delete("face_persons", [media_id("office")])
    refresh_people_indexes(home.tables, home.layout, Settings(home=home.layout.home))
    assert [path.name for path in home.layout.indexes.iterdir() if path.name.startswith("face.")] == []


def test_a_filter_loses_no_face(home: IdentityHome) -> None:
    # Two hundred faces are nearer than the one that the filter lets through.
    home.show_all({f"near{n}": [Face("Anna", noise=0.1)] for n in range(200)} | {"far": [Face("Anna", noise=0.6)]})
    home.update("far", *(f"near{n}" for n in range(200)))
    assert "far.jpg" not in {hit.name for hit in faces_like(home, "Anna")}
    assert [hit.name for hit in faces_like(home, "Anna", within=[media_id("far")])] == ["far.jpg"]
    assert faces_like(home, "Anna", within=[]) == []
    assert faces_like(home, "Anna", within=[media_id("nowhere")]) == []


def test_photos_are_found_behind_a_long_recording(home: IdentityHome) -> None:
    talk = [Face("Anna", track, (track,), noise=0.3) for track in range(60)]
    home.show_all({"talk": talk, **{f"photo{n}": [Face("Anna")] for n in range(8)}})
    home.update("talk", *(f"photo{n}" for n in range(8)))
    hits = faces_like(home, "Anna", 20)
    assert Counter(hit.name for hit in hits) == {"talk.jpg": 3, **{f"photo{n}.jpg": 1 for n in range(8)}}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert faces_like(home, "Anna", 10) == hits[:10]


def test_faces_of_another_model_are_said_to_be_left_out(home: IdentityHome, caplog: pytest.LogCaptureFixture) -> None:
    home.show("beach", Face("Anna"))
    home.update("beach")
    with caplog.at_level(logging.WARNING):
        assert search(*parts(home), Questions(face=sample("Anna", "sface@2"))) == []
    assert "1 of 1 faces are left out: their vectors are not of sface@2" in caplog.text


def test_a_voice_is_found(home: IdentityHome) -> None:
    home.model = HEARD
    home.speak("talk", ("S1", "Anna", 0, 4), ("S2", "Ben", 5, 9))
    home.speak("call", ("S1", "Anna", 10, 14))
    home.update("talk", "call", kind=VOICES)
    voice = SampleTrack("s.wav", HEARD, look("Anna", "sample", HEARD, 0.4))
    hits = search(*parts(home), Questions(voice=voice))
    assert {(hit.name, hit.pts_s) for hit in hits} == {("talk.jpg", 2.0), ("call.jpg", 12.0)}
    assert {(hit.why, hit.source, hit.box) for hit in hits} == {("voice", "voice", None)}
    assert {hit.person_id for hit in hits} == {home.of("call", "S1", VOICES)}


# ---------------------------------------------------------------------- several questions


def moment(similarity: float) -> Found:
    return Found("picture", 0.0, ranks={"picture": 1}, similarity=similarity)


def test_media_that_answer_all_questions_come_first() -> None:
    a: dict[Key, Found] = {("x", "picture", 1): moment(0.9), ("both", "picture", 1): moment(0.8)}
    b: dict[Key, Found] = {("y", "face", 1): moment(0.99), ("both", "face", 7): moment(0.5)}
    both = fused([a, b])
    assert [key for key, _ in ranked(both)][:2] == [("both", "face", 7), ("both", "picture", 1)]
    assert both["both", "picture", 1].score == pytest.approx(61 / 62)
    assert both["x", "picture", 1].score == pytest.approx(0.5)
    assert {key for key, _ in ranked(both)} == {*a, *b}
    assert fused([a]) == a


def test_a_moment_that_answers_two_questions_counts_for_both() -> None:
    a: dict[Key, Found] = {("x", "picture", 1): moment(0.9), ("x", "picture", 2): moment(0.8)}
    b: dict[Key, Found] = {("x", "picture", 2): moment(0.7)}
    found = fused([a, b])
    assert found["x", "picture", 2].score == pytest.approx((61 / 62 + 1) / 2)
    assert found["x", "picture", 1].score == pytest.approx((1 + 1) / 2)  # its medium answers the other one


def test_face_and_voice_together(home: IdentityHome) -> None:
    home.show_all({"film": [Face("Anna")], "photo": [Face("Anna", noise=0.3)]})
    home.update("film", "photo")
    home.model = HEARD
    home.speak("film", ("S1", "Anna", 0, 4))
    home.update("film", kind=VOICES)
    asked = Questions(face=sample("Anna"), voice=SampleTrack("s.wav", HEARD, look("Anna", "sample", HEARD, 0.4)))
    hits = search(*parts(home), asked)
    assert [hit.name for hit in hits] == ["film.jpg", "film.jpg", "photo.jpg"]
    assert {hit.why for hit in hits} == {"face", "voice"}


# ---------------------------------------------------------------------- the command


def run(home: IdentityHome, *arguments: str) -> Result:
    tables, layout, settings, models = parts(home)
    app = SimpleNamespace(tables=tables, layout=layout, settings=settings, models=models, catalog=home.catalog)
    return CliRunner().invoke(command, list(arguments), obj=app, catch_exceptions=False)


def there(path: Path, *sampled: Sampled) -> Any:
    return lambda *_: list(sampled)


def test_a_filter_alone_lists_the_moments_of_a_person(home: IdentityHome) -> None:
    home.show_all({"party": [Face("Anna"), Face("Ben", 1, x=300)], "office": [Face("Ben")]})
    home.update("party", "office")
    with closing(home.identities()) as identities:
        identities.name(home.of("party", 0), "Anna")
    result = run(home, "--person", "anna")
    assert result.exit_code == 0
    assert "party.jpg" in result.stdout
    assert "Anna" in result.stdout
    assert "office.jpg" not in result.stdout
    assert run(home, "--person", "anna", "--where", "name = 'office.jpg'").stderr.startswith("no medium passes")


def test_the_newest_come_first(home: IdentityHome) -> None:
    home.add_media(["a", "b", "c"])
    rows = home.tables.read("media").sort_by([("added_at", "descending")])["name"].to_pylist()
    result = run(home, "--where", "true")
    assert [line.split()[0] for line in result.stdout.splitlines() if ".jpg" in line] == rows


def test_which_of_several_faces_is_meant(home: IdentityHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.show_all({"beach": [Face("Anna")], "office": [Face("Ben")]})
    home.update("beach", "office")
    anna, ben = (Sampled(sample(who), (0.0, 0.0, 50.0, 60.0), None) for who in ("Anna", "Ben"))
    monkeypatch.setattr("media_pipeline.results.search.everybody_in", there(Path("x"), anna, ben))
    first = run(home, "--face", "group.jpg")
    assert "group.jpg has 2 faces: 1 at 0,0,50,60; 2 at 0,0,50,60. This is number 1" in first.stderr
    assert "beach.jpg" in first.stdout
    assert "office.jpg" in run(home, "--face", "group.jpg", "--nth", "2").stdout
    third = run(home, "--face", "group.jpg", "--nth", "3")
    assert third.exit_code == 2
    assert "--nth 3 is none of them" in third.stderr


@pytest.mark.parametrize("kind", [PERSONS, VOICES])
def test_a_sample_that_is_not_there(home: IdentityHome, kind: Any, tmp_path: Path) -> None:
    _, _, settings, models = parts(home)
    with pytest.raises(UsageError, match="is not a file"):
        everybody_in(kind, tmp_path / "nothing", settings, models)


def test_a_picture_without_a_face(home: IdentityHome, tmp_path: Path) -> None:
    _, _, settings, models = parts(home)
    Pillow.new("RGB", (200, 200), "green").save(tmp_path / "green.png")
    with pytest.raises(UsageError, match="no face that could be known again"):
        everybody_in(PERSONS, tmp_path / "green.png", settings, models)


def test_tracks_without_vectors_are_no_hindrance(home: IdentityHome) -> None:
    home.show("beach", Face("Anna"))
    home.update("beach")
    rows = home.tables.read("face_persons").to_pylist()
    empty = pa.Table.from_pylist([rows[0] | {"embedding": None, "model": None}], schema=PERSONS.schema)
    home.tables.replace("face_persons", empty, [media_id("beach")])
    refresh_people_indexes(home.tables, home.layout, Settings(home=home.layout.home))
    assert faces_like(home, "Anna") == []
