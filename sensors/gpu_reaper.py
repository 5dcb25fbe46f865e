"""Every minute: rented machines that nobody needs any more are given back, whatever became of the run that had them."""

from __future__ import annotations

from contextlib import closing

import dagster as dg

from media_pipeline.config import Settings, load_settings
from media_pipeline.errors import MediaPipelineError

EVERY_S = 60
_LIMIT_S = 25.0  # Dagster gives up on a tick after a minute


def gpu_reaper(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensor; none where no key of Vast.ai is configured."""
    if settings.vast_api_key is None and settings.vast_api_key_file is None:
        return []

    @dg.sensor(
        name="gpu_reaper",
        description="Compares what runs at Vast.ai with what was rented from here, and gives back what nobody needs: "
        "idle machines, those of runs that were killed, and stopped ones, whose disks go on costing money.",
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            return dg.SkipReason(_tick(context, load_settings()))
        except MediaPipelineError as error:
            context.log.warning(str(error))
            return dg.SkipReason(str(error))

    return [sensor]


def _tick(context: dg.SensorEvaluationContext, settings: Settings) -> str:
    """What it has done, for the list of ticks."""
    from media_pipeline.cloud.api import Vast
    from media_pipeline.cloud.reaper import patrol
    from media_pipeline.storage.layout import Layout
    from media_pipeline.storage.leases import Leases

    key, layout = settings.vast_key, Layout(settings.home)
    if key is None or not layout.leases.exists():
        return "nothing was ever rented"
    with closing(Leases.of(layout)) as leases:
        if not leases.latest(1):
            return "nothing was ever rented"
        with closing(Vast(key, settings.vast_url, timeout_s=10, patience_s=20)) as vast:
            done = patrol(vast, leases, settings, layout, limit_s=_LIMIT_S)
    for line in done.lines:
        (context.log.info if done.is_clean else context.log.warning)(line)
    if done.blind is not None:
        return f"what is running is not known: {done.blind}"
    parts = ((done.destroyed, "given back"), (done.failed, "not given back yet"), (done.kept, "needed"))
    return ", ".join(f"{len(machines)} {what}" for machines, what in parts if machines) or "nothing of ours is running"
