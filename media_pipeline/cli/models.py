"""`media-pipeline models`: which models there are, and downloading them."""

from __future__ import annotations

import dataclasses
import json

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from media_pipeline.analyzers._model_catalog import CATALOG
from media_pipeline.analyzers._models import ModelStatus, ModelStore
from media_pipeline.cli._tables import print_table
from media_pipeline.cli.context import App


@click.group()
def models() -> None:
    """List and download models."""


@models.command("list")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def list_models(app: App, format_: str) -> None:
    """Which models there are, what for, and which are on this machine."""
    found = ModelStore.of(app.settings).list()
    if format_ == "json":
        click.echo(json.dumps([_plain(status) for status in found], indent=2))
        return
    rows = [
        (s.name, "yes" if s.path else "no", f"{s.bytes / 1e6:,.0f}", s.analyzer, s.licence, s.purpose) for s in found
    ]
    print_table(("MODEL", "HERE", "MB", "FOR", "LICENCE", "WHAT"), rows, wraps="WHAT", right=("MB",))


@models.command()
@click.argument("name", type=click.Choice(sorted(CATALOG)))
@click.pass_obj
def pull(app: App, name: str) -> None:
    """Download a model; an interrupted download goes on where it stopped."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    # The bar belongs to the terminal; what a script reads is the folder, on stdout.
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=CATALOG[name].bytes)
        folder = ModelStore.of(app.settings).pull(name, lambda done, _total: bar.update(task, completed=done))
        bar.update(task, completed=CATALOG[name].bytes)
    click.echo(str(folder))


def _plain(status: ModelStatus) -> dict[str, object]:
    return {k: str(v) if k == "path" and v else v for k, v in dataclasses.asdict(status).items()}
