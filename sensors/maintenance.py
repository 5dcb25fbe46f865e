"""The nightly schedule."""

from __future__ import annotations

import dagster as dg

from media_pipeline.assets.jobs import maintenance
from media_pipeline.config import Retention


def nightly_maintenance(settings: Retention) -> dg.ScheduleDefinition:
    """The schedule of the maintenance, at the time of these settings."""
    return dg.ScheduleDefinition(
        name="nightly_maintenance",
        description=f"At {settings.at} ({settings.timezone}): lets go what is old, prunes runs, retires partitions, "
        "compacts and vacuums the tables, while nobody is waiting.",
        job=maintenance,
        cron_schedule=f"{int(settings.at[3:])} {int(settings.at[:2])} * * *",
        execution_timezone=settings.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
