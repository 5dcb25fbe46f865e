"""What is left of a run when its stages are taken off."""

from __future__ import annotations

import pytest

from media_pipeline.execution import run_clock
from media_pipeline.execution.run_clock import RunClock
from media_pipeline.storage.costs import Cost


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    now = [1000.0]
    monkeypatch.setattr(run_clock.time, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def cost(wall_s: float, load_s: float | None = None) -> Cost:
    return Cost("ocr", "m", "cpu", 1, 1, 0.0, wall_s, wall_s, load_s)


def test_stages_here_count_what_they_computed_and_those_elsewhere_all_of_their_time(wait) -> None:  # type: ignore[no-untyped-def]
    clock = RunClock()
    clock.begin()
    clock.begin_stage()
    clock.account(2.0)
    wait(3.0)  # a second around decoding
    clock.begin_stage()
    wait(10.0)
    clock.computed(cost(8.0, load_s=1.5))  # half a second around this one
    clock.begin_stage()
    clock.computed(cost(4.0))  # a few media were looked at here as well
    wait(60.0)
    clock.stage_was_elsewhere()
    wait(0.5)
    assert clock.end() == pytest.approx(2.0)


def test_without_a_run_there_is_nothing_to_learn_and_a_broken_off_one_is_forgotten(wait) -> None:  # type: ignore[no-untyped-def]
    clock = RunClock()
    assert clock.end() is None
    clock.begin()
    wait(100.0)
    clock.begin()
    wait(1.0)
    assert clock.end() == pytest.approx(1.0)
    assert clock.end() is None
