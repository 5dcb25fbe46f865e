"""`restore`: a snapshot becomes a home again."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from media_pipeline.cli._backups import EXIT_SOME_FAILED, SNAPSHOT, bytes_bar, print_problems, printable, size
from media_pipeline.config import load_settings

if TYPE_CHECKING:
    from media_pipeline.storage.backup import Restored

HOME = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("source", type=click.Path(file_okay=False, path_type=Path))
@SNAPSHOT
@click.option("--home", type=HOME, required=True, help="New or empty folder; nothing is ever overwritten.")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def restore(source: Path, snapshot: str | None, home: Path, output: str) -> int:
    """Restore a home from the backups in SOURCE, comparing every byte with its hash.

    Interrupted, the same command goes on where it was. Exit code 3: some files were damaged; they are listed.
    """
    from media_pipeline.storage import backup

    console = Console(stderr=True)
    home = home.expanduser().absolute()
    repository = backup.Repository.open(source)
    with bytes_bar(console, "restoring") as progress:
        done = backup.restore(repository, repository.resolve(snapshot), home, progress)
    _make_derived(home)
    if output == "json":
        click.echo(json.dumps(asdict(done) | {"home": str(home)}, indent=2))
    else:
        _print(console, done, home)
    return EXIT_SOME_FAILED if done.damaged else 0


def _make_derived(home: Path) -> None:
    """What a backup leaves out because it can be made: the folders, and the views for the user's own tools.

    Search indexes are made by the first search.
    """
    from media_pipeline.execution.pipeline import Pipeline

    with closing(Pipeline(load_settings(home=home))) as pipeline:
        pipeline.catalog.publish()


def _print(console: Console, done: Restored, home: Path) -> None:
    print_problems(console, done.damaged, "damaged in the backup, not restored")
    if done.linked_outside:
        console.print(
            f"[yellow]{done.linked_outside} media[/] are linked from outside the home: not in the backup, their files "
            "must lie where they lay"
        )
    if done.erased_since:
        console.print(
            f"[bold red]{len(done.erased_since)} erasures came after this snapshot: what they removed is back.[/] "
            "Erase it again; the receipts are in the newest snapshot:"
        )
        for path in done.erased_since:
            console.print(f"    {escape(printable(path))}", highlight=False, soft_wrap=True)
    console.print(
        f"{done.files} files, {size(done.bytes)} of {done.snapshot} restored in {done.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"go on with: media-pipeline --home '{escape(str(home))}' status", highlight=False, soft_wrap=True)
