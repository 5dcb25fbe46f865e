"""What renting may cost: the limits, what is set aside for a machine, its meter, and when to stop.

A lease has money reserved for what comes next, and more is reserved as it goes: spent and reserved money of all leases
together never exceed a limit, whoever else rents at the same time. When no more can be reserved, the end is begun while
there is enough left to give the machine back.

The meter runs by the clock of this machine from the request on, which is never later than the provider's; what the
provider's books say beyond it is added (`charging`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from media_pipeline.cloud.offers import usd
from media_pipeline.cloud.records import Offer
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import BudgetReached
from media_pipeline.storage.leases import Caps, Lease, Leases, State, day

MARGIN = 1.25  # of an estimate
_BOOT_S, _SETUP_S = 180.0, 240.0  # until a machine runs, and until its worker does; usually less
_SETUP_GB = 5.0  # fetched by the machine for that: image, packages, models
_AHEAD_S = 120.0  # reserved at a time, so that not every tick has to ask
WIND_DOWN_S = 10.0  # from the decision to stop to a machine that costs nothing
TICK_S = 2.0  # between two readings of the meters
SHARES = (50, 80, 100)  # per cent of a limit at which people are told


def caps(gpu: Gpu, max_usd: float | None = None) -> Caps:
    """The limits.

    Args:
        max_usd: of this run, in place of that of the settings
    """
    return Caps(gpu.max_usd_per_run if max_usd is None else max_usd, gpu.max_usd_per_day, gpu.max_usd_per_month)


def first_reserve(offer: Offer, gpu: Gpu) -> float:
    """Dollars until a machine can do its first work, or is given back because it cannot."""
    setup_s, boot_s = min(_SETUP_S, gpu.setup_timeout_s), min(_BOOT_S, gpu.boot_timeout_s)
    return MARGIN * usd(
        offer,
        running_s=setup_s + WIND_DOWN_S,
        existing_s=boot_s + setup_s,
        gb_in=_SETUP_GB,
        gb_out=0.0,
        disk_gb=gpu.disk_gb,
    )


def adoption_reserve(lease: Lease) -> float:
    """Dollars that a machine which is there already needs to begin with."""
    return lease.usd_per_hour * _AHEAD_S / 3600


def idle_reserve(lease: Lease, idle_s: float) -> float:
    """Dollars for waiting, and for the minute that the reaper may take to end it."""
    return lease.usd_per_hour * (idle_s + 60 + WIND_DOWN_S) / 3600


def boot_clock() -> float:
    """Seconds that no clock adjustment changes and that go on while this machine sleeps: the rented one does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Meter:
    """What one machine costs by our own reckoning. Safe for threads."""

    def __init__(self, lease: Lease, clock: Callable[[], float] = boot_clock) -> None:
        self._lease, self._clock, self._lock = lease, clock, threading.Lock()
        self._runs = lease.running_at is not None
        self.usd_per_hour = lease.usd_per_hour
        self._since, self._unread = clock(), 0.0

    def runs(self, late_s: float) -> bool:
        """The GPU is billed from now on, and was for up to `late_s` before anybody looked; False: it was known."""
        with self._lock:
            if self._runs:
                return False
            self._add()
            self._unread += late_s / 3600 * (self.usd_per_hour - self._lease.disk_usd_per_hour)
            self._runs = True
            return True

    def moved(self, gb_in: float, gb_out: float) -> None:
        """Data went to the machine or came from it."""
        with self._lock:
            self._unread += gb_in * self._lease.usd_per_gb_in + gb_out * self._lease.usd_per_gb_out

    def read(self) -> float:
        """Dollars since the last reading."""
        with self._lock:
            self._add()
            cost, self._unread = self._unread, 0.0
            return cost

    def _add(self) -> None:
        now = self._clock()
        rate = self.usd_per_hour if self._runs else self._lease.disk_usd_per_hour
        self._unread += max(0.0, now - self._since) / 3600 * rate
        self._since = now


@dataclass(frozen=True, slots=True)
class Tick:
    """What one look at the meters has shown."""

    states: dict[str, State]  # of the leases that are open and ours
    stop: BudgetReached | None = None  # a limit is reached


