"""What the user says about identities stands above every computation, and survives it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from media_pipeline.errors import StorageConflict, UsageError
from media_pipeline.results import _identity_decisions
from media_pipeline.results._identity_known import blocks
from media_pipeline.results._identity_samples import SampleTrack
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.schemas import FACE_PERSONS
from media_pipeline.storage.tables import Tables
from media_pipeline_tests._identity_home import PERSONS, VOICES, Face, IdentityHome, identity_home, look, media_id

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute


@pytest.fixture
def home(tmp_path: Path) -> IdentityHome:
    """Three pictures of a, three of b, one of c; the names begin with who it is."""
    home = identity_home(tmp_path / "home")
    home.show_all({name: [Face(name[0])] for name in NAMES})
    home.update(*NAMES)
    return home


NAMES = ("a0", "a1", "a2", "b0", "b1", "b2", "c0")


def analysed_anew(home: IdentityHome, model: str) -> None:
    """Every picture, with another model that finds the boxes a little elsewhere."""
    home.model = model
    home.show_all({name: [Face(name[0], x=7)] for name in NAMES})
    for start in range(0, len(NAMES), 2):
        home.update(*NAMES[start : start + 2])


def everything_again(home: IdentityHome) -> None:
    home.identities().recluster()
    analysed_anew(home, "m1@1")
    analysed_anew(home, "m2@2")
    home.identities().recluster()


def test_a_name_stays_through_clustering_and_models(home: IdentityHome) -> None:
    identities, before = home.identities(), home.who()
    assert identities.name(home.of("a0"), "  Alice   Müller ") == home.of("a0")
    assert identities.name_of(home.of("a1")) == "Alice Müller"
    everything_again(home)
    assert home.who() == before
    assert identities.find("alice müller") == home.of("a0")
    assert identities.find("ALICE MÜLLER") == home.of("a0")


def test_an_accent_is_the_same_however_the_keyboard_composes_it(home: IdentityHome) -> None:
    identities = home.identities()
    identities.name(home.of("a0"), "Jose\u0301")
    assert identities.name_of(home.of("a0")) == "Jos\u00e9"
    assert identities.find("Jose\u0301") == identities.find("JOS\u00c9") == home.of("a0")
    with pytest.raises(UsageError, match="is the name of person"):
        identities.name(home.of("b0"), "Jos\u00e9")


def test_new_tracks_join_a_named_identity(home: IdentityHome) -> None:
    home.identities().name(home.of("a0"), "Alice")
    home.show("a9", Face("a"))
    home.update("a9")
    assert home.of("a9") == home.identities().find("Alice")


def test_named_identities_are_not_joined_by_themselves(home: IdentityHome) -> None:
    home.threshold = 0.9  # everyone is alone
    home.identities().recluster()
    left, right = home.of("a0"), home.of("a1")
    assert left != right
    home.identities().name(left, "Alice")
    home.identities().name(right, "Alina")
    home.threshold = 0.5
    home.show("a9", Face("a"))
    home.update("a9")
    home.identities().recluster()
    assert home.of("a0") == left and home.of("a1") == right
    assert home.of("a2") in (left, right) and home.of("a9") in (left, right)


def test_merged_ones_stay_merged(home: IdentityHome) -> None:
    identities = home.identities()
    a, b = home.of("a0"), home.of("b0")
    assert identities.merge(a, [b]) == a
    assert {home.of(name) for name in NAMES[:6]} == {a}
    assert identities.find(b) == a  # the old id leads there
    everything_again(home)
    assert {home.of(name) for name in NAMES[:6]} == {a}
    assert home.of("c0") != a
    home.show_all({"a9": [Face("a")], "b9": [Face("b")]})  # it looks two ways, and both are known
    home.update("a9", "b9")
    assert home.of("a9") == home.of("b9") == a


def test_which_name_survives_a_merge(home: IdentityHome) -> None:
    identities = home.identities()
    a, b, c = (home.of(name) for name in ("a0", "b0", "c0"))
    identities.name(b, "Bob")
    identities.name(c, "Carl")
    assert identities.merge(a, ["bob"]) == a
    assert identities.name_of(a) == "Bob"  # the first had none
    identities.merge("Bob", ["Carl"])
    assert identities.name_of(a) == "Bob"  # of two named ones that of the first
    with pytest.raises(UsageError, match="there is no person 'Carl'; `media-pipeline persons` lists them"):
        identities.find("Carl")
    with pytest.raises(UsageError, match="already: nothing to merge"):
        identities.merge(a, [b])


def test_split_tracks_stay_away(home: IdentityHome) -> None:
    identities = home.identities()
    a = home.of("a0")
    fresh = identities.split(a, [media_id("a1"), f"{media_id('a2')[:8]}:0"])
    assert home.of("a0") == a
    assert home.of("a1") == home.of("a2") == fresh != a
    everything_again(home)
    assert home.of("a0") == a
    assert home.of("a1") == home.of("a2") == fresh
    identities.merge(a, [fresh])  # it was a mistake
    everything_again(home)
    assert {home.of(f"a{n}") for n in range(3)} == {a}


def test_a_medium_is_split_off_by_its_partition_too(home: IdentityHome) -> None:
    fresh = home.identities().split(home.of("a0"), [f"a1~{media_id('a1')[:12]}"])
    assert home.of("a1") == fresh


def test_split_asks_for_what_can_be(home: IdentityHome) -> None:
    identities, a = home.identities(), home.of("a0")
    with pytest.raises(UsageError, match=r"has no track 'nothing'; `media-pipeline persons show .* lists its media"):
        identities.split(a, ["nothing"])
    with pytest.raises(UsageError, match="has no track"):
        identities.split(a, [media_id("b0")])
    with pytest.raises(UsageError, match="has no track"):
        identities.split(a, [f"{media_id('a0')}:7"])
    with pytest.raises(UsageError, match="nothing would be left of it"):
        identities.split(a, [media_id(f"a{n}") for n in range(3)])


def test_a_moved_track_is_found_again_by_where_it_is(home: IdentityHome) -> None:
    home.show("two", Face("a", 0, x=0), Face("c", 1, x=300))
    home.update("two")
    fresh = home.identities().split(home.of("a0"), [f"{media_id('two')}:0"])
    home.show("two", Face("c", 0, x=310), Face("a", 1, x=5))  # numbered the other way round
    home.update("two")
    assert home.of("two", 1) == fresh
    home.identities().recluster()
    assert home.of("two", 1) == fresh


def test_names_are_unique_and_no_ids(home: IdentityHome) -> None:
    identities = home.identities()
    identities.name(home.of("a0"), "Alice")
    with pytest.raises(UsageError, match=r"'alice' is the name of person P-\w+ already; merge them with"):
        identities.name(home.of("b0"), "alice")
    identities.name("Alice", "Alicia")
    identities.name(home.of("b0"), "Alice")
    for wrong in ("", "  ", "x" * 101, "P-00c0ffee", "bell\a"):
        with pytest.raises(UsageError):
            identities.name(home.of("c0"), wrong)
    with pytest.raises(UsageError, match="there is no person 'P-00000000'"):
        identities.name("P-00000000", "Nobody")
    identities.unname("Alicia")
    identities.name(home.of("c0"), "Alicia")


@pytest.mark.parametrize("decision", ["merge", "split"])
def test_a_decision_cut_off_is_carried_out_by_whoever_comes_next(
    home: IdentityHome, monkeypatch: pytest.MonkeyPatch, decision: str
) -> None:
    a, b = home.of("a0"), home.of("b0")
    settle = _identity_decisions.settle
    calls: list[int] = []

    def dying(*given: object) -> None:
        calls.append(1)
        if len(calls) == 2:  # after the decision, before the tables
            raise StorageConflict("killed")
        settle(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(_identity_decisions, "settle", dying)
        with pytest.raises(StorageConflict):
            home.identities().merge(a, [b]) if decision == "merge" else home.identities().split(a, [media_id("a1")])
    assert home.of("a1") == a and home.of("b0") == b
    home.update("c0")
    if decision == "merge":
        assert home.of("b0") == a
    else:
        assert home.of("a1") != a


def test_enrolment_names_who_is_there(home: IdentityHome) -> None:
    identities, a = home.identities(), home.of("a0")
    enrolment = identities.enrol("Alice", SampleTrack("alice.jpg", "m1@1", look("a", "sample")))
    assert (enrolment.identity, enrolment.joined, enrolment.resembling) == (a, (a,), ())
    assert identities.find("alice") == a
    everything_again(home)
    assert {home.of(f"a{n}") for n in range(3)} == {a}


def test_enrolment_of_somebody_not_met_yet(home: IdentityHome) -> None:
    identities = home.identities()
    enrolment = identities.enrol("Dora", SampleTrack("dora.jpg", "m1@1", look("d", "sample")))
    assert enrolment.joined == ()
    assert identities.sightings(enrolment.identity) == []
    home.show("d0", Face("d"))
    home.update("d0")
    assert home.of("d0") == enrolment.identity == identities.find("dora")
    assert identities.recluster().moved == 0
    again = identities.enrol("dora", SampleTrack("more.jpg", "m1@1", look("d", "sample 2")))
    assert again.identity == enrolment.identity
    assert home.ask("SELECT person_id, name, members, samples FROM persons WHERE name IS NOT NULL") == [
        (enrolment.identity, "dora", 1, 2)
    ]


def test_enrolment_does_not_take_what_has_a_name(home: IdentityHome) -> None:
    identities, a = home.identities(), home.of("a0")
    identities.name(a, "Alice")
    enrolment = identities.enrol("Bea", SampleTrack("bea.jpg", "m1@1", look("a", "sample")))
    assert enrolment.identity != a
    assert enrolment.resembling == ("Alice",)
    assert home.of("a0") == a


def test_a_name_taken_away_takes_its_samples_along(home: IdentityHome) -> None:
    identities = home.identities()
    identities.enrol("Dora", SampleTrack("dora.jpg", "m1@1", look("d", "sample")))
    dora = identities.unname("dora")
    home.show("d0", Face("d"))
    home.update("d0")
    assert home.of("d0") != dora


def test_one_voice_of_a_recording_is_enrolled_not_both(tmp_path: Path) -> None:
    home = identity_home(tmp_path / "home")
    home.speak("call", ("S1", "a", 0, 9), ("S2", "a", 9, 20))
    home.update("call", kind=VOICES)
    home.identities(VOICES).enrol("Anna", SampleTrack("anna.wav", "m1@1", look("a", "sample")))
    named = home.identities(VOICES).find("Anna")
    assert [home.of("call", speaker, VOICES) == named for speaker in ("S1", "S2")].count(True) == 1


def test_sightings_are_media_and_times(home: IdentityHome) -> None:
    home.show("clip", Face("a", 4, frames=(2, 5, 9)), Face("b", 1, frames=(2,), x=300))
    home.update("clip")
    found = {s.name: s for s in home.identities().sightings(home.of("a0"))}
    clip = found["clip.jpg"]
    assert (clip.media_id, clip.track, clip.start_s, clip.end_s, clip.sightings) == (media_id("clip"), 4, 1.0, 4.5, 3)
    assert set(found) == {"a0.jpg", "a1.jpg", "a2.jpg", "clip.jpg"}


def test_who_decided_what_is_kept(home: IdentityHome) -> None:
    identities, a, b = home.identities(), home.of("a0"), home.of("b0")
    identities.name(a, "Alice")
    identities.merge(a, [b])
    decisions = Decisions.of(home.layout)
    events = decisions.events(PERSONS.name, a)
    assert [(event.action, event.details) for event in events] == [
        ("name", {"name": "Alice"}),
        ("merge", {"others": [b], "names": []}),
    ]
    assert events[0].at <= events[1].at
    assert {row["decided_by"] for row in home.rows()} == {"auto", "user"}


def test_an_erased_medium_leaves_no_pins(home: IdentityHome) -> None:
    home.identities().name(home.of("a0"), "Alice")
    decisions = Decisions.of(home.layout)
    assert decisions.pins(PERSONS.name, [media_id("a0")])
    decisions.forget(media_id("a0"))
    assert not decisions.pins(PERSONS.name, [media_id("a0")])


def test_rows_from_before_a_column_was_added_are_read(tmp_path: Path) -> None:
    tables = Tables(tmp_path / "tables", tmp_path / "locks")
    old = pa.schema([("media_id", pa.string()), ("person_id", pa.string())])
    tables.ensure("face_persons", old)
    tables.replace("face_persons", pa.table([["a"], ["p-1"]], old), ["a"])
    tables.ensure("face_persons", FACE_PERSONS)
    [rows] = blocks(tables, "face_persons", ["person_id", "at_s"])
    assert rows.to_pylist() == [{"person_id": "p-1", "at_s": None}]
    assert rows.schema.field("at_s").type == pa.float64()
