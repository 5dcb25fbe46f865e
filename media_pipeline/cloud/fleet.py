"""The rented machines of one run: there soon after the start, replaced when lost, and gone when the run ends.

Everything that waits for the provider happens in threads of their own. One thread books and renews every other second
and asks nobody: whatever the network does, the limits of the budget hold.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from media_pipeline.cloud import notices
from media_pipeline.cloud.api import Vast
from media_pipeline.cloud.booting import Stopped
from media_pipeline.cloud.budget import Attendance, caps, note_shares
from media_pipeline.cloud.charging import reconcile
from media_pipeline.cloud.destruction import BY_HAND
from media_pipeline.cloud.reaper import reap
from media_pipeline.cloud.renter import AccountRefused, Machine, Renter
from media_pipeline.cloud.watch import Watch, keep_books, keep_looking
from media_pipeline.config import Settings
from media_pipeline.errors import MediaPipelineError, ProviderUnreachable, RentalRefused
from media_pipeline.execution.places import Fleet, FleetState, Place
from media_pipeline.storage import processes
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Lease, Leases, OverLimit, day

log = logging.getLogger(__name__)
T = TypeVar("T")

_ATTEMPTS = 3  # to rent while Vast.ai does not answer
_RETRY_S = 10.0
_LOST_PER_MACHINE = 2  # replacements, for each machine that was asked for
_LEAST_USD = 0.01  # with less than that nothing is begun
_SETTLE_S = 10.0  # to ask for the provider's charges, in the end
CLOSE_S = 90.0  # for all of the end; what is not given back by then is left to the reaper
_NO_KEY = "no key of an account at Vast.ai is set", "set VAST_API_KEY, or MEDIA_PIPELINE_GPU__TARGET=cpu"


class RentedFleet(Fleet):
    """Rents machines for one run, watches them and what they cost, and gives them back.

    Args:
        run_id: whose money is spent
        max_usd: limit of this run, in place of that of the settings
        machines: how many; no more than the settings allow
        keep_idle: leave good machines to later runs, for as long as the settings say
        say: for people; called from other threads

    Attributes:
        history: what happened, with the time (UTC) in front
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        *,
        run_id: str,
        max_usd: float | None,
        machines: int,
        keep_idle: bool,
        say: Callable[[str], None],
    ) -> None:
        key = settings.vast_key
        if key is None:
            raise RentalRefused(*_NO_KEY)
        self._settings, self._layout, self._run_id, self._say_to_people = settings, layout, run_id, say
        self._wanted, self._keep_idle = max(1, min(machines, settings.gpu.max_machines)), keep_idle
        self._vast = Vast(key, settings.vast_url, timeout_s=20, patience_s=45)
        self._leases = Leases.of(layout)
        self._caps = caps(settings.gpu, max_usd)
        self._attendance = Attendance(self._leases, self._caps, run_id=run_id, owner=processes.signature())
        self._stopping, self._over = threading.Event(), threading.Event()
        self._renter = Renter(
            self._vast, self._leases, self._attendance, settings, layout, stopping=self._stopping, say=self._tell
        )
        self._watch = Watch(self._vast, self._attendance, settings.gpu)
        self._changed = threading.Condition()
        self._machines: dict[str, Machine] = {}  # ready for work, by the name of the place
        self._starting = 0
        self._replacements = _LOST_PER_MACHINE * self._wanted
        self._is_started = self._is_closed = False
        self._reason: str | None = None  # why no more machines come
        self._is_budget = False  # that is a limit of the budget
        self._threads: list[threading.Thread] = []
        self._spawning = threading.Lock()
        self._spent_usd: float | None = None
        self.history: list[str] = []

    # -- what a run sees ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to rent, in the background. May be called again."""
        with self._changed:
            if self._is_started or self._is_closed:
                return
            self._is_started, self._starting = True, self._wanted
        atexit.register(self.close)
        self._spawn(lambda: keep_books(self, self._attendance, self._over), "books")
        self._spawn(lambda: keep_looking(self, self._watch, self._over), "looks")
        self._spawn(self._open, "opens")

    def check_budget(self) -> None:
        """Raises:
        RentalRefused: a limit is used up.
        """
        used = self._leases.used(self._run_id)
        if self._caps.room(used) < _LEAST_USD:
            raise RentalRefused(*self._caps.refusal(used, _LEAST_USD))

    def state(self) -> FleetState:
        with self._changed:
            is_starting = not self._stopping.is_set() and (self._starting > 0 or not self._is_started)
            places = tuple(machine.place for machine in self._machines.values())
            if places or is_starting:
                return FleetState(places, is_starting)
            return FleetState((), False, self._reason, waits=self._is_budget and self._settings.gpu.at_cap == "wait")

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait(timeout_s)

    def lost(self, place: Place, why: str) -> None:
        with self._changed:
            machine = self._machines.pop(place.name, None)
            if machine is None:
                return
            replaced = self._replacements > 0 and self._reason is None and not self._stopping.is_set()
            if replaced:
                self._replacements -= 1
                self._starting += 1
            elif not self._machines and self._starting == 0:
                self._reason = self._reason or f"{place.name} was lost: {why}"
            self._changed.notify_all()
        self._tell(f"{place.name} is lost: {why}")
        self._spawn(lambda: self._replace(machine, why, replaced=replaced), "replaces")

    def moved(self, place: Place, sent_bytes: int, received_bytes: int) -> None:
        """Data went there or came back; it is billed by some hosts."""
        with self._changed:
            machine = self._machines.get(place.name)
        if machine is not None:
            self._attendance.moved(machine.lease.lease_id, sent_bytes / 1e9, received_bytes / 1e9)

    @property
    def spent_usd(self) -> float:
        """Of this run so far."""
        return self._leases.spent(run_id=self._run_id) if self._spent_usd is None else self._spent_usd

    def close(self) -> None:
        """Gives the machines back, or leaves them idle; within `CLOSE_S`, whatever happens. May be called again.

        Interrupted, it is called once more when the process ends; what then is left is for the reaper.
        """
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            machines = list(self._machines.values())
            self._machines.clear()
            may_wait = self._keep_idle and not self._stopping.is_set()
            self._stopping.set()
            self._changed.notify_all()
        until = time.monotonic() + CLOSE_S
        try:
            for machine in machines:
                if not (may_wait and self._leave_idle(machine)):
                    self._end(machine.lease, "the run needs it no more")
            self._end_all("the run needs it no more")
            self._join(until)
            if self._is_started:
                self._spawn(self._settle, "settles").join(_SETTLE_S)
        except BaseException:
            self._is_closed = False
            raise
        for lease in self._owned():
            if lease.instance_id is not None:
                self._tell(f"machine {lease.instance_id} is not given back yet: run `media-pipeline gpu reap`")
        self._over.set()
        self._renter.abandoned.set()
        with contextlib.suppress(MediaPipelineError):
            self._spent_usd = self.spent_usd
        self._vast.close()  # ends what still waits for an answer
        atexit.unregister(self.close)

    # -- renting --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Gives back what earlier runs left behind, and then rents; who cannot see what is running rents nothing."""
        try:
            self._with_patience(self._look_around)
        except Exception as error:
            self._refuse(error, self._wanted)
            return
        for _ in range(self._wanted):
            self._spawn(self._fill, "rents")

    def _look_around(self) -> None:
        found = reap(self._vast, self._leases, self._layout, self._settings.gpu)
        if found.blind is not None and not found.is_another_account:
            raise ProviderUnreachable(f"what is running at Vast.ai is not known: {found.blind}")
        for instance_id in found.destroyed:
            self._tell(f"machine {instance_id} of an earlier run was given back")
        try:
            self._watch.check_credit()
        except RentalRefused as error:
            raise AccountRefused(error.cause, error.remedy) from None

    def _fill(self) -> None:
        """Gets one machine and offers it to the run."""
        try:
            machine = self._with_patience(lambda: self._renter.adopt() or self._renter.rent())
        except Exception as error:
            self._refuse(error, 1)
            return
        with self._changed:
            self._starting -= 1
            is_needed = not self._stopping.is_set()
            if is_needed:
                self._machines[machine.place.name] = machine
            self._changed.notify_all()
        if is_needed:
            self._tell(f"{machine.place.name} is ready")
        else:
            self._renter.give_back(machine.lease, "the run needs it no more")

    def _with_patience(self, attempt: Callable[[], T]) -> T:
        for number in range(_ATTEMPTS):
            try:
                return attempt()
            except ProviderUnreachable as error:
                if number == _ATTEMPTS - 1:
                    raise
                self._tell(f"{error}; trying again in {_RETRY_S * 2**number:.0f} s")
                if self._stopping.wait(_RETRY_S * 2**number):
                    raise Stopped from error
        raise AssertionError

    def _refuse(self, error: Exception, places: int) -> None:
        """So many machines will not come, and no others either; a bug of ours leaves no run waiting for them."""
        if not isinstance(error, Stopped | MediaPipelineError):
            log.error("renting failed", exc_info=error)
            error = RentalRefused(f"renting failed: {type(error).__name__}: {error}")
        with self._changed:
            self._starting -= places
            is_new = self._reason is None and not isinstance(error, Stopped)
            if is_new:
                self._reason, self._is_budget = str(error), isinstance(error, OverLimit)
            self._changed.notify_all()
        if is_new:
            self._tell(f"no further machine: {error}")
            if isinstance(error, AccountRefused):
                self._notice(f"nothing can be rented: {error}")
            elif isinstance(error, OverLimit):
                self._note_refusal()

    def _replace(self, machine: Machine, why: str, *, replaced: bool) -> None:
        is_gone = False
        try:
            is_gone = self._renter.give_back(machine.lease, why, is_bad=True)
        finally:
            if replaced and not is_gone:
                here = machine.lease.instance_id
                self._refuse(ProviderUnreachable(f"no machine is rented while {here} may still be there", BY_HAND), 1)
        if replaced and is_gone:
            self._fill()

    # -- ending ---------------------------------------------------------------------------------------------------

    def _end_all(self, reason: str) -> None:
        """Begins to give back every machine that is there; one that is just being asked for is for who asks."""
        for lease in self._owned():
            if lease.instance_id is not None:
                self._end(lease, reason)

    def _end(self, lease: Lease, reason: str) -> None:
        if lease.lease_id not in self._renter.ending:
            self._renter.ending.add(lease.lease_id)
            self._spawn(lambda: self._renter.give_back(lease, reason), "gives back")

    def _leave_idle(self, machine: Machine) -> bool:
        idle_s = self._settings.gpu.idle_s
        try:
            if not idle_s or not self._attendance.leave_idle(machine.lease.lease_id, idle_s):
                return False
        except MediaPipelineError as error:
            log.warning("%s cannot be left idle: %s", machine.place.name, error)
            return False
        self._tell(f"{machine.place.name} waits {idle_s:.0f} s for another run")
        return True

    def _owned(self) -> list[Lease]:
        try:
            mine = set(self._attendance.lease_ids)
            return [lease for lease in self._leases.open() if lease.lease_id in mine]
        except MediaPipelineError:
            log.exception("leases cannot be read")
            return []

    def _join(self, until: float) -> None:
        """Waits for all who rent or give back; those that only watch go on meanwhile."""
        while working := [t for t in self._threads if t.is_alive() and not t.name.endswith(("books", "looks"))]:
            working[0].join(min(0.5, max(0.0, until - time.monotonic())))
            if time.monotonic() > until:
                return

    def _settle(self) -> None:
        try:
            self.count()
        except MediaPipelineError as error:
            log.info("the provider's charges are not known yet: %s", error)

    # -- for who watches ------------------------------------------------------------------------------------------

    @property
    def ready(self) -> list[Machine]:
        with self._changed:
            return list(self._machines.values())

    @property
    def ending(self) -> set[str]:
        return self._renter.ending

    def stop(self, reason: str, *, is_account: bool = False, is_budget: bool = False) -> None:
        """Ends renting in the middle of the run: at once no place is left, and the machines go."""
        with self._changed:
            if self._stopping.is_set():
                return
            self._stopping.set()
            self._reason, self._is_budget = reason, is_budget
            self._machines.clear()
            self._changed.notify_all()
        self._tell(f"renting ends: {reason}")
        self._end_all(reason)
        tell = (lambda: self._notice(f"renting has ended: {reason}")) if is_account else self._note_refusal
        self._spawn(tell, "tells")

    def count(self) -> None:
        """Adds what the provider's books say beyond ours, and tells people of what is spent."""
        try:
            reconcile(self._vast, self._leases)
        finally:
            self._note_shares()

    def _notice(self, text: str) -> None:
        """Tells of the account, once a day."""
        with contextlib.suppress(MediaPipelineError):
            self._leases.notice(f"account {day(time.time())}", text)
        self._note_shares()

    def _note_refusal(self) -> None:
        self._note_shares(refused=True)

    def _note_shares(self, *, refused: bool = False) -> None:
        try:
            limit = self._caps.binding(self._leases.used(self._run_id)) if refused else None
            note_shares(self._leases, self._caps, time.time(), refused_by=limit)
            notices.deliver(self._leases, self._settings.alerts, self._layout)
        except MediaPipelineError as error:
            log.warning("the shares of the budget cannot be told: %s", error)

    # -- small things ---------------------------------------------------------------------------------------------

    def _spawn(self, work: Callable[[], object], what: str) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"gpu fleet {what}", daemon=True)
        with self._spawning:
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
            thread.start()
        return thread

    def _tell(self, text: str) -> None:
        self.history.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}")
        log.info("%s", text)
        with contextlib.suppress(Exception):  # a screen that is gone must not keep a machine
            self._say_to_people(text)


def open_fleet(
    settings: Settings,
    layout: Layout,
    *,
    run_id: str,
    max_usd: float | None,
    machines: int,
    keep_idle: bool,
    say: Callable[[str], None],
) -> RentedFleet:
    """The fleet of a run, ready to be started. Asks nobody.

    Raises:
        RentalRefused: nothing can be rented: no key, or a limit of the budget is used up.
    """
    fleet = RentedFleet(
        settings, layout, run_id=run_id, max_usd=max_usd, machines=machines, keep_idle=keep_idle, say=say
    )
    try:
        fleet.check_budget()
    except BaseException:
        fleet.close()
        raise
    return fleet
