"""The machines of a run: there, replaced, paid for within the limits, and gone in the end, whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.cloud import booting, destruction, fleet, reaper, renter, watch
from media_pipeline.cloud.fleet import RentedFleet, open_fleet
from media_pipeline.cloud.reaper import reap
from media_pipeline.errors import RentalRefused
from media_pipeline.execution.places import Place
from media_pipeline_tests._cli import REPOSITORY, environment
from media_pipeline_tests._rental_home import KEY, Home, creates, market, rent_by_hand, until, without_ssh
from media_pipeline_tests.vast_standin import StandIn

pytestmark = pytest.mark.slow  # machines boot, run and end in real time
USD_PER_HOUR = 36.0  # a cent a second


@pytest.fixture
def server() -> Iterator[StandIn]:
    with market(usd=USD_PER_HOUR) as running:
        yield running


@pytest.fixture
def home(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    without_ssh(monkeypatch)
    quick(monkeypatch)
    foreign = rent_by_hand(server, "mp-000000000000-1")
    with Home(
        tmp_path, server, max_usd=5.0, max_machines=4, max_usd_per_day=50, max_usd_per_month=90, setup_timeout_s=5
    ) as opened:
        yield opened
    assert foreign in {row["id"] for row in server.live()}, "what is not ours is never touched"


def quick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(watch, "EVERY_S", 0.2)
    patch.setattr(watch, "MONEY_EVERY_S", 1.0)
    patch.setattr(fleet, "_RETRY_S", 0.2)
    patch.setattr(watch, "TICK_S", 0.2)
    patch.setattr(booting, "_POLL_S", 0.05)
    patch.setattr(renter, "_LOOK_EVERY_S", 0.2)
    patch.setattr(renter, "_LOOK_FOR_S", 1.0)
    patch.setattr(destruction, "_FIRST_WAIT_S", 0.1)


def ready(fleet_: RentedFleet, count: int = 1) -> tuple[Place, ...]:
    fleet_.start()
    until(lambda: len(fleet_.state().places) == count or not fleet_.state().is_starting)
    return fleet_.state().places


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


# -- money ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "machines"), [("run", 1), ("run", 2), ("day", 1), ("month", 1)])
def test_at_a_limit_the_machines_go_at_once(home: Home, limit: str, machines: int) -> None:
    cap = 0.15 + 0.1 * machines
    if limit == "run":
        home.max_usd = cap
    else:
        home.change(**{f"max_usd_per_{limit}": cap})
    rented = home.fleet(machines=machines)
    ready(rented, machines)
    until(lambda: not rented.state().places and not rented.state().is_starting, 60)
    assert f"a {limit} may cost" in (rented.state().reason or "")
    until(lambda: not home.ours())
    rented.close()
    home.assert_clean()
    assert home.really_spent() <= cap, "with time left for the end"
    home.assert_paid(cap, machines * USD_PER_HOUR)
    assert home.leases.spent() <= cap + 0.002
    if limit != "run":
        until(lambda: [n for n in home.leases.notices() if "100 %" in n.name])
        next_ = home.fleet("next")
        next_.start()
        until(lambda: not next_.state().is_starting)
        assert f"MAX_USD_PER_{limit.upper()}" in (next_.state().reason or "")
        next_.close()
        home.assert_clean()


def test_data_is_paid_for(home: Home) -> None:
    for offer in home.server.market.offers.values():
        offer["inet_up_cost"] = 0.05
        offer["inet_down_cost"] = 0.02
    rented = home.fleet()
    (place,) = ready(rented)
    before = home.leases.spent()
    rented.moved(place, 1_000_000_000, 2_000_000_000)
    until(lambda: home.leases.spent() >= before + 0.12)
    rented.close()
    home.assert_clean()


def test_what_only_the_provider_knows_counts_too(home: Home) -> None:
    home.max_usd = 2.0
    rented = home.fleet()
    ready(rented)
    (row,) = home.ours()
    with home.server.market.lock:
        home.server.market.instances[row["id"]].cost["bwd"] += 1.9
    until(lambda: not rented.state().places)
    assert "a run may cost" in (rented.state().reason or "")
    rented.close()
    home.assert_clean()
    home.assert_paid(2.0, USD_PER_HOUR)


def test_the_end_comes_before_the_credit_does(home: Home) -> None:
    rented = home.fleet()
    ready(rented)
    home.server.market.account["credit"] = 0.5
    until(lambda: not rented.state().places)
    assert "credit" in (rented.state().reason or "")
    rented.close()
    home.assert_clean()
    assert home.server.market.account["credit"] > 0
    assert [n for n in home.leases.notices() if "credit" in n.text]


@pytest.mark.parametrize("do", ["no_credit", "spend_limit"])
def test_an_account_that_may_not_rent_is_asked_once_a_run(home: Home, do: str) -> None:
    home.server.fault({"route": "create", "do": do, "times": -1})
    rented = home.fleet(machines=3)
    assert ready(rented) == ()
    until(lambda: not rented.state().is_starting)
    assert creates(home.server) <= 3
    asked = creates(home.server)
    time.sleep(0.5)
    assert creates(home.server) == asked
    assert rented.state().reason
    rented.close()
    home.assert_clean()
    assert len([n for n in home.leases.notices() if n.name.startswith("account")]) == 1


def test_without_credit_nothing_is_asked_for(home: Home) -> None:
    home.server.market.account["credit"] = 0.05
    rented = home.fleet()
    assert ready(rented) == ()
    assert "credit" in (rented.state().reason or "")
    assert creates(home.server) == 0
    rented.close()


def test_nothing_is_opened_without_a_key_or_money(home: Home) -> None:
    home.max_usd = 0.0
    with pytest.raises(RentalRefused, match="--max-usd"):
        home.fleet()
    home.settings = home.settings.model_copy(update={"vast_api_key": None})
    with pytest.raises(RentalRefused, match="VAST_API_KEY"):
        home.fleet()


# -- blindness and broken servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", ["deprecated", "html"])
def test_who_cannot_see_what_runs_rents_nothing(home: Home, do: str) -> None:
    home.server.fault({"route": "list", "do": do, "times": -1})
    rented = home.fleet()
    rented.start()
    until(lambda: not rented.state().is_starting, 60)
    assert "not known" in (rented.state().reason or "")
    assert creates(home.server) == 0
    rented.close()


def test_a_server_that_is_away_for_a_moment(home: Home) -> None:
    home.server.fault({"route": "search", "do": "status", "code": 503, "times": 6})
    rented = home.fleet()
    assert len(ready(rented)) == 1
    rented.close()
    home.assert_clean()


def test_blind_in_the_middle_machines_run_on_and_limits_hold(home: Home) -> None:
    home.max_usd = 0.25
    rented = home.fleet()
    ready(rented)
    home.server.fault(
        *({"route": route, "do": "status", "code": 500, "times": 12} for route in ("list", "show", "user"))
    )
    until(lambda: not rented.state().places, 60)
    assert "a run may cost" in (rented.state().reason or "")
    home.server.market.faults.clear()
    rented.close()
    home.assert_clean()
    home.assert_paid(0.25, USD_PER_HOUR)


def test_a_machine_that_cannot_be_given_back_keeps_nobody_waiting(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CLOSE_S", 1.0)
    monkeypatch.setattr(renter, "GIVE_BACK_S", 60.0)
    rented = home.fleet()
    ready(rented)
    home.server.fault({"route": "destroy", "do": "status", "code": 400, "times": -1})
    began = time.monotonic()
    rented.close()
    assert time.monotonic() - began < 30
    (lease,) = home.leases.open()
    assert lease.state == "closing"
    assert any("gpu reap" in text for text in home.said)
    home.server.market.faults.clear()
    assert reap(home.vast, home.leases, home.layout, home.settings.gpu).is_clean
    home.assert_clean()


def test_a_screen_that_is_gone_keeps_no_machine(home: Home) -> None:
    def broken(_: str) -> None:
        raise BrokenPipeError

    rented = open_fleet(home.settings, home.layout, run_id="run", max_usd=None, machines=1, keep_idle=False, say=broken)
    ready(rented)
    rented.close()
    home.assert_clean()


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


# -- interrupted ------------------------------------------------------------------------------------------------------


def test_closed_while_a_machine_is_being_asked_for(home: Home) -> None:
    home.server.fault({"route": "create", "do": "hang", "seconds": 1.0})
    rented = home.fleet()
    rented.start()
    until(lambda: home.leases.open())
    time.sleep(0.3)
    rented.close()
    home.assert_clean()


def test_closed_while_machines_boot(home: Home) -> None:
    home.server.fault({"route": "create", "do": "instance", "plan": {"stuck": "loading"}, "times": 3})
    rented = home.fleet(machines=3)
    rented.start()
    until(lambda: len(home.ours()) == 3)
    rented.close()
    home.assert_clean()


def test_interrupted_while_closing_it_is_closed_at_the_end_of_the_process(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    rented = home.fleet()
    ready(rented)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rented, "_join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rented.close()
    rented.close()  # what `atexit` does
    home.assert_clean()


def start_process(home: Home) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "media_pipeline_tests._rental_home", str(home.layout.home), home.server.url],
        cwd=REPOSITORY,
        env=environment(),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("when", ["between request and record", "during boot", "at work", "during destruction"])
def test_killed(home: Home, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_DEAD_AFTER_S", 0.5)
    monkeypatch.setattr(reaper, "_ASKED_FOR_S", 1.0)
    if when == "between request and record":
        home.server.fault({"route": "create", "do": "hang", "seconds": 1.5})
    elif when == "during boot":
        home.server.fault({"route": "create", "do": "instance", "plan": {"stuck": "created"}})
    elif when == "during destruction":
        home.server.fault({"route": "destroy", "do": "hang", "seconds": 1.5})
    process = start_process(home)
    try:
        if when == "between request and record":
            until(lambda: home.leases.open(), 60)
            time.sleep(0.3)  # the request is on its way, and the server takes its time
        elif when == "during boot":
            until(lambda: home.ours() and home.leases.open()[0].instance_id, 60)
        else:
            until(lambda: home.leases.open() and home.leases.open()[0].state == "busy", 60)
        if when == "during destruction":
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            until(lambda: any(f["kind"] == "fault" and f["route"] == "destroy" for f in home.server.market.events))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if when == "between request and record":
        until(lambda: home.ours())
        assert home.leases.open()[0].instance_id is None
    time.sleep(0.6)
    done = reap(home.vast, home.leases, home.layout, home.settings.gpu)
    assert done.is_clean, done.lines
    home.assert_clean()
    home.assert_paid(5, USD_PER_HOUR)
    assert not home.leases.get(home.all_leases()[0].lease_id).is_open


def test_ended_by_the_interpreter_without_a_close(home: Home) -> None:
    process = start_process(home)
    until(lambda: home.leases.open() and home.leases.open()[0].state == "busy", 60)
    process.send_signal(signal.SIGINT)  # KeyboardInterrupt in the main thread, which closes nothing
    process.communicate(timeout=60)
    home.assert_clean()


# -- with a real machine ----------------------------------------------------------------------------------------------

needs_sshd = pytest.mark.skipif(not os.path.exists("/usr/sbin/sshd") or not shutil.which("ssh"), reason="no sshd")


@needs_sshd
@pytest.mark.parametrize("plan", [{}, {"ssh": {"late": 1.5}}], ids=str)
def test_a_machine_with_a_real_sshd_becomes_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any]
) -> None:
    quick(monkeypatch)
    with market(usd=USD_PER_HOUR, ssh=True) as server, Home(tmp_path, server, max_usd=50, max_usd_per_day=90) as home:
        server.fault({"route": "create", "do": "instance", "plan": plan})
        first = home.fleet("first", keep_idle=True)
        (place,) = ready_for_real(first)
        check = subprocess.run([*place.command[:-1], "echo $CONTAINER_ID"], capture_output=True, text=True, timeout=30)
        assert check.stdout.strip() == str(home.leases.open()[0].instance_id), check.stderr
        first.close()
        second = home.fleet("second")
        (again,) = ready_for_real(second)
        assert again.name == place.name, home.said
        assert creates(server) == 1
        second.close()
        home.assert_clean()


@needs_sshd
@pytest.mark.parametrize("plan", [{"ssh": "refuse"}, {"ssh": "noauth"}, {"ssh": "hang"}, {"gpu": "broken"}], ids=str)
def test_a_machine_without_a_way_in_or_a_gpu_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any]
) -> None:
    quick(monkeypatch)
    with (
        market(usd=USD_PER_HOUR, ssh=True) as server,
        Home(tmp_path, server, max_usd=50, max_usd_per_day=90, boot_timeout_s=5) as home,
    ):
        server.fault({"route": "create", "do": "instance", "plan": plan})
        rented = home.fleet()
        ready_for_real(rented)
        assert creates(server) == 2
        rented.close()
        home.assert_clean()
        bad = [lease for lease in home.all_leases() if lease.is_bad]
        assert len(bad) == 1


def ready_for_real(rented: RentedFleet) -> tuple[Place, ...]:
    rented.start()
    until(lambda: rented.state().places or not rented.state().is_starting, 180)
    assert rented.state().places, rented.history
    return rented.state().places


def test_threads_end(home: Home) -> None:
    before = set(threading.enumerate())
    rented = home.fleet()
    ready(rented)
    rented.close()
    until(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("gpu fleet")])
    assert KEY not in "".join(rented.history)
