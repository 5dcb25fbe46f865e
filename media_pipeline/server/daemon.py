"""dagster-daemon, and beside it somebody who notices that the clock was set back.

Dagster notes when a sensor or a schedule had its last turn, and gives it the next one some time after that. Where a
clock ran ahead for a while (a server that starts with a wrong one and asks the network later), what was noted lies in
the future, and until then no file is taken and no night begins. So that is forgotten, and the daemon, which remembers
some of it itself, ends, to be started anew.

    python -m media_pipeline.server.daemon --workspace=…      with the arguments of `dagster-daemon run`
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, ScheduleInstigatorData, SensorInstigatorData

# Clocks of containers of one machine are the same; those of several servers differ by less.
TOLERANCE_S = 60.0
_LOOK_EVERY_S = 20.0
_TIMES: dict[type, tuple[str, ...]] = {
    SensorInstigatorData: (
        *("last_tick_timestamp", "last_tick_start_timestamp"),
        *("last_tick_success_timestamp", "last_sensor_start_timestamp"),
    ),
    ScheduleInstigatorData: ("start_timestamp", "last_iteration_timestamp"),
}


def forget_the_future(instance: dg.DagsterInstance, now: float) -> list[str]:
    """What is noted of sensors and schedules for a time that has not come happened now.

    Returns:
        their names.
    """
    return [state.name for state in instance.all_instigator_state() if _put_right(instance, state, now)]


def _put_right(instance: dg.DagsterInstance, state: InstigatorState, now: float) -> bool:
    latest = now + TOLERANCE_S
    data: Any = state.instigator_data
    ahead = {name: now for name in _TIMES.get(type(data), ()) if (getattr(data, name) or 0) > latest}
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=latest)
    for tick in ticks:
        instance.update_tick(tick._replace(tick_data=tick.tick_data._replace(timestamp=now)))
    if ahead:
        instance.update_instigator_state(state.with_data(data._replace(**ahead)))
    return bool(ahead or ticks)


def _watch() -> None:
    instance: dg.DagsterInstance | None = None
    while True:
        time.sleep(_LOOK_EVERY_S)
        try:
            instance = instance or dg.DagsterInstance.get()
            found = forget_the_future(instance, time.time())
        except Exception as error:  # of whatever database: the daemon itself tells of it, and the next look comes
            print(f"clock: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        if found:
            print(f"clock: it was set back; started anew for {', '.join(found)}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            return


def main() -> None:
    from dagster._daemon.cli import main as daemon

    threading.Thread(target=_watch, name="clock", daemon=True).start()
    sys.argv = ["dagster-daemon", "run", *sys.argv[1:]]
    daemon()


if __name__ == "__main__":
    main()
