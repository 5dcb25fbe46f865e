"""One machine, and everything that can go wrong on the way to it: afterwards none is left that nobody wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.cloud import booting, bootstrap, renter
from media_pipeline.cloud.booting import Stopped
from media_pipeline.cloud.reaper import reap
from media_pipeline.cloud.renter import AccountRefused, relaxed
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import DiskFull, ProviderUnreachable, RentalRefused, WorkerLost
from media_pipeline_tests._rental_home import Home, creates, market, rent_by_hand, without_ssh
from media_pipeline_tests.vast_standin import StandIn

pytestmark = pytest.mark.slow  # a server each, in real time


@pytest.fixture
def server() -> Iterator[StandIn]:
    with market() as running:
        yield running


@pytest.fixture
def home(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    without_ssh(monkeypatch)
    monkeypatch.setattr(renter, "_LOOK_FOR_S", 1.0)
    monkeypatch.setattr(renter, "_LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(booting, "_POLL_S", 0.05)
    monkeypatch.setattr(renter, "GIVE_BACK_S", 3.0)
    foreign = rent_by_hand(server, "somebody-else"), rent_by_hand(server, None), rent_by_hand(server, "mp-0-1")
    with Home(tmp_path, server, boot_timeout_s=1.5) as opened:
        yield opened
    left = {row["id"] for row in server.live()}
    assert set(foreign) <= left, "what is not ours is never touched"


def rent_and_return(home: Home) -> int:
    """The machine that was rented after all, given back."""
    rented = home.renter()
    machine = rented.rent()
    lease = home.leases.get(machine.lease.lease_id)
    assert lease.state == "busy"
    assert machine.place.is_foreign
    assert machine.place.machine == "RTX 3090"
    assert lease.instance_id in {row["id"] for row in home.server.live()}
    assert rented.give_back(lease, "done")
    home.assert_clean()
    home.assert_paid(1.0, 0.33)
    return int(lease.instance_id or 0)


def test_a_machine_from_offer_to_end(home: Home) -> None:
    rent_and_return(home)
    (lease,) = home.all_leases()
    assert lease.reason == "done"
    assert lease.running_at is not None
    made = next(r["json"] for r in home.server.market.requests if "/asks/" in r["path"])
    assert made["label"] == lease.label
    assert made["cancel_unavail"] is True
    assert "price" not in made
    assert made["disk"] == home.settings.gpu.disk_gb


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        ({"do": "offer_gone"}, 2),
        ({"do": "offer_404"}, 2),
        ({"do": "offer_gone", "times": 3}, 4),
        # All five that were tried are gone: those of a second search are other ones.
        ({"do": "offer_404", "times": 5}, 6 - 1),
    ],
    ids=str,
)
def test_gone_offers_cost_nothing(home: Home, fault: dict[str, Any], requests: int) -> None:
    if fault.get("times") == 5:  # there are five left on the market
        home.server.fault({"route": "create", **fault})
        with pytest.raises(RentalRefused, match="gone"):
            home.renter().rent()
    else:
        home.server.fault({"route": "create", **fault})
        rent_and_return(home)
    assert creates(home.server) == requests
    home.assert_clean()


def test_what_the_server_should_have_filtered_is_not_rented(home: Home) -> None:
    for offer in home.server.market.offers.values():
        offer["geolocation"] = "Texas, US"
    home.server.fault({"route": "search", "do": "ignore_filters", "times": -1})
    home.change(countries="SE")
    with pytest.raises(RentalRefused, match="no machine on offer fits"):
        home.renter().rent()
    assert creates(home.server) == 0


def test_limits_are_relaxed_in_order_and_never_the_price() -> None:
    gpu = Gpu(min_inet_mbps=200, min_reliability=0.98, countries="SE")
    steps = list(relaxed(gpu))
    assert steps[0] == gpu
    assert [(step.min_inet_mbps, step.min_reliability) for step in steps] == [(200, 0.98), (100, 0.98), (100, 0.95)]
    free = {"min_inet_mbps", "min_reliability"}
    assert all(step.model_dump(exclude=free) == gpu.model_dump(exclude=free) for step in steps)


def test_a_slower_machine_will_do_where_there_is_no_other(home: Home) -> None:
    for offer in home.server.market.offers.values():
        offer["inet_up"] = 60.0
    rent_and_return(home)
    assert any("60" in text or "50 Mbit/s" in text for text in home.said)


@pytest.mark.parametrize("do", ["no_credit", "spend_limit"])
def test_an_account_that_may_not_rent_is_asked_once(home: Home, do: str) -> None:
    home.server.fault({"route": "create", "do": do, "times": -1})
    with pytest.raises(AccountRefused):
        home.renter().rent()
    assert creates(home.server) == 1
    home.assert_clean()
    assert home.leases.spent() == 0


def test_a_revoked_key(home: Home) -> None:
    home.server.o["api_keys"] = ("another",)
    with pytest.raises(AccountRefused, match="VAST_API_KEY"):
        home.renter().rent()
    home.assert_clean()


def test_the_searches_of_today_are_used_up(home: Home) -> None:
    home.server.fault({"route": "search", "do": "rate_limit", "quota": True, "times": -1})
    with pytest.raises(AccountRefused, match="midnight"):
        home.renter().rent()
    assert creates(home.server) == 0


@pytest.mark.parametrize("do", ["drop_after", "fail_after", "malformed"])
def test_a_machine_whose_answer_was_lost_is_found_by_its_label(home: Home, do: str) -> None:
    home.server.fault({"route": "create", "do": do})
    rent_and_return(home)
    assert creates(home.server) == 1, "never asked for twice"
    assert len(home.all_leases()) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"do": "drop_before"},
        {"do": "html"},
        {"do": "empty"},
        {"do": "status", "code": 500},
        {"do": "status", "code": 200, "body": {"success": False}},
    ],
    ids=str,
)
def test_where_no_machine_came_of_an_unclear_answer_the_next_offer_is_taken(
    home: Home, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    home.server.fault({"route": "create", **fault})
    rented = home.renter()
    machine = rented.rent()
    assert rented.give_back(machine.lease, "done")
    unclear = home.all_leases()[-1]
    # It might still turn up: the reaper has the last word.
    assert (unclear.state, unclear.instance_id) == ("closing", None)
    assert reap(home.vast, home.leases, home.layout, home.settings.gpu).is_clean
    assert home.leases.get(unclear.lease_id).is_open
    monkeypatch.setattr("media_pipeline.cloud.reaper._ASKED_FOR_S", 0.0)
    assert reap(home.vast, home.leases, home.layout, home.settings.gpu).closed == [unclear.lease_id]
    home.assert_clean()


def test_a_refusal_that_leaves_a_stopped_machine_behind(home: Home) -> None:
    left = rent_by_hand(home.server, "by a bid that was too low")
    body = {"success": False, "error": "bid_too_low", "msg": "instance created stopped", "new_contract": left}
    home.server.fault({"route": "create", "do": "status", "code": 400, "body": body})
    rent_and_return(home)
    assert left not in {row["id"] for row in home.server.live()}


def test_an_unclear_answer_and_then_none_ends_the_attempt(home: Home) -> None:
    home.server.fault({"route": "create", "do": "drop_after"}, {"route": "list", "do": "deprecated", "times": -1})
    with pytest.raises(ProviderUnreachable):
        home.renter().rent()
    assert creates(home.server) == 1, "who cannot see rents nothing more"
    home.server.market.faults.clear()
    assert reap(home.vast, home.leases, home.layout, home.settings.gpu).is_clean
    home.assert_clean()


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"stuck": None}, "provisioned"),
        ({"stuck": "created"}, "created"),
        ({"stuck": "loading"}, "loading"),
        ({"boot_error": "Error response: manifest unknown"}, "manifest unknown"),
        ({"boot_error": ": OCI runtime create failed: x"}, "OCI runtime"),
        ({"exit_after": 0}, "exited"),
        ({"preempt_after": 0}, "exited"),
        ({"offline_after": 0}, "offline"),
        ({"unknown_after": 0}, "unknown"),
        ({"expire_after": 0}, "exited"),
    ],
    ids=str,
)
def test_a_machine_that_does_not_start_is_replaced_once_by_another(
    home: Home, plan: dict[str, Any], words: str
) -> None:
    home.server.fault({"route": "create", "do": "instance", "plan": plan})
    rent_and_return(home)
    second, first = home.all_leases()
    assert first.machine_id != second.machine_id
    assert first.is_bad
    assert not second.is_bad
    assert words in (first.reason or "")


def test_two_machines_that_do_not_start_are_enough(home: Home) -> None:
    home.server.fault({"route": "create", "do": "instance", "plan": {"boot_error": "unauthorized"}, "times": -1})
    with pytest.raises(RentalRefused, match="2 machines in a row"):
        home.renter().rent()
    assert creates(home.server) == 2
    home.assert_clean()


def test_a_machine_without_open_ports_is_reached_through_the_proxy(home: Home) -> None:
    home.server.fault({"route": "create", "do": "instance", "plan": {"no_ports": True}})
    rent_and_return(home)


def test_a_machine_that_costs_more_than_agreed_is_given_back(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    really = home.vast.create
    ids: list[int] = []

    def dearer(*args: Any, **kwargs: Any) -> int:
        ids.append(really(*args, **kwargs))
        made = home.server.market.instances[ids[-1]]
        if len(ids) == 1:
            made.offer = {**made.offer, "dph_base": made.offer["dph_base"] * 1.2}
        return ids[-1]

    monkeypatch.setattr(home.vast, "create", dearer)
    assert rent_and_return(home) == ids[1]
    assert "were agreed" in (home.all_leases()[1].reason or "")


@pytest.mark.parametrize(
    "faults",
    [
        [{"route": "create", "do": "instance", "plan": {"destroy_lies": 2}}],
        [{"route": "destroy", "do": "rate_limit", "times": 2}],
        [{"route": "destroy", "do": "status", "code": 502, "times": 2}],
        [{"route": "destroy", "do": "drop_after"}],
        [{"route": "destroy", "do": "html"}, {"route": "show", "do": "empty"}],
    ],
    ids=str,
)
def test_giving_back_is_repeated_until_it_is_true(home: Home, faults: list[dict[str, Any]]) -> None:
    home.server.fault(*faults)
    rent_and_return(home)


def test_a_machine_that_cannot_be_given_back_is_said_and_left_to_the_reaper(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renter, "GIVE_BACK_S", 0.5)
    home.server.fault(
        {"route": "create", "do": "instance", "plan": {"boot_error": "unauthorized"}},
        {"route": "destroy", "do": "status", "code": 400, "times": -1},
    )
    with pytest.raises(ProviderUnreachable, match="may still be there"):
        home.renter().rent()
    assert creates(home.server) == 1, "a second machine would be paid for beside the first"
    (lease,) = home.all_leases()
    assert lease.state == "closing"
    assert any("gpu reap" in text for text in home.said)
    assert home.leases.notices(untold=True)
    home.server.market.faults.clear()
    done = reap(home.vast, home.leases, home.layout, home.settings.gpu)
    assert done.destroyed == [lease.instance_id]
    home.assert_clean()


def test_a_limit_refuses_before_anything_is_asked_for(home: Home) -> None:
    home.max_usd = 0.001
    with pytest.raises(RentalRefused, match="--max-usd"):
        home.renter().rent()
    assert creates(home.server) == 0
    assert home.all_leases() == []


def test_a_run_that_ends_meanwhile_takes_its_machine_with_it(home: Home) -> None:
    home.server.fault({"route": "create", "do": "instance", "plan": {"stuck": "loading"}})
    threading.Timer(0.5, home.stopping.set).start()
    with pytest.raises(Stopped):
        home.renter().rent()
    home.assert_clean()
    assert not home.all_leases()[0].is_bad, "it was not the machine's fault"


def test_a_book_that_cannot_be_written_just_now_keeps_no_machine_either(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> bool:
        raise DiskFull("no room")

    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(home.leases, "update", full)
        home.renter().rent()
    assert creates(home.server) == 1
    assert home.ours() == []


def test_a_bug_takes_its_machine_with_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> tuple[str, ...]:
        raise KeyError("oops")

    monkeypatch.setattr(bootstrap, "prepare", broken)
    with pytest.raises(KeyError):
        home.renter().rent()
    home.assert_clean()


def test_a_book_that_cannot_be_written_keeps_no_machine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    rented = home.renter()
    machine = rented.rent()

    def full(*_: object, **__: object) -> bool:
        raise DiskFull("no room")

    for name in ("update", "renew", "end", "notice"):
        monkeypatch.setattr(home.leases, name, full)
    assert rented.give_back(machine.lease, "the disk is full")
    assert machine.lease.instance_id not in {row["id"] for row in home.server.live()}


# -- idle machines ----------------------------------------------------------------------------------------------------


def leave_idle(home: Home) -> int:
    rented = home.renter("first")
    machine = rented.rent()
    assert rented._attendance.leave_idle(machine.lease.lease_id, 300)
    return int(machine.lease.instance_id or 0)


def test_an_idle_machine_is_used_again(home: Home) -> None:
    instance_id = leave_idle(home)
    rented = home.renter("second")
    machine = rented.adopt()
    assert machine is not None
    assert machine.lease.instance_id == instance_id
    assert machine.lease.run_id == "second"
    assert home.renter("third").adopt() is None
    assert rented.give_back(machine.lease, "done")
    home.assert_clean()


@pytest.mark.parametrize("fault", ["gone", "stopped", "no way in"])
def test_an_idle_machine_that_is_no_good_any_more(home: Home, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = home.server.market.instances[leave_idle(home)]
    with home.server.market.lock:
        if fault == "gone":
            home.server.market.remove(instance)
        elif fault == "stopped":
            home.server.market.halt(instance, "exited", "outbid")

    def refused(*_: object, **__: object) -> object:
        raise WorkerLost("refused")

    if fault == "no way in":
        monkeypatch.setattr(booting, "connect", refused)
        monkeypatch.setattr(renter, "_SSH_WORKS_S", 0.5)
    assert home.renter("second").adopt() is None
    home.assert_clean()


def test_an_idle_machine_must_be_as_trusted_as_one_that_would_be_rented(home: Home) -> None:
    home.change(secure_cloud=False)
    for offer in home.server.market.offers.values():
        offer["hosting_type"] = 0
    leave_idle(home)
    home.change(secure_cloud=True)
    assert home.renter("second").adopt() is None
    home.change(secure_cloud=False)
    assert home.renter("second").adopt() is not None


@pytest.mark.parametrize(
    "changed",
    [{"image": "another"}, {"max_usd_per_hour": 0.1}, {"names": "RTX 4090"}, {"countries": "DE"}, {"disk_gb": 100}],
    ids=str,
)
def test_an_idle_machine_must_be_one_that_would_be_rented_now(home: Home, changed: dict[str, Any]) -> None:
    instance_id = leave_idle(home)
    home.change(**changed)
    assert home.renter("second").adopt() is None
    (lease,) = home.leases.open()
    assert (lease.instance_id, lease.state) == (instance_id, "idle"), "another run may want it"
