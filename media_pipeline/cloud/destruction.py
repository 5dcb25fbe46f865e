"""Giving a machine back until it is certainly gone: an answer of success alone proves nothing (seen)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from media_pipeline.cloud.api import Vast
from media_pipeline.errors import ProviderUnreachable

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
BY_HAND = "destroy it on https://cloud.vast.ai/instances/ or with `media-pipeline gpu reap`"


def destroy(vast: Vast, instance_id: int, limit_s: float, pause: Callable[[float], object] = time.sleep) -> str | None:
    """Destroys a machine and looks, in two ways, whether it is gone; repeats both for a while.

    Args:
        limit_s: after which no further attempt is begun
        pause: waits so many seconds before the next one; true: there is to be none

    Returns:
        None when it is certainly gone, else why that is not known.
    """
    until, wait = time.monotonic() + limit_s, _FIRST_WAIT_S
    while True:
        try:
            vast.destroy(instance_id)
            if vast.instance(instance_id) is None and all(i.instance_id != instance_id for i in vast.instances()):
                return None
            why = "Vast.ai said that it is destroyed, and it is still there"
        except ProviderUnreachable as error:
            why = error.cause
        log.info("machine %s is not given back yet: %s", instance_id, why)
        if time.monotonic() + wait > until:
            return why
        if pause(wait):
            return why
        wait = min(2 * wait, _LONGEST_WAIT_S)
