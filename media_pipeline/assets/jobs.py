"""The jobs: what the sensor, the schedule and the command line start."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from media_pipeline.assets.results import RESULTS, RESULTS_POOL
from media_pipeline.engine.batch_run import BatchRun
from media_pipeline.engine.submit import ANALYZE_JOB
from media_pipeline.execution.outcome import StageInfo

REFRESH_JOB = "refresh_results"


def analyze_job(stages: Sequence[StageInfo]) -> UnresolvedAssetJobDefinition:
    """All stages over a range of media."""
    return dg.define_asset_job(
        ANALYZE_JOB,
        selection=[stage.name for stage in stages],
        description="Bring a batch of media up to date in all stages, then the results over all media.",
        executor_def=dg.in_process_executor,
    )


def refresh_job() -> UnresolvedAssetJobDefinition:
    """The results over all media, without touching the media."""
    return dg.define_asset_job(
        REFRESH_JOB,
        selection=[result.name for result in RESULTS],
        description="Make duplicates, search index and warehouse anew from the tables.",
        executor_def=dg.in_process_executor,
    )


@dg.op(required_resource_keys={"batch"}, pool=RESULTS_POOL)
def maintain_tables(context: dg.OpExecutionContext) -> None:
    """Compact and vacuum the tables, bring the cache under its limit."""
    batch: BatchRun = context.resources.batch
    for name, facts in batch.runner.maintain().items():
        context.log.info(f"{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))


@dg.job(
    description="Compact and vacuum the tables, bring the cache under its limit. For a quiet hour.",
    executor_def=dg.in_process_executor,
)
def maintenance() -> None:
    maintain_tables()
