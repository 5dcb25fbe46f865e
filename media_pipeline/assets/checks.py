"""Checks on results: what a person should look at stands in red beside the asset."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent

MODERATION = "moderation"
NEW_BLOCKS = dg.AssetCheckSpec(
    "no_new_blocks",
    asset=MODERATION,
    description="Fails when rules block media that they did not block before and that nobody has decided on. "
    "`media-pipeline moderate` approves or confirms.",
)


def new_blocks_result(facts: Mapping[str, Any]) -> dg.AssetCheckResult:
    """The check of the run that judged; `facts` is the metadata of its `moderation`."""
    count = int(facts.get("newly_blocked", 0))
    text = f"{count} {'medium' if count == 1 else 'media'} newly blocked" if count else "nothing newly blocked"
    metadata = {name: facts[name] for name in ("newly_blocked", "new_blocks", "rules_version") if name in facts}
    return dg.AssetCheckResult(
        passed=count == 0,
        asset_key=MODERATION,
        check_name=NEW_BLOCKS.name,
        severity=dg.AssetCheckSeverity.ERROR,
        description=text,
        metadata=metadata,
    )


def log_new_blocks(context: dg.OpExecutionContext, facts: Mapping[str, Any]) -> None:
    """The check in a run of the graph, whose results are logged by hand."""
    result = new_blocks_result(facts)
    evaluation = dg.AssetCheckEvaluation(
        asset_key=NEW_BLOCKS.asset_key,
        check_name=NEW_BLOCKS.name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )
    DagsterEvent.asset_check_evaluation(context.get_step_execution_context(), evaluation)
