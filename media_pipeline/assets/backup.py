"""The job that takes a snapshot of the home and removes the snapshots that are old."""

import dagster as dg

from media_pipeline.config import load_settings
from media_pipeline.engine.instance import sign_run
from media_pipeline.engine.tags import BEHIND_UPLOADS
from media_pipeline.errors import UsageError

BACKUP_JOB = "backup_home"
# A pool of its own: a first backup may take hours, and nothing needs to wait for it.
BACKUP_POOL = "backup"
_PROBLEMS_LOGGED = 20


@dg.op(pool=BACKUP_POOL)
def take_snapshot(context: dg.OpExecutionContext) -> None:
    """Take a snapshot, then remove those that the settings do not keep."""
    from media_pipeline.storage import backup  # table libraries take seconds to import
    from media_pipeline.storage.layout import Layout

    sign_run(context.instance, context.run_id)  # or it would count as dead after ten minutes
    settings = load_settings()
    if settings.backup.to is None:
        raise UsageError("no folder for the backups", "set MEDIA_PIPELINE_BACKUP__TO and start `serve` again")
    repository = backup.create(Layout(settings.home), settings.backup.to, min_free_bytes=settings.min_free_bytes)
    report = backup.back_up(Layout(settings.home), repository)
    context.log.info(
        f"{report.snapshot}: {report.files} files, {report.bytes} bytes, {report.new_bytes} new, {report.seconds:.1f} s"
    )
    for path, reason in list(report.problems.items())[:_PROBLEMS_LOGGED]:
        context.log.warning(f"{path!r} is not in the backup: {reason}")
    if report.linked_outside:
        context.log.warning(
            f"{report.linked_outside} media are linked from outside the home: their files are not in it"
        )
    keep = backup.Keep(settings.backup.keep_daily, settings.backup.keep_weekly, settings.backup.keep_monthly)
    ids = repository.snapshots()
    pruned = backup.remove(repository, set(ids) - backup.kept_by(ids, keep))
    context.log.info(f"{len(pruned.removed)} old snapshots removed, {pruned.freed_bytes} bytes freed")
    context.add_output_metadata({"snapshot": report.snapshot, "new_bytes": report.new_bytes, "kept": len(pruned.kept)})


@dg.job(
    name=BACKUP_JOB,
    description="Take a snapshot of the home into the folder that MEDIA_PIPELINE_BACKUP__TO names.",
    executor_def=dg.in_process_executor,
    tags=BEHIND_UPLOADS,
)
def backup_home() -> None:
    take_snapshot()
