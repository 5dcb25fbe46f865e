"""Telling people what renting wants them to know: money running out, machines that may run on."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout

from media_pipeline.config import Alerts
from media_pipeline.errors import UsageError
from media_pipeline.results.alerts import Message, channels, tell
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Leases, Notice

log = logging.getLogger(__name__)

_SUBJECT = "Rented GPUs"


def deliver(leases: Leases, settings: Alerts, layout: Layout) -> None:
    """Sends what nobody was told of yet to the webhook and the e-mail addresses; where there are none, to the log.

    A notice counts as told when one of them has taken it; else the next call tries again. Never raises because of one.
    """
    if not leases.notices(untold=True):
        return
    layout.locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(layout.locks / "gpu-alerts.lock", timeout=0, fallback_to_soft=False):
            waiting = leases.notices(untold=True)
            if waiting and _sent(waiting, settings):
                leases.told([notice.name for notice in waiting])
    except Timeout:
        log.debug("another process is telling them")


def _sent(notices: list[Notice], settings: Alerts) -> bool:
    try:
        if not channels(settings):
            for notice in notices:
                log.warning("%s: %s", _SUBJECT, notice.text)
            return True
        taken, failures = tell(settings, _message(notices))
    except UsageError as error:
        taken, failures = 0, [str(error)]
    for failure in failures:
        log.warning("what is to be told of rented GPUs waits: %s", failure)
    return taken > 0


def _message(notices: list[Notice]) -> Message:
    texts = tuple(notice.text for notice in notices)
    told: list[dict[str, Any]] = [
        {"notice_id": n.name, "at": datetime.fromtimestamp(n.at, UTC).isoformat(), "text": n.text} for n in notices
    ]
    data = {"event": "gpu.notice", "text": f"{_SUBJECT}: {'; '.join(texts)}", "notices": told}
    return Message(data, f"{_SUBJECT}: {texts[0]}"[:200], (*texts, "", "  media-pipeline gpu status"))
