"""What goes by age, what stays, and that nothing comes back by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from media_pipeline.config import load_settings
from media_pipeline.errors import InputError, UsageError
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.media.intake import Intake
from media_pipeline.media.originals import Originals, locate
from media_pipeline.results import retention
from media_pipeline.results.retention import carry_out, plan
from media_pipeline.storage.identities import Anchor, Decisions, Pin
from media_pipeline.storage.moderation import ModerationStore
from media_pipeline_tests._retention_home import add, analysed, cached, days, opened


@pytest.fixture
def make(tmp_path: Path) -> Iterator[object]:
    made: list[Pipeline] = []

    def opening(**terms: object) -> Pipeline:
        made.append(opened(tmp_path, **terms))
        return made[-1]

    yield opening
    for pipeline in made:
        pipeline.close()


def names(table: object) -> list[str]:
    return sorted(table["name"].to_pylist())  # type: ignore[index]


# --- what is due -----------------------------------------------------------------------------------------------------


def test_by_default_everything_stays(make) -> None:
    pipeline = make()
    add(pipeline, "a.jpg")
    assert plan(pipeline, days(10_000)).is_empty


def test_each_kind_has_its_own_term(make) -> None:
    pipeline = make(originals_days={"default": 100, "video": 10, "audio": 0})
    add(pipeline, "a.jpg", "b.mp4", "c.wav", "broken")
    assert names(plan(pipeline, days(9)).originals) == []
    assert names(plan(pipeline, days(11)).originals) == ["b.mp4"]
    due = plan(pipeline, days(101)).originals
    assert names(due) == ["a.jpg", "b.mp4", "broken"], "what could not be decoded has the default"
    assert {row["name"]: (row["days"], row["bytes"], row["kind"]) for row in due.to_pylist()} == {
        "a.jpg": (100, 5, "image"), "b.mp4": (10, 5, "video"), "broken": (100, 6, None),
    }  # fmt: skip


def test_who_loses_everything_is_not_named_twice(make) -> None:
    pipeline = make(originals_days={"default": 5}, results_days={"image": 10})
    add(pipeline, "a.jpg", "b.mp4")
    found = plan(pipeline, days(20))
    assert (names(found.originals), names(found.results)) == (["b.mp4"], ["a.jpg"])


def test_linked_originals_unfinished_media_and_those_in_hand_stay(make) -> None:
    pipeline = make(originals_days={"default": 5}, results_days={"default": 5})
    add(pipeline, "linked.jpg", linked=True)
    [busy] = add(pipeline, "busy.jpg")
    add(pipeline, "waiting.jpg", settled=False)
    [begun] = add(pipeline, "begun.jpg")
    pipeline.sources.start_attempt([begun.media_id])
    assert names(plan(pipeline, days(9), in_hand=[busy.partition_key]).results) == ["linked.jpg"]
    originals = make(originals_days={"default": 5})
    assert names(plan(originals, days(9), in_hand=[busy.partition_key]).originals) == []


def test_what_a_person_decided_on_is_held(make) -> None:
    pipeline = make(originals_days={"video": 5}, results_days={"image": 5})
    pinned, judged, _ = add(pipeline, "pinned.jpg", "judged.mp4", "other.jpg")
    with closing(Decisions.of(pipeline.layout)) as decisions:
        decisions.name("person", "p1", "Ada", [Pin(pinned.media_id, 0, Anchor(None, None), "p1")])
    with closing(ModerationStore.of(pipeline.layout)) as moderation:
        moderation.decide([judged.media_id], "approve", "me", None, {})
    found = plan(pipeline, days(9))
    assert names(found.held) == ["judged.mp4", "pinned.jpg"]
    assert (names(found.originals), names(found.results)) == ([], ["other.jpg"])


def test_superseded_results_go_when_they_were_superseded_long_ago(make) -> None:
    pipeline = make(kept_days=30)
    old, new = add(pipeline, "a.jpg", "b.jpg")
    entries = pipeline.ledger.entries([old.media_id, new.media_id], ["ocr"])
    for entry in entries.values():
        pipeline.kept.put("ocr", pipeline.tables.read("ocr", [entry.media_id]), [entry])
    found = plan(pipeline, days(31))
    assert sorted(found.kept["media_id"].to_pylist()) == sorted([old.media_id, new.media_id])
    assert plan(pipeline, days(29)).kept.num_rows == 0
    carry_out(pipeline, found)
    assert pipeline.kept.ledger.entries() == {}
    assert pipeline.kept.tables.read("ocr").num_rows == 0
    assert pipeline.tables.read("ocr").num_rows == 2


def test_wrong_terms_name_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_RETENTION__ORIGINALS_DAYS", "90")
    with pytest.raises(UsageError, match=r"ORIGINALS_DAYS: .*__VIDEO"):
        load_settings()
    monkeypatch.delenv("MEDIA_PIPELINE_RETENTION__ORIGINALS_DAYS")
    monkeypatch.setenv("MEDIA_PIPELINE_RETENTION__ORIGINALS_DAYS__VIDEO", "90")
    terms = load_settings().retention.originals_days
    assert [terms.of(kind) for kind in ("image", "video", None)] == [None, 90, None]


# --- originals -------------------------------------------------------------------------------------------------------


def test_an_original_goes_and_its_results_say_so(make) -> None:
    pipeline = make(originals_days={"default": 5})
    [medium] = add(pipeline, "a.jpg")
    folder = cached(pipeline, medium)
    facts = carry_out(pipeline, plan(pipeline, days(9)))
    assert facts["originals"] == {"removed": 1, "bytes_freed": 5}
    assert not medium.stored.exists()
    assert not folder.exists(), "its frames are copies of it"
    assert pipeline.tables.read("ocr")["text"].to_pylist() == ["a.jpg"]
    [row] = pipeline.sources.table().to_pylist()
    assert row["original_removed_at"] is not None
    known = pipeline.sources.by_id([medium.media_id])[medium.media_id]
    with pytest.raises(InputError, match=r"removed by retention on \d{4}-\d\d-\d\d; analyze the file once more"):
        locate(known)
    assert plan(pipeline, days(99)).is_empty, "it goes once"


def test_a_removed_original_is_taken_in_again_by_hand_only_and_for_a_new_term(make) -> None:
    pipeline = make(originals_days={"default": 5})
    [medium] = add(pipeline, "a.jpg")
    carry_out(pipeline, plan(pipeline, days(9)))
    intake = Intake(pipeline.layout, pipeline.sources, pipeline.settings)
    report = intake.tick([pipeline.layout.inbox], limit_files=9, limit_seconds=9)
    assert (report.new, report.known) == ([], [])
    assert not medium.stored.exists()
    [back] = intake.take([pipeline.layout.inbox / "a.jpg"], wait=True).known
    assert back.original_removed_at is None
    assert locate(back).read_bytes() == b"a.jpg"
    assert plan(pipeline, days(4)).is_empty
    assert names(plan(pipeline, days(6)).originals) == ["a.jpg"]


def test_killed_between_the_steps_it_is_done_again(make, monkeypatch) -> None:
    pipeline = make(originals_days={"default": 5})
    [medium] = add(pipeline, "a.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(type(pipeline.sources), "original_removed", _killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out(pipeline, plan(pipeline, days(9)))
    assert not medium.stored.exists()
    carry_out(pipeline, plan(pipeline, days(9)))
    assert pipeline.sources.by_id([medium.media_id])[medium.media_id].original_removed_at is not None


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


# --- media as a whole ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_medium_goes_from_everywhere_and_its_file_is_not_taken_in_again(make) -> None:
    pipeline = make(results_days={"image": 5})
    gone, stays = add(pipeline, "a.jpg", "b.mp4")
    cached(pipeline, gone)
    pairs = [{"media_id": stays.media_id, "other_id": gone.media_id, "distance": 0.0, "matched": 1.0}]
    pipeline.ensure_tables()
    schema = pipeline.tables.schema("duplicate_pairs")
    pipeline.tables.replace("duplicate_pairs", schema.empty_table().from_pylist(pairs, schema=schema), [stays.media_id])
    facts = carry_out(pipeline, plan(pipeline, days(9)))
    assert facts["results"] == {"media_removed": 1, "bytes_freed": 5, "held": 0}
    assert not gone.stored.exists()
    assert [m.name for m in pipeline.sources.all_media()] == ["b.mp4"]
    for name in pipeline.tables.names():
        rows = pipeline.tables.read(name)
        assert gone.media_id not in str([rows[column].to_pylist() for column in rows.column_names if "id" in column])
    with pipeline.catalog.connect() as connection:
        assert connection.execute("SELECT name FROM media").fetchall() == [("b.mp4",)]
    intake = Intake(pipeline.layout, pipeline.sources, pipeline.settings)
    report = intake.tick([pipeline.layout.inbox], limit_files=9, limit_seconds=9)
    assert (report.new, report.refused) == ([], [])
    [again] = intake.take([pipeline.layout.inbox / "a.jpg"], wait=True).new
    assert again.media_id == gone.media_id


@pytest.mark.slow
def test_killed_before_the_last_step_a_medium_is_planned_again(make, monkeypatch) -> None:
    pipeline = make(results_days={"image": 5})
    add(pipeline, "a.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(type(pipeline.sources), "let_go", _killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out(pipeline, plan(pipeline, days(9)))
    assert pipeline.tables.read("ocr").num_rows == 0
    assert plan(pipeline, days(9)).results.num_rows == 1
    carry_out(pipeline, plan(pipeline, days(9)))
    assert pipeline.sources.count() == 0


# --- cache -----------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_long_leaves_the_cache(make) -> None:
    pipeline = make(cache_days={"default": 3, "image": 20})
    picture, film = add(pipeline, "a.jpg", "b.mp4")
    cached(pipeline, picture), cached(pipeline, film, size=70)
    found = plan(pipeline, days(4))
    assert (names(found.cache), found.originals.num_rows) == (["b.mp4"], 0)
    facts = carry_out(pipeline, found)
    assert facts["cache by age"] == {"media_removed": 1, "bytes_freed": 70}
    assert [media_id for *_, media_id in pipeline.cache.entries()] == [picture.media_id]


# --- what cannot be made any more ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_of_a_removed_original_stand_and_new_analyzers_say_why_there_are_none(make, monkeypatch) -> None:
    pipeline = make(originals_days={"default": 5})
    [medium] = add(pipeline, "a.jpg")
    carry_out(pipeline, plan(pipeline, days(9)))
    keys = [medium.partition_key]
    for name in ("media", "frames", "ocr"):  # none of them was made with what is installed here
        [outcome] = pipeline.run_stage(name, keys, run_id="r", redo=keys, retry_failed=True)
        assert (outcome.status, outcome.current, outcome.fingerprint) == ("done", True, f"{name}-1")
    assert pipeline.tables.read("ocr").num_rows == 1
    [outcome] = pipeline.run_stage("scenes", keys, run_id="r")
    assert outcome.status == "unavailable"
    assert "the original was removed by retention on" in (outcome.reason or "")
    entry = pipeline.ledger.entries([medium.media_id], ["scenes"])[medium.media_id, "scenes"]
    assert entry.reason == outcome.reason
    assert pipeline.pending([medium.media_id], ["media", "frames", "ocr", "scenes"]) == []


@pytest.mark.slow
def test_the_plan_of_reprocessing_leaves_removed_originals_alone(make) -> None:
    from media_pipeline.execution import recompute

    pipeline = make(originals_days={"image": 5})
    add(pipeline, "a.jpg", "b.mp4")
    stale = recompute.plan(pipeline, ["ocr"]).by_medium()
    assert len(stale) == 2
    carry_out(pipeline, plan(pipeline, days(9)))
    left = recompute.plan(pipeline, ["ocr"]).by_medium()
    assert [set(names) for names in left.values()] == [{"media", "frames", "ocr"}]
    assert [m.name for m in pipeline.sources.by_id(left).values()] == ["b.mp4"]


@pytest.mark.slow
def test_removing_is_no_matter_of_the_file_being_there(make) -> None:
    pipeline = make(results_days={"default": 5})
    [medium] = add(pipeline, "a.jpg")
    shutil.rmtree(medium.stored.parent)
    assert retention.remove_media(pipeline, [medium.media_id]) == 0
    assert not Originals(pipeline.layout.originals).remove(medium.media_id)
    analysed(pipeline, [])
