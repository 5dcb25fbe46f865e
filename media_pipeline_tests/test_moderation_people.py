"""Decisions of people: they stand above the rules, stay through everything, and none is ever lost or changed."""

from __future__ import annotations

import json
import sqlite3
import stat
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from media_pipeline.cli import main
from media_pipeline.config import load_settings
from media_pipeline.errors import UsageError
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.media.intake import Intake
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.moderation import ModerationStore
from media_pipeline.storage.schemas import FACE_PERSONS
from media_pipeline_tests._moderation_home import ONLY, ModerationHome, moderation_home

EVERYTHING = (
    ONLY
    + """\
      - name: wide
        severity: block
        text: It is wide.
        sql: SELECT media_id FROM media WHERE width > 100
"""
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModerationStore]:
    made = ModerationStore(tmp_path / "moderation.sqlite")
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ModerationHome]:
    made = moderation_home(tmp_path / "home")
    yield made
    made.close()


# -- the log --------------------------------------------------------------------------------------------------------


def test_the_newest_decision_that_is_not_undone_counts(store: ModerationStore) -> None:
    store.decide(["a", "b"], "approve", "eva", "fine", {"a": ("1@x", "block")})
    store.decide(["a"], "note", "max", "looked again", {})
    assert store.decided(["a", "b", "c"]) == {"a": "allow", "b": "allow"}
    store.decide(["a"], "block", "max", None, {"a": ("1@x", "block")})
    assert store.decided(["a"]) == {"a": "block"}
    store.undo(["a"], "eva", "a mistake")
    assert store.decided(["a"]) == {"a": "allow"}
    store.undo(["a"], "eva", None)
    assert store.decided(["a", "b"]) == {"b": "allow"}
    with pytest.raises(UsageError, match="nobody has decided on a"):
        store.undo(["b", "a"], "eva", None)
    assert store.decided(["b"]) == {"b": "allow"}  # none of them was undone
    log = store.decisions("a")
    assert [(d.action, d.decided_by, d.reason, d.rule_verdict) for d in log] == [
        ("approve", "eva", "fine", "block"),
        ("note", "max", "looked again", None),
        ("block", "max", None, "block"),
        ("undo", "eva", "a mistake", None),
        ("undo", "eva", None, None),
    ]
    assert [d.undoes for d in log] == [None, None, None, log[2].decision_id, log[0].decision_id]
    assert all(d.decided_at.utcoffset() is not None for d in log)
    assert store.table()["decision_id"].to_pylist() == sorted(store.table()["decision_id"].to_pylist())


def test_the_log_can_only_grow(store: ModerationStore, tmp_path: Path) -> None:
    store.decide(["a", "b"], "block", "eva", "secret reason", {})
    store.undo(["a"], "eva", None)
    with sqlite3.connect(tmp_path / "moderation.sqlite") as other:
        with pytest.raises(sqlite3.IntegrityError, match="never changed"):
            other.execute("UPDATE decisions SET decided_by = 'somebody'")
        with pytest.raises(sqlite3.IntegrityError, match="removed with their medium"):
            other.execute("DELETE FROM decisions")
    other.close()
    assert store.forget_media(["a"]) == 2
    assert store.decisions("a") == []
    assert store.decided(["b"]) == {"b": "block"}


def test_nobody_else_reads_the_file(store: ModerationStore, tmp_path: Path) -> None:
    store.decide(["a"], "note", "eva", "x", {})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_alerts_wait_until_they_are_delivered(store: ModerationStore) -> None:
    store.plan_alerts(["webhook", "email"], {"a": {"n": 1}, "b": {"n": 2}})
    assert (sorted(store.planned()), store.waiting()) == (["a", "b"], 0)
    store.release_alerts(["a"])  # b's verdict never came to be
    assert (store.planned(), store.waiting()) == ([], 2)
    (alert,) = store.pending("email", 10)
    assert (alert.media_id, alert.body) == ("a", {"n": 1})
    store.delivered([alert])
    assert store.waiting() == 1
    store.drop_alerts(["email"])  # the webhook is not configured any more
    assert store.waiting() == 0


# -- above the rules ------------------------------------------------------------------------------------------------


def row(home: ModerationHome, media_id: str) -> tuple[Any, ...]:
    sql = "SELECT verdict, decided_by, rule_verdict, decision_reason FROM moderation WHERE media_id = '{}'"
    return home.ask(sql.format(media_id))[0]


