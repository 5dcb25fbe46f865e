"""A clock that was set back does not hold up the sensors: what Dagster noted for the future is forgotten."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)

from media_pipeline.config import load_settings
from media_pipeline.engine.instance import open_instance
from media_pipeline.server.daemon import TOLERANCE_S, forget_the_future

NOW = 1_800_000_000.0
LATER = NOW + 3 * 3600


def _state(name: str, kind: InstigatorType, data: SensorInstigatorData | ScheduleInstigatorData) -> InstigatorState:
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("media_pipeline"), "__repository__")
    return InstigatorState(RemoteInstigatorOrigin(repository, name), kind, InstigatorStatus.RUNNING, data)


def _ticked(instance: dg.DagsterInstance, state: InstigatorState, at: float) -> None:
    instance.add_instigator_state(state)
    instance.create_tick(
        TickData(
            *(state.instigator_origin_id, state.name, state.instigator_type, TickStatus.SKIPPED, at),
            selector_id=state.selector_id,
        )
    )


def _latest(instance: dg.DagsterInstance, state: InstigatorState) -> float:
    [tick] = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
    return tick.timestamp


@pytest.mark.slow
def test_what_was_noted_for_the_future_happened_now(tmp_path: Path) -> None:
    sensor = SensorInstigatorData(last_tick_timestamp=LATER, last_tick_start_timestamp=LATER, cursor="here")
    schedule = ScheduleInstigatorData("0 2 * * *", start_timestamp=NOW - 9e5, last_iteration_timestamp=LATER)
    ahead = [_state("watch_folders", InstigatorType.SENSOR, sensor)]
    ahead += [_state("nightly", InstigatorType.SCHEDULE, schedule)]
    usual = _state("reaper", InstigatorType.SENSOR, SensorInstigatorData(last_tick_timestamp=NOW + TOLERANCE_S / 2))
    with open_instance(load_settings(home=tmp_path)) as instance:
        for state in ahead:
            _ticked(instance, state, LATER)
        _ticked(instance, usual, NOW + TOLERANCE_S / 2)
        assert set(forget_the_future(instance, NOW)) == {"watch_folders", "nightly"}
        found = {state.name: state.instigator_data for state in instance.all_instigator_state()}
        assert found["watch_folders"] == sensor._replace(last_tick_timestamp=NOW, last_tick_start_timestamp=NOW)
        assert found["nightly"] == schedule._replace(last_iteration_timestamp=NOW)
        assert found["reaper"] == usual.instigator_data
        assert [_latest(instance, state) for state in ahead] == [NOW, NOW]
        assert forget_the_future(instance, NOW) == []
