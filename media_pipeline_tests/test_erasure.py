"""Erasing a medium or a person leaves nothing of it, and everything of the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from media_pipeline.errors import StorageConflict, UsageError
from media_pipeline.execution.pipeline import table_schemas
from media_pipeline.media.intake import Intake
from media_pipeline.results import erasure
from media_pipeline.results._byte_scan import Needle, scan
from media_pipeline.results.erasure import Eraser
from media_pipeline.results.receipts import names, verify
from media_pipeline.storage.identities import Decisions
from media_pipeline_tests._erasure_home import ErasureHome, QuietEngine, erasure_home

pytestmark = pytest.mark.filterwarnings("ignore:nobody has measured")


@pytest.fixture
def world(tmp_path: Path) -> ErasureHome:
    made = erasure_home(tmp_path / "home")
    made.add("secret", who="anna")
    made.add("party", who="anna")
    made.see("party", {0: "anna", 1: "bert"})
    made.add("meadow", who="carl")
    made.identify()
    return made


def contents(world: ErasureHome, *leave_out: str) -> dict[str, list[str]]:
    """All rows but those of these media."""
    gone = {world.ids[name] for name in leave_out}
    tables = world.pipeline.tables
    return {
        name: [repr(row) for row in tables.read(name).to_pylist() if row["media_id"] not in gone]
        for name in table_schemas()
        if tables.exists(name)
    }


def grep(world: ErasureHome, *words: bytes | str | np.ndarray) -> list[str]:
    values = [w.encode() if isinstance(w, str) else w if isinstance(w, bytes) else w[:8].tobytes() for w in words]
    return [hit.where for hit in scan(world.home, [Needle("id", value) for value in values]).hits]


@pytest.mark.slow
def test_a_medium_goes_with_all_its_traces_and_nothing_else(world: ErasureHome) -> None:
    media_id = world.ids["secret"]
    before = contents(world, "secret")
    engine = QuietEngine()
    eraser = Eraser(world.pipeline, engine)
    plan = eraser.plan([media_id[:8]])
    assert plan.counts["rows in ocr"] == 1
    assert plan.counts["kept rows"] >= 2
    assert plan.going == (world.inbox / "secret.jpg",)
    traces = (media_id, "What is written in secret", "secret.jpg")
    assert len(grep(world, *traces)) > 10
    erased = eraser.erase(plan, "tester")
    assert erased.scan.hits == ()
    assert grep(world, *traces) == []
    assert contents(world) == before
    assert not (world.inbox / "secret.jpg").exists()
    assert not list(world.home.rglob(f"*{media_id[:12]}*"))
    assert world.pipeline.sources.by_id([media_id]) == {}
    assert engine.forgotten[0][0] == [m.partition_key for m in plan.media]
    assert media_id in engine.forgotten[0][1]
    kinds = erased.scan.looked_for
    assert min(kinds[kind] for kind in ("id", "partition", "name", "text", "embedding", "hash", "thumbnail", "copy"))


@pytest.mark.slow
def test_the_same_cover_of_another_recording_is_no_trace(world: ErasureHome) -> None:
    cover, other = (
        world.pipeline.layout.cache / world.ids[name][:2] / world.ids[name] / "thumbnail.jpg"
        for name in ("secret", "meadow")
    )
    other.write_bytes(cover.read_bytes())
    eraser = Eraser(world.pipeline, QuietEngine())
    erased = eraser.erase(eraser.plan([world.ids["secret"]]), "tester")
    assert erased.scan.hits == () and "thumbnail" not in erased.scan.looked_for
    assert other.exists() and not cover.exists()


@pytest.mark.slow
def test_the_receipt_stays_and_names_nobody(world: ErasureHome) -> None:
    eraser = Eraser(world.pipeline, QuietEngine())
    erased = eraser.erase(eraser.plan([world.ids["secret"]], persons=[world.person_in("meadow")]), "tester")
    receipt = json.loads(erased.file.read_bytes())
    assert verify(receipt)
    assert names(receipt, world.ids["secret"]) == "medium"
    assert receipt["scan"]["hits"] == 0
    assert receipt["by"] == "tester"
    assert erased.file.stat().st_mode & 0o777 == 0o600
    assert eraser.journals.open() == []


@pytest.mark.slow
def test_a_person_goes_and_the_media_stay(world: ErasureHome) -> None:
    anna = world.person_in("secret")
    assert anna == world.person_in("party") != world.person_in("party", 1)
    world.name_person(anna, "Anna Erasmus")
    sample = world.enrol(anna, "Anna Erasmus")
    bert = world.person_in("party", 1)
    faces = world.pipeline.tables.read("faces", [world.ids["secret"]])["embedding"][0].as_py()
    eraser = Eraser(world.pipeline, QuietEngine())
    plan = eraser.plan(persons=["anna erasmus"])
    assert plan.counts["rows in faces"] == plan.counts["rows in face_persons"] == 2
    assert (plan.media, plan.going) == ((), ())
    assert eraser.erase(plan, "tester").scan.hits == ()
    assert grep(world, anna, "Anna Erasmus", sample, np.array(faces, np.float32)) == []
    assert (world.inbox / "secret.jpg").exists()
    assert world.person_in("party", 1) == bert
    tables = world.pipeline.tables
    for name in ("faces", "face_persons", "emotion"):
        assert sorted(tables.read(name)["media_id"].to_pylist()) == sorted(world.ids[n] for n in ("party", "meadow"))
    entries = world.pipeline.ledger.entries([world.ids["secret"], world.ids["party"]], ["faces", "emotion"])
    assert {entry.status for entry in entries.values()} == {"done"}, "nothing asks for the media to be looked at again"
    assert [entry.rows for _, entry in sorted(entries.items())] == [
        int(media_id == world.ids["party"]) for media_id, _ in sorted(entries)
    ]
    assert world.pipeline.kept.ledger.entries([world.ids["party"]], ["faces"]) == {}
    world.identify()
    assert world.person_in("party", 1) == bert


@pytest.mark.slow
def test_a_person_with_all_media(world: ErasureHome) -> None:
    eraser = Eraser(world.pipeline, QuietEngine())
    plan = eraser.plan(persons=[world.person_in("secret")], with_media=True)
    assert {m.media_id for m in plan.media} == {world.ids["secret"], world.ids["party"]}
    assert eraser.erase(plan, "tester").scan.hits == ()
    assert [m.name for m in world.pipeline.sources.all_media()] == ["meadow.jpg"]


@pytest.mark.slow
def test_what_two_media_share_is_not_looked_for(world: ErasureHome) -> None:
    same = "The same slide is shown in both of them"
    world.add("first", text=same)
    world.add("second", text=same)
    eraser = Eraser(world.pipeline, QuietEngine())
    erased = eraser.erase(eraser.plan([world.ids["first"]]), "tester")
    assert erased.scan.hits == ()
    assert same.encode() not in {needle.value for needle in erased.journal.needles}
    assert grep(world, same)


@pytest.mark.slow
def test_the_decisions_about_a_medium_go_from_the_log_too(world: ErasureHome) -> None:
    anna, media_id = world.person_in("secret"), world.ids["secret"]
    world.name_person(anna, "Anna Erasmus")
    decisions = Decisions.of(world.pipeline.layout)
    decisions.split("person", anna, "P-00000000", decisions.pins("person", [media_id]))
    decisions.merge("person", anna, ["P-00000000"], [])
    eraser = Eraser(world.pipeline, QuietEngine())
    assert eraser.erase(eraser.plan([media_id]), "tester").scan.hits == ()
    assert decisions.names("person") == {anna: "Anna Erasmus"}, "the person is in another medium"
    assert len(decisions.events("person", anna)) == 3
    assert Eraser(world.pipeline, QuietEngine()).erase(eraser.plan(persons=[anna]), "tester").scan.hits == ()
    assert decisions.events("person") == []


# -- the user's own files ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_elsewhere_stay_unless_all_are_to_go(world: ErasureHome, tmp_path: Path) -> None:
    world.add("given", folder=tmp_path / "mine")
    own = tmp_path / "mine" / "given.jpg"
    eraser = Eraser(world.pipeline, QuietEngine())
    assert eraser.plan([world.ids["given"]]).staying == (own,)
    assert eraser.plan([world.ids["given"]], which_files="all").going == (own,)
    eraser.erase(eraser.plan([world.ids["given"]]), "tester")
    assert own.exists()


@pytest.mark.slow
def test_a_linked_original_goes_only_with_all(tmp_path: Path) -> None:
    world = erasure_home(tmp_path / "home", link_originals=True)
    for name in ("keep", "drop"):
        world.add(name, folder=tmp_path / "mine")
    eraser = Eraser(world.pipeline, QuietEngine())
    eraser.erase(eraser.plan([world.ids["keep"]]), "tester")
    eraser.erase(eraser.plan([world.ids["drop"]], which_files="all"), "tester")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["keep.jpg"]


@pytest.mark.slow
def test_a_copy_that_nobody_has_seen_yet_goes_from_the_inbox_too(world: ErasureHome) -> None:
    copy = world.inbox / "folder" / "same content.jpg"
    copy.parent.mkdir()
    copy.write_bytes((world.inbox / "secret.jpg").read_bytes())
    eraser = Eraser(world.pipeline, QuietEngine())
    assert eraser.erase(eraser.plan([world.ids["secret"]]), "tester").scan.hits == ()
    assert not copy.exists()


@pytest.mark.slow
def test_a_file_that_is_another_by_now_is_left_alone(world: ErasureHome) -> None:
    own = world.inbox / "secret.jpg"
    own.write_bytes(b"something new")
    eraser = Eraser(world.pipeline, QuietEngine())
    eraser.erase(eraser.plan([world.ids["secret"]], which_files="all"), "tester")
    assert own.read_bytes() == b"something new"


@pytest.mark.slow
def test_files_that_are_kept_are_not_taken_in_again(world: ErasureHome) -> None:
    eraser = Eraser(world.pipeline, QuietEngine())
    erased = eraser.erase(eraser.plan([world.ids["secret"]], which_files="none"), "tester")
    assert erased.scan.hits == ()
    assert (world.inbox / "secret.jpg").exists()
    pipeline = world.pipeline
    report = Intake(pipeline.layout, pipeline.sources, pipeline.settings).tick(
        [world.inbox], limit_files=10, limit_seconds=10
    )
    assert report.new == []


# -- others, and the end of the process ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_has_it_in_hand_refuses_or_is_waited_for(world: ErasureHome, monkeypatch) -> None:
    monkeypatch.setattr(erasure, "_POLL_S", 0.0)
    eraser = Eraser(world.pipeline, QuietEngine(busy=[["run 1234"]]))
    plan = eraser.plan([world.ids["secret"]])
    with pytest.raises(StorageConflict, match=r"run 1234 .*nothing was erased"):
        eraser.erase(plan, "tester")
    assert (world.inbox / "secret.jpg").exists()
    assert eraser.journals.open() == []
    steps: list[str] = []
    patient = QuietEngine(busy=[["run 1234"], ["run 1234"]])
    waiting = Eraser(world.pipeline, patient, wait_s=60, on_step=lambda what, *_: steps.append(what))
    assert waiting.erase(plan, "tester").scan.hits == ()
    assert steps.count("waiting for run 1234") == 2


@pytest.mark.slow
def test_a_run_that_begins_meanwhile_leaves_it_to_the_next_call(world: ErasureHome) -> None:
    eraser = Eraser(world.pipeline, QuietEngine(busy=[[], ["run 1234"]]))
    with pytest.raises(StorageConflict, match="erase --resume"):
        eraser.erase(eraser.plan([world.ids["secret"]]), "tester")
    assert world.pipeline.sources.by_id([world.ids["secret"]]) == {}, "no further run can begin on it"
    [erased] = eraser.resume()
    assert erased.scan.hits == ()
    assert eraser.resume() == []


@pytest.mark.slow
def test_one_that_was_killed_goes_on_and_still_knows_what_to_look_for(world: ErasureHome) -> None:
    eraser = Eraser(world.pipeline, QuietEngine(fails=1))
    plan = eraser.plan([world.ids["secret"]], persons=[world.person_in("meadow")])
    with pytest.raises(KeyboardInterrupt):
        eraser.erase(plan, "tester")
    [journal] = eraser.journals.open()
    assert (journal.media, journal.identities, journal.counts) == (plan.media, plan.identities, plan.counts)
    assert {"text", "embedding", "thumbnail"} <= {needle.kind for needle in journal.needles}
    assert next(eraser.journals.folder.iterdir()).stat().st_mode & 0o777 == 0o600
    [erased] = Eraser(world.pipeline, QuietEngine()).resume()
    assert erased.receipt["counts"] == dict(plan.counts)
    assert list(eraser.journals.folder.iterdir()) == []


@pytest.mark.slow
def test_what_is_left_keeps_the_receipt_back(world: ErasureHome) -> None:
    leftover = world.home / "notes.txt"
    leftover.write_text("What is written in secret is nobody's business")
    eraser = Eraser(world.pipeline, QuietEngine())
    erased = eraser.erase(eraser.plan([world.ids["secret"]]), "tester")
    assert erased.receipt is None
    assert [(hit.where, hit.kind) for hit in erased.scan.hits] == [("notes.txt", "text")]
    leftover.unlink()
    [again] = eraser.resume()
    assert again.receipt is not None


@pytest.mark.slow
def test_who_is_meant(world: ErasureHome) -> None:
    eraser = Eraser(world.pipeline, QuietEngine())
    media_id = world.ids["secret"]
    key = world.pipeline.sources.by_id([media_id])[media_id].partition_key
    for given in (media_id, media_id[:8].upper(), key):
        assert [m.media_id for m in eraser.plan([given]).media] == [media_id]
    assert len(eraser.plan([media_id, key]).media) == 1
    with pytest.raises(UsageError, match="no medium"):
        eraser.plan(["0000000000"])
    with pytest.raises(UsageError, match="no person"):
        eraser.plan(persons=["Nobody"])
    with pytest.raises(UsageError, match="nothing"):
        eraser.erase(eraser.plan(), "tester")
