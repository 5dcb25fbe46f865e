"""`analyze`: intake and run here and now, through the same Dagster job and instance as the daemon."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from media_pipeline.cli.context import App
from media_pipeline.cli.failures import NAMES_PER_REASON, print_failures
from media_pipeline.config_gpu import TARGETS
from media_pipeline.errors import UsageError
from media_pipeline.execution.wish import Wish

if TYPE_CHECKING:
    from media_pipeline.execution.outcome import Outcome
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.media.intake import IntakeReport
    from media_pipeline.storage.sources import KnownMedium

EXIT_SOME_FAILED = 3
STILL_WRITTEN = "is still being written to; analyze it again"


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--analyzers", help="Only these, separated by commas; what they need runs too.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed before on the same content.")
@click.option("--target", type=click.Choice(TARGETS), help="Where to compute [default: $MEDIA_PIPELINE_GPU__TARGET].")
@click.option("--max-usd", type=click.FloatRange(min=0), help="What this command may spend on rented machines.")
@click.option("--force", is_flag=True, help="Do everything again, whatever the ledger says.")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def analyze(
    app: App,
    paths: tuple[Path, ...],
    analyzers: str | None,
    retry_failed: bool,
    target: str | None,
    max_usd: float | None,
    force: bool,
    output: str,
) -> int:
    """Take PATH… (files or folders) in and analyse them here and now.

    Exit code 0: all done. 3: some files failed, or are still being written to; they are listed with the reason.
    """
    console = Console(stderr=True)
    pipeline = app.pipeline
    stages = stages_for(analyzers)
    wish = Wish.of(app.settings.gpu, target=target, max_usd=max_usd)
    with progress_bar(console) as progress:
        report, files = _take(pipeline, paths, progress)
        media = list({m.media_id: m for m in [*report.new, *report.known]}.values())
        unavailable, placement = _run(app, media, stages, wish, progress, force=force, retry_failed=retry_failed)
    return _summary(app, media, report, files, stages, unavailable, placement, console, output)


def stages_for(analyzers: str | None) -> list[str]:
    """The stages to run: those asked for and all they need; every stage when nothing was asked for."""
    from media_pipeline.execution.stages import stage_infos, with_needs

    stages = stage_infos()
    names = [stage.name for stage in stages]
    if analyzers is None:
        return names
    wanted = [name.strip() for name in analyzers.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        raise UsageError(f"unknown analyzer {', '.join(unknown) or '(none)'}", f"there are: {', '.join(names)}")
    return with_needs(stages, wanted)


def _take(pipeline: Pipeline, paths: Sequence[Path], progress: Progress) -> tuple[IntakeReport, int]:
    """Take everything in; the report, and how many files it speaks of (several may hold one medium)."""
    from media_pipeline.media.intake import Intake

    task = progress.add_task("taking files in", total=None)
    seen: set[Path] = set()

    def show(path: Path, what: str) -> None:
        seen.add(path)
        progress.update(task, completed=len(seen), description=f"{what}: {escape(path.name[:40])}")

    intake = Intake(pipeline.layout, pipeline.sources, pipeline.settings)
    report = intake.take(paths, wait=True, progress=show)
    progress.update(task, completed=len(seen), total=len(seen), description="taken in")
    return report, len(seen)


def _run(
    app: App,
    media: Sequence[KnownMedium],
    stages: Sequence[str],
    wish: Wish,
    progress: Progress,
    *,
    force: bool,
    retry_failed: bool,
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Run the batches; the remedy of each analyzer that was unavailable, and where they were computed."""
    from media_pipeline.execution.stages import stage_infos
    from media_pipeline.media.batching import batches

    pipeline = app.pipeline
    ids = [m.media_id for m in media]
    wanted = ids if force else pipeline.pending(ids, stages, retry_failed=retry_failed)
    by_id = {m.media_id: m for m in media}
    unavailable: dict[str, str] = {}
    selection = None if len(stages) == len(stage_infos()) else stages
    if not wanted:
        return unavailable, None
    from media_pipeline.cli._placing import placed
    from media_pipeline.engine.hot_window import recall  # a second of imports, spared when all is done
    from media_pipeline.engine.instance import open_instance
    from media_pipeline.engine.submit import execute_batch
    from media_pipeline.storage.disk import disk_full_explained

    task = progress.add_task("analysing", total=len(wanted) * len(stages))

    warned: set[str] = set()

    def show(stage: str, outcome: Outcome) -> None:
        progress.update(task, advance=1, description=f"{stage}: {escape(outcome.partition_key[:40])}")
        if outcome.warning and stage not in warned:
            warned.add(stage)
            progress.console.print(f"[yellow]{stage}:[/] {escape(outcome.warning)}", highlight=False, soft_wrap=True)
        if outcome.status == "unavailable":
            unavailable[stage] = outcome.reason or ""

    todo = [by_id[i] for i in wanted]
    runs = list(batches(todo, app.settings.batch, pipeline.durations_s(wanted)))
    with (
        disk_full_explained(app.settings.home),
        open_instance(app.settings) as instance,
        placed(pipeline, todo, stages, wish, progress.console, force=force) as where,
    ):
        for batch in runs:
            keys = [m.partition_key for m in batch]
            recall(instance, pipeline, keys)  # those that the hot window has retired
            execute_batch(
                instance,
                pipeline,
                keys,
                stages=selection,
                force=force,
                retry_failed=retry_failed,
                on_outcome=show,
                more_tags=where.tags,
                before_last=where.no_run_follows if batch is runs[-1] else None,
            )
    progress.update(task, completed=len(wanted) * len(stages), description="analysed")
    return unavailable, where.facts


