"""The nightly snapshot, where a folder for it is named."""

from __future__ import annotations

import dagster as dg

from media_pipeline.assets.backup import backup_home
from media_pipeline.config import Backup


def nightly_backup(settings: Backup) -> list[dg.ScheduleDefinition]:
    """The schedule; none where no folder is set."""
    if settings.to is None:
        return []
    hour, minute = settings.at.split(":")
    return [
        dg.ScheduleDefinition(
            name="nightly_backup",
            description=f"Every day at {settings.at} ({settings.timezone}): a snapshot of the home into {settings.to}.",
            job=backup_home,
            cron_schedule=f"{int(minute)} {int(hour)} * * *",
            execution_timezone=settings.timezone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
    ]
