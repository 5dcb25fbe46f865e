"""What Dagster says of partitions, through its own interfaces: statuses, versions, staleness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from media_pipeline.assets.jobs import analyze_job
from media_pipeline.assets.results import RESULTS, results
from media_pipeline.assets.stages import stage_assets
from media_pipeline.engine.batch_run import BatchRun, handed_over, handing_over
from media_pipeline.engine.partitions import MEDIA, range_tags
from media_pipeline.engine.submit import ANALYZE_JOB
from media_pipeline_tests._stages import NAMES, STAGES, ScriptedRunner

Pair = tuple[str, str | None]  # asset, partition

SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class Standing:
    """What the UI shows of one partition of an asset, or of an asset without partitions."""

    status: str  # done, failed, running, missing
    newest: tuple[int, float, dg.AssetMaterialization | None] | None  # storage id, time, content
    causes: list[str]  # why it is stale
    reason: str | None = None  # of the newest observation


class Graph:
    """The graph of the scripted stages, and runs of it."""

    def __init__(self) -> None:
        self.definitions = dg.Definitions(
            assets=[stage_assets(STAGES), results],
            jobs=[analyze_job(STAGES)],
            resources={"batch": dg.ResourceDefinition(lambda _: handed_over())},
        )
        self._job = self.definitions.resolve_job_def(ANALYZE_JOB)

    def run(
        self,
        instance: dg.DagsterInstance,
        runner: ScriptedRunner,
        keys: Sequence[str],
        *,
        selection: Sequence[str] = (),
        tags: dict[str, str] | None = None,
    ) -> str:
        """The id of a run over these adjacent partitions."""
        with handing_over(BatchRun(runner)):
            return self._job.execute_in_process(
                instance=instance,
                run_config=SILENT,
                tags={**range_tags(keys), **(tags or {})},
                asset_selection=[dg.AssetKey(name) for name in selection] or None,
                raise_on_error=False,
            ).run_id

    def standing(self, instance: dg.DagsterInstance, keys: Sequence[str]) -> dict[Pair, Standing]:
        graph = self.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        pairs: list[Pair] = [(name, key) for name in NAMES for key in keys]
        pairs += [(result.name, None) for result in RESULTS]
        shown = {name: self._statuses(instance, dg.AssetKey(name)) for name in NAMES}
        found = {}
        for name, key in pairs:
            asset = dg.AssetKey(name)
            record = instance.get_latest_data_version_record(asset, partition_key=key)
            content = (record.storage_id, record.timestamp, record.asset_materialization) if record else None
            status = shown[name].get(key, "missing") if key else "done" if record else "missing"
            causes = [cause.reason for cause in resolver.get_stale_causes(asset, key)]
            found[name, key] = Standing(status, content, causes, _reason(instance, asset, key))
        return found

    @staticmethod
    def _statuses(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, str]:
        instance.event_log_storage.wipe_asset_cached_status(asset)  # from the events, not from what was seen before
        value = get_and_update_asset_status_cache_value(instance, asset, MEDIA)
        if value is None:
            return {}
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            done = value.deserialize_materialized_partition_subsets(MEDIA).get_partition_keys()
            failed = value.deserialize_failed_partition_subsets(MEDIA).get_partition_keys()
            running = value.deserialize_in_progress_partition_subsets(MEDIA).get_partition_keys()
        return {
            **dict.fromkeys(done, "done"),
            **dict.fromkeys(failed, "failed"),
            **dict.fromkeys(running, "running"),
        }


def _reason(instance: dg.DagsterInstance, asset: dg.AssetKey, key: str | None) -> str | None:
    wanted = dg.AssetRecordsFilter(asset, asset_partitions=[key] if key else None)
    records = instance.fetch_observations(wanted, limit=1).records
    return str(records[0].event_log_entry.asset_observation.metadata["reason"].value) if records else None
