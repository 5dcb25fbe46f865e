"""Running batches here and now, in the caller's process: what `analyze` does.

The runs go through the same job and instance as those of the daemon and look the same in the UI.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

from media_pipeline.engine.batch_run import BatchRun, OnStageOutcome, StageRunner, handing_over
from media_pipeline.engine.instance import PROCESS_TAG
from media_pipeline.engine.partitions import PARTITIONS_NAME, announce, contiguous_ranges, range_tags
from media_pipeline.engine.tags import COMMAND_LINE, FORCE_TAG, RETRY_FAILED_TAG, SOURCE_TAG
from media_pipeline.storage import processes

# Reached by name, as Dagster's own code server does: what is above this layer is not imported by it.
DEFINITIONS_MODULE = "media_pipeline.definitions"
ANALYZE_JOB = "analyze_media"
LOCATION_NAME = "media_pipeline"
_SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}  # the caller has its own way of telling


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run came to."""

    run_id: str
    partition_keys: Sequence[str]
    failed: Mapping[str, str]  # reason by partition key; empty when all are done


def execute_batch(
    instance: dg.DagsterInstance,
    runner: StageRunner,
    partition_keys: Sequence[str],
    *,
    on_outcome: OnStageOutcome | None = None,
    stages: Collection[str] | None = None,
    force: bool = False,
    retry_failed: bool = False,
    job: dg.JobDefinition | None = None,
    job_name: str = ANALYZE_JOB,
    more_tags: Mapping[str, str] | None = None,
    before_last: Callable[[], None] | None = None,
) -> list[RunResult]:
    """Run these media through the stages in this process.

    A run takes adjacent partitions; scattered keys make several runs, one after another.

    Args:
        on_outcome: told every (stage, outcome) as it comes, in this process.
        stages: only these, which must include what they need; None means all.
        force: make standing results anew. retry_failed: try again what failed on the same content.
        job: instead of the one of the definitions that `job_name` names.
        more_tags: of the runs, for people
        before_last: told when the last of the runs begins

    Raises:
        MediaPipelineError: nothing could go on (a full disk); what was finished before is kept.
        RuntimeError: a run broke off for a reason nobody foresaw.
        KeyboardInterrupt: the user stopped it; the run is marked as cancelled.
    """
    announce(instance, partition_keys)
    job = job or importlib.import_module(DEFINITIONS_MODULE).defs.resolve_job_def(job_name)
    tags = {
        **(more_tags or {}),
        FORCE_TAG: str(force).lower(),
        RETRY_FAILED_TAG: str(retry_failed).lower(),
        SOURCE_TAG: COMMAND_LINE,
        PROCESS_TAG: processes.signature(),
        REPOSITORY_LABEL_TAG: f"__repository__@{LOCATION_NAME}",
    }
    selection = None if stages is None else [dg.AssetKey(name) for name in stages]
    existing = instance.get_dynamic_partitions(PARTITIONS_NAME)
    results = []
    ranges = contiguous_ranges(existing, partition_keys)
    for number, adjacent in enumerate(ranges, 1):
        if number == len(ranges) and before_last is not None:
            before_last()
        results.append(_execute(instance, job, BatchRun(runner, on_outcome), adjacent, selection, tags))
    return results


def _execute(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    batch: BatchRun,
    keys: Sequence[str],
    selection: Sequence[dg.AssetKey] | None,
    tags: Mapping[str, str],
) -> RunResult:
    try:
        with handing_over(batch):
            result = job.execute_in_process(
                instance=instance,
                run_config=_SILENT,
                asset_selection=selection,
                tags={**range_tags(keys), **tags},
                raise_on_error=False,
            )
    except DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    if batch.is_interrupted:
        raise KeyboardInterrupt
    if batch.error is not None:
        raise batch.error
    if not batch.is_concluded:
        raise RuntimeError(f"run {result.run_id} broke off: {_first_failure(result)}")
    return RunResult(result.run_id, keys, batch.broken(keys))


def _first_failure(result: dg.ExecuteInProcessResult) -> str:
    failures = [event for event in result.all_events if event.is_step_failure or event.is_run_failure]
    for event in failures:
        error = event.step_failure_data.error if event.is_step_failure else event.job_failure_data.error
        if error is not None:
            return (error.cause or error).message.strip()
    return "no reason recorded"
