"""Limits of the budget hold to the minute, whatever the provider says or does not say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from media_pipeline.cloud import fleet, renter
from media_pipeline.cloud.fleet import open_fleet
from media_pipeline.cloud.reaper import reap
from media_pipeline.errors import RentalRefused
from media_pipeline_tests._rental_home import (
    USD_PER_HOUR,
    Home,
    creates,
    dear_home,
    ready,
    until,
)

pytestmark = pytest.mark.slow  # machines boot, run and end in real time


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with dear_home(tmp_path, monkeypatch) as opened:
        yield opened


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