class Attendance:
    """The leases that this process looks after for one run: each is metered from its reservation to its end.

    Safe for threads.
    """

    def __init__(
        self, leases: Leases, limits: Caps, *, run_id: str, owner: str, clock: Callable[[], float] = boot_clock
    ) -> None:
        self._leases, self._caps, self._run_id, self._owner = leases, limits, run_id, owner
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._unbooked: dict[str, float] = {}
        self._lock = threading.Lock()

    def reserve(self, usd: float, **terms: Any) -> Lease:
        """`Leases.reserve` for this run, metered."""
        lease = self._leases.reserve(self._caps, usd, run_id=self._run_id, owner=self._owner, **terms)
        return self._begin(lease)

    def adopt(self, fits: Callable[[Lease], bool]) -> Lease | None:
        """`Leases.adopt_idle` for this run, metered."""
        lease = self._leases.adopt_idle(self._owner, self._run_id, self._caps, adoption_reserve, fits)
        return None if lease is None else self._begin(lease)

    def runs(self, lease_id: str, late_s: float = 0.0) -> None:
        """Its machine runs, perhaps for `late_s` already."""
        meter = self._meters.get(lease_id)
        if meter is not None and meter.runs(late_s):
            self._leases.update(lease_id, running_at=time.time())

    def costs(self, lease_id: str, usd_per_hour: float) -> None:
        """The provider bills it at a higher price than was agreed."""
        meter = self._meters.get(lease_id)
        if meter is not None:
            meter.usd_per_hour = max(meter.usd_per_hour, usd_per_hour)

    def moved(self, lease_id: str, gb_in: float, gb_out: float) -> None:
        """Data went to its machine or came from it."""
        meter = self._meters.get(lease_id)
        if meter is not None:
            meter.moved(gb_in, gb_out)

    def leave_idle(self, lease_id: str, idle_s: float) -> bool:
        """Lets a machine wait for another run, where the limits allow that."""
        lease = self._leases.get(lease_id)
        needed = lease.spent_usd + idle_reserve(lease, idle_s)
        try:
            self._leases.extend(lease_id, self._caps, needed=needed, wanted=needed)
        except BudgetReached:
            return False
        self._book()
        if not self._leases.update(lease_id, state="idle", idle_until=time.time() + idle_s):
            return False
        self._forget(lease_id)
        return True

    def end(self, lease_id: str) -> None:
        """Books the rest and looks after it no more; without effect on others."""
        try:
            self._book()
        finally:
            self._forget(lease_id)

    @property
    def lease_ids(self) -> list[str]:
        """Of those that are looked after, the oldest first."""
        with self._lock:
            return list(self._meters)

    @property
    def usd_per_hour(self) -> float:
        """Of all of them together, running."""
        with self._lock:
            return sum(meter.usd_per_hour for meter in self._meters.values())

    def _begin(self, lease: Lease) -> Lease:
        with self._lock:
            self._meters[lease.lease_id] = Meter(lease, self._clock)
        return lease

    def _forget(self, lease_id: str) -> None:
        with self._lock:
            self._meters.pop(lease_id, None)
            self._unbooked.pop(lease_id, None)

    def tick(self) -> Tick:
        """Books what was spent, says that we are there, and sees to it that the next seconds are paid for.

        Raises:
            StorageConflict, DiskFull: nothing was booked; the next tick does it.
        """
        states = self._book()
        stop = None
        for lease_id, state in states.items():
            meter = self._meters.get(lease_id)
            if state in ("closing", "idle") or meter is None:
                continue
            lease = self._leases.get(lease_id)
            per_s = meter.usd_per_hour / 3600
            needed = lease.spent_usd + per_s * (WIND_DOWN_S + TICK_S)
            if needed > lease.reserved_usd:
                try:
                    wanted = lease.spent_usd + per_s * (WIND_DOWN_S + _AHEAD_S)
                    self._leases.extend(lease_id, self._caps, needed=needed, wanted=wanted)
                except BudgetReached as error:
                    stop = error
        return Tick(states, stop)

    def _book(self) -> dict[str, State]:
        with self._lock:
            for lease_id, meter in self._meters.items():
                self._unbooked[lease_id] = self._unbooked.get(lease_id, 0.0) + meter.read()
            states = self._leases.renew(self._owner, self._unbooked)
            self._unbooked = dict.fromkeys(self._meters, 0.0)
            return states


def note_shares(leases: Leases, limits: Caps, now: float, *, refused_by: str | None = None) -> None:
    """Notes, once each, that a share of the day's or month's limit is spent: `notices` tells people.

    Args:
        refused_by: the limit that has just ended or refused a rental: it counts as used up
    """
    for period, span, cap in (("day", day(now), limits.day_usd), ("month", day(now)[:7], limits.month_usd)):
        spent = leases.spent(period=span)
        reached = 100.0 if period == refused_by else 100 * spent / cap if cap > 0 else 0.0
        share = max((share for share in SHARES if reached >= share), default=None)
        known = {notice.name for notice in leases.notices()}
        if share is not None and not any(f"{period} {span} {higher} %" in known for higher in SHARES if higher > share):
            text = f"{share} % of the ${cap:.2f} a {period} that renting GPUs may cost are used: ${spent:.2f} on {span}"
            leases.notice(f"{period} {span} {share} %", text)
