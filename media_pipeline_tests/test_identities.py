"""Identities after each batch: from synthesised faces and speakers, as the analyzers would write them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from media_pipeline.errors import StorageConflict
from media_pipeline.results import _identity_update
from media_pipeline.results.identities import threshold_of, update_identities
from media_pipeline_tests._identity_home import (
    PERSONS,
    VOICES,
    Face,
    IdentityHome,
    identity_home,
    look,
    media_id,
    unit,
)


@pytest.fixture
def home(tmp_path: Path) -> IdentityHome:
    return identity_home(tmp_path / "home")


def crowd(home: IdentityHome, people: int, each: int, noise: float = 0.6) -> list[str]:
    names = [f"{who}-{shot}" for who in range(people) for shot in range(each)]
    home.show_all({name: [Face(name.split("-")[0], noise=noise)] for name in names})
    return names


def expected(names: list[str]) -> set[frozenset[tuple[str, int | str]]]:
    """One identity for each person named before the dash."""
    by_person = itertools.groupby(sorted(names), key=lambda name: name.split("-")[0])
    return {frozenset((media_id(name), 0) for name in same) for _, same in by_person}


def test_faces_of_one_person_are_one_identity(home: IdentityHome) -> None:
    names = crowd(home, people=6, each=5)
    changes = home.update(*names)
    assert (changes.tracks, changes.moved) == (30, 0)
    assert home.groups() == expected(names)
    scores = [row["score"] for row in home.rows()]
    assert min(scores) > 0.5 and max(scores) <= 1


def test_a_track_is_known_by_the_mean_of_its_faces_weighted_by_quality(home: IdentityHome) -> None:
    rows = [
        {
            "media_id": media_id("v"),
            "frame_index": frame,
            "pts_s": float(frame),
            "track_index": 3,
            "quality": quality,
            "embedding": vector,
            "model": "m1@1",
        }
        for frame, (quality, vector) in enumerate(
            [(0.25, look("a", "1")), (0.75, look("a", "2")), (0.9, None), (0.9, np.full(128, np.nan, np.float32))]
        )
    ]
    home.put("faces", ["v"], rows)
    home.update("v")
    (row,) = home.rows()
    assert (row["track_index"], row["at_s"], row["score"], row["decided_by"]) == (3, 1.0, None, "auto")
    mean = unit(0.25 * look("a", "1") + 0.75 * look("a", "2"))
    assert np.allclose(row["embedding"], mean, atol=1e-6)


def test_media_without_usable_faces_have_no_identities(home: IdentityHome) -> None:
    home.put("faces", ["v"], [{"media_id": media_id("v"), "frame_index": 0, "track_index": 0, "model": "m1@1"}])
    home.update("v", "unknown")
    assert home.rows() == []


def test_a_home_without_analyzers_has_nothing_to_do(home: IdentityHome) -> None:
    counts = update_identities(home.tables, home.layout, [media_id("v")])
    assert counts == {"persons": {"tracks": 0, "moved": 0}, "voices": {"tracks": 0, "moved": 0}}


@pytest.mark.slow
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 3, 17])
def test_neither_order_nor_batches_matter(home: IdentityHome, size: int) -> None:
    names = crowd(home, people=5, each=4 + size // 3, noise=0.85)  # cosines about 0.58, the threshold is 0.5
    random.Random(size).shuffle(names)
    for start in range(0, len(names), size):
        home.update(*names[start : start + size])
    arrived = home.groups()
    assert home.identities().recluster().moved == 0  # all at once finds the same
    assert home.groups() == arrived == expected(names)


def test_a_repeated_batch_changes_nothing(home: IdentityHome) -> None:
    names = crowd(home, people=3, each=4)
    home.update(*names[:5])
    home.update(*names[5:])
    version, rows = home.tables.version("face_persons"), home.rows()
    changes = home.update(*names)
    assert (changes.tracks, changes.moved) == (0, 0)
    assert (home.tables.version("face_persons"), home.rows()) == (version, rows)


def test_a_batch_cut_off_is_done_again_with_the_same_ids(home: IdentityHome, monkeypatch: pytest.MonkeyPatch) -> None:
    names = crowd(home, people=4, each=3)
    home.update(*names[:4])
    before = home.who()
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise StorageConflict("killed before the commit")

        patch.setattr(_identity_update, "commit", die)
        with pytest.raises(StorageConflict):
            home.update(*names[4:])
    assert home.who() == before
    home.update(*names[4:])
    once = home.who()
    other = identity_home(home.layout.home.parent / "other")
    crowd(other, people=4, each=3)
    other.update(*names[:4])
    other.update(*names[4:])
    assert other.who() == once
    assert before.items() <= once.items()


def test_ids_are_short_and_come_from_the_first_track(home: IdentityHome) -> None:
    names = crowd(home, people=20, each=1)
    home.update(*names)
    ids = set(home.who().values())
    assert len(ids) == 20
    assert all(identity.startswith("P-") and len(identity) == 10 for identity in ids)
    other = identity_home(home.layout.home.parent / "other")
    other.show("7-0", Face("7"))
    other.update("7-0")
    assert set(other.who().values()) < ids


def test_two_faces_in_one_frame_are_two_people_however_alike(home: IdentityHome) -> None:
    twin = look("a", "x")
    home.show("both", Face("a", 0, vector=twin), Face("a", 1, x=300, vector=twin))
    home.show("one", Face("a"))
    home.update("both", "one")
    assert home.of("both", 0) != home.of("both", 1)
    assert home.of("one") in (home.of("both", 0), home.of("both", 1))
    # Nor may a third one, that came between them, join what stands.
    home.show("two", Face("a"))
    home.update("two")
    assert home.of("both", 0) != home.of("both", 1)
    home.identities().recluster()
    assert home.of("both", 0) != home.of("both", 1)


def test_tracks_of_different_frames_may_be_one_person(home: IdentityHome) -> None:
    home.show("v", Face("a", 0, frames=(0, 1)), Face("a", 1, frames=(7, 8)), Face("b", 2, frames=(1, 7)))
    home.update("v")
    assert home.of("v", 0) == home.of("v", 1) != home.of("v", 2)


def test_clusters_that_prove_to_be_one_are_merged_and_the_older_id_stays(home: IdentityHome) -> None:
    a = look("a", "left")
    far = unit(a * 0.45 + np.sqrt(1 - 0.45**2) * unit(look("z", "1") - (look("z", "1") @ a) * a))
    middle = unit(a + far)
    home.show("first", Face("a", vector=a))
    home.update("first")
    home.show("second", Face("a", vector=far))
    home.update("second")
    old = home.of("first")
    assert home.of("second") != old
    for number in range(3):
        home.show(f"between{number}", Face("a", vector=middle))
        home.update(f"between{number}")
    assert set(home.who().values()) == {old}


def test_a_medium_analysed_anew_keeps_its_ids_though_tracks_are_numbered_otherwise(home: IdentityHome) -> None:
    home.show("v", Face("a", 0, x=0), Face("b", 1, x=300))
    home.show("w", Face("a"))
    home.update("v", "w")
    a, b = home.of("v", 0), home.of("v", 1)
    home.show("v", Face("b", 0, x=305, noise=0.5), Face("a", 1, x=5, noise=0.5))
    home.update("v")
    assert (home.of("v", 1), home.of("v", 0)) == (a, b)
    assert home.of("w") == a


def test_tracks_that_are_gone_leave_no_rows(home: IdentityHome) -> None:
    home.show("v", Face("a", 0), Face("b", 1))
    home.update("v")
    home.show("v", Face("a", 0))
    home.update("v")
    assert len(home.rows()) == 1
    home.show("v")
    home.update("v")
    assert home.rows() == []


def test_models_are_never_compared(home: IdentityHome) -> None:
    home.show("v", Face("a", vector=look("a", "1")))
    home.update("v")
    home.model = "m2@2"
    home.show("w", Face("b", vector=look("a", "1")))  # the same numbers mean someone else
    home.update("w")
    assert home.of("v") != home.of("w")


@pytest.mark.slow
def test_another_model_takes_over_medium_by_medium_and_ids_stay(home: IdentityHome) -> None:
    names = crowd(home, people=4, each=5)
    home.update(*names)
    before = home.who()
    home.model = "m2@2"
    home.show_all({name: [Face(name.split("-")[0])] for name in names})
    for start in range(0, len(names), 3):
        home.update(*names[start : start + 3])
        assert home.who() == before
    # After the last one everything was clustered anew, in the new model's space.
    assert home.groups() == expected(names)
    assert {row["model"] for row in home.rows()} == {"m2@2"}


@pytest.mark.slow
def test_when_the_new_model_sees_better_it_is_believed_after_the_last_medium(home: IdentityHome) -> None:
    for name, who in (("a-0", "a"), ("a-1", "a"), ("b-0", "a"), ("b-1", "a")):  # the old one takes b for a
        home.show(name, Face(who))
    home.update("a-0", "a-1", "b-0", "b-1")
    assert len(home.groups()) == 1
    old = home.of("a-0")
    home.model = "m2@2"
    for name in ("a-0", "a-1", "b-0", "b-1"):
        home.show(name, Face(name[0]))
        home.update(name)
    assert home.groups() == expected(["a-0", "a-1", "b-0", "b-1"])
    assert old in home.who().values()


def test_a_model_nobody_measured_joins_nothing(home: IdentityHome) -> None:
    assert threshold_of(PERSONS, "homemade@1") > 1
    assert 0 < threshold_of(VOICES, "resemblyzer GE2E@1") < 1
    assert 0 < threshold_of(PERSONS, "dlib-resnet@1") < 1


def test_voices_across_recordings(home: IdentityHome) -> None:
    home.speak("monday", ("S1", "a", 0, 9), ("S2", "b", 9, 20), ("S1", "a", 20, 31))
    home.speak("tuesday", ("S1", "b", 0, 5))
    home.update("monday", "tuesday", kind=VOICES)
    assert home.of("monday", "S2", VOICES) == home.of("tuesday", "S1", VOICES)
    assert home.of("monday", "S1", VOICES) != home.of("monday", "S2", VOICES)
    assert home.of("monday", "S1", VOICES).startswith("V-")


def test_speakers_of_one_recording_are_never_one_voice(home: IdentityHome) -> None:
    home.speak("call", ("S1", "a", 0, 9), ("S2", "a", 9, 20))
    home.speak("memo", ("S1", "a", 0, 5))
    home.update("call", "memo", kind=VOICES)
    assert home.of("call", "S1", VOICES) != home.of("call", "S2", VOICES)


def test_an_identity_too_large_to_be_taken_apart_is_joined_as_a_whole(
    home: IdentityHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("media_pipeline.results._identity_place.DIVISIBLE", 4)
    names = crowd(home, people=3, each=12)
    random.Random(1).shuffle(names)
    for start in range(0, len(names), 5):
        home.update(*names[start : start + 5])
    assert home.groups() == expected(names)


@pytest.mark.slow
def test_twenty_thousand_tracks(home: IdentityHome) -> None:
    import resource

    people, media, per_medium = 2000, 400, 50
    rng = np.random.default_rng(0)
    who = rng.permutation(np.repeat(np.arange(people), media * per_medium // people))
    names = [f"m{number}" for number in range(media)]
    faces = [Face(str(w), number % per_medium, frames=(number % per_medium,)) for number, w in enumerate(who)]
    home.show_all({name: faces[n * per_medium : (n + 1) * per_medium] for n, name in enumerate(names)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    home.update(*names)
    found = home.who()
    same: dict[int, set[str]] = {}
    for number, name in enumerate(names):
        for track in range(per_medium):
            same.setdefault(int(who[number * per_medium + track]), set()).add(found[media_id(name), track])
    assert sum(len(ids) == 1 for ids in same.values()) >= 0.99 * people
    assert len(set(found.values())) >= people  # nobody was taken for another
    home.identities().recluster()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB
