"""Machines that nobody needs any more are given back, whatever became of the run that rented them.

Compares what the provider lists with the leases. Ours is what carries the label of this installation; nothing else
is touched. An answer that is odd, or that contradicts itself, says nothing: then the reaper is blind, says
so, and closes no lease.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from media_pipeline.cloud import notices
from media_pipeline.cloud.api import Vast
from media_pipeline.cloud.charging import reconcile
from media_pipeline.cloud.destruction import BY_HAND, destroy
from media_pipeline.cloud.records import Instance
from media_pipeline.config import Settings
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import ProviderUnreachable
from media_pipeline.storage import processes
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Lease, Leases, day

# An owner renews its leases every other second. One that is gone, to all appearances, gets a few chances more: a
# process in another container may share our host's name but not our view of processes.
_DEAD_AFTER_S = 20.0
_SILENT_ELSEWHERE_S = 180.0  # of owners on other hosts, who cannot be seen from here
_HUNG_AFTER_S = 600.0  # of owners who are there and do nothing: nobody meters their machines
_ASKED_FOR_S = 180.0  # a request to rent may be under way for so long, and the machine not be listed
_UNKNOWN_FOR_S = 48 * 3600.0  # that an account has no charges of a machine which it had
_PER_MACHINE_S = 30.0  # to destroy it
_DAY_S = 24 * 3600.0  # the provider counts whole days


@dataclass(slots=True)
class Reaped:
    """What one pass has found and done; machines by the provider's number."""

    destroyed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)  # that could not be destroyed
    kept: list[int] = field(default_factory=list)  # ours, and needed
    foreign: list[int] = field(default_factory=list)  # of this account, but not ours
    closed: list[str] = field(default_factory=list)  # leases without a machine
    blind: str | None = None  # why what is running is not known
    is_another_account: bool = False  # what is seen is complete, but a lease is of machines that this one never had
    lines: list[str] = field(default_factory=list)  # for people

    @property
    def is_clean(self) -> bool:
        """Everything could be seen, and nothing is left that should not be there."""
        return self.blind is None and not self.failed


def reap(vast: Vast, leases: Leases, layout: Layout, gpu: Gpu, *, limit_s: float = 300.0) -> Reaped:
    """One pass; may be repeated and run by several processes at once.

    Args:
        limit_s: after which no further machine is looked at
    """
    done, until = Reaped(), time.monotonic() + limit_s
    # The list before the leases: what is listed has had its lease for longer.
    try:
        listed = vast.instances()
    except ProviderUnreachable as error:
        _is_blind(done, f"{error.cause}; {error.remedy or 'try again'}")
        return done
    ours = [i for i in listed if (i.label or "").startswith(leases.prefix)]
    done.foreign = [i.instance_id for i in listed if i not in ours]
    for instance in ours:
        _judge(vast, leases, gpu, instance, done, until)
    seen = {i.label for i in ours}
    for lease in leases.open():
        if lease.label not in seen:
            _look_for(vast, leases, gpu, lease, done, knows_us=bool(ours))
    if time.monotonic() < until:
        with contextlib.suppress(ProviderUnreachable):
            reconcile(vast, leases)
    _remove_keys(leases, layout)
    if done.foreign:
        done.lines.append(f"{len(done.foreign)} machines of this account are not ours and were left alone")
    return done


def patrol(vast: Vast, leases: Leases, settings: Settings, layout: Layout, *, limit_s: float = 300.0) -> Reaped:
    """`reap`, and people are told of what they have to see to themselves."""
    done = reap(vast, leases, layout, settings.gpu, limit_s=limit_s)
    if done.blind is not None and leases.open():
        leases.notice(f"blind {day(time.time())}", f"what runs at Vast.ai is not known: {done.blind}")
    for instance_id in done.failed:
        text = f"machine {instance_id} could not be destroyed and may cost money; {BY_HAND}"
        leases.notice(f"machine {instance_id} not given back", text)
    notices.deliver(leases, settings.alerts, layout)
    return done


def why_unwanted(lease: Lease | None, gpu: Gpu, now: float) -> str | None:
    """Why the machine of a lease is to be given back; None while somebody needs it."""
    if lease is None:
        return "no lease knows it"
    if not lease.is_open or lease.state == "closing":
        return lease.reason or "it is to be given back"
    if now - lease.opened_at > gpu.max_hours * 3600:
        return f"it is older than {gpu.max_hours:g} hours"
    if lease.state == "idle":
        return "no run needed it in time" if now > (lease.idle_until or 0) else None
    silent_s, alive = now - lease.renewed_at, processes.is_alive(lease.owner)
    if alive is False and silent_s > _DEAD_AFTER_S:
        return "its run was cut off"
    if alive is None and silent_s > _SILENT_ELSEWHERE_S:
        return f"its run on {lease.owner.split(':')[0]} has not been heard of for {silent_s:.0f} s"
    if alive and silent_s > _HUNG_AFTER_S:
        return f"its run hangs: it has not metered it for {silent_s:.0f} s"
    return None


