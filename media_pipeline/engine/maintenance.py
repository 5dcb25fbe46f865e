"""What goes by itself: old media, old runs, partitions beyond the hot window. One step each, told in numbers.

In this order: what retention removes needs neither pruning nor retiring, what was pruned is not looked at again. Then
the tables are compacted and vacuumed, so that what the first step deleted is merged away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dagster as dg

from media_pipeline.engine import hot_window, pruning
from media_pipeline.engine.event_rows import remove_partitions
from media_pipeline.engine.partitions import PARTITIONS_NAME

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.results.retention import Plan

Facts = dict[str, dict[str, Any]]
Told = Callable[[int], None]
_MANY = 1_000_000


def _quietly(_: int) -> None:
    pass


def retention_plan(instance: dg.DagsterInstance, pipeline: Pipeline) -> Plan:
    """What goes by age now; nothing that a run has in hand."""
    from media_pipeline.results import retention  # table libraries take seconds to import

    return retention.plan(pipeline, in_hand=hot_window.in_hand(instance))


def let_go(instance: dg.DagsterInstance, pipeline: Pipeline, plan: Plan | None = None, told: Told = _quietly) -> Facts:
    """Let go what is old: media as a whole leave Dagster first, so that no partition is left without its medium."""
    from media_pipeline.results import retention

    plan = plan or retention_plan(instance, pipeline)
    remove_partitions(instance, PARTITIONS_NAME, plan.results["partition_key"].to_pylist())
    return retention.carry_out(pipeline, plan, told)


def prune(instance: dg.DagsterInstance, pipeline: Pipeline, told: Told = _quietly) -> Facts:
    """Delete old runs; what they say of partitions stays."""
    limits = pipeline.settings.retention
    done = pruning.prune_runs(instance, days=limits.runs_days, keep=limits.runs_keep, on_runs=told)
    return {"runs": asdict(done)}


def retire(instance: dg.DagsterInstance, pipeline: Pipeline) -> Facts:
    """Take the oldest partitions beyond the hot window out of Dagster."""
    done = hot_window.retire(instance, pipeline, pipeline.settings.retention.hot_partitions)
    return {"hot window": {name: value for name, value in asdict(done).items() if value is not None}}


def waiting(instance: dg.DagsterInstance, pipeline: Pipeline) -> dict[str, int]:
    """How many runs would be pruned and partitions retired now, and how many media Dagster holds no more."""
    limits = pipeline.settings.retention
    runs = pruning.prunable(instance, days=limits.runs_days, keep=limits.runs_keep, limit=_MANY)
    return {
        "runs": len(runs),
        "partitions": len(hot_window.retirable(instance, pipeline, limits.hot_partitions)),
        "retired": hot_window.retired_count(instance, pipeline),
    }
