"""The nightly schedule."""

from __future__ import annotations

import dagster as dg

from media_pipeline.assets.jobs import maintenance

nightly_maintenance = dg.ScheduleDefinition(
    name="nightly_maintenance",
    description="Compacts and vacuums the tables while nobody is waiting.",
    job=maintenance,
    cron_schedule="30 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