def _judge(vast: Vast, leases: Leases, gpu: Gpu, instance: Instance, done: Reaped, until: float) -> None:
    """Destroys one machine of ours, or leaves it."""
    lease = leases.labelled(instance.label or "")
    name = f"machine {instance.instance_id} ({instance.gpu or 'unknown GPU'})"
    is_twin = lease is not None and lease.instance_id not in (None, instance.instance_id)
    why = "it was rented twice" if is_twin else why_unwanted(lease, gpu, time.time())
    if why is None and lease is not None and lease.state == "idle" and not instance.is_running:
        why = instance.failure or "it does not run"  # its disk is billed, and nobody waits for it
    if why is None:
        done.kept.append(instance.instance_id)
        done.lines.append(f"{name} is needed by run {lease.run_id if lease else ''}")
        return
    if lease is not None and lease.is_open and not is_twin:
        if lease.instance_id is None:
            leases.update(lease.lease_id, instance_id=instance.instance_id)
        if lease.state != "closing" and not leases.condemn(lease, why):
            done.kept.append(instance.instance_id)  # somebody has taken it a moment ago
            return
    if time.monotonic() > until:
        done.failed.append(instance.instance_id)
        done.lines.append(f"{name} is left for the next pass: this one took too long")
        return
    failure = destroy(vast, instance.instance_id, min(_PER_MACHINE_S, max(0.0, until - time.monotonic())))
    if failure is not None:
        done.failed.append(instance.instance_id)
        done.lines.append(f"{name} could not be destroyed ({failure}): {BY_HAND}")
        return
    done.destroyed.append(instance.instance_id)
    done.lines.append(f"{name} was destroyed: {why}")
    if lease is not None and not is_twin:
        leases.end(lease.lease_id, why, unattended=True)


def _look_for(vast: Vast, leases: Leases, gpu: Gpu, lease: Lease, done: Reaped, *, knows_us: bool) -> None:
    """A lease whose machine is not listed is closed where that is certain, and where its run does not see to it."""
    now = time.time()
    why = why_unwanted(lease, gpu, now)
    if why is None:
        return
    if lease.instance_id is None:
        if now - lease.opened_at > _ASKED_FOR_S:
            leases.end(lease.lease_id, "no machine came of it")
            done.closed.append(lease.lease_id)
            done.lines.append(f"lease {lease.lease_id} was closed: no machine came of it")
        return
    try:
        if vast.instance(lease.instance_id) is not None:
            _is_blind(done, f"the list of machines does not show {lease.instance_id}, which is there; try again")
            return
        is_recent = now - lease.opened_at < _UNKNOWN_FOR_S
        if not knows_us and is_recent and not _is_known(vast, lease, now):
            why = (
                f"this account knows nothing of machine {lease.instance_id}, rented {_ago(now - lease.opened_at)} ago; "
                "is VAST_API_KEY the key of another account?"
            )
            _is_blind(done, why, is_another_account=True)
            return
    except ProviderUnreachable as error:
        _is_blind(done, f"{error.cause}; {error.remedy or 'try again'}")
        return
    leases.end(lease.lease_id, f"the machine was gone; {why}", unattended=True)
    done.closed.append(lease.lease_id)
    done.lines.append(f"lease {lease.lease_id} was closed: machine {lease.instance_id} is gone")


def _is_known(vast: Vast, lease: Lease, now: float) -> bool:
    """Whether the account ever had this machine. One that never had it cannot prove that it is gone."""
    charges = vast.charges(lease.opened_at - _DAY_S, now + _DAY_S)
    return any(c.instance_id == lease.instance_id or c.label == lease.label for c in charges)


def _is_blind(done: Reaped, why: str, *, is_another_account: bool = False) -> None:
    if done.blind is None or done.is_another_account:
        done.blind, done.is_another_account = why, is_another_account
    done.lines.append(f"what is running is not known: {why}")


def _remove_keys(leases: Leases, layout: Layout) -> None:
    """Keys open machines; those of machines that are gone open nothing, and go."""
    needed = {lease.lease_id for lease in leases.open()}
    for folder in _folders(layout):
        if folder not in needed:
            shutil.rmtree(layout.rented / folder, ignore_errors=True)


def _folders(layout: Layout) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(path.name for path in layout.rented.iterdir() if path.is_dir())


def _ago(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
