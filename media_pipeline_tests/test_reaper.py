"""The reaper: what is ours and not wanted goes, nothing else does, and what cannot be seen is not taken for gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.cloud import _pacing, reaper
from media_pipeline.cloud.reaper import Reaped, reap, why_unwanted
from media_pipeline.config_gpu import Gpu
from media_pipeline.storage import processes
from media_pipeline.storage.leases import Caps, Lease, Leases
from media_pipeline_tests._rental_home import Home, market, rent_by_hand, until
from media_pipeline_tests.test_leases import TERMS
from media_pipeline_tests.vast_standin import StandIn

CAPS = Caps(100, 100, 100)


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with market(count=20) as running:
        yield running


@pytest.fixture
def home(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(_pacing, "_LEAST_BACKOFF_S", 0.01)
    with server.market.lock:
        for instance in list(server.market.instances.values()):
            server.market.remove(instance)
        server.market.faults.clear()
        server.market.requests.clear()
    with Home(tmp_path, server) as opened:
        yield opened


def pass_(home: Home) -> Reaped:
    return reap(home.vast, home.leases, home.layout, home.settings.gpu)


def dead_owner() -> str:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    signed = processes.signature(child.pid)
    child.kill()
    child.communicate()
    return signed


def lease_of(
    home: Home, state: str = "busy", *, owner: str | None = None, silent_s: float = 0.0, **changes: Any
) -> Lease:
    """A lease with a machine, last renewed so long ago."""
    then = Leases(home.layout.leases, clock=lambda: time.time() - silent_s)
    lease = then.reserve(CAPS, 0.1, run_id="run", owner=owner or processes.signature(), **TERMS)
    instance_id = rent_by_hand(home.server, lease.label)
    then.update(lease.lease_id, instance_id=instance_id, state="booting")
    if state != "booting":
        then.update(lease.lease_id, state=state, running_at=time.time() - silent_s, **changes)
    then.close()
    return home.leases.get(lease.lease_id)


def live(home: Home) -> set[int]:
    return {row["id"] for row in home.server.live()}


def test_with_nothing_rented_it_looks_and_does_nothing(home: Home) -> None:
    done = pass_(home)
    assert done.is_clean
    assert (done.destroyed, done.kept, done.foreign, done.closed) == ([], [], [], [])


@pytest.mark.parametrize("state", ["booting", "ready", "busy"])
def test_what_a_living_run_has_is_kept(home: Home, state: str) -> None:
    lease = lease_of(home, state)
    done = pass_(home)
    assert done.kept == [lease.instance_id]
    assert live(home) == {lease.instance_id}
    assert home.leases.get(lease.lease_id).state == lease.state


@pytest.mark.parametrize("state", ["booting", "ready", "busy", "closing"])
def test_what_a_dead_run_had_goes_and_is_paid_for(home: Home, state: str) -> None:
    lease = lease_of(home, state, owner=dead_owner(), silent_s=60)
    done = pass_(home)
    assert done.destroyed == [lease.instance_id]
    assert done.is_clean
    closed = home.leases.get(lease.lease_id)
    assert closed.state == "closed"
    assert closed.reason
    if state in ("ready", "busy"):
        assert closed.spent_usd == pytest.approx(60 / 3600 * 0.36, rel=0.2)
    home.assert_clean()


def test_a_dead_run_has_a_few_seconds(home: Home) -> None:
    lease = lease_of(home, owner=dead_owner(), silent_s=5)
    assert pass_(home).kept == [lease.instance_id]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"owner": "elsewhere:boot:1:2", "silent_s": 60}, None),
        ({"owner": "elsewhere:boot:1:2", "silent_s": 200}, "elsewhere"),
        ({"silent_s": 300}, None),
        ({"silent_s": 700}, "hangs"),
        ({"silent_s": -7200}, None),  # the clock was set back
        ({"state": "idle", "idle_s": 100}, None),
        ({"state": "idle", "idle_s": -1}, "no run needed it"),
        ({"state": "idle", "idle_s": 9e9, "silent_s": 50_000}, "older than 12 hours"),
        ({"silent_s": 50_000}, "older than 12 hours"),
    ],
    ids=str,
)
def test_who_is_waited_for(tmp_path: Path, changes: dict[str, Any], why: str | None) -> None:
    silent_s, state = changes.get("silent_s", 0), changes.get("state", "busy")
    leases = Leases(tmp_path / "gpu.sqlite", clock=lambda: time.time() - silent_s)
    owner = changes.get("owner", processes.signature())
    lease = leases.reserve(CAPS, 0.1, run_id="run", owner=owner, **TERMS)
    if "idle_s" in changes:
        leases.update(lease.lease_id, idle_until=time.time() + changes["idle_s"])
    leases.update(lease.lease_id, state=state, instance_id=1)
    found = why_unwanted(leases.get(lease.lease_id), Gpu(), time.time())
    assert (found is None) if why is None else (found and why in found)


def test_what_is_not_ours_is_left_alone(home: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Home(tmp_path_factory.mktemp("other"), home.server) as other:
        labels = [
            None,
            "",
            "training",
            "mp-",
            "mp-123456789abc-1",
            f"x{home.leases.prefix}1",
            other.leases.prefix + "1",
        ]
        foreign = [rent_by_hand(home.server, label) for label in labels]
        ours = rent_by_hand(home.server, home.leases.prefix + "000000000000")
        done = pass_(home)
        assert done.destroyed == [ours], "ours by its label, though no lease knows it"
        assert sorted(done.foreign) == sorted(foreign)
        assert live(home) == set(foreign)
        assert any("left alone" in line for line in done.lines)


def test_a_stopped_machine_costs_money_too(home: Home) -> None:
    lease = lease_of(home, owner=dead_owner(), silent_s=60)
    idle = lease_of(home, "idle", idle_until=time.time() + 300)
    running = lease_of(home, "idle", idle_until=time.time() + 300)
    until(lambda: all(row["actual_status"] == "running" for row in home.server.live()))
    with home.server.market.lock:
        for instance_id in (lease.instance_id, idle.instance_id):
            home.server.market.halt(home.server.market.instances[instance_id], "exited", "stopped by user")
    done = pass_(home)
    assert sorted(done.destroyed) == sorted([lease.instance_id, idle.instance_id])
    assert done.kept == [running.instance_id]


def test_a_machine_rented_twice_under_one_label(home: Home) -> None:
    lease = lease_of(home)
    twin = rent_by_hand(home.server, lease.label)
    done = pass_(home)
    assert (done.destroyed, done.kept) == ([twin], [lease.instance_id])
    assert home.leases.get(lease.lease_id).state == "busy"


def test_killed_between_request_and_record(home: Home) -> None:
    intent = Leases(home.layout.leases, clock=lambda: time.time() - 60).reserve(
        CAPS, 0.1, run_id="run", owner=dead_owner(), **TERMS
    )
    instance_id = rent_by_hand(home.server, intent.label)
    assert pass_(home).destroyed == [instance_id]
    assert home.leases.get(intent.lease_id).instance_id == instance_id, "its charges are to be found later"
    home.assert_clean()


def test_an_intent_without_a_machine_is_closed_when_no_request_can_be_under_way(home: Home) -> None:
    def intent(age_s: float, owner: str) -> str:
        then = Leases(home.layout.leases, clock=lambda: time.time() - age_s)
        return then.reserve(CAPS, 0.1, run_id="run", owner=owner, **TERMS).lease_id

    gone = dead_owner()
    fresh, old, living = intent(60, gone), intent(300, gone), intent(300, processes.signature())
    assert pass_(home).closed == [old]
    assert {lease.lease_id for lease in home.leases.open()} == {fresh, living}
    # And if the machine turns up after all:
    late = rent_by_hand(home.server, home.leases.get(old).label)
    assert pass_(home).destroyed == [late]


# -- blindness --------------------------------------------------------------------------------------------------------

EMPTY = {"success": True, "instances_found": 0, "total_instances": 0, "next_token": None, "instances": []}
ODD = [
    {"do": "deprecated", "times": -1},
    {"do": "status", "code": 404, "body": {"success": False, "error": "auth_error"}, "times": -1},
    {"do": "status", "code": 200, "body": {"success": True}, "times": -1},
    {"do": "status", "code": 200, "body": {**EMPTY, "success": False}, "times": -1},
    {"do": "status", "code": 200, "body": {**EMPTY, "total_instances": 3}, "times": -1},
    {"do": "status", "code": 200, "body": {**EMPTY, "instances": None}, "times": -1},
    {"do": "status", "code": 200, "body": {**EMPTY, "instances": [{"id": 1}], "total_instances": 1}, "times": -1},
    {"do": "status", "code": 200, "body": EMPTY, "times": -1},
]


@pytest.mark.parametrize("fault", ODD, ids=lambda fault: str(fault)[:60])
def test_an_odd_or_empty_answer_says_nothing_about_machines(home: Home, fault: dict[str, Any]) -> None:
    lease = lease_of(home, owner=dead_owner(), silent_s=60)
    home.server.fault({"route": "list", **fault})
    done = pass_(home)
    assert done.blind
    assert not done.is_clean
    assert any("not known" in line for line in done.lines)
    assert home.leases.get(lease.lease_id).state == "busy", "nothing is closed"
    assert live(home) == {lease.instance_id}
    home.server.market.faults.clear()
    assert pass_(home).destroyed == [lease.instance_id]


@pytest.mark.slow
@pytest.mark.parametrize("do", ["html", "empty", "malformed", "drop_after", "rate_limit"])
def test_no_answer_that_can_be_read(home: Home, do: str) -> None:
    lease = lease_of(home, owner=dead_owner(), silent_s=60)
    home.server.fault({"route": "list", "do": do, "times": -1})
    assert pass_(home).blind
    assert home.leases.get(lease.lease_id).state == lease.state


def test_another_accounts_key_sees_no_machines_and_proves_nothing(home: Home) -> None:
    lease = lease_of(home, owner=dead_owner(), silent_s=60)
    home.server.fault(
        {"route": "list", "do": "status", "code": 200, "body": EMPTY, "times": -1},
        {"route": "show", "do": "status", "code": 200, "body": {"instances": None}, "times": -1},
        {"route": "charges", "do": "status", "code": 200, "times": -1,
         "body": {"success": True, "count": 0, "total": 0, "next_token": None, "results": []}},
    )  # fmt: skip
    done = pass_(home)
    assert done.blind
    assert "another account" in done.blind
    assert done.is_another_account
    assert home.leases.get(lease.lease_id).state == lease.state


def test_what_no_account_knows_is_given_up_in_the_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_UNKNOWN_FOR_S", 30.0)
    then = Leases(home.layout.leases, clock=lambda: time.time() - 60)
    lease = then.reserve(CAPS, 0.1, run_id="run", owner=dead_owner(), **TERMS)
    then.update(lease.lease_id, instance_id=4711, state="booting")
    assert pass_(home).closed == [lease.lease_id]
    home.assert_clean()


def test_a_machine_that_is_gone_for_certain_closes_its_lease_with_what_it_cost(home: Home) -> None:
    lease = lease_of(home, owner=dead_owner(), silent_s=60)
    instance = home.server.market.instances[lease.instance_id]
    with home.server.market.lock:
        instance.cost["gpu"] += 0.25
        home.server.market.remove(instance)
    done = pass_(home)
    assert done.is_clean
    assert done.closed == [lease.lease_id]
    closed = home.leases.get(lease.lease_id)
    assert closed.charged_usd == pytest.approx(0.25, abs=0.01)
    assert closed.spent_usd >= 0.25
    home.assert_clean()


def test_what_a_living_run_misses_is_its_own_to_find_out(home: Home) -> None:
    lease = lease_of(home)
    with home.server.market.lock:
        home.server.market.remove(home.server.market.instances[lease.instance_id])
    assert pass_(home).closed == []
    assert home.leases.get(lease.lease_id).is_open


# -- destruction ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_destroying_is_repeated_until_it_is_true(home: Home) -> None:
    lease = lease_of(home, owner=dead_owner(), silent_s=60)
    home.server.market.instances[lease.instance_id].lies = 1
    home.server.fault({"route": "destroy", "do": "drop_before"})
    assert pass_(home).destroyed == [lease.instance_id]
    home.assert_clean()


def test_what_cannot_be_destroyed_is_said_and_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_PER_MACHINE_S", 0.1)
    lease = lease_of(home, owner=dead_owner(), silent_s=60)
    other = lease_of(home, owner=dead_owner(), silent_s=60)
    home.server.market.instances[lease.instance_id].lies = 99
    done = pass_(home)
    assert (done.failed, done.destroyed) == ([lease.instance_id], [other.instance_id])
    assert not done.is_clean
    assert any("https://cloud.vast.ai/instances/" in line for line in done.lines)
    assert home.leases.get(lease.lease_id).state == "closing"
    home.server.market.instances[lease.instance_id].lies = 0
    assert pass_(home).destroyed == [lease.instance_id]
    home.assert_clean()


def test_who_is_adopted_while_the_reaper_looks_is_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = lease_of(home, "idle", idle_until=time.time() + 5)
    really = reaper.why_unwanted

    def adopted_meanwhile(*args: Any) -> str | None:
        home.leases.adopt_idle(processes.signature(), "b", CAPS, lambda _: 0.1, lambda _: True)
        return really(args[0], args[1], time.time() + 10)

    monkeypatch.setattr(reaper, "why_unwanted", adopted_meanwhile)
    done = pass_(home)
    assert done.kept == [lease.instance_id]
    assert live(home) == {lease.instance_id}
    assert home.leases.get(lease.lease_id).run_id == "b"


def test_keys_of_machines_that_are_gone_are_removed(home: Home) -> None:
    lease = lease_of(home)
    for name in (lease.lease_id, "gone"):
        (home.layout.rented / name).mkdir(parents=True)
        (home.layout.rented / name / "key").write_text("secret")
    pass_(home)
    assert [path.name for path in home.layout.rented.iterdir()] == [lease.lease_id]