@pytest.mark.slow
def test_the_view_puts_people_above_rules(home: ModerationHome) -> None:
    home.add("bare", "plain")
    home.bare("bare", 0.9)
    moderation = home.moderation()
    moderation.update(["bare", "plain"])
    moderation.decide(["bare"], "approve", "Eva", "a statue")
    moderation.decide(["plain"], "block", "Max")
    moderation.decide(["plain"], "note", "Eva", "why?")
    moderation.decide(["unknown"], "block", "Max")
    assert row(home, "bare") == ("allow", "Eva", "block", "a statue")
    assert row(home, "plain") == ("block", "Max", "allow", None)
    assert row(home, "unknown") == ("block", "Max", None, None)
    log = home.ask("SELECT media_id, action, decided_by, rule_verdict FROM moderation_decisions ORDER BY decision_id")
    assert log == [
        ("bare", "approve", "Eva", "block"),
        ("plain", "block", "Max", "allow"),
        ("plain", "note", "Eva", "allow"),
        ("unknown", "block", "Max", None),
    ]
    moderation.undo(["bare", "plain"], "Max")
    assert row(home, "bare") == ("block", "rules", "block", None)
    assert row(home, "plain") == ("allow", "rules", "allow", None)
    for nobody in ("", "  ", "rules", "Rules"):
        with pytest.raises(UsageError, match="the name of who made it"):
            moderation.decide(["bare"], "approve", nobody)


@pytest.mark.slow
def test_nobody_is_told_of_what_somebody_has_decided_on(home: ModerationHome) -> None:
    home.add("bare")
    home.bare("bare", 0.4)
    moderation = home.moderation()
    moderation.update(["bare"])
    moderation.decide(["bare"], "approve", "Eva")
    home.bare("bare", 0.9)
    assert moderation.update(["bare"]).blocked == ()
    assert row(home, "bare")[:3] == ("allow", "Eva", "block")


@pytest.mark.slow
def test_a_killed_run_tells_exactly_once(home: ModerationHome, monkeypatch: pytest.MonkeyPatch) -> None:
    home.add("before", "after")
    calls = {"before": "replace", "after": "release_alerts"}
    for media_id, call in calls.items():  # killed before, or right after, the verdict reached the table
        home.bare(media_id, 0.9)
        moderation = home.moderation()
        monkeypatch.setattr(moderation, "_channels", lambda: (("webhook",), ()))
        monkeypatch.setattr(moderation, "_told", lambda update: update)
        owner = home.tables if call == "replace" else moderation.store
        with monkeypatch.context() as killed:

            def kill(*_: Any) -> None:
                raise KeyboardInterrupt

            killed.setattr(type(owner), call, kill)
            with pytest.raises(KeyboardInterrupt):
                moderation.update([media_id])
        assert moderation.store.planned() == [media_id]
        assert moderation.update([media_id]).blocked == (media_id,)
        assert [a.media_id for a in moderation.store.pending("webhook", 9)][-1] == media_id
        assert moderation.update([media_id]).blocked == ()
    assert len(moderation.store.pending("webhook", 9)) == 2


@pytest.mark.slow
def test_a_decision_survives_analysing_everything_again(tmp_path: Path) -> None:
    """Through the real stages, of a real picture, forced: the rows are made anew, the decision stands."""
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (160, 90), (200, 30, 30)).save(tmp_path / "pictures" / "wide.png")
    home = tmp_path / "home"
    (home / "rules").mkdir(parents=True)
    (home / "rules" / "own.yaml").write_text(textwrap.dedent(EVERYTHING))
    settings = load_settings(home=home, offline=True, min_free_bytes=0, workers=1, settle_s=0.0)
    pipeline = Pipeline(settings)
    try:
        report = Intake(pipeline.layout, pipeline.sources, settings).take([tmp_path / "pictures"], wait=True)
        key, media_id = report.new[0].partition_key, report.new[0].media_id

        def analyze(run_id: str, force: bool) -> dict[str, Any]:
            for stage in ("media", "frames", "audio"):
                pipeline.run_stage(stage, [key], run_id=run_id, redo=[key] if force else ())
            facts: dict[str, Any] = pipeline.finish([key])["moderation"]
            return facts

        def shown() -> tuple[Any, ...]:
            with pipeline.catalog.connect() as connection:
                sql = "SELECT verdict, decided_by, rule_verdict FROM moderation WHERE media_id = ?"
                found = connection.execute(sql, [media_id]).fetchone()
            assert found is not None
            return found

        first = analyze("one", False)
        assert (first["block"], first["newly_blocked"], len(first["new_blocks"])) == (1, 1, 1)
        assert shown() == ("block", "rules", "block")
        pipeline.moderation.decide([media_id], "approve", "Eva", "only red")
        before = pipeline.ledger.entries([media_id])[media_id, "media"].at
        again = analyze("two", True)
        assert pipeline.ledger.entries([media_id])[media_id, "media"].at > before
        assert (again["judged"], again["newly_blocked"]) == (1, 0)
        assert shown() == ("allow", "Eva", "block")
    finally:
        pipeline.close()


