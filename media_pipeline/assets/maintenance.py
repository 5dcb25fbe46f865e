"""The ops of the nightly maintenance. Each stands for itself: one that fails does not stop the others.

No op depends on another; which comes first is said by priorities, which the in-process executor follows.
"""

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import dagster as dg

from media_pipeline.assets.results import RESULTS_POOL
from media_pipeline.config import load_settings
from media_pipeline.engine import maintenance as steps
from media_pipeline.engine.batch_run import BatchRun
from media_pipeline.errors import MediaPipelineError

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

Step = Callable[[dg.DagsterInstance, "Pipeline"], dict[str, dict[str, Any]]]
_PRIORITY = "dagster/priority"


def _do(context: dg.OpExecutionContext, step: Step) -> None:
    """Carry a step out on the home of the environment, and say what was done.

    Raises:
        dg.Failure: with cause and remedy; the next night goes on.
    """
    from media_pipeline.execution.pipeline import Pipeline  # table libraries take seconds to import

    try:
        with closing(Pipeline(load_settings())) as pipeline:
            _say(context, step(context.instance, pipeline))
    except MediaPipelineError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def _say(context: dg.OpExecutionContext, facts: dict[str, dict[str, Any]]) -> None:
    for name, numbers in facts.items():
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in numbers.items())
        context.log.info(f"{name}: {told}")


@dg.op(pool=RESULTS_POOL, tags={_PRIORITY: "4"})
def apply_retention(context: dg.OpExecutionContext) -> None:
    """Let originals, cached frames, superseded results and whole media go whose term is over."""
    _do(context, steps.let_go)


@dg.op(pool=RESULTS_POOL, tags={_PRIORITY: "3"})
def prune_runs(context: dg.OpExecutionContext) -> None:
    """Delete old runs with their events; what they say of partitions stays."""
    _do(context, steps.prune)


@dg.op(pool=RESULTS_POOL, tags={_PRIORITY: "2"})
def retire_partitions(context: dg.OpExecutionContext) -> None:
    """Take the oldest partitions beyond the hot window out of Dagster."""
    _do(context, steps.retire)


@dg.op(required_resource_keys={"batch"}, pool=RESULTS_POOL, tags={_PRIORITY: "1"})
def maintain_tables(context: dg.OpExecutionContext) -> None:
    """Compact and vacuum the tables, bring the cache under its limit."""
    batch: BatchRun = context.resources.batch
    _say(context, batch.runner.maintain())
