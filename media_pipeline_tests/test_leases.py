"""The book of rented machines: limits that hold, one owner at a time, and nothing lost by a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.errors import BudgetReached, RentalRefused
from media_pipeline.storage import processes
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Caps, Lease, Leases

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()  # the last day of a month
HOUR = 3600.0
CAPS = Caps(run_usd=1.0, day_usd=3.0, month_usd=20.0)
TERMS: dict[str, Any] = {
    "offer_id": 7,
    "machine_id": 70,
    "gpu": "RTX 3090",
    "country": "SE",
    "image": "cuda",
    "usd_per_hour": 0.36,
    "disk_usd_per_hour": 0.01,
    "usd_per_gb_in": 0.0,
    "usd_per_gb_out": 0.0,
    "disk_gb": 40.0,
    "is_datacenter": True,
}


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(tmp_path: Path, clock: Clock) -> Leases:
    return Leases(tmp_path / "gpu.sqlite", clock)


def reserve(leases: Leases, usd: float = 0.1, *, run_id: str = "a", caps: Caps = CAPS, owner: str = "me") -> Lease:
    return leases.reserve(caps, usd, run_id=run_id, owner=owner, **TERMS)


def test_the_intent_is_written_down_under_a_label_of_its_own(leases: Leases, tmp_path: Path) -> None:
    one, two = reserve(leases), reserve(leases)
    assert (one.state, one.instance_id, one.reserved_usd, one.owner) == ("intent", None, 0.1, "me")
    assert one.label != two.label
    assert one.label == f"mp-{leases.installation}-{one.lease_id}"
    assert len(leases.installation) >= 12
    assert Leases(tmp_path / "gpu.sqlite").installation == leases.installation, "made once"
    assert Leases(tmp_path / "other.sqlite").installation != leases.installation
    assert leases.labelled(one.label) == one
    assert (tmp_path / "gpu.sqlite").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("caps", "setting"),
    [
        (Caps(0.3, 9, 9), "MAX_USD_PER_RUN"),
        (Caps(9, 0.3, 9), "MAX_USD_PER_DAY"),
        (Caps(9, 9, 0.3), "MAX_USD_PER_MONTH"),
    ],
)
def test_a_limit_refuses_and_says_which_and_how_much(leases: Leases, caps: Caps, setting: str) -> None:
    reserve(leases, 0.25, caps=caps)
    with pytest.raises(RentalRefused) as refused:
        reserve(leases, 0.06, caps=caps)
    assert "$0.30" in refused.value.cause
    assert "$0.25" in refused.value.cause
    assert setting in (refused.value.remedy or "")
    assert len(leases.open()) == 1
    reserve(leases, 0.05, caps=caps)


def test_what_is_spent_beyond_the_reserve_counts_and_what_is_left_of_a_closed_lease_does_not(leases: Leases) -> None:
    lease = reserve(leases, 0.9)
    leases.renew("me", {lease.lease_id: 0.2})
    assert leases.used("a").run_usd == pytest.approx(0.9)
    leases.renew("me", {lease.lease_id: 0.75})
    assert leases.used("a").run_usd == pytest.approx(0.95)
    leases.end(lease.lease_id, "done")
    assert leases.used("a").run_usd == pytest.approx(0.95)
    other = reserve(leases, 0.5, run_id="b")
    leases.end(other.lease_id, "the offer was gone")
    assert leases.used("b").run_usd == 0
    assert leases.used("b").day_usd == pytest.approx(0.95)


def test_money_belongs_to_the_day_and_month_it_was_spent_in(leases: Leases, clock: Clock) -> None:
    lease = reserve(leases, 0.5)
    leases.renew("me", {lease.lease_id: 0.2})
    clock.now += 12 * HOUR + 1  # the first of December
    leases.renew("me", {lease.lease_id: 0.1})
    used = leases.used("a")
    assert used.run_usd == pytest.approx(0.5)
    # Of the reserve 0.2 are left, and may be spent today; what was spent yesterday is yesterday's.
    assert (used.day_usd, used.month_usd) == pytest.approx((0.3, 0.3))
    assert [leases.spent(period=p) for p in ("2026-11-30", "2026-11")] == pytest.approx([0.2, 0.2])
    assert leases.spent(period="2026-12-01") == pytest.approx(0.1)
    assert [leases.spent(run_id="a"), leases.spent()] == pytest.approx([0.3, 0.3])


def test_a_reservation_grows_as_far_as_the_limits_go(leases: Leases) -> None:
    lease, other = reserve(leases, 0.5), reserve(leases, 0.3)
    assert leases.extend(lease.lease_id, CAPS, needed=0.6, wanted=0.65) == pytest.approx(0.65)
    assert leases.extend(lease.lease_id, CAPS, needed=0.66, wanted=2.0) == pytest.approx(0.7), "0.3 are another's"
    with pytest.raises(BudgetReached, match="MAX_USD_PER_RUN"):
        leases.extend(lease.lease_id, CAPS, needed=0.71, wanted=2.0)
    leases.end(other.lease_id, "done")
    assert leases.extend(lease.lease_id, CAPS, needed=0.71, wanted=2.0) == pytest.approx(1.0)
    assert leases.used("a").run_usd == pytest.approx(1.0)


def test_limits_hold_however_many_reserve_at_once(leases: Leases, tmp_path: Path) -> None:
    refused: list[Exception] = []

    def rent() -> None:
        own = Leases(tmp_path / "gpu.sqlite")
        for _ in range(5):
            try:
                reserve(own, 0.09, run_id="race")
            except RentalRefused as error:
                refused.append(error)
        own.close()

    threads = [threading.Thread(target=rent) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases.open()) == 11
    assert len(refused) == 9


def idle(leases: Leases, clock: Clock, *, seconds: float = 300) -> Lease:
    lease = reserve(leases, 0.1)
    leases.update(lease.lease_id, instance_id=5, state="booting")
    leases.update(lease.lease_id, state="ready", running_at=clock.now)
    leases.update(lease.lease_id, state="idle", idle_until=clock.now + seconds)
    return leases.get(lease.lease_id)


def adopt(leases: Leases, owner: str, **fit: bool) -> Lease | None:
    return leases.adopt_idle(owner, "b", CAPS, lambda _: 0.2, lambda _: fit.get("fits", True))


def test_an_idle_machine_is_taken_over_with_what_it_cost_meanwhile(leases: Leases, clock: Clock) -> None:
    lease = idle(leases, clock)
    clock.now += 100
    assert adopt(leases, "you", fits=False) is None
    taken = adopt(leases, "you")
    assert taken is not None
    assert (taken.lease_id, taken.owner, taken.run_id, taken.state) == (lease.lease_id, "you", "b", "ready")
    assert taken.spent_usd == pytest.approx(0.01)
    assert leases.spent(run_id="a") == pytest.approx(0.01), "who left it idle pays for that"
    assert taken.reserved_usd == pytest.approx(0.21)
    assert adopt(leases, "they") is None


def test_what_was_idle_for_too_long_is_for_the_reaper(leases: Leases, clock: Clock) -> None:
    idle(leases, clock)
    clock.now += 301
    assert adopt(leases, "you") is None


def test_an_idle_machine_is_not_taken_over_beyond_the_limits(leases: Leases, clock: Clock) -> None:
    lease = idle(leases, clock)
    with pytest.raises(RentalRefused, match="MAX_USD_PER_RUN"):
        leases.adopt_idle("you", "b", Caps(0.1, 3, 20), lambda _: 0.2, lambda _: True)
    assert leases.get(lease.lease_id) == lease


def _adopt_in_process(file: Path, barrier: Any, won: Any) -> None:
    leases = Leases(file)
    barrier.wait()
    if adopt(leases, str(os.getpid())) is not None:
        won.value += 1


def test_of_several_orchestrators_one_gets_the_idle_machine(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "gpu.sqlite")
    lease = reserve(leases, 0.1)
    leases.update(lease.lease_id, instance_id=5, state="idle", idle_until=4e9)
    spawn = multiprocessing.get_context("fork")
    barrier, won = spawn.Barrier(3), spawn.Value("i", 0)
    racing = [spawn.Process(target=_adopt_in_process, args=(tmp_path / "gpu.sqlite", barrier, won)) for _ in range(3)]
    for process in racing:
        process.start()
    for process in racing:
        process.join(60)
    assert won.value == 1


def test_who_was_taken_over_cannot_write_any_more(leases: Leases, clock: Clock) -> None:
    lease = idle(leases, clock)
    taken = adopt(leases, "you")
    assert taken is not None
    assert leases.renew("me", {lease.lease_id: 1.0}) == {}
    assert leases.get(lease.lease_id).spent_usd == 0
    assert leases.renew("you", {lease.lease_id: 0.1}) == {lease.lease_id: "ready"}


def test_condemning_loses_against_who_renewed_or_adopted_meanwhile(leases: Leases, clock: Clock) -> None:
    lease = idle(leases, clock)
    clock.now += 1
    adopt(leases, "you")
    assert not leases.condemn(lease, "nobody needs it")
    seen = leases.get(lease.lease_id)
    clock.now += 1
    leases.renew("you", {lease.lease_id: 0.0})
    assert not leases.condemn(seen, "its run was cut off")
    assert leases.condemn(leases.get(lease.lease_id), "its run was cut off")
    assert adopt(leases, "they") is None


def test_what_is_to_be_closed_never_opens_again(leases: Leases) -> None:
    lease = reserve(leases)
    assert leases.update(lease.lease_id, state="closing", reason="a limit")
    assert not leases.update(lease.lease_id, state="ready")
    assert leases.update(lease.lease_id, instance_id=9), "what becomes known late is written down all the same"
    assert leases.renew("me", {lease.lease_id: 0.01}) == {lease.lease_id: "closing"}, "it costs until it is gone"
    leases.end(lease.lease_id, "whatever")
    leases.end(lease.lease_id, "again")
    closed = leases.get(lease.lease_id)
    assert (closed.state, closed.reason, closed.instance_id) == ("closed", "a limit", 9)
    assert not leases.update(lease.lease_id, state="closing")
    assert leases.renew("me", {lease.lease_id: 0.01}) == {}


def test_nobody_looked_after_it_so_the_time_since_is_booked(leases: Leases, clock: Clock) -> None:
    lease = reserve(leases)
    leases.update(lease.lease_id, instance_id=9, state="booting")
    clock.now += 100
    assert leases.get(lease.lease_id).unattended_usd(clock.now) == pytest.approx(100 / 3600 * 0.01)
    leases.update(lease.lease_id, running_at=clock.now)
    assert leases.condemn(leases.get(lease.lease_id), "cut off")
    clock.now += 50
    leases.end(lease.lease_id, "cut off", unattended=True)
    assert leases.get(lease.lease_id).spent_usd == pytest.approx(150 / 3600 * 0.36)


def test_the_providers_books_count_where_they_say_more_and_in_the_end(leases: Leases, clock: Clock) -> None:
    lease = reserve(leases)
    leases.renew("me", {lease.lease_id: 0.10})
    leases.charge(lease.lease_id, 0.08)
    assert leases.get(lease.lease_id).spent_usd == pytest.approx(0.10), "the higher of the two"
    leases.charge(lease.lease_id, 0.15)
    assert leases.get(lease.lease_id).spent_usd == pytest.approx(0.15)
    leases.renew("me", {lease.lease_id: 0.02})
    leases.update(lease.lease_id, instance_id=1)
    leases.end(lease.lease_id, "done")
    clock.now += 25 * HOUR
    leases.charge(lease.lease_id, 0.12, final=True)
    settled = leases.get(lease.lease_id)
    assert (settled.spent_usd, settled.charged_usd) == pytest.approx((0.12, 0.12))
    assert settled.settled_at == clock.now
    assert leases.unsettled() == []
    assert leases.spent(period="2026-11-30") == pytest.approx(0.12), "corrected on the day it was spent"


def test_machines_that_failed_are_remembered(leases: Leases, clock: Clock) -> None:
    lease = reserve(leases)
    leases.update(lease.lease_id, state="closing", is_bad=True)
    assert leases.bad_machines(clock.now - HOUR) == {70}
    assert leases.bad_machines(clock.now + 1) == set()


def test_people_are_told_once(leases: Leases) -> None:
    assert leases.notice("day 50 %", "half is spent")
    assert not leases.notice("day 50 %", "half is spent")
    (notice,) = leases.notices(untold=True)
    leases.told([notice.name])
    assert leases.notices(untold=True) == []
    assert [n.text for n in leases.notices()] == ["half is spent"]


def test_the_views(tmp_path: Path) -> None:
    leases = Leases.of(Layout(tmp_path))
    assert leases.lease_table().num_rows == leases.cost_table().num_rows == 0
    lease = reserve(leases, 0.5)
    leases.update(lease.lease_id, instance_id=11, state="busy")
    leases.renew("me", {lease.lease_id: 0.2})
    leases.charge(lease.lease_id, 0.3)
    (row,) = leases.lease_table().to_pylist()
    assert (row["lease_id"], row["instance_id"], row["offer"], row["gpu"], row["state"]) == (
        lease.lease_id, 11, 7, "RTX 3090", "busy")  # fmt: skip
    assert [row["spent_usd"], row["charged_usd"]] == pytest.approx([0.3, 0.3])
    assert row["opened_at"].tzinfo is not None
    costs = {row["source"]: row for row in leases.cost_table().to_pylist()}
    assert {source: round(row["spent_usd"], 6) for source, row in costs.items()} == {"meter": 0.2, "charges": 0.1}
    assert costs["meter"]["offer"] == 7
    assert costs["meter"]["run_id"] == "a"


def test_a_process_is_told_from_all_others() -> None:
    assert processes.is_alive(processes.signature()) is True
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    signed = processes.signature(child.pid)
    assert processes.is_alive(signed) is True
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not buried yet
    assert processes.is_alive(signed) is False
    child.wait()
    assert processes.is_alive(signed) is False
    host, rest = signed.split(":", 1)
    assert host == socket.gethostname()
    assert processes.is_alive(f"{host}x:{rest}") is None, "another host's processes cannot be seen"
    own = processes.signature().rsplit(":", 1)
    assert processes.is_alive(f"{own[0]}:{int(own[1]) + 1}") is False, "the same id again, another process"
