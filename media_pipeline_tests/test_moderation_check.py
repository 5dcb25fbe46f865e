"""The check on `moderation`, as Dagster keeps it after a run of the graph and after a refresh."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from media_pipeline.assets.checks import NEW_BLOCKS, new_blocks_result
from media_pipeline.assets.jobs import REFRESH_JOB, analyze_job, refresh_job
from media_pipeline.assets.results import results
from media_pipeline.assets.stages import stage_assets
from media_pipeline.config import load_settings
from media_pipeline.engine.batch_run import BatchRun, handed_over, handing_over
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import announce, range_tags
from media_pipeline.engine.submit import ANALYZE_JOB
from media_pipeline_tests._stages import STAGES, ScriptedRunner

SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
BLOCKED = {"judged": 2, "newly_blocked": 1, "new_blocks": ["beach.jpg (0123456789ab)"], "rules_version": "1@x"}


def test_what_the_check_says() -> None:
    failed = new_blocks_result(BLOCKED)
    assert (failed.passed, failed.severity, failed.description) == (
        False,
        dg.AssetCheckSeverity.ERROR,
        "1 medium newly blocked",
    )
    assert failed.metadata["new_blocks"].value == ["beach.jpg (0123456789ab)"]
    assert new_blocks_result({"judged": 2, "newly_blocked": 0}).passed


@pytest.mark.slow
def test_new_blocks_fail_the_check_in_the_run_that_made_them(tmp_path: Path) -> None:
    definitions = dg.Definitions(
        assets=[stage_assets(STAGES), results],
        jobs=[analyze_job(STAGES), refresh_job()],
        resources={"batch": dg.ResourceDefinition(lambda _: handed_over())},
    )
    runner = ScriptedRunner()
    with open_instance(load_settings(home=tmp_path)) as instance:
        announce(instance, ["a", "b"])

        def status(job: str, tags: dict[str, str]) -> tuple[Status, str, str]:
            with handing_over(BatchRun(runner)):
                ran = definitions.resolve_job_def(job).execute_in_process(
                    instance=instance, run_config=SILENT, tags=tags
                )
            assert ran.success  # a block is no failure of the run
            (record,) = instance.event_log_storage.get_asset_check_execution_history(NEW_BLOCKS.key, limit=1)
            return record.status, record.run_id, ran.run_id

        for job, tags in ((ANALYZE_JOB, range_tags(["a", "b"])), (REFRESH_JOB, {})):
            for facts, expected in ((BLOCKED, Status.FAILED), ({"judged": 2}, Status.SUCCEEDED)):
                runner.moderated = facts
                found, run_id, ran_id = status(job, tags)
                assert (found, run_id) == (expected, ran_id)
