"""One graph of ops mapped to assets, one op per stage, built from the registry.

Plain assets cannot keep a partial batch: an output that is not yielded skips everything downstream, a yielded one
materializes every partition of the run, an exception skips everything downstream. Here each op has two outputs:
`done`, which lets the next op run, and the asset's own, which is never yielded, so that only hand-logged events
count. The last op of a run raises when media failed: what was planned and not materialized then shows as failed.

The ops form a chain, not a tree. They would run one after another anyway, each with all cores, and so every run,
also one over a few selected assets, has exactly one last op.
"""

from collections.abc import Collection, Iterator, Sequence

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import BACKFILL_ID_TAG, PARENT_RUN_ID_TAG

from media_pipeline.assets.checks import MODERATION, log_new_blocks
from media_pipeline.assets.results import RESULTS
from media_pipeline.engine.batch_run import BatchRun
from media_pipeline.engine.materializations import (
    log_materializations,
    materialization,
    newest_event_ids,
    outcome_materialization,
    withdraw_plans,
)
from media_pipeline.engine.partitions import MEDIA
from media_pipeline.engine.tags import COMMAND_LINE, FORCE_TAG, RETRY_FAILED_TAG, SOURCE_TAG, SPENT_TAG, STOPPED_TAG
from media_pipeline.errors import BudgetReached, DiskFull, MediaPipelineError
from media_pipeline.execution.outcome import Outcome, StageInfo
from media_pipeline.execution.stages import with_needs

OWNERS = ["team:media"]
ANALYSIS_POOL = "analysis"
_MAX_RETRIES = 2
RETRY_WAIT_S = 5
_MAX_LISTED = 50
# Dagster's monitoring does not wait longer than a minute for a process that is in the middle of something.
_CANCELLED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
RENTED_ON = "media"  # the asset whose page shows where runs computed and what it cost


def stage_assets(stages: Sequence[StageInfo]) -> dg.AssetsDefinition:
    """The assets of all stages, which must come in an order in which each follows what it needs."""
    ops = [_stage_op(stage, stages) for stage in stages]

    @dg.graph(name="analyze", out={stage.name: dg.GraphOut() for stage in stages})
    def analyze():  # type: ignore[no-untyped-def]  # the body is Dagster's notation, not Python's
        outputs, done = {}, None
        for stage, op in zip(stages, ops, strict=True):
            done, outputs[stage.name] = op() if done is None else op(done)
        return outputs

    return dg.AssetsDefinition.from_graph(
        analyze,
        keys_by_output_name={s.name: dg.AssetKey(s.name) for s in stages},
        internal_asset_deps={s.name: {dg.AssetKey(need) for need in s.needs} for s in stages},
        partitions_def=MEDIA,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        group_names_by_output_name={s.name: s.group for s in stages},
        descriptions_by_output_name={s.name: s.description for s in stages},
        code_versions_by_output_name={s.name: s.code_version for s in stages},
        owners_by_output_name={s.name: OWNERS for s in stages},
        tags_by_output_name={s.name: {f"dagster/kind/{kind}": "" for kind in s.kinds} for s in stages},
        metadata_by_output_name={s.name: {"dagster/table_name": s.name} for s in stages},
    )


