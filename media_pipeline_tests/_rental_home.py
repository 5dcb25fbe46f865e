"""A stand-in for Vast.ai on this machine, and homes that rent from it.

python -m media_pipeline_tests._rental_home HOME URL      rents one machine and keeps it, to be killed
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from media_pipeline.cloud import _pacing, booting, bootstrap, destruction, fleet, renter, watch
from media_pipeline.cloud.api import Vast
from media_pipeline.cloud.budget import Attendance, caps
from media_pipeline.cloud.fleet import RentedFleet, open_fleet
from media_pipeline.cloud.renter import Renter
from media_pipeline.config import Settings, load_settings
from media_pipeline.execution.places import Place
from media_pipeline.storage import processes
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Lease, Leases
from media_pipeline_tests.test_leases import TERMS
from media_pipeline_tests.vast_standin import StandIn, do_create

KEY = "test-key"
MINUTE_H = 1 / 60


USD_PER_HOUR = 36.0  # of machines whose money is watched: a cent a second


@contextmanager
def market(count: int = 8, usd: float = 0.3, **options: Any) -> Iterator[StandIn]:
    """A server in real time whose machines boot at once, with so many offers that all fit, at ascending prices."""
    defaults: dict[str, Any] = {"speed": 1, "boot": (0.05, 0.1, 0.2), "credit": 1000}
    with StandIn(**{**defaults, **options, "offers": count}) as server:
        for number, offer in enumerate(server.market.offers.values()):
            offer.update(
                gpu_name="RTX 3090", gpu_ram=24576, compute_cap=860, dlperf=22.0, hosting_type=1,
                verification="verified", reliability=0.99, cuda_max_good=13.0, inet_down=900.0, inet_up=800.0,
                inet_down_cost=0.0, inet_up_cost=0.0, direct_port_count=12, duration=60 * 86400, disk_space=500.0,
                dph_base=usd * (1 + number / 100), storage_cost=0.0, geolocation="Sweden, SE",
            )  # fmt: skip
        yield server


def settings_of(home: Path, url: str, **gpu: Any) -> Settings:
    """Settings of a home that rents there. Workers need no GPU, and run on this Python."""
    given = {
        "needs_cuda": False,
        "python": sys.executable,
        "max_usd_per_hour": 1000,
        "setup_timeout_s": 60,
        "boot_timeout_s": 10,
        **gpu,
    }
    return load_settings(home=home, vast_url=url, vast_api_key=SecretStr(KEY), gpu=given)


def without_ssh(patch: pytest.MonkeyPatch) -> None:
    """Machines are taken as reachable and ready as soon as the provider says that they run."""
    patch.setattr(booting, "connect", lambda endpoints, key, folder, *, deadline: _Reachable(*endpoints[0]))
    patch.setattr(bootstrap, "prepare", lambda connection, settings, say, *, gpu: ("cat",))


class _Reachable:
    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    def command(self, remote: str) -> tuple[str, ...]:
        return ("sh", "-c", remote)


class Home:
    """A home, its leases, and what rents for it in this process."""

    def __init__(self, path: Path, server: StandIn, *, max_usd: float | None = None, **gpu: Any) -> None:
        self.server = server
        self.settings = settings_of(path, server.url, **gpu)
        self.layout = Layout(path)
        self.layout.create()
        self.leases = Leases.of(self.layout)
        self.vast = Vast(SecretStr(KEY), server.url, timeout_s=5, patience_s=10)
        self.said: list[str] = []
        self.max_usd = max_usd
        self.stopping = threading.Event()

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.vast.close()
        self.leases.close()

    def change(self, **gpu: Any) -> None:
        """Other settings from now on."""
        self.settings = self.settings.model_copy(update={"gpu": self.settings.gpu.model_copy(update=gpu)})

    def renter(self, run_id: str = "run") -> Renter:
        limits = caps(self.settings.gpu, self.max_usd)
        attendance = Attendance(self.leases, limits, run_id=run_id, owner=processes.signature())
        return Renter(
            self.vast, self.leases, attendance, self.settings, self.layout, stopping=self.stopping, say=self.said.append
        )

    def fleet(self, run_id: str = "run", *, machines: int = 1, keep_idle: bool = False) -> RentedFleet:
        return open_fleet(
            self.settings,
            self.layout,
            run_id=run_id,
            max_usd=self.max_usd,
            machines=machines,
            keep_idle=keep_idle,
            say=self.said.append,
        )

    def all_leases(self) -> list[Lease]:
        return self.leases.latest(100)

    def ours(self) -> list[dict[str, Any]]:
        """Rows of the machines that carry our label."""
        return [row for row in self.server.live() if str(row["label"]).startswith(self.leases.prefix)]

    def really_spent(self) -> float:
        """On machines of ours, by the provider's exact books."""
        with self.server.market.lock:
            self.server.market.tick()
            all_ = [*self.server.market.instances.values(), *self.server.market.dead.values()]
            return sum(sum(i.cost.values()) for i in all_ if str(i.label).startswith(self.leases.prefix))

    def assert_clean(self) -> None:
        """No machine of ours is left, every lease is closed, and no key lies around."""
        assert self.ours() == []
        assert [lease for lease in self.all_leases() if lease.is_open] == []
        assert not list(self.layout.rented.glob("*"))

    def assert_paid(self, cap: float, usd_per_hour: float) -> None:
        """The limit was exceeded by a billing minute at most, and our books say no less than was really spent."""
        spent = self.really_spent()
        assert spent <= cap + usd_per_hour * MINUTE_H
        assert self.leases.spent() >= spent * 0.98 - 0.002


