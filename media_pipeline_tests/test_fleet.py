"""The machines of a run: there, replaced when lost, used by the next run, and gone in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.cloud import fleet, watch
from media_pipeline_tests._rental_home import (
    KEY,
    USD_PER_HOUR,
    Home,
    creates,
    dear_home,
    ready,
    rent_by_hand,
    until,
)

pytestmark = pytest.mark.slow  # machines boot, run and end in real time


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with dear_home(tmp_path, monkeypatch) as opened:
        yield opened


def test_a_machine_from_start_to_end(home: Home) -> None:
    rented = home.fleet()
    assert rented.state().is_starting
    (place,) = ready(rented)
    assert place.is_foreign
    assert rented.state().reason is None
    assert len(home.ours()) == 1
    time.sleep(0.5)
    assert rented.spent_usd > 0
    rented.close()
    rented.close()
    assert rented.state().places == ()
    assert not rented.state().is_starting
    home.assert_clean()
    home.assert_paid(1, USD_PER_HOUR)
    assert rented.spent_usd == pytest.approx(home.leases.spent(run_id="run"))
    assert [text for text in rented.history if "rented a RTX 3090" in text]
    assert rented.history[0][:4].isdigit(), "with the time in front"


def test_several_at_once(home: Home) -> None:
    rented = home.fleet(machines=3)
    places = ready(rented, 3)
    assert len({place.name for place in places}) == 3
    rented.close()
    home.assert_clean()
    assert creates(home.server) == 3


def test_no_more_than_the_settings_allow(home: Home) -> None:
    rented = home.fleet(machines=16)
    assert len(ready(rented, 4)) == 4
    rented.close()
    home.assert_clean()


def test_a_lost_worker_costs_its_machine_which_is_replaced_by_another(home: Home) -> None:
    rented = home.fleet()
    (place,) = ready(rented)
    (before,) = home.ours()
    rented.lost(place, "no heartbeat")
    rented.lost(place, "told twice")
    assert rented.state().places == ()
    assert rented.state().is_starting
    until(lambda: rented.state().places)
    (after,) = home.ours()
    assert after["machine_id"] != before["machine_id"]
    rented.close()
    home.assert_clean()
    assert creates(home.server) == 2


def test_machines_are_not_replaced_for_ever(home: Home) -> None:
    rented = home.fleet()
    ready(rented)
    while rented.state().places or rented.state().is_starting:
        for place in rented.state().places:
            rented.lost(place, "the worker dies every time")
        time.sleep(0.05)
    assert creates(home.server) == 3
    assert "the worker dies every time" in (rented.state().reason or "")
    rented.close()
    home.assert_clean()


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"exit_after": 0.5}, "exited"),
        ({"preempt_after": 0.5}, "exited"),
        ({"expire_after": 0.5}, "exited"),
        ({"offline_after": 0.5}, "offline"),
        ({"unknown_after": 0.5}, "unknown"),
    ],
    ids=str,
)
def test_a_machine_that_fails_in_the_middle_is_replaced(
    home: Home, plan: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_OUT_OF_TOUCH_S", 0.5)
    home.server.fault({"route": "create", "do": "instance", "plan": plan})
    rented = home.fleet()
    ready(rented)
    until(lambda: creates(home.server) == 2)
    until(lambda: rented.state().places)
    rented.close()
    home.assert_clean()
    assert any(words in text for text in rented.history)


def test_a_host_out_of_touch_may_come_back(home: Home) -> None:
    rented = home.fleet()
    ready(rented)
    (row,) = home.ours()
    instance = home.server.market.instances[row["id"]]
    with home.server.market.lock:
        instance.actual = "offline"
    time.sleep(1.0)
    assert rented.state().places, "it has some time"
    with home.server.market.lock:
        instance.actual = "running"
    time.sleep(0.5)
    assert rented.state().places
    rented.close()
    home.assert_clean()


def test_a_machine_that_vanishes_is_replaced_and_its_cost_kept(home: Home) -> None:
    rented = home.fleet()
    ready(rented)
    (row,) = home.ours()
    with home.server.market.lock:
        home.server.market.remove(home.server.market.instances[row["id"]])
    until(lambda: creates(home.server) == 2 and rented.state().places)
    rented.close()
    home.assert_clean()


def test_a_stale_list_loses_nothing(home: Home) -> None:
    rented = home.fleet()
    home.vast.instances()  # the list that the server will repeat
    ready(rented)
    home.server.fault({"route": "list", "do": "stale_list", "times": 3})
    time.sleep(1.0)
    assert len(rented.state().places) == 1
    assert creates(home.server) == 1
    rented.close()
    home.assert_clean()


def test_a_price_that_is_raised_is_not_accepted(home: Home) -> None:
    rented = home.fleet()
    ready(rented)
    (row,) = home.ours()
    instance = home.server.market.instances[row["id"]]
    with home.server.market.lock:
        instance.offer = {**instance.offer, "dph_base": instance.offer["dph_base"] * 1.5}
    until(lambda: creates(home.server) == 2 and rented.state().places)
    assert any("price was raised" in text for text in rented.history)
    rented.close()
    home.assert_clean()
    home.assert_paid(5, USD_PER_HOUR)


# -- one run after the other, and two at once -------------------------------------------------------------------------


def test_an_idle_machine_is_used_by_the_next_run(home: Home) -> None:
    first = home.fleet("first", keep_idle=True)
    ready(first)
    first.close()
    (lease,) = home.leases.open()
    assert lease.state == "idle"
    assert len(home.ours()) == 1
    second = home.fleet("second")
    assert len(ready(second)) == 1
    assert creates(home.server) == 1
    second.close()
    home.assert_clean()
    assert home.leases.spent(run_id="second") > 0
    assert home.leases.spent(run_id="first") == pytest.approx(first.spent_usd, abs=0.2)


def test_a_machine_is_not_left_idle_where_that_would_exceed_a_limit(home: Home) -> None:
    home.max_usd = 2.0  # less than the idle seconds would cost
    rented = home.fleet(keep_idle=True)
    ready(rented)
    rented.close()
    home.assert_clean()


def test_of_two_runs_one_gets_the_idle_machine_and_the_other_its_own(home: Home) -> None:
    first = home.fleet("first", keep_idle=True)
    ready(first)
    first.close()
    runs = [home.fleet(name) for name in ("a", "b")]
    for run in runs:
        run.start()
    for run in runs:
        until(lambda run=run: run.state().places)
    assert creates(home.server) == 2
    assert len(home.ours()) == 2
    for run in runs:
        run.close()
    home.assert_clean()


def test_a_run_whose_lease_is_ended_by_another_process_gives_up_its_machine(home: Home) -> None:
    rented = home.fleet()
    (place,) = ready(rented)
    (lease,) = home.leases.open()
    until(lambda: home.leases.condemn(home.leases.get(lease.lease_id), "somebody reaps"))
    until(lambda: place not in rented.state().places)
    until(lambda: rented.state().places)
    rented.close()
    home.assert_clean()


def test_what_an_earlier_run_left_is_given_back_first(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    left = rent_by_hand(home.server, home.leases.prefix + "000000000000")
    rented = home.fleet()
    ready(rented)
    assert left not in {row["id"] for row in home.server.live()}
    rented.close()
    home.assert_clean()


def test_threads_end(home: Home) -> None:
    before = set(threading.enumerate())
    rented = home.fleet()
    ready(rented)
    rented.close()
    until(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("gpu fleet")])
    assert KEY not in "".join(rented.history)


@pytest.mark.parametrize("where", ["reap", "rent"])
def test_a_bug_leaves_no_run_waiting(home: Home, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("oops")

    rented = home.fleet()
    if where == "reap":
        monkeypatch.setattr(fleet, "reap", broken)
    else:
        monkeypatch.setattr(rented._renter, "rent", broken)
    rented.start()
    until(lambda: not rented.state().is_starting)
    assert "oops" in (rented.state().reason or "")
    rented.close()
    home.assert_clean()
