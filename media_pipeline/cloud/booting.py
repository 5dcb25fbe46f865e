"""From a machine that was asked for to one that lets us in."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from media_pipeline.cloud.api import Vast
from media_pipeline.cloud.budget import Attendance
from media_pipeline.cloud.records import Endpoint
from media_pipeline.cloud.ssh import Connection, HostKeyChanged, Key, connect
from media_pipeline.errors import ProviderUnreachable, WorkerLost
from media_pipeline.storage.leases import Lease

PRICE_FACTOR = 1.1  # of what was agreed; a machine that costs more is given back
_POLL_S = 1.0
_SHOWN_AFTER_S = 30.0  # a new machine may be missing in what the provider says for so long
_TRY_SSH_S = 60.0  # at one set of addresses, before asking for them again


class Stopped(Exception):
    """The run needs no machine any more."""


class Booting:
    """One machine on its way.

    Args:
        attendance: told when it runs
        stopping: when set, the waiting ends with `Stopped`
        folder: of the lease: key and host key
        deadline: as time.monotonic() counts
    """

    def __init__(
        self,
        vast: Vast,
        attendance: Attendance,
        lease: Lease,
        folder: Path,
        *,
        stopping: threading.Event,
        deadline: float,
    ) -> None:
        assert lease.instance_id is not None
        self._vast, self._attendance, self._lease, self._instance_id = vast, attendance, lease, lease.instance_id
        self._folder, self._stopping, self._deadline = folder, stopping, deadline
        self._key = Key.make(folder)
        self._has_key = False
        self._begun = self._looked = time.monotonic()

    def reach(self) -> Connection:
        """Waits until it runs and lets us in.

        Raises:
            WorkerLost: it does not, not in time, or not at the price that was agreed.
            Stopped
        """
        while True:
            endpoints = self._endpoints()
            try:
                # In turns: a machine that runs may get its open port later.
                until = min(self._deadline, time.monotonic() + _TRY_SSH_S)
                return connect(endpoints, self._key, self._folder, deadline=until)
            except HostKeyChanged:
                raise
            except WorkerLost:
                self._stop_if_asked()
                if time.monotonic() + _POLL_S > self._deadline:
                    raise

    def _endpoints(self) -> tuple[Endpoint, ...]:
        """Where it can be reached, as soon as it can."""
        said = "nothing is known of it"
        while time.monotonic() < self._deadline:
            self._stop_if_asked()
            try:
                endpoints, said = self._look()
                if endpoints:
                    return endpoints
            except ProviderUnreachable as error:
                said = error.cause
            self._stopping.wait(_POLL_S)
        raise WorkerLost(f"it could not be reached in {time.monotonic() - self._begun:.0f} s: {said}")

    def _look(self) -> tuple[tuple[Endpoint, ...], str]:
        """Where it can be reached, if it can yet, and what it is doing."""
        before, self._looked = self._looked, time.monotonic()
        found = self._vast.instance(self._instance_id)
        if found is None:
            if self._looked - self._begun > _SHOWN_AFTER_S or self._lease.running_at is not None:
                raise WorkerLost("the machine has disappeared")
            return (), "it is not shown yet"
        agreed = self._lease.usd_per_hour
        if found.usd_per_hour is not None and found.usd_per_hour > PRICE_FACTOR * agreed:
            raise WorkerLost(f"it costs ${found.usd_per_hour:.3f} an hour, ${agreed:.3f} were agreed")
        if found.failure:
            raise WorkerLost(found.failure)
        if found.is_running:
            self._attendance.runs(self._lease.lease_id, self._looked - before)
        if not self._has_key:
            self._vast.attach_key(self._instance_id, self._key.public)
            self._has_key = True
        if found.is_running:
            return found.ssh, "it runs, and has no address"
        return (), f"it is {found.actual_status or 'being provisioned'} ({found.status_msg or 'without a word'})"

    def _stop_if_asked(self) -> None:
        if self._stopping.is_set():
            raise Stopped
