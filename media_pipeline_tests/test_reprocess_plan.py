"""The plan of the whole library: exactly what the judge says of every medium and stage, and the reasons."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from media_pipeline.errors import ModelUnavailable
from media_pipeline.execution._why import StageNow
from media_pipeline.execution.judging import Judge, Todo
from media_pipeline.execution.recompute import Plan, plan_ledger
from media_pipeline.execution.stages import effective_fingerprint
from media_pipeline.storage.ledger import Entry, Ledger
from media_pipeline.storage.sources import KnownMedium
from media_pipeline.storage.tables import Tables

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
COLUMNS = ("media_id", "analyzer", "fingerprint", "status", "rows", "seconds", "model", "at", "version", "options")
NEEDS = {
    "media": (),
    "frames": ("media",),
    "audio": ("media",),
    "ocr": ("frames",),
    "transcript": ("audio",),
    "emotion": ("frames", "audio"),
    "text": ("ocr", "transcript"),
    "summary": ("text", "emotion"),
}


@dataclass
class FakeStage:
    """As much of a stage as the judge asks for."""

    name: str
    needs: tuple[str, ...]
    own: str | None

    def prepare(self) -> str:
        if self.own is None:
            raise ModelUnavailable("no model")
        return self.own


def known(media_id: str, *, is_gone: bool = False) -> KnownMedium:
    made = KnownMedium(media_id, f"{media_id}~key", "a", "a", Path("a"), 1, NOW, ("a",), True, 0)
    return replace(made, original_removed_at=NOW) if is_gone else made


def now(name: str, own: str | None = "own", **changes: str | None) -> StageNow:
    made = StageNow(name, NEEDS[name], own if own is None else f"{name}-{own}", "1", "o" * 16, "model (1)")
    return replace(made, **changes)


def judged(
    stages: Sequence[StageNow], media: Sequence[str], entries: dict[tuple[str, str], Entry], gone: Collection[str]
) -> set[tuple[str, str]]:
    """All pairs that a run over all stages would compute if everything it tried went well."""
    judge = Judge({s.name: FakeStage(s.name, s.needs, s.own) for s in stages})  # type: ignore[misc]
    entries, found = dict(entries), set()
    for stage in stages:
        own = judge.own_fingerprint(stage.name)
        for media_id in media:
            verdict = judge.verdict(
                stage.name, known(media_id, is_gone=media_id in gone), own, entries, retry_failed=False
            )
            pair = (media_id, stage.name)
            if isinstance(verdict, Todo):
                found.add(pair)
                old = entries.get(pair)
                rows = old.rows if old is not None and old.status == "done" else 1
                entries[pair] = entry(media_id, stage.name, verdict.fingerprint, rows=rows)
            elif verdict.status == "unavailable":
                entries[pair] = entry(media_id, stage.name, "", "unavailable", rows=0)
    return found


def entry(media_id: str, analyzer: str, fingerprint: str, status: str = "done", *, rows: int = 1) -> Entry:
    return Entry(
        media_id, analyzer, fingerprint, status, None, rows, 0.5, "cpu", "model (1)", "r", NOW, "1", "o" * 16
    )  # fmt: skip


def current(stages: Sequence[StageNow], media_id: str) -> dict[tuple[str, str], Entry]:
    """A medium for which everything is done."""
    found: dict[tuple[str, str], Entry] = {}
    for stage in stages:
        inputs = {need: found[media_id, need].fingerprint for need in stage.needs}
        assert stage.own is not None
        found[media_id, stage.name] = entry(media_id, stage.name, effective_fingerprint(stage.own, inputs))
    return found


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Tables(tmp_path / "tables", tmp_path / "locks"))


def planned(
    ledger: Ledger,
    stages: Sequence[StageNow],
    media: Sequence[str],
    kept: Ledger | None = None,
    gone: Collection[str] = (),
) -> Plan:
    former = (kept or ledger).scan(("media_id", "analyzer", "fingerprint"))
    return plan_ledger(ledger.scan(COLUMNS), media, stages, former if kept else former.slice(0, 0), gone)


def pairs(plan: Plan) -> dict[tuple[str, str], str]:
    return {(row["media_id"], row["analyzer"]): row["reason"] for row in plan.pairs.to_pylist()}


def scrambled(rng: random.Random, stages: Sequence[StageNow], media_id: str) -> dict[tuple[str, str], Entry]:
    """A history of some kind: results of now, of before, failed, without a model, missing."""
    past = [replace(s, own=f"{s.name}-{rng.choice(('own', 'own', 'old'))}") for s in stages]
    entries = current(past, media_id)
    for pair in list(entries):
        what = rng.random()
        if what < 0.1:
            del entries[pair]
        elif what < 0.2:
            entries[pair] = replace(entries[pair], status="failed", rows=0, reason="broken")
        elif what < 0.3:
            entries[pair] = replace(entries[pair], status="unavailable", fingerprint="", rows=0, reason="no model")
        elif what < 0.5:
            entries[pair] = replace(entries[pair], rows=0)
        elif what < 0.6:
            entries[pair] = replace(entries[pair], fingerprint="f" * 16)
    return entries


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_it_says_what_the_judge_says_of_any_ledger(ledger: Ledger, seed: int) -> None:
    rng = random.Random(seed)
    stages = [now(name, rng.choice(("own", "own", "own", None)) if len(NEEDS[name]) else "own") for name in NEEDS]
    media = [f"m{number:03}" for number in range(150)]
    whole = [replace(s, own=s.own or f"{s.name}-own") for s in stages]
    entries: dict[tuple[str, str], Entry] = {}
    for media_id in media:
        entries |= scrambled(rng, whole, media_id)
    ledger.record(list(entries.values()))
    touched = [m for m in media if any((m, name) in entries for name in NEEDS)]
    gone = rng.sample(media, 20)
    assert pairs(planned(ledger, stages, media, gone=gone)).keys() == judged(stages, touched, entries, gone)


def test_nothing_is_stale_where_nothing_changed(ledger: Ledger) -> None:
    stages = [now(name) for name in NEEDS]
    ledger.record([e for m in "abc" for e in current(stages, m).values()])
    plan = planned(ledger, stages, ["c", "b", "a"])
    assert (plan.pairs.num_rows, plan.counts, plan.media, plan.examined) == (0, {}, 0, 3)


def test_a_new_version_takes_what_depends_on_it_along(ledger: Ledger) -> None:
    stages = [now(name) for name in NEEDS]
    ledger.record([e for m in "ab" for e in current(stages, m).values()])
    bumped = [now("ocr", "new", version="2") if s.name == "ocr" else s for s in stages]
    plan = planned(ledger, bumped, ["b", "a"])
    assert plan.pairs["media_id"].to_pylist() == ["b"] * 3 + ["a"] * 3, "the newest first"
    assert plan.pairs["analyzer"].to_pylist() == ["ocr", "text", "summary"] * 2, "in the order of the stages"
    assert pairs(plan)["a", "ocr"] == "version 1 -> 2"
    assert pairs(plan)["a", "text"] == "ocr is computed anew"
    assert pairs(plan)["a", "summary"] == "text is computed anew"
    assert plan.counts == {"ocr": 2, "text": 2, "summary": 2}
    assert plan.reasons["ocr", "version 1 -> 2"] == 2
    assert plan.media_ids == ["b", "a"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "2", "options": "p" * 16}, "version 1 -> 2"),
        ({"model": "other (2)"}, "model changed: model (1) -> other (2)"),
        ({"options": "p" * 16}, "options changed"),
    ],
)
def test_the_reason_names_what_changed(ledger: Ledger, changes: dict[str, str], reason: str) -> None:
    stages = [now(name) for name in NEEDS]
    ledger.record(list(current(stages, "a").values()))
    changed = [now("summary", "new", **changes) if s.name == "summary" else s for s in stages]
    assert pairs(planned(ledger, changed, ["a"])) == {("a", "summary"): reason}


def test_other_reasons(ledger: Ledger) -> None:
    stages = [now(name) for name in NEEDS]
    entries = [e for m in "abcd" for e in current(stages, m).values()]
    old = replace(entry("a", "summary", "0" * 16), version=None, options=None, model=None)
    entries.append(old)
    entries.append(replace(entry("b", "summary", "", "unavailable"), model=None))
    # The text was made again by a run that did not go on to the summary.
    entries.append(replace(entry("c", "summary", "0" * 16), at=NOW - timedelta(hours=1)))
    ledger.record([e for e in entries if (e.media_id, e.analyzer) != ("d", "summary")])
    assert pairs(planned(ledger, stages, ["a", "b", "c", "d"])) == {
        ("a", "summary"): "made by an older version or with other options",
        ("b", "summary"): "was unavailable, its model is here now",
        ("c", "summary"): "text was computed anew",
        ("d", "summary"): "never done",
    }


def test_what_a_medium_has_nothing_for_does_not_depend_on_the_version(ledger: Ledger) -> None:
    stages = [now(name) for name in NEEDS]
    silent = current(stages, "a")
    silent["a", "audio"] = replace(silent["a", "audio"], rows=0)
    heard = effective_fingerprint("no input", {"audio": silent["a", "audio"].fingerprint})
    silent["a", "transcript"] = replace(silent["a", "transcript"], fingerprint=heard, rows=0, model=None)
    ledger.record(list(silent.values()))
    bumped = [now("transcript", "new", version="2") if s.name == "transcript" else s for s in stages]
    assert ("a", "transcript") not in pairs(planned(ledger, bumped, ["a"]))


def test_fresh_uploads_and_forgotten_media_are_no_part_of_it(ledger: Ledger) -> None:
    stages = [now(name) for name in NEEDS]
    ledger.record(list(current(stages, "gone").values()))
    plan = planned(ledger, [replace(s, own="other") for s in stages], ["fresh"])
    assert (plan.pairs.num_rows, plan.examined) == (0, 0)
    assert planned(ledger, stages, []).pairs.num_rows == 0


def test_what_is_kept_is_marked(ledger: Ledger, tmp_path: Path) -> None:
    stages = [now(name) for name in NEEDS]
    ledger.record([e for m in "ab" for e in current(stages, m).values()])
    changed = [now("summary", "new", version="2") if s.name == "summary" else s for s in stages]
    kept = Ledger(Tables(tmp_path / "kept", tmp_path / "kept-locks"))
    kept.record([current(changed, "a")["a", "summary"], current(stages, "b")["b", "summary"]])
    rows = planned(ledger, changed, ["a", "b"], kept).pairs.to_pylist()
    assert [(row["media_id"], row["restorable"]) for row in rows] == [("a", True), ("b", False)]
    assert {row["seconds"] for row in rows} == {0.5}