def _summary(
    app: App,
    media: Sequence[KnownMedium],
    report: IntakeReport,
    files: int,
    stages: Sequence[str],
    unavailable: dict[str, str],
    placement: dict[str, Any] | None,
    console: Console,
    output: str,
) -> int:
    failures = _of_status("failed", app.pipeline, media, stages)
    # What an earlier run found unavailable still is, also where this one had nothing to do.
    missing = _of_status("unavailable", app.pipeline, media, stages)
    unavailable = {analyzer: reason for _, analyzer, reason in missing} | unavailable
    failed_files = {media_id for media_id, _, _ in failures}
    names = {m.media_id: m for m in media}
    refused = [(str(path), reason) for path, reason in report.refused]
    waiting = list(dict.fromkeys(str(path) for path in report.waiting))
    result: dict[str, Any] = {
        "files": files,
        "media": len(media),
        "new": len(report.new),
        "known": len(report.known),
        "done": len(media) - len(failed_files),
        "failed": [
            {"media_id": i, "name": names[i].name, "path": names[i].path, "analyzer": a, "reason": r}
            for i, a, r in failures
        ],
        "refused": [{"path": path, "reason": reason} for path, reason in refused],
        "waiting": [{"path": path, "reason": STILL_WRITTEN} for path in waiting],
        "unavailable": unavailable,
        **({"placement": placement} if placement is not None else {}),
    }
    if output == "json":
        click.echo(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        _print(console, result)
    return EXIT_SOME_FAILED if failures or refused or waiting else 0


def _of_status(
    status: str, pipeline: Pipeline, media: Sequence[KnownMedium], stages: Sequence[str]
) -> list[tuple[str, str, str]]:
    """(media_id, analyzer, reason) of these media and stages with this status in the ledger."""
    entries = pipeline.ledger.entries([m.media_id for m in media])
    return [
        (media_id, analyzer, entry.reason or "no reason recorded")
        for (media_id, analyzer), entry in sorted(entries.items())
        if entry.status == status and analyzer in stages
    ]


def _print(console: Console, result: dict[str, Any]) -> None:
    for analyzer, reason in result["unavailable"].items():
        console.print(f"[yellow]{analyzer} unavailable:[/] {escape(reason)}", highlight=False, soft_wrap=True)
    failures = [(f["name"], f["analyzer"], f["reason"]) for f in result["failed"]]
    failures += [(r["path"], "intake", r["reason"]) for r in result["refused"]]
    print_failures(console, failures)
    waiting = [w["path"] for w in result["waiting"]]
    for path in waiting[:NAMES_PER_REASON]:
        console.print(f"[yellow]not taken:[/] {escape(path)} {STILL_WRITTEN}", highlight=False, soft_wrap=True)
    if len(waiting) > NAMES_PER_REASON:
        console.print(f"    … and {len(waiting) - NAMES_PER_REASON} more; --format json has them all", highlight=False)
    same = result["files"] - result["media"] - len(result["refused"]) - len(waiting)
    later = f", {len(waiting)} not taken yet" if waiting else ""
    console.print(
        f"{result['files']} files{f', {same} of them with the same content as another' if same > 0 else ''}:"
        f" [green]{result['done']} done[/], {len(failures)} failed{later}"
        f" ({result['new']} new, {result['known']} known before)",
        highlight=False,
        soft_wrap=True,
    )


def progress_bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
