"""Watching rented machines: what they cost, by our own meter, and how they are, by what the provider says."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from media_pipeline.cloud.api import Vast
from media_pipeline.cloud.booting import PRICE_FACTOR
from media_pipeline.cloud.budget import TICK_S, Attendance
from media_pipeline.cloud.records import Instance
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import MediaPipelineError, RentalRefused
from media_pipeline.execution.places import Place

if TYPE_CHECKING:
    from media_pipeline.cloud.renter import Machine

log = logging.getLogger(__name__)

EVERY_S = 15.0
_UNBOOKED_S = 60.0  # for so long machines run on though nothing can be booked
MONEY_EVERY_S = 60.0
# A host that is out of touch may come back, and costs nothing meanwhile; a worker that does not answer is noticed by
# its silence, and much sooner.
_OUT_OF_TOUCH_S = 180.0
# At zero the provider stops the machines, work is lost, and their disks go on costing: the end is begun before.
_CREDIT_USD, _CREDIT_S = 0.10, 2 * MONEY_EVERY_S


class Watched(Protocol):
    """A fleet, for who watches it."""

    @property
    def ready(self) -> list[Machine]:
        """Machines that the run has."""

    @property
    def ending(self) -> set[str]:
        """Leases that the fleet itself is giving back."""

    def lost(self, place: Place, why: str) -> None:
        """One machine is given up."""

    def stop(self, reason: str, *, is_account: bool = False, is_budget: bool = False) -> None:
        """All are, because a limit or the credit is used up."""

    def count(self) -> None:
        """The provider's charges are asked for, and people told of what is spent."""


def keep_books(fleet: Watched, attendance: Attendance, over: threading.Event) -> None:
    """Books and renews until the end; stops the renting when the next seconds cannot be paid for. Asks nobody."""
    booked = time.monotonic()
    while not over.wait(TICK_S):
        attended = set(attendance.lease_ids)
        try:
            tick = attendance.tick()
            booked = time.monotonic()
        except Exception as error:  # a full disk, a locked file: the next tick books it all
            log.warning("what the machines cost cannot be booked: %s", error)
            if time.monotonic() - booked > _UNBOOKED_S:
                fleet.stop(f"what the machines cost cannot be booked ({error})")
            continue
        if tick.stop is not None:
            fleet.stop(str(tick.stop), is_budget=True)
        for machine in fleet.ready:
            lease_id = machine.lease.lease_id
            is_ended = tick.states.get(lease_id, "closed") in ("closing", "closed")
            if is_ended and lease_id in attended and lease_id not in fleet.ending:
                fleet.lost(machine.place, "another process ended its lease")


def keep_looking(fleet: Watched, watch: Watch, over: threading.Event) -> None:
    """Asks the provider now and then how the machines are, and what all of it has cost."""
    while not over.wait(EVERY_S):
        try:
            for machine, why in watch.look(fleet.ready):
                fleet.lost(machine.place, why)
            if watch.is_time_for_money():
                fleet.count()
                watch.check_credit()
        except RentalRefused as error:
            fleet.stop(str(error), is_account=True)
        except MediaPipelineError as error:
            log.warning("rented machines cannot be looked at: %s", error)
        except Exception:
            log.exception("rented machines cannot be looked at")


class Watch:
    """What is known of the machines of one fleet. For one thread."""

    def __init__(self, vast: Vast, attendance: Attendance, gpu: Gpu) -> None:
        self._vast, self._attendance, self._gpu = vast, attendance, gpu
        self._out_of_touch: dict[str, float] = {}  # lease -> since when
        self._money_at = time.monotonic()

    def look(self, machines: Sequence[Machine]) -> list[tuple[Machine, str]]:
        """Machines that are to be given up, and why.

        Raises:
            ProviderUnreachable: nothing is known.
        """
        if not machines:
            return []
        listed = {found.instance_id: found for found in self._vast.instances()}
        lost = []
        for machine in machines:
            instance_id = machine.lease.instance_id or 0
            # A list may be older than a machine: only both together say that one is gone.
            found = listed.get(instance_id) or self._vast.instance(instance_id)
            why = self._why_lost(machine, found)
            if why is not None:
                lost.append((machine, why))
        return lost

    def is_time_for_money(self) -> bool:
        """Once a minute."""
        if time.monotonic() - self._money_at < MONEY_EVERY_S:
            return False
        self._money_at = time.monotonic()
        return True

    def check_credit(self) -> None:
        """Raises:
        RentalRefused: the account's credit is all but used up, or its key is not accepted.
        ProviderUnreachable
        """
        credit = self._vast.account().credit_usd
        floor = _CREDIT_USD + self._attendance.usd_per_hour * _CREDIT_S / 3600
        if credit < floor:
            raise RentalRefused(
                f"the account at Vast.ai has ${credit:.2f} of credit left, ${floor:.2f} are needed for an orderly end",
                "add credit: https://cloud.vast.ai/billing/",
            )

    def _why_lost(self, machine: Machine, found: Instance | None) -> str | None:
        lease = machine.lease
        if found is None:
            return "the provider has it no more"
        if time.time() - lease.opened_at > self._gpu.max_hours * 3600:
            return f"it is older than {self._gpu.max_hours:g} hours"
        if found.usd_per_hour is not None:
            self._attendance.costs(lease.lease_id, found.usd_per_hour)
            if found.usd_per_hour > PRICE_FACTOR * lease.usd_per_hour:
                return (
                    f"its price was raised to ${found.usd_per_hour:.3f} an hour, ${lease.usd_per_hour:.3f} were agreed"
                )
        if found.actual_status in ("offline", "unknown"):
            since = self._out_of_touch.setdefault(lease.lease_id, time.monotonic())
            return found.failure if time.monotonic() - since > _OUT_OF_TOUCH_S else None
        self._out_of_touch.pop(lease.lease_id, None)
        return found.failure
