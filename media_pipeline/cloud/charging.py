"""The provider's books beside ours: what they say more is added at once, and after a day they are the truth."""

from __future__ import annotations

import time
from collections import defaultdict

from media_pipeline.cloud.api import Vast
from media_pipeline.storage.leases import Lease, Leases

# Charges of a machine that is gone may still come in for so long.
SETTLING_S = 24 * 3600.0
_DAY_S = 24 * 3600.0  # the provider counts whole days


def reconcile(vast: Vast, leases: Leases, now: float | None = None) -> list[Lease]:
    """Brings what was booked in line with the provider's charges; returns the leases that were looked at.

    While a lease is open, and for a day after, the higher of the two counts; then the provider's books do, where they
    know the machine at all.

    Raises:
        ProviderUnreachable: nothing has changed.
    """
    now = time.time() if now is None else now
    waiting = leases.unsettled()
    if not waiting:
        return []
    by_instance = {lease.instance_id: lease.lease_id for lease in waiting}
    by_label = {lease.label: lease.lease_id for lease in waiting}
    charged: defaultdict[str, float] = defaultdict(float)
    for charge in vast.charges(min(lease.opened_at for lease in waiting) - _DAY_S, now + _DAY_S):
        lease_id = by_label.get(charge.label or "") or by_instance.get(charge.instance_id)
        if lease_id is not None:
            charged[lease_id] += charge.usd
    for lease in waiting:
        is_final = lease.closed_at is not None and now - lease.closed_at >= SETTLING_S
        if lease.lease_id in charged:
            leases.charge(lease.lease_id, max(0.0, charged[lease.lease_id]), final=is_final)
        elif is_final:
            leases.settle(lease.lease_id)
    return waiting
