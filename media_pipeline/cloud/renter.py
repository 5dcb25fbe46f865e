"""Renting one machine: from an offer to a worker that can be started, and back.

Whatever goes wrong on the way, the machine is destroyed, and one more is tried, another one, only if the first is
certainly gone: a machine that may still be there is paid for.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from media_pipeline.cloud import bootstrap
from media_pipeline.cloud.api import CreateUnclear, OfferGone, Vast
from media_pipeline.cloud.booting import Booting, Stopped
from media_pipeline.cloud.budget import Attendance, first_reserve
from media_pipeline.cloud.destruction import BY_HAND, destroy
from media_pipeline.cloud.offers import suitable
from media_pipeline.cloud.records import Offer
from media_pipeline.config import Settings
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import MediaPipelineError, ProviderUnreachable, RentalRefused, WorkerLost
from media_pipeline.execution.places import Place
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Lease, Leases

log = logging.getLogger(__name__)

_OFFERS = 5  # tried before looking again
_MACHINES = 2  # the first, and one in its place
_BAD_FOR_S = 3600.0  # a machine that failed is not rented again for so long
_LOOK_FOR_S, _LOOK_EVERY_S = 20.0, 3.0  # for a machine that may have been rented
GIVE_BACK_S = 60.0  # to destroy a machine; then it is left to the reaper
_SSH_WORKS_S = 30.0  # on a machine that is there already


class AccountRefused(RentalRefused):
    """The account may not rent: no credit, a spending limit, a key that is not accepted. Trying again is useless."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A rented machine whose worker can be started."""

    lease: Lease
    place: Place