def quick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(watch, "EVERY_S", 0.2)
    patch.setattr(watch, "MONEY_EVERY_S", 1.0)
    patch.setattr(fleet, "_RETRY_S", 0.2)
    patch.setattr(watch, "TICK_S", 0.2)
    patch.setattr(booting, "_POLL_S", 0.05)
    patch.setattr(renter, "_LOOK_EVERY_S", 0.2)
    patch.setattr(renter, "_LOOK_FOR_S", 1.0)
    patch.setattr(destruction, "_FIRST_WAIT_S", 0.1)
    patch.setattr(_pacing, "_LEAST_BACKOFF_S", 0.01)


def ready(fleet_: RentedFleet, count: int = 1) -> tuple[Place, ...]:
    fleet_.start()
    until(lambda: len(fleet_.state().places) == count or not fleet_.state().is_starting)
    return fleet_.state().places


@contextmanager
def dear_home(path: Path, patch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home that rents machines at a cent a second, quickly and without ssh. Another's machine runs beside them."""
    without_ssh(patch)
    quick(patch)
    limits = {"max_machines": 4, "max_usd_per_day": 50, "max_usd_per_month": 90, "setup_timeout_s": 5}
    with market(usd=USD_PER_HOUR) as server, Home(path, server, max_usd=5.0, **limits) as opened:
        foreign = rent_by_hand(server, "mp-000000000000-1")
        yield opened
        assert foreign in {row["id"] for row in server.live()}, "what is not ours is never touched"


def creates(server: StandIn) -> int:
    """Requests to rent that reached the server."""
    return sum(r["method"] == "PUT" and "/asks/" in r["path"] for r in server.market.requests)


def rent_by_hand(server: StandIn, label: str | None) -> int:
    """A machine that somebody else has rented with the same account."""
    with server.market.lock:
        offer = next(o for o in server.market.offers.values() if not o["rented"])
        made = do_create(server.market, offer["id"], {"image": "x", "label": label, "disk": 10})
    return int(made["new_contract"])


def remember_quick_boot(layout: Layout) -> None:
    """As if the home had rented before, and the machine had been set up in a second: else minutes are expected to be
    paid for before any work is done, and no limit of cents pays for that."""
    leases = Leases.of(layout)
    lease = leases.reserve(caps(load_settings().gpu, None), 0.0, run_id="before", owner="before", **TERMS)
    leases.update(
        lease.lease_id, state="busy", running_at=lease.opened_at + 0.2, ready_at=lease.opened_at + 1.2, instance_id=1
    )
    leases.end(lease.lease_id, "the run needs it no more")
    leases.settle(lease.lease_id)
    leases.close()


def until(true: Callable[[], object], seconds: float = 20) -> None:
    """Waits for something that must come to pass."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def main() -> None:
    home, url = Path(sys.argv[1]), sys.argv[2]
    without_ssh(pytest.MonkeyPatch())
    rented = open_fleet(
        settings_of(home, url),
        Layout(home),
        run_id="killed",
        max_usd=None,
        machines=1,
        keep_idle=False,
        say=print,
    )
    rented.start()
    print("started", os.getpid(), flush=True)
    while not rented.state().places:
        rented.wait(1)
    print("ready", flush=True)
    sys.stdin.readline()
    rented.close()
    print("closed", flush=True)


if __name__ == "__main__":
    main()