def _stage_op(stage: StageInfo, stages: Sequence[StageInfo]) -> dg.OpDefinition:
    @dg.op(
        name=stage.name,
        description=stage.description,
        ins={} if stage is stages[0] else {"ready": dg.In(dg.Nothing)},
        out={"done": dg.Out(dg.Nothing, is_required=False), stage.name: dg.Out(dg.Nothing, is_required=False)},
        required_resource_keys={"batch"},
        tags={"media_pipeline/stage": stage.name},
        pool=ANALYSIS_POOL,
    )
    def run_stage(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
        batch: BatchRun = context.resources.batch
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        wanted = with_needs(stages, selected)
        try:
            if stage.name in wanted:
                if batch.begin(context.partition_keys):
                    _place(context, batch, wanted)
                _catch_up(context, batch, stages, selected, wanted[: wanted.index(stage.name)])
                _work(context, batch, stage, is_selected=stage.name in selected)
            if stage.name == wanted[-1]:
                _conclude(context, batch)
        except MediaPipelineError as error:
            if _is_tried_again(error, tries_before=context.retry_number):
                raise dg.RetryRequested(max_retries=_MAX_RETRIES, seconds_to_wait=RETRY_WAIT_S) from error
            batch.give_up(error)
            raise dg.Failure(description=str(error), allow_retries=False) from error
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            # A cancelled run is a person's wish; where `serve` was stopped, its next start goes on.
            goes_on_later = not _was_cancelled(context)
            if goes_on_later:
                context.instance.add_run_tags(context.run_id, {STOPPED_TAG: "true"})
            batch.interrupt(context.partition_keys, go_on_later=goes_on_later)
            if context.run.tags.get(SOURCE_TAG) == COMMAND_LINE:
                # Ctrl-C is a request as good as the UI's; without it Dagster calls the run failed.
                context.instance.report_run_canceling(context.run)
            raise
        if "done" in context.selected_output_names:
            yield dg.Output(None, "done")

    return run_stage


def _is_tried_again(error: MediaPipelineError, *, tries_before: int) -> bool:
    """Whether this run itself tries again; what takes longer to mend is for a later run."""
    return error.retryable and not isinstance(error, DiskFull | BudgetReached) and tries_before < _MAX_RETRIES


def _was_cancelled(context: dg.OpExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.status in _CANCELLED


def _place(context: dg.OpExecutionContext, batch: BatchRun, wanted: Sequence[str]) -> None:
    """Decide where this run computes, and say so where people look: in its log, its tags and on the asset's page."""
    redo, _ = _policy(context, wanted[-1], list(context.partition_keys))
    decision = batch.place(wanted, run_id=context.run_id, force=bool(redo), say=context.log.info)
    if decision is None:
        return
    context.instance.add_run_tags(context.run_id, decision.tags())
    context.log_event(dg.AssetObservation(RENTED_ON, metadata={"placement": dg.JsonMetadataValue(decision.facts())}))


def _catch_up(
    context: dg.OpExecutionContext,
    batch: BatchRun,
    stages: Sequence[StageInfo],
    selected: Collection[str],
    before: Sequence[str],
) -> None:
    """Bring the stages before this op's up to date that no op of this run is for.

    Media fail anywhere and it is the last op that says so, so Dagster's "from failure" repeats that op alone. What a
    person wants by it is another try for these media. What the run before made stands, also where it was forced.
    """
    by_name = {stage.name: stage for stage in stages}
    for name in before:
        if not batch.has_run(name):
            _work(context, batch, by_name[name], is_selected=name in selected, may_redo=False)


def _work(
    context: dg.OpExecutionContext, batch: BatchRun, stage: StageInfo, *, is_selected: bool, may_redo: bool = True
) -> None:
    keys = list(context.partition_keys)
    redo, retry_failed = _policy(context, stage.name, keys) if is_selected else (frozenset[str](), False)
    if not may_redo:
        redo = frozenset()
    outcomes = batch.run_stage(
        stage.name, keys, run_id=context.run_id, redo=redo, retry_failed=retry_failed, say=context.log.info
    )
    _report(context, stage, outcomes)
    if not is_selected:
        return
    for outcome in outcomes:
        if outcome.status in ("failed", "unavailable") and not outcome.current:
            # So that the partition's own page says why, not only the run's log.
            why = {"status": outcome.status, "reason": outcome.reason or "no reason recorded"}
            context.log_event(dg.AssetObservation(stage.name, partition=outcome.partition_key, metadata=why))
    pointers = newest_event_ids(context.instance, stage.needs)
    log_materializations(
        context,
        [
            outcome_materialization(
                stage, outcome, {n: batch.fingerprint(n, outcome.partition_key) for n in stage.needs}, pointers
            )
            for outcome in outcomes
            if outcome.status == "done"
        ],
    )


def _policy(context: dg.OpExecutionContext, asset: str, keys: Sequence[str]) -> tuple[frozenset[str], bool]:
    """Which standing results this run makes anew, and whether it tries again what failed before.

    The sensor and the command line say what they want by tags. A person who materializes in the UI wants it redone;
    in a backfill that is what was materialized already, while the rest is filled from the ledger where that knows it.
    A re-execution is a person's wish to try the failed ones again.
    """
    tags = context.run.tags
    if FORCE_TAG in tags:
        redo = frozenset(keys if tags[FORCE_TAG] == "true" else ())
        return redo, bool(redo) or tags.get(RETRY_FAILED_TAG) == "true" or PARENT_RUN_ID_TAG in tags
    if BACKFILL_ID_TAG in tags:
        found = context.instance.event_log_storage.get_latest_storage_id_by_partition(
            dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
        )
        return frozenset(found), True
    return frozenset(keys), True


def _report(context: dg.OpExecutionContext, stage: StageInfo, outcomes: Sequence[Outcome]) -> None:
    by_status: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        stood = outcome.current and outcome.status == "done"
        label = "current" if stood else "put back from before" if outcome.restored else outcome.status
        by_status.setdefault(label, []).append(outcome)
    seconds = sum(outcome.seconds for outcome in outcomes if not outcome.current)
    counts = ", ".join(f"{len(found)} {status}" for status, found in sorted(by_status.items())) or "nothing to do"
    context.log.info(f"{stage.name}: {counts}; {seconds:.1f} s of work")
    for warning in sorted({outcome.warning for outcome in outcomes if outcome.warning}):
        context.log.warning(f"{stage.name}: {warning}")
    unavailable = by_status.get("unavailable", [])
    if unavailable:
        reasons = {outcome.reason or "no model" for outcome in unavailable}
        context.log.warning(f"{stage.name} was left out for {len(unavailable)} media: {'; '.join(sorted(reasons))}")


def _conclude(context: dg.OpExecutionContext, batch: BatchRun) -> None:
    """Bring the results over all media up to date, then say what failed.

    Raises:
        dg.Failure: lists the failed media with their reasons; a repetition would end the same way.
    """
    keys = list(context.partition_keys)
    rented = batch.give_back()  # before the results over all media, which a machine would wait for
    if rented is not None:
        context.instance.add_run_tags(context.run_id, {SPENT_TAG: f"{rented['spent_usd']:.4f}"})
        context.log.info(f"rented: {rented['summary']}")
        context.log_event(dg.AssetObservation(RENTED_ON, metadata={"rented": dg.JsonMetadataValue(rented)}))
    _log_results(context, batch.conclude(keys))
    broken = batch.broken(keys)
    if not broken:
        return
    for name, outcomes in batch.by_status("unavailable").items():
        withdraw_plans(context.instance, context.job_name, name, [o.partition_key for o in outcomes])
    lines = [f"{key}: {reason}" for key, reason in sorted(broken.items())]
    listed = "\n".join(lines[:_MAX_LISTED] + ([f"… and {len(lines) - _MAX_LISTED} more"] * (len(lines) > _MAX_LISTED)))
    raise dg.Failure(
        description=f"{len(broken)} of {len(keys)} media failed; the others are done\n{listed}", allow_retries=False
    )


def _log_results(context: dg.OpExecutionContext, finished: dict[str, dict[str, object]]) -> None:
    needs = {need for result in RESULTS for need in result.needs}
    pointers = newest_event_ids(context.instance, needs)
    events = [
        materialization(
            result.name,
            code_version=result.code_version,
            data_version=context.run_id,
            inputs=dict.fromkeys(result.needs, context.run_id),
            pointers=pointers,
            metadata=finished[result.name],
        )
        for result in RESULTS
        if result.name in finished
    ]
    log_materializations(context, events)
    if MODERATION in finished:
        log_new_blocks(context, finished[MODERATION])
