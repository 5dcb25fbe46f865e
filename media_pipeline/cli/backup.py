"""`backup`: snapshots of a home, listed, verified, tested by restoring, and removed when they are old."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from media_pipeline.cli._backups import EXIT_SOME_FAILED, SNAPSHOT, bytes_bar, print_problems, printable, size
from media_pipeline.cli._confirm import confirm
from media_pipeline.cli._tables import print_table
from media_pipeline.cli.context import App
from media_pipeline.errors import DamagedBackup, UsageError

DEFAULT = "take"


class Backups(click.Group):
    """`backup DEST` is `backup take DEST`. A folder that is called like a command is written `./list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(cls=Backups, subcommand_metavar="[DEST | COMMAND]")
def backup() -> None:
    """Copy the home into the folder DEST: consistent while it is in use, incremental, verified by hash.

    `backup DEST` takes a snapshot. Without DEST it is $MEDIA_PIPELINE_BACKUP__TO.
    """


FORMAT = click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
DEST = click.argument("dest", required=False, type=click.Path(file_okay=False, path_type=Path))


@backup.command()
@DEST
@click.option("--with-cache", is_flag=True, help="Decoded frames and sound too; they can be made again.")
@click.option("--with-models", is_flag=True, help="Downloaded models too; they can be had again.")
@click.option("--verify", is_flag=True, help="Read unchanged files too: finds what rots in the home.")
@FORMAT
@click.pass_obj
def take(app: App, dest: Path | None, with_cache: bool, with_models: bool, verify: bool, output: str) -> int:
    """Take a snapshot (what `backup DEST` does). Exit code 3: some files could not be had; they are listed."""
    from media_pipeline.storage import backup as storage
    from media_pipeline.storage.layout import Layout

    console = Console(stderr=True)
    layout, root = Layout(app.settings.home), _dest(app, dest)
    repository = storage.create(layout, root, min_free_bytes=app.settings.min_free_bytes)
    options = storage.Options(with_cache=with_cache, with_models=with_models, verify=verify)
    with bytes_bar(console, "backing up") as progress:
        report = storage.back_up(layout, repository, options, progress)
    if output == "json":
        _print_json(asdict(report))
    else:
        print_problems(console, report.problems, "not in the backup")
        if report.linked_outside:
            console.print(
                f"[yellow]{report.linked_outside} media[/] are linked from outside the home: their files are not in "
                "the backup"
            )
        if storage.on_one_disk(layout, root):
            console.print("[yellow]DEST lies on the disk of the home:[/] if it fails, both are gone")
        console.print(
            f"{report.snapshot}: {report.files} files, {size(report.bytes)}; {size(report.new_bytes)} new in "
            f"{report.new_objects} objects, {report.seconds:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
    return EXIT_SOME_FAILED if report.problems else 0


@backup.command("list")
@DEST
@FORMAT
@click.pass_obj
def list_(app: App, dest: Path | None, output: str) -> None:
    """The snapshots of DEST, the oldest first."""
    from media_pipeline.storage.backup import Repository

    repository = Repository.open(_dest(app, dest))
    found: list[dict[str, Any]] = []
    for snapshot_id in repository.snapshots():
        try:
            head = repository.head(snapshot_id)
        except DamagedBackup as error:
            found.append({"snapshot": snapshot_id, "error": str(error)})
            continue
        found.append(
            {
                "snapshot": snapshot_id,
                "created_at": head.created_at,
                "files": head.count,
                "bytes": head.bytes,
                "new_bytes": head.new_bytes,
                "left_out": len(head.left_out),
                "home": head.home,
                "product_version": head.product_version,
            }
        )
    if output == "json":
        _print_json(found)
        return
    rows = [
        [row["snapshot"], "damaged", "", "", "", ""]
        if "error" in row
        else [
            row["snapshot"],
            str(row["files"]),
            size(row["bytes"]),
            size(row["new_bytes"]),
            str(row["left_out"] or ""),
            printable(row["home"]),
        ]
        for row in found
    ]
    print_table(
        ("SNAPSHOT", "FILES", "SIZE", "NEW", "LEFT OUT", "HOME"), rows, right=("FILES", "SIZE", "NEW", "LEFT OUT")
    )


@backup.command()
@DEST
@FORMAT
@click.pass_obj
def verify(app: App, dest: Path | None, output: str) -> int:
    """Read everything in DEST and compare it with its hash. Exit code 1: something is damaged; says what it means."""
    from media_pipeline.storage.backup import Repository
    from media_pipeline.storage.backup import verify as verify_all

    console = Console(stderr=True)
    with bytes_bar(console, "verifying") as progress:
        found = verify_all(Repository.open(_dest(app, dest)), progress)
    if output == "json":
        _print_json(asdict(found))
        return 1 if found.damages else 0
    for damage in found.damages:
        console.print(f"[red]{escape(damage.what)}:[/] {damage.name}", highlight=False, soft_wrap=True)
        for path in damage.files:
            console.print(f"    holds {escape(printable(path))}", highlight=False, soft_wrap=True)
        console.print(
            f"    {len(damage.snapshots)} snapshots: {escape(damage.meaning)}", highlight=False, soft_wrap=True
        )
    left = f", {found.unnamed} objects that no snapshot needs" if found.unnamed else ""
    console.print(
        f"{found.snapshots} snapshots, {found.objects} objects, {size(found.bytes)} read: "
        f"{len(found.damages)} damaged{left}",
        highlight=False,
    )
    return 1 if found.damages else 0


@backup.command("test")
@DEST
@SNAPSHOT
@click.option(
    "--in", "folder", type=click.Path(exists=True, file_okay=False), help="Folder with room for a whole home."
)
@FORMAT
@click.pass_obj
def test_(app: App, dest: Path | None, snapshot: str | None, folder: str | None, output: str) -> int:
    """Restore a snapshot into a temporary folder, open and compare everything, and remove it again."""
    from media_pipeline.storage import backup as storage

    console = Console(stderr=True)
    repository = storage.Repository.open(_dest(app, dest))
    snapshot_id = repository.resolve(snapshot)
    with tempfile.TemporaryDirectory(prefix="media-pipeline-restore-", dir=folder) as scratch:
        home = Path(scratch) / "home"
        with bytes_bar(console, "restoring") as progress:
            done = storage.restore(repository, snapshot_id, home, progress)
        wrong = [f"{path}: {reason}" for path, reason in done.damaged.items()]
        wrong += storage.examine(home, repository.load(snapshot_id))
        views = _views(home) if not wrong else 0
    if output == "json":
        _print_json(asdict(done) | {"wrong": wrong, "views": views})
        return 1 if wrong else 0
    for line in wrong:
        console.print(f"[red]wrong:[/] {escape(printable(line))}", highlight=False, soft_wrap=True)
    verdict = "[red]NOT restorable as a whole[/]" if wrong else f"restored, opened and compared, {views} views answer"
    console.print(
        f"{snapshot_id}: {done.files} files, {size(done.bytes)} in {done.seconds:.1f} s: {verdict}",
        highlight=False,
        soft_wrap=True,
    )
    return 1 if wrong else 0


@backup.command()
@DEST
@click.option("--keep-daily", type=click.IntRange(0), help="Days that keep a snapshot. [default: settings, 7]")
@click.option("--keep-weekly", type=click.IntRange(0), help="Weeks. [default: settings, 4]")
@click.option("--keep-monthly", type=click.IntRange(0), help="Months. [default: settings, 6]")
@click.option(
    "--all-before", type=click.DateTime(["%Y-%m-%d"]), help="Instead: every snapshot of before this day (UTC)."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@FORMAT
@click.pass_obj
def prune(
    app: App,
    dest: Path | None,
    keep_daily: int | None,
    keep_weekly: int | None,
    keep_monthly: int | None,
    all_before: datetime | None,
    yes: bool,
    output: str,
) -> None:
    """Remove old snapshots, and what only they hold. The newest always stays."""
    from media_pipeline.storage import backup as storage

    repository = storage.Repository.open(_dest(app, dest))
    ids = repository.snapshots()
    if all_before is not None:
        doomed = storage.older_than(ids, all_before.replace(tzinfo=UTC))
    else:
        settings = app.settings.backup
        keep = storage.Keep(
            daily=settings.keep_daily if keep_daily is None else keep_daily,
            weekly=settings.keep_weekly if keep_weekly is None else keep_weekly,
            monthly=settings.keep_monthly if keep_monthly is None else keep_monthly,
        )
        doomed = set(ids) - storage.kept_by(ids, keep)
    if doomed and not yes:
        for snapshot_id in sorted(doomed):
            click.echo(snapshot_id, err=True)
        confirm(f"Remove these {len(doomed)} of {len(ids)} snapshots?")
    pruned = storage.remove(repository, doomed)
    if output == "json":
        _print_json(asdict(pruned))
    else:
        click.echo(
            f"{len(pruned.removed)} snapshots removed, {len(pruned.kept)} kept, {size(pruned.freed_bytes)} freed",
            err=True,
        )


def _views(home: Path) -> int:
    """How many views of the restored home answer: all of them, or the error of the first that does not."""
    from media_pipeline.config import load_settings
    from media_pipeline.execution.pipeline import Pipeline

    with closing(Pipeline(load_settings(home=home))) as pipeline, pipeline.catalog.connect() as connection:
        names = pipeline.catalog.names
        for name in names:
            connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608 - names of ours
    return len(names)


def _dest(app: App, given: Path | None) -> Path:
    root = given or app.settings.backup.to
    if root is None:
        raise UsageError("no folder for the backups", "name one, or set MEDIA_PIPELINE_BACKUP__TO")
    return root.expanduser().absolute()


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=datetime.isoformat))
