"""Composition root: the registry, assets, resources and sensors become Dagster's definitions."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg

from media_pipeline.assets.jobs import analyze_job, maintenance, refresh_job, reprocess_job
from media_pipeline.assets.results import results
from media_pipeline.assets.stages import stage_assets
from media_pipeline.config import load_settings, vast_key_variable
from media_pipeline.execution.stages import stage_infos

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def _prefer_checkout() -> None:
    """Let `resources` and `sensors` be ours: a stranger's package of such a name in site-packages shadows them."""
    root = str(PROJECT_ROOT)
    if sys.path[:1] != [root]:
        sys.path.insert(0, root)


def build() -> dg.Definitions:
    """All there is. Loads no model library and opens no home."""
    _prefer_checkout()
    from resources.pipeline import BatchResource, PipelineResource
    from resources.vast import VastResource
    from sensors.backup import nightly_backup
    from sensors.gpu_reaper import gpu_reaper
    from sensors.maintenance import nightly_maintenance
    from sensors.reprocess import nightly_reprocess
    from sensors.watch_folders import watch_folders

    stages = stage_infos()
    pipeline = PipelineResource()
    key = vast_key_variable()
    # By the variable's name: the key itself then stands in no configuration that Dagster stores or shows.
    vast = VastResource.configure_at_launch(**({"api_key": dg.EnvVar(key)} if key else {}))
    analyze = analyze_job(stages)
    reprocess = reprocess_job(stages)
    return dg.Definitions(
        assets=[stage_assets(stages), results],
        jobs=[analyze, reprocess, refresh_job(), maintenance],
        sensors=[watch_folders(analyze), *gpu_reaper(load_settings())],
        schedules=[
            nightly_maintenance(load_settings().retention),
            nightly_reprocess(reprocess, load_settings().reprocess),
            *nightly_backup(load_settings().backup),
        ],
        resources={"pipeline": pipeline, "vast": vast, "batch": BatchResource(pipeline=pipeline, vast=vast)},
        executor=dg.in_process_executor,
    )


defs = build()
