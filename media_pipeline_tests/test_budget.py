"""Money: what is set aside, what the meter says, when to stop, and who is told."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from media_pipeline.cloud import notices
from media_pipeline.cloud.budget import (
    TICK_S,
    WIND_DOWN_S,
    Attendance,
    Meter,
    caps,
    first_reserve,
    idle_reserve,
    note_shares,
)
from media_pipeline.cloud.charging import SETTLING_S, reconcile
from media_pipeline.cloud.records import Offer
from media_pipeline.config import Alerts
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import BudgetReached, ProviderUnreachable
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Caps, Lease, Leases
from media_pipeline_tests._rental_home import Home, market, without_ssh
from media_pipeline_tests.test_leases import NOON, TERMS, Clock

HOUR = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(tmp_path: Path, clock: Clock) -> Leases:
    return Leases(tmp_path / "gpu.sqlite", clock)


def attendance(leases: Leases, clock: Clock, limits: Caps, run_id: str = "run") -> Attendance:
    return Attendance(leases, limits, run_id=run_id, owner="me", clock=clock)


def lease(leases: Leases, **terms: object) -> Lease:
    return leases.reserve(Caps(9, 9, 9), 0.1, run_id="run", owner="me", **{**TERMS, **terms})


def test_the_limits_are_those_of_the_settings_unless_the_run_has_its_own() -> None:
    gpu = Gpu(max_usd_per_run=1, max_usd_per_day=2, max_usd_per_month=3)
    assert caps(gpu) == Caps(1, 2, 3)
    assert caps(gpu, 0.5) == Caps(0.5, 2, 3)
    assert caps(gpu, 0.0).run_usd == 0.0, "nothing is not the same as no limit"


def test_what_is_set_aside_covers_the_way_to_the_first_work() -> None:
    offer = Offer(1, 1, 1, "RTX 3090", 24e3, 0.26, 0.25, 0.18, 0.01, 0.02, 900, 900, 0.99, 12.8, "SE", True, True,
                  500, 1e6, 4, 8, False)  # fmt: skip
    gpu = Gpu(disk_gb=40)
    # 4 minutes of GPU and an end, 7 of disk, 5 GB from the internet, and a quarter on top.
    expected = 1.25 * (0.25 * 250 / HOUR + 0.18 * 40 / 720 * 420 / HOUR + 5 * 0.01)
    assert first_reserve(offer, gpu) == pytest.approx(expected)
    assert first_reserve(offer, gpu.model_copy(update={"setup_timeout_s": 60})) < expected, (
        "it takes no longer than it may"
    )


def test_the_meter(leases: Leases, clock: Clock) -> None:
    meter = Meter(lease(leases, usd_per_gb_in=0.01, usd_per_gb_out=0.02), clock)
    clock.now += 100
    assert meter.read() == pytest.approx(0.01 * 100 / HOUR), "only the disk costs until it runs"
    clock.now += 10
    meter.runs(late_s=4)
    meter.runs(late_s=1000)
    assert meter.read() == pytest.approx((0.01 * 6 + 0.36 * 4) / HOUR), "it may have run before anybody looked"
    meter.usd_per_hour = 0.72
    clock.now += 50
    meter.moved(2, 1)
    assert meter.read() == pytest.approx(0.72 * 50 / HOUR + 0.04)
    clock.now -= 500
    assert meter.read() == 0, "nothing is ever given back by a clock"


def test_the_next_seconds_are_always_paid_for(leases: Leases, clock: Clock) -> None:
    kept = attendance(leases, clock, Caps(1.0, 9, 9))
    mine = kept.reserve(0.02, **TERMS)
    kept.runs(mine.lease_id)
    while clock.now < NOON + HOUR / 2:
        clock.now += TICK_S
        assert kept.tick().stop is None
        now = leases.get(mine.lease_id)
        assert now.reserved_usd - now.spent_usd >= WIND_DOWN_S * 0.36 / HOUR - 1e-9
        assert now.renewed_at == clock.now
    assert leases.spent(run_id="run") == pytest.approx(0.18)


@pytest.mark.parametrize("limits", [Caps(0.05, 9, 9), Caps(9, 0.05, 9), Caps(9, 9, 0.05)])
def test_the_end_is_begun_while_it_can_be_paid(leases: Leases, clock: Clock, limits: Caps) -> None:
    kept = attendance(leases, clock, limits)
    mine = kept.reserve(0.02, **TERMS)
    kept.runs(mine.lease_id)
    while (tick := kept.tick()).stop is None:
        clock.now += TICK_S
        assert clock.now < NOON + HOUR
    assert isinstance(tick.stop, BudgetReached)
    assert "$0.05" in str(tick.stop)
    clock.now += WIND_DOWN_S
    kept.end(mine.lease_id)
    leases.end(mine.lease_id, str(tick.stop))
    assert 0.045 < leases.spent() <= 0.05


def test_two_runs_never_exceed_a_limit_together(leases: Leases, clock: Clock) -> None:
    limits = Caps(9, 0.2, 9)
    runs = {name: attendance(leases, clock, limits, name) for name in ("a", "b")}
    open_ = {name: kept.reserve(0.02, **TERMS).lease_id for name, kept in runs.items()}
    for name, kept in runs.items():
        kept.runs(open_[name])
    while open_:
        clock.now += TICK_S
        for name in list(open_):
            if runs[name].tick().stop is not None:
                runs[name].end(open_[name])
                leases.end(open_.pop(name), "a limit")
        assert leases.used("a").day_usd <= 0.2 + 1e-9
    assert 0.19 < leases.spent() <= 0.2


def test_what_could_not_be_booked_is_booked_later(
    leases: Leases, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = attendance(leases, clock, Caps(9, 9, 9))
    mine = kept.reserve(0.02, **TERMS)
    kept.runs(mine.lease_id)
    clock.now += 100
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(leases, "renew", lambda *_: (_ for _ in ()).throw(OSError("full")))
        kept.tick()
    clock.now += 100
    kept.tick()
    assert leases.get(mine.lease_id).spent_usd == pytest.approx(200 * 0.36 / HOUR)


def test_waiting_for_another_run_is_paid_for_in_advance(leases: Leases, clock: Clock) -> None:
    kept = attendance(leases, clock, Caps(0.1, 9, 9))
    mine = kept.reserve(0.02, **TERMS)
    kept.runs(mine.lease_id)
    assert not kept.leave_idle(mine.lease_id, 1000), "it would exceed the limit"
    assert leases.get(mine.lease_id).state != "idle"
    assert kept.leave_idle(mine.lease_id, 300)
    waiting = leases.get(mine.lease_id)
    assert waiting.state == "idle"
    assert waiting.reserved_usd >= idle_reserve(waiting, 300) > 300 * 0.36 / HOUR
    assert kept.lease_ids == []


# -- the provider's books ---------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    without_ssh(monkeypatch)
    with (
        market(usd=36.0) as server,
        Home(tmp_path, server, max_usd=9, max_usd_per_day=90, max_usd_per_month=90) as opened,
    ):
        yield opened


@pytest.mark.slow
def test_ours_follow_the_providers_books(home: Home) -> None:
    renter = home.renter()
    machine = renter.rent()
    instance = home.server.market.instances[machine.lease.instance_id]
    instance.offer["inet_up_cost"] = 1.0
    with home.server.market.lock:
        instance.cost["bwu"] += 0.5  # data that our meter knows nothing of
    reconcile(home.vast, home.leases)
    known = home.leases.get(machine.lease.lease_id)
    assert known.charged_usd is not None
    assert known.spent_usd >= known.charged_usd >= 0.5
    assert renter.give_back(machine.lease, "done")
    reconcile(home.vast, home.leases)
    closed = home.leases.get(machine.lease.lease_id)
    assert closed.settled_at is None
    reconcile(home.vast, home.leases, (closed.closed_at or 0) + SETTLING_S + 1)
    settled = home.leases.get(machine.lease.lease_id)
    assert settled.settled_at is not None
    assert settled.spent_usd == settled.charged_usd == pytest.approx(home.server.spent(), abs=0.001)
    by_source = {row["source"]: row["spent_usd"] for row in home.leases.cost_table().to_pylist()}
    assert by_source["meter"] + by_source["charges"] == pytest.approx(settled.spent_usd)
    home.assert_clean()


@pytest.mark.slow
def test_books_that_cannot_be_read_change_nothing(home: Home) -> None:
    machine = home.renter().rent()
    before = home.leases.get(machine.lease.lease_id)
    home.server.fault({"route": "charges", "do": "deprecated", "times": -1})
    with pytest.raises(ProviderUnreachable):
        reconcile(home.vast, home.leases)
    assert home.leases.get(machine.lease.lease_id) == before


# -- telling people ---------------------------------------------------------------------------------------------------


def spend(leases: Leases, usd: float) -> None:
    open_ = leases.open() or [lease(leases)]
    leases.renew("me", {open_[0].lease_id: usd})


def texts(leases: Leases) -> list[str]:
    return [n.name for n in leases.notices()]


def test_people_are_told_once_of_each_share(leases: Leases, clock: Clock) -> None:
    limits = Caps(9, 1.0, 10.0)
    spend(leases, 0.49)
    note_shares(leases, limits, clock.now)
    assert texts(leases) == []
    for usd in (0.02, 0.1, 0.25, 0.1, 0.1):
        spend(leases, usd)
        note_shares(leases, limits, clock.now)
        note_shares(leases, limits, clock.now)
        clock.now += 1
    assert texts(leases) == ["day 2026-11-30 50 %", "day 2026-11-30 80 %", "day 2026-11-30 100 %"]
    clock.now += 13 * HOUR
    spend(leases, 0.5)
    note_shares(leases, limits, clock.now)
    assert texts(leases)[3:] == ["day 2026-12-01 50 %"], "another day, another month"


def test_a_limit_that_ends_a_rental_counts_as_used_up(leases: Leases, clock: Clock) -> None:
    spend(leases, 0.9)
    note_shares(leases, Caps(9, 1.0, 10.0), clock.now, refused_by="day")
    assert texts(leases) == ["day 2026-11-30 100 %"]
    note_shares(leases, Caps(9, 1.0, 10.0), clock.now, refused_by="run")
    assert texts(leases) == ["day 2026-11-30 100 %"], "less is no news any more"


def test_notices_go_to_the_webhook_once(leases: Leases, tmp_path: Path) -> None:
    got: list[dict[str, object]] = []
    answers = [500, 500, 500, 200]

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    leases.notice("day 2026-11-30 50 %", "half of it is spent")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        alerts = Alerts(webhook_url=SecretStr(f"http://127.0.0.1:{server.server_port}/"), retries=0)
        for _ in range(3):
            notices.deliver(leases, alerts, Layout(tmp_path))
            assert leases.notices(untold=True), "nobody has taken it"
        for _ in range(2):
            notices.deliver(leases, alerts, Layout(tmp_path))
        server.shutdown()
    assert len(got) == 4
    assert got[-1]["event"] == "gpu.notice"
    assert "half of it is spent" in str(got[-1]["text"])
    assert leases.notices(untold=True) == []


def test_where_nobody_is_to_be_told_it_stands_in_the_log(
    leases: Leases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leases.notice("day 2026-11-30 50 %", "half of it is spent")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            notices.deliver(leases, Alerts(), Layout(tmp_path))
    assert caplog.text.count("half of it is spent") == 1