@pytest.mark.slow
def test_a_medium_is_forgotten_everywhere(home: ModerationHome) -> None:
    home.add("a", "b")
    home.bare("a", 0.9)
    moderation = home.moderation()
    moderation.update(["a", "b"])
    moderation.decide(["a", "b"], "approve", "Eva")
    moderation.store.plan_alerts(["email"], {"a": {}})
    assert moderation.forget_media(["a"]) == 2
    assert home.ask("SELECT media_id FROM moderation") == [("b",)]
    assert home.ask("SELECT media_id FROM moderation_decisions") == [("b",)]
    assert moderation.store.planned() == []


@pytest.mark.slow
def test_media_whose_run_was_cut_off_before_the_rules_are_judged_with_the_next_batch(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (160, 90), (200, 30, 30)).save(tmp_path / "pictures" / "wide.png")
    (tmp_path / "pictures" / "text.png").write_text("no picture")
    settings = load_settings(home=tmp_path / "home", offline=True, min_free_bytes=0, workers=1, settle_s=0.0)
    pipeline = Pipeline(settings)
    try:
        report = Intake(pipeline.layout, pipeline.sources, settings).take([tmp_path / "pictures"], wait=True)
        wide, text = sorted((m for m in report.new), key=lambda medium: medium.name, reverse=True)
        pipeline.begin([text.partition_key])
        pipeline.run_stage("media", [text.partition_key], run_id="killed")
        pipeline.finish([wide.partition_key])
        [row] = pipeline.tables.read("moderation", [text.media_id]).to_pylist()
        assert row["verdict"] == "review"
    finally:
        pipeline.close()


# -- whom rules look for --------------------------------------------------------------------------------------------


def meet(home: ModerationHome, media_id: str, person: str) -> None:
    track = {"media_id": media_id, "track_index": 0, "person_id": person}
    home.tables.ensure("face_persons", FACE_PERSONS)
    home.tables.replace("face_persons", pa.Table.from_pylist([track], schema=FACE_PERSONS), [media_id])


def test_blocked_persons_whom_nobody_knows(home: ModerationHome) -> None:
    given = {"blocked_persons": "max muster, Eva, P-00000001, P-00000002, P-00000003, P-00000004"}
    assert len(home.moderation(moderation=given).unknown_persons()) == 6
    assert home.moderation().unknown_persons() == []
    meet(home, "a", "P-00000001")  # has no name
    with closing(Decisions.of(home.layout)) as known:
        known.name("person", "P-00000005", "Max Muster", [])
        known.merge("person", "P-00000001", ["P-00000002"], [])
        known.name("voice", "V-00000001", "Eva", [])  # heard, not seen
        known.name("person", "P-00000004", "Otto", [])
    assert home.moderation(moderation=given).unknown_persons() == ["Eva", "P-00000003"]


@pytest.mark.slow
def test_rules_check_and_list_name_them_and_go_on(
    home: ModerationHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_MODERATION__BLOCKED_PERSONS", "Max Muser")

    def said(*args: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(home.layout.home), "rules", *args])
        assert ended.value.code == 0
        return capsys.readouterr()

    cause = "MEDIA_PIPELINE_MODERATION__BLOCKED_PERSONS: nobody is known as 'Max Muser' yet; `media-pipeline persons`"
    out, complaints = said("check")
    assert "rules are right" in out
    assert complaints.startswith(cause)
    assert cause in said("list")[1]
    (warning,) = json.loads(said("list", "--format", "json")[0])["warnings"]
    assert warning.startswith(cause)
    with closing(Decisions.of(home.layout)) as known:
        known.name("person", "P-00000001", "Max Muser", [])
    assert said("check")[1] == ""
