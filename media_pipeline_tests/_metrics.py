"""Reading what an exporter tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: str | Iterable[Metric]) -> Samples:
    """Values by name (without our prefix) and labels; each stands there once."""
    families = text_string_to_metric_families(metrics) if isinstance(metrics, str) else metrics
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name.removeprefix("media_pipeline_"), tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def eventually(what: Callable[[], Any], timeout_s: float = 120.0, every_s: float = 0.1) -> Any:
    """What `what` returns once that is true; its last word and a failure otherwise."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {found!r}"
        time.sleep(every_s)
    return found
