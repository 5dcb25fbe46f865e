"""Where numbers come from: each source is asked when somebody wants to know, never more often than it should be, and on
a thread of its own, so that one that hangs or fails takes nothing with it but its own numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from media_pipeline.errors import MediaPipelineError

# Numbers of a source that has begun to fail stay that long: one bad moment must not interrupt an alert.
KEPT_S = 120.0
_HUNG_S = 120.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is nothing to be told, and what to do about it."""

    cause: str
    remedy: str = ""

    @classmethod
    def of(cls, error: Exception) -> Problem:
        if isinstance(error, MediaPipelineError):
            return cls(error.cause, error.remedy or "")
        return cls(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": "))


# Metrics at an instant (seconds since 1970): ages grow between two readings.
Render = Callable[[float], Iterable[Metric]]


@dataclass(frozen=True, slots=True)
class Part:
    """What was read of one thing: its metrics, or the problem."""

    render: Render | None
    problem: Problem | None = None


class Source:
    """Reads one or several parts at once.

    Args:
        parts: their names, which `read` must use
        read: may take its time and raise anything; called by one thread at a time
        every_s: how long an answer is good
        hung_s: how long a reading may take before it counts as failed; it is waited for all the same
    """

    def __init__(
        self, parts: Sequence[str], read: Callable[[], Mapping[str, Part]], every_s: float, hung_s: float = _HUNG_S
    ) -> None:
        self.parts = tuple(parts)
        self._read, self._every_s, self._hung_s = read, every_s, hung_s
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._began = self._ended = float("-inf")
        self._good: dict[str, tuple[float, Render]] = {}
        self._problems: dict[str, Problem | None] = dict.fromkeys(parts, Problem("it has not been read yet", "wait"))

    def refresh(self) -> threading.Thread | None:
        """Begins to read anew where that is due; the thread that reads, if one does."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return self._thread
            if time.monotonic() - self._ended < self._every_s:
                return None
            self._began = time.monotonic()
            self._thread = threading.Thread(target=self._run, name=f"source {self.parts[0]}", daemon=True)
            self._thread.start()
            return self._thread

    def metrics(self, now: float) -> list[Metric]:
        with self._lock:
            known = [render for at, render in self._good.values() if time.monotonic() - at < self._every_s + KEPT_S]
        return [metric for render in known for metric in render(now)]

    def problems(self) -> dict[str, Problem | None]:
        """By part; None: all is well."""
        with self._lock:
            took = time.monotonic() - self._began
            hangs = self._thread is not None and self._thread.is_alive() and took > self._hung_s
            hung = Problem(f"no answer for {took:.0f} s", "look whether its disk or its server hangs")
            return {name: hung if hangs else problem for name, problem in self._problems.items()}

    def _run(self) -> None:
        found: Mapping[str, Part] = {}
        try:
            found = self._read()
            missing = Part(None, Problem("it was not read"))
        except Exception as error:
            missing = Part(None, Problem.of(error))
        now = time.monotonic()
        with self._lock:
            for name in self.parts:
                part = found.get(name, missing)
                self._problems[name] = part.problem
                if part.render is not None:
                    self._good[name] = (now, part.render)
            self._ended = now


def gauge(name: str, text: str, value: float | None = None, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    """A metric of ours; without labels it has its value at once."""
    return GaugeMetricFamily(f"media_pipeline_{name}", text, value=value, labels=labels or None)
