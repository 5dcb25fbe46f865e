"""The jobs: what the sensor, the schedule and the command line start."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from media_pipeline.assets.maintenance import apply_retention, maintain_tables, prune_runs, retire_partitions
from media_pipeline.assets.results import RESULTS
from media_pipeline.engine.reprocess import REPROCESS_JOB
from media_pipeline.engine.submit import ANALYZE_JOB
from media_pipeline.engine.tags import BEHIND_UPLOADS
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


def reprocess_job(stages: Sequence[StageInfo]) -> UnresolvedAssetJobDefinition:
    """The same over media whose results are stale."""
    return dg.define_asset_job(
        REPROCESS_JOB,
        selection=[stage.name for stage in stages],
        description="Make anew what an analyzer's new version, model or options made stale; what is current stays.",
        executor_def=dg.in_process_executor,
        tags=BEHIND_UPLOADS,
    )


def refresh_job() -> UnresolvedAssetJobDefinition:
    """The results over all media, without touching the media."""
    return dg.define_asset_job(
        REFRESH_JOB,
        selection=[result.name for result in RESULTS],
        description="Make duplicates, search index and warehouse anew from the tables.",
        executor_def=dg.in_process_executor,
    )


@dg.job(
    description="Let go what is old, prune runs, retire partitions, compact and vacuum the tables, bring the cache "
    "under its limit. For a quiet hour.",
    executor_def=dg.in_process_executor,
)
def maintenance() -> None:
    apply_retention()
    prune_runs()
    retire_partitions()
    maintain_tables()
