"""`reprocess`: what is stale, what it would cost, what would change; and making it anew here and now."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from media_pipeline.cli._reprocess_output import print_differences, print_done, print_plan, write_plan
from media_pipeline.cli.analyze import EXIT_SOME_FAILED, progress_bar, stages_for
from media_pipeline.cli.context import App
from media_pipeline.execution.wish import Wish

if TYPE_CHECKING:
    from media_pipeline.execution.comparison import Difference
    from media_pipeline.execution.outcome import Outcome
    from media_pipeline.execution.recompute import Plan


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what is stale, why, and what it would cost.")
@click.option("--sample", metavar="N", type=click.IntRange(1, 1000), help="Only compare new and old on N media.")
@click.option("--analyzers", help="Only these, separated by commas, and what they need.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="At most N media, the newest first.")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def reprocess(
    app: App, dry_run: bool, sample: int | None, analyzers: str | None, limit: int | None, output: str
) -> int:
    """Make results anew that an analyzer's new version, model or options made stale, and what depends on them.

    What is current is not touched; what was made before with the same options and kept is put back. Interrupted, it
    goes on where it stopped when it is called again. Exit code 3: some media failed; `status` lists them.
    """
    from media_pipeline.execution.recompute import plan

    console = Console(stderr=True)
    found = plan(app.pipeline, None if analyzers is None else stages_for(analyzers)).newest(limit)
    if sample is not None:
        differences = _compare(app, found, sample, console)
        if output == "json":
            click.echo(json.dumps([asdict(d) for d in differences], ensure_ascii=False, indent=2))
        else:
            print_differences(Console(), differences)
        return EXIT_SOME_FAILED if any(d.failed for d in differences) else 0
    if dry_run:
        from media_pipeline.execution.expected import expected, gpu_price

        parts = expected(app.pipeline, found)
        price = gpu_price(parts, app.settings.reprocess)
        (write_plan if output == "json" else print_plan)(found, parts, price)
        return 0
    done = _run(app, found, console)
    if output == "json":
        click.echo(json.dumps(done, indent=2))
    else:
        print_done(console, done)
    return EXIT_SOME_FAILED if done["failed"] else 0


def _compare(app: App, found: Plan, count: int, console: Console) -> list[Difference]:
    from media_pipeline.execution.comparison import compare, sample_of

    media = sample_of(found.media_ids, count)
    with progress_bar(console) as progress:
        task = progress.add_task("comparing", total=None)

        def show(outcome: Outcome) -> None:
            progress.update(task, advance=1, description=f"comparing: {escape(outcome.partition_key[:40])}")

        return compare(app.pipeline, found, media, show) if media else []


def _run(app: App, found: Plan, console: Console) -> dict[str, Any]:
    """Run batch after batch; counts of media and of pairs by what became of them."""
    stale = found.by_medium()
    pairs: Counter[str] = Counter()
    broken: set[str] = set()
    reached = 0
    if not stale:
        return _summary(found, reached, pairs, broken)
    from media_pipeline.cli._placing import placed
    from media_pipeline.engine.instance import open_instance
    from media_pipeline.engine.reprocess import REPROCESS_JOB, next_batch
    from media_pipeline.engine.submit import execute_batch
    from media_pipeline.storage.disk import disk_full_explained

    media = list(app.pipeline.sources.by_id(stale).values())
    wish = Wish.of(app.settings.gpu)
    with (
        progress_bar(console) as progress,
        disk_full_explained(app.settings.home),
        open_instance(app.settings) as instance,
        placed(app.pipeline, media, list(found.counts), wish, progress.console) as where,
    ):
        task = progress.add_task("reprocessing", total=len(stale))

        def show(stage: str, outcome: Outcome) -> None:
            progress.update(task, description=f"{stage}: {escape(outcome.partition_key[:40])}")
            if not outcome.current:
                pairs["restored" if outcome.restored else outcome.status] += 1

        tried: set[str] = set()
        while batch := next_batch(
            instance, app.pipeline, stale, is_excluded=tried.__contains__, beside_watch_folder=False
        ):
            results = execute_batch(
                instance,
                app.pipeline,
                batch.partition_keys,
                stages=batch.stages,
                on_outcome=show,
                job_name=REPROCESS_JOB,
                more_tags=where.tags,
            )
            broken |= batch.stale_keys & {key for result in results for key in result.failed}
            tried |= batch.stale_keys
            reached += len(batch.stale_keys)
            progress.update(task, completed=reached)
    return _summary(found, reached, pairs, broken)


def _summary(found: Plan, reached: int, pairs: Counter[str], broken: set[str]) -> dict[str, Any]:
    return {
        "media": found.media,
        "reprocessed": reached,
        "failed": len(broken),
        "computed_pairs": pairs["done"] + pairs["failed"],
        "restored_pairs": pairs["restored"],
    }