class Renter:
    """Rents machines for one run. Safe for threads; offers are taken one after the other.

    Args:
        attendance: meters what is rented
        stopping: when set, whatever is under way ends with `Stopped`
        say: for people, and for the history of the run
    """

    def __init__(
        self,
        vast: Vast,
        leases: Leases,
        attendance: Attendance,
        settings: Settings,
        layout: Layout,
        *,
        stopping: threading.Event,
        say: Callable[[str], None],
    ) -> None:
        self._vast, self._leases, self._attendance = vast, leases, attendance
        self._settings, self._gpu, self._layout = settings, settings.gpu, layout
        self._stopping, self._say = stopping, say
        self._ordering = threading.Lock()
        self.ending: set[str] = set()  # leases that are being given back here
        self.abandoned = threading.Event()  # set: what is not given back by now is left to the reaper

    def rent(self) -> Machine:
        """A machine with everything that its worker needs.

        Raises:
            AccountRefused: no machine can be rented with this account.
            RentalRefused: no machine fits or would do, or it would exceed a limit, or two in a row were no good.
            ProviderUnreachable: Vast.ai does not answer, or a machine could not be given back for certain.
            Stopped
        """
        failures: list[str] = []
        for _ in range(_MACHINES):
            lease = self._order(failures)
            try:
                return self._ready(lease, self._gpu.boot_timeout_s)
            except (WorkerLost, ProviderUnreachable) as error:
                failures.append(f"{lease.gpu}, machine {lease.machine_id}: {error.cause}")
                self._log_words_of(lease)
                if not self.give_back(lease, error.cause, is_bad=not self._stopping.is_set()):
                    raise ProviderUnreachable(
                        f"no other machine is rented while {lease.instance_id} may still be there", BY_HAND
                    ) from error
            except BaseException as error:
                self.give_back(lease, _words(error))
                raise
            self._stop_if_asked()
        raise RentalRefused(f"{_MACHINES} machines in a row were no good ({'; '.join(failures)})", "try again later")

    def adopt(self) -> Machine | None:
        """An idle machine of a run that has ended; None when there is none that is good.

        Raises:
            RentalRefused: there is one, and it would exceed a limit, or no machine would do.
            Stopped
        """
        while True:
            lease = self._attendance.adopt(self._fits)
            if lease is None:
                return None
            try:
                machine = self._ready(lease, _SSH_WORKS_S)
            except (WorkerLost, ProviderUnreachable) as error:
                self._say(f"idle machine {lease.instance_id} is no good any more: {error.cause}")
                self.give_back(lease, error.cause, is_bad=True)
                self._stop_if_asked()
            except BaseException as error:
                self.give_back(lease, _words(error))
                raise
            else:
                self._say(f"{machine.place.name} was idle and is used again")
                return machine

    def give_back(self, lease: Lease, reason: str, *, is_bad: bool = False) -> bool:
        """Destroys the machine of a lease; whether it is certainly gone. May be called again, and by several at once.

        Where it is not, the lease stays "closing", which tells the reaper to go on, and people are told. A book that
        cannot be written keeps no machine.
        """
        self.ending.add(lease.lease_id)
        with contextlib.suppress(MediaPipelineError):
            known = self._leases.get(lease.lease_id)
            lease = replace(known, instance_id=lease.instance_id or known.instance_id)
            bad = {"is_bad": True} if is_bad else {}
            self._leases.update(lease.lease_id, state="closing", reason=lease.reason or reason, **bad)
        failure = (
            None
            if lease.instance_id is None
            else destroy(self._vast, lease.instance_id, GIVE_BACK_S, self.abandoned.wait)
        )
        with contextlib.suppress(MediaPipelineError):
            self._attendance.end(lease.lease_id)
        if failure is not None:
            text = f"machine {lease.instance_id} ({lease.gpu}) may still be there and cost money ({failure}); {BY_HAND}"
            with contextlib.suppress(MediaPipelineError):
                self._leases.notice(f"machine {lease.instance_id} not given back", text)
            self._say(text)
            return False
        with contextlib.suppress(MediaPipelineError):
            self._leases.end(lease.lease_id, reason)
        if lease.is_open and lease.instance_id is not None:
            self._say(f"machine {lease.instance_id} ({lease.gpu}) was given back: {reason}")
        shutil.rmtree(self._folder(lease), ignore_errors=True)
        return True

    # -- ordering -------------------------------------------------------------------------------------------------

    def _order(self, failures: Sequence[str]) -> Lease:
        """A machine that exists, on the way to running; who finds none says how those before it have failed."""
        try:
            return self._ordered()
        except RentalRefused as error:
            if failures:
                raise type(error)(f"{error.cause}, after {failures[-1]}", error.remedy) from error
            raise

    def _ordered(self) -> Lease:
        tried: set[int] = set()
        with self._ordering:
            for _ in range(2):
                for offer in self._offers(tried)[:_OFFERS]:
                    self._stop_if_asked()
                    tried.add(offer.offer_id)
                    lease = self._create(offer)
                    if lease is not None:
                        self._say(
                            f"rented a {offer.gpu} in {offer.country or 'an unknown country'} for "
                            f"${offer.usd_per_hour:.3f} an hour (machine {lease.instance_id}, lease {lease.lease_id})"
                        )
                        return lease
        raise RentalRefused(f"{len(tried)} offers in a row were gone before they could be taken", "try again later")

    def _offers(self, tried: set[int]) -> list[Offer]:
        """What fits and is worth a try; the limits are relaxed where nothing does."""
        bad = self._leases.bad_machines(time.time() - _BAD_FOR_S)
        for limits in relaxed(self._gpu):
            with _about_the_account():
                offers = self._vast.search(limits)
            found = [o for o in suitable(offers, limits) if o.offer_id not in tried and o.machine_id not in bad]
            if found:
                if limits != self._gpu:
                    self._say(
                        f"nothing fits the limits; taking what has {limits.min_inet_mbps:g} Mbit/s and was up "
                        f"{limits.min_reliability:.0%} of the time"
                    )
                return found
            self._stop_if_asked()
        raise RentalRefused(
            "no machine on offer fits the limits" if not tried else "all offers that fit were gone",
            "widen MEDIA_PIPELINE_GPU__MAX_USD_PER_HOUR, __NAMES, __COUNTRIES or __SECURE_CLOUD, or try again later",
        )

    def _create(self, offer: Offer) -> Lease | None:
        """Takes one offer; None when the next should be taken."""
        lease = self._attendance.reserve(
            first_reserve(offer, self._gpu),
            offer_id=offer.offer_id,
            machine_id=offer.machine_id,
            gpu=offer.gpu,
            country=offer.country,
            image=self._gpu.image,
            usd_per_hour=offer.usd_per_hour,
            disk_usd_per_hour=max(0.0, offer.usd_per_hour - offer.gpu_usd_per_hour),
            usd_per_gb_in=offer.usd_per_gb_in,
            usd_per_gb_out=offer.usd_per_gb_out,
            disk_gb=self._gpu.disk_gb,
            is_datacenter=offer.is_datacenter,
        )
        try:
            with _about_the_account():
                instance_id: int | None = self._vast.create(
                    offer,
                    label=lease.label,
                    image=self._gpu.image,
                    disk_gb=self._gpu.disk_gb,
                    onstart=bootstrap.onstart(self._settings),
                    env={},
                )
        except CreateUnclear as error:
            instance_id = self._after_unclear(lease, error)
        except (RentalRefused, ProviderUnreachable) as error:
            self.give_back(lease, error.cause)
            if isinstance(error, OfferGone):
                return None
            raise
        if instance_id is None:
            return None
        lease = replace(lease, instance_id=instance_id)
        try:
            self._leases.update(lease.lease_id, instance_id=instance_id)
            if self._leases.update(lease.lease_id, state="booting"):
                return lease
        except BaseException as error:
            self.give_back(lease, _words(error))
            raise
        self.give_back(lease, "another process ended its lease before it was there")
        raise ProviderUnreachable(f"lease {lease.lease_id} was ended by another process")

    def _after_unclear(self, lease: Lease, error: CreateUnclear) -> int | None:
        """The machine that an unclear answer has left us with; None when there is none.

        Raises:
            ProviderUnreachable: that cannot be found out; the reaper will.
        """
        self._say(f"{error.cause}; looking for {lease.label}")
        if error.instance_id is not None:  # it exists in spite of an error, stopped: of no use
            self._leases.update(lease.lease_id, instance_id=error.instance_id)
            if not self.give_back(lease, error.cause):
                raise ProviderUnreachable(error.cause, BY_HAND)
            return None
        until, why = time.monotonic() + _LOOK_FOR_S, None
        while True:
            try:
                found = [i.instance_id for i in self._vast.instances() if i.label == lease.label]
                if found:
                    return found[0]
                why = None
            except ProviderUnreachable as blind:
                why = blind
            if time.monotonic() + _LOOK_EVERY_S > until or self._stopping.wait(_LOOK_EVERY_S):
                break
        # Not there: the lease is left to the reaper all the same, which looks again when no request can be on its way.
        self.ending.add(lease.lease_id)
        self._leases.update(lease.lease_id, state="closing", reason=error.cause)
        self._attendance.end(lease.lease_id)
        if why is not None:
            raise ProviderUnreachable(f"{error.cause}, and then {why.cause}", error.remedy)
        return None

    # -- starting -------------------------------------------------------------------------------------------------

    def _ready(self, lease: Lease, limit_s: float) -> Machine:
        """Waits until it runs and lets us in, for so long, and brings what the worker needs."""
        deadline, folder = time.monotonic() + limit_s, self._folder(lease)
        booting = Booting(self._vast, self._attendance, lease, folder, stopping=self._stopping, deadline=deadline)
        connection = booting.reach()
        self._leases.update(lease.lease_id, state="ready", host=connection.host, port=connection.port)
        self._stop_if_asked()
        remote = bootstrap.prepare(connection, self._settings, self._say, gpu=lease.gpu)
        if not self._leases.update(lease.lease_id, state="busy", ready_at=lease.ready_at or time.time()):
            raise WorkerLost(f"lease {lease.lease_id} was ended by another process")
        self._stop_if_asked()
        place = Place(
            name=f"{lease.gpu} of lease {lease.lease_id[:6]}",
            command=connection.command(shlex.join(remote)),
            is_foreign=True,
            machine=lease.gpu,
        )
        return Machine(self._leases.get(lease.lease_id), place)

    # -- small things ---------------------------------------------------------------------------------------------

    def _fits(self, lease: Lease) -> bool:
        """Whether a machine that is there would be rented with the settings of now, and lives long enough."""
        gpu = self._gpu
        return (
            lease.image == gpu.image
            and lease.usd_per_hour <= gpu.max_usd_per_hour
            and (not gpu.gpu_names or lease.gpu.casefold() in {name.casefold() for name in gpu.gpu_names})
            and (not gpu.country_codes or lease.country in gpu.country_codes)
            and (not gpu.secure_cloud or lease.is_datacenter)
            and lease.disk_gb >= gpu.disk_gb
            and time.time() - lease.opened_at < gpu.max_hours * 3600 / 2
        )

    def _stop_if_asked(self) -> None:
        if self._stopping.is_set():
            raise Stopped

    def _log_words_of(self, lease: Lease) -> None:
        if lease.instance_id is not None and log.isEnabledFor(logging.INFO) and not self._stopping.is_set():
            log.info("last words of machine %s: %s", lease.instance_id, self._vast.logs(lease.instance_id)[-2000:])

    def _folder(self, lease: Lease) -> Path:
        return self._layout.rented / lease.lease_id


def relaxed(gpu: Gpu) -> Iterator[Gpu]:
    """The limits, and those that are tried when nothing fits them; never others on price, place, memory or trust."""
    yield gpu
    slower = gpu.model_copy(update={"min_inet_mbps": gpu.min_inet_mbps / 2})
    yield slower
    yield slower.model_copy(update={"min_reliability": min(gpu.min_reliability, 0.95)})


@contextlib.contextmanager
def _about_the_account() -> Iterator[None]:
    """A refusal by the provider that has to do with no offer is one of the account."""
    try:
        yield
    except OfferGone:
        raise
    except RentalRefused as error:
        raise AccountRefused(error.cause, error.remedy) from error


def _words(error: BaseException) -> str:
    return "the run needs it no more" if isinstance(error, Stopped) else f"{type(error).__name__}: {error}"
