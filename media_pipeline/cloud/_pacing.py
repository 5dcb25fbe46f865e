"""When the next request may go: Vast.ai counts per route and key, and answers 429 to who comes too early."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from email.utils import parsedate_to_datetime

# Seconds between two requests of one route, as published (x-rate-limit of the API's description, August 2026).
INTERVALS = {
    "search": 6.0,
    "create": 4.5,
    "list": 1.0,
    "show": 2.0,
    "destroy": 3.0,
    "charges": 1.0,
}
_DEFAULT_INTERVAL_S = 1.0
_LEAST_BACKOFF_S = 0.1
_DAY_S = 24 * 3600
# A wait to the millisecond met a second 429 (seen): requests are not all equally long on their way.
_MARGIN, _MARGIN_S = 1.1, 0.2


class Pacer:
    """The turns of all threads of this process that use one key. Other processes are noticed by their 429.

    Args:
        scale: of the published intervals; 0: no waiting before a request
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._next: dict[str, float] = {}  # by route: time.monotonic() from which on a request may go
        self._lock = threading.Lock()
        self.no_search_before = 0.0  # seconds since 1970

    def turn(self, route: str) -> float:
        """Takes the route's next turn; returns in how many seconds it is."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next.get(route, now))
            self._next[route] = start + self._interval(route)
            return start - now

    def postpone(self, route: str, attempt: int, asked_s: float | None) -> None:
        """No turn of this route for a while, for anybody: as long as the server asked, else longer each attempt."""
        base = max(self._interval(route), _LEAST_BACKOFF_S)
        wait = base * 2**attempt if asked_s is None else asked_s * _MARGIN + _MARGIN_S
        wait += random.uniform(0, 0.25 * base)  # noqa: S311 - so that two who collided do not collide again
        with self._lock:
            self._next[route] = max(self._next.get(route, 0.0), time.monotonic() + wait)

    def search_is_used_up(self) -> None:
        """The account's searches of this day are: they are counted anew from midnight UTC on."""
        self.no_search_before = (time.time() // _DAY_S + 1) * _DAY_S

    def _interval(self, route: str) -> float:
        return INTERVALS.get(route, _DEFAULT_INTERVAL_S) * self._scale * _MARGIN


def asked_seconds(header: str | None, body: object) -> float | None:
    """How long a 429 asks to wait: its Retry-After in seconds or as a date, or `retry_after` in its JSON."""
    said = body.get("retry_after") if isinstance(body, dict) else None
    for value in (header, said):
        try:
            seconds = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            seconds = _until(value)
        if 0 <= seconds < _DAY_S:
            return seconds
    return None


def _until(date: object) -> float:
    try:
        return max(0.0, parsedate_to_datetime(str(date)).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return -1.0


_pacers: dict[tuple[str, str, float], Pacer] = {}
_pacers_lock = threading.Lock()


def pacer(url: str, key: str, scale: float) -> Pacer:
    """The one of this process for a key at an address."""
    who = (url, hashlib.sha256(key.encode()).hexdigest(), scale)
    with _pacers_lock:
        return _pacers.setdefault(who, Pacer(scale))
