"""`retention`: what goes because it is old, and letting it go now instead of at night."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from media_pipeline.cli._confirm import confirm
from media_pipeline.cli.context import App
from media_pipeline.wording import printable

if TYPE_CHECKING:
    import dagster as dg
    import pyarrow as pa

    from media_pipeline.results.retention import Plan

ROWS_SHOWN = 20  # of each list, on the screen

_format = click.option(
    "--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True
)  # fmt: skip


@click.group()
def retention() -> None:
    """What goes because it is old: originals, cached frames, results, runs of Dagster, partitions."""


@retention.command("plan")
@_format
@click.option("--all", "show_all", is_flag=True, help="Every medium, not only the first ones.")
@click.pass_obj
def plan_(app: App, output: str, show_all: bool) -> None:
    """Say what would go now, and why."""
    with _instance(app) as instance:
        _show(*_planned(app, instance), output, show_all=show_all)


@retention.command("run")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_format
@click.pass_obj
def run_(app: App, dry_run: bool, yes: bool, output: str) -> None:
    """Let it go now. The nightly maintenance does the same by itself."""
    from media_pipeline.engine import maintenance

    with _instance(app) as instance:
        plan, waiting = _planned(app, instance)
        if dry_run:
            _show(plan, waiting, output, show_all=False)
            return
        if not yes:
            _show(plan, waiting, "table", show_all=False, err=True)
        if _is_nothing(plan, waiting):
            done: dict[str, dict[str, Any]] = {}
        else:
            if not yes:
                confirm("Let this go for good?")
            with _progress() as progress:
                media = progress.add_task("media", total=sum(t.num_rows for t in _lists(plan).values()))
                runs = progress.add_task("runs", total=waiting["runs"])
                done = maintenance.let_go(instance, app.pipeline, plan, lambda n: progress.advance(media, n))
                done |= maintenance.prune(instance, app.pipeline, lambda n: progress.advance(runs, n))
            done |= maintenance.retire(instance, app.pipeline)
    if output == "json":
        click.echo(json.dumps(done, indent=2))
    elif not done and yes:
        click.echo("nothing goes now")
    for name, numbers in done.items() if output == "table" else ():
        click.echo(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in numbers.items()))


@retention.command()
@click.argument("media", metavar="MEDIA_ID...", nargs=-1, required=True)
@click.pass_obj
def recall(app: App, media: tuple[str, ...]) -> None:
    """Bring media that Dagster does not hold any more back into it, to be materialized by hand."""
    from media_pipeline.engine.hot_window import recall as bring_back
    from media_pipeline.results.media import resolve_all

    known = app.pipeline.sources.by_id(resolve_all(app.tables, media))
    with _instance(app) as instance:
        back = bring_back(instance, app.pipeline, [medium.partition_key for medium in known.values()])
    for key in back:
        click.echo(key)
    if len(back) < len(known):
        click.echo(f"{len(known) - len(back)} were there already", err=True)


# -- inside ----------------------------------------------------------------------------------------------------------


def _instance(app: App) -> dg.DagsterInstance:
    from media_pipeline.engine.instance import open_instance

    return open_instance(app.settings)


def _planned(app: App, instance: dg.DagsterInstance) -> tuple[Plan, dict[str, int]]:
    from media_pipeline.engine import maintenance

    return maintenance.retention_plan(instance, app.pipeline), maintenance.waiting(instance, app.pipeline)


def _lists(plan: Plan) -> dict[str, pa.Table]:
    return {"originals": plan.originals, "cache": plan.cache, "results": plan.results}


def _show(plan: Plan, waiting: dict[str, int], output: str, *, show_all: bool, err: bool = False) -> None:
    if output == "json":
        report = {name: table.to_pylist() for name, table in _lists(plan).items()}
        report |= {"held": plan.held.to_pylist(), "superseded": plan.kept.num_rows, "dagster": waiting}
        click.echo(json.dumps(report, ensure_ascii=False, indent=2, default=str))
        return
    console = Console(stderr=err)
    for name, table in _lists(plan).items():
        _list(console, name, table, show_all=show_all)
    lines = {
        "held, because somebody decided on them": plan.held.num_rows,
        "superseded results": plan.kept.num_rows,
        "finished runs of Dagster": waiting["runs"],
        "partitions beyond the hot window": waiting["partitions"],
        "media that Dagster holds no more": waiting["retired"],
    }
    for name, count in lines.items():
        if count:
            console.print(f"{name}: {count}", highlight=False)
    if _is_nothing(plan, waiting):
        console.print("nothing goes now", highlight=False)


def _is_nothing(plan: Plan, waiting: dict[str, int]) -> bool:
    return plan.is_empty and not waiting["runs"] and not waiting["partitions"]


def _list(console: Console, name: str, due: pa.Table, *, show_all: bool) -> None:
    if not due.num_rows:
        return
    size = sum(due["bytes"].to_pylist())
    console.print(f"[bold]{name}[/]: {due.num_rows} media, {size / 1e9:.2f} GB", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "KIND", "MEDIA_ID", "SINCE", "TERM"):
        table.add_column(heading, overflow="fold")
    for row in due.slice(0, due.num_rows if show_all else ROWS_SHOWN).to_pylist():
        cells = (row["name"] or "", row["kind"] or "", row["media_id"][:12], f"{row['since']:%Y-%m-%d}")
        table.add_row(*(Text(printable(cell)) for cell in cells), f"{row['days']} days")
    console.print(table)
    if due.num_rows > ROWS_SHOWN and not show_all:
        console.print(f"{due.num_rows - ROWS_SHOWN} more: `media-pipeline retention plan --all` lists them")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
