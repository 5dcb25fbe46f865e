"""Results that were superseded come back without being computed, and a kill at any instant loses and mixes nothing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.execution.recompute import plan
from media_pipeline.storage.tables import Tables
from media_pipeline_tests._reprocess_home import BOTH, MEDIA, Counted, Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


@pytest.mark.slow
def test_an_option_changed_back_and_forth_computes_each_result_once(home: Home) -> None:
    assert home.values(home.run()) == [97, 98, 99]
    assert home.counted.taken() == BOTH
    assert home.values(home.run(scale=2.0)) == [194, 196, 198]
    assert home.counted.taken() == BOTH
    for scale in (1.0, 2.0):
        pipeline = home.run(scale=scale)
        assert home.values(pipeline) == [ord(m[0]) * scale for m in MEDIA]
        assert plan(pipeline, ["second"]).pairs.num_rows == 0
        assert home.counted.taken() == []


@pytest.mark.slow
def test_what_is_put_back_is_said_to_be_restored_and_not_current(home: Home) -> None:
    home.run()
    home.run(scale=2.0)
    pipeline = home.open()
    rows = plan(pipeline, ["second"]).pairs.to_pylist()
    assert {(row["analyzer"], row["reason"], row["restorable"]) for row in rows} == {
        ("first", "options changed", True),
        ("second", "first is computed anew", True),
    }
    outcomes = pipeline.run_stage("first", ["aardvark~0"], run_id="back")
    assert [(o.status, o.restored, o.current) for o in outcomes] == [("done", True, False)]
    entry = pipeline.ledger.entries(["aardvark"], ["first"])["aardvark", "first"]
    assert (entry.run_id, entry.rows, entry.version) == ("back", 1, "1")


@pytest.mark.slow
def test_a_third_variant_takes_the_place_of_the_first(home: Home) -> None:
    for scale in (1.0, 2.0, 3.0):
        home.run(scale=scale)
    home.counted.taken()
    home.run(scale=2.0)
    assert home.counted.taken() == []
    home.run(scale=1.0)
    assert home.counted.taken() == BOTH


@pytest.mark.slow
def test_only_exactly_the_wanted_fingerprint_comes_back(home: Home) -> None:
    home.run()
    home.run(scale=2.0)
    home.use(Counted(version="2"))
    assert home.values(home.run()) == [97, 98, 99]
    assert home.counted.taken() == BOTH


@pytest.mark.slow
def test_force_computes_whatever_is_kept(home: Home) -> None:
    home.run()
    home.run(scale=2.0)
    home.run()
    home.counted.taken()
    home.open().run_stage("first", ["aardvark~0"], run_id="r", redo=["aardvark~0"])
    assert home.counted.taken() == [("first", "aardvark")]


@pytest.mark.slow
def test_it_can_be_switched_off_and_what_was_kept_goes_with_the_next_maintenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, monkeypatch)
    home.run()
    home.run(scale=2.0)
    off = Home(tmp_path, monkeypatch, keep_superseded=False)
    pipeline = off.run()
    assert off.counted.taken() == BOTH
    assert pipeline.kept.ledger.entries() != {}
    pipeline.maintain()
    assert pipeline.kept.ledger.entries() == {}
    assert pipeline.kept.tables.read("first").num_rows == 0


@pytest.mark.slow
def test_a_forgotten_medium_leaves_what_is_kept(home: Home) -> None:
    home.run()
    pipeline = home.run(scale=2.0)
    pipeline.kept.forget_media(["aardvark"])
    assert {media_id for media_id, _ in pipeline.kept.ledger.entries()} == {"bonobo", "cheetah"}
    assert set(pipeline.kept.tables.read("first")["media_id"].to_pylist()) == {"bonobo", "cheetah"}
    assert pipeline.kept.maintain(retention_hours=0) != []
    kept = b"".join(path.read_bytes() for path in pipeline.layout.kept.rglob("*.parquet"))
    assert b"bonobo" in kept and b"aardvark" not in kept


def test_without_its_model_a_result_stands_and_comes_back_with_it(home: Home) -> None:
    home.run()
    home.counted.taken()
    assert home.values(home.run(absent=True), "first") == [97, 98, 99]
    assert home.counted.taken() == []


class Killed(BaseException):
    """The process dies here."""


class KillAt:
    """Dies before the nth change of any table, which is after the one before: an instant between any two commits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        update = Tables.update

        def dying(tables: Tables, *args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise Killed
            update(tables, *args, **kwargs)

        monkeypatch.setattr(Tables, "update", dying)


@pytest.fixture
def at_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Home]:
    """Copies of a home that was at scale 1 and is at 2."""
    made = Home(tmp_path, monkeypatch)
    made.run(scale=1.0)
    made.run(scale=2.0)

    def copy(name: str) -> Home:
        shutil.copytree(made.home, tmp_path / name)
        copied = Home(tmp_path, monkeypatch, name=name)
        copied.counted.taken()
        return copied

    return copy


@pytest.mark.slow
def test_killed_between_any_two_writes_and_gone_on_with_any_option(
    at_two: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Putting back, then computing, cut off at each commit: rows and ledger agree, and the option rules."""
    number, is_through = 0, False
    while not is_through:
        number += 1
        home = at_two(f"killed {number}")
        with monkeypatch.context() as patched:
            kill = KillAt(patched, number)
            with contextlib.suppress(Killed):
                home.run(scale=1.0)
                home.run(scale=3.0)
        is_through = kill.left > 0
        for then in ((2.0, 3.0)[number % 2], 1.0):  # whatever is kept is what it says it is
            pipeline = home.run(scale=then)
            for name in ("first", "second"):
                assert home.values(pipeline, name) == [ord(m[0]) * then for m in MEDIA], (number, then)
            assert plan(pipeline, ["second"]).pairs.num_rows == 0
    assert number > 12


@pytest.mark.slow
def test_killed_while_putting_back_nothing_of_what_is_wanted_is_computed(
    at_two: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        home = at_two(f"killed {number}")
        with monkeypatch.context() as patched:
            KillAt(patched, number)
            with pytest.raises(Killed):
                home.run(scale=1.0)
        home.run(scale=1.0)
        assert home.counted.taken() == []
