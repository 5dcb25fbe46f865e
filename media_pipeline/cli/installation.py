"""`installation`: encrypted backups of a whole server, to a folder or an S3 store, and back again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from media_pipeline.cli._backups import EXIT_SOME_FAILED, print_problems, printable, size
from media_pipeline.cli._confirm import confirm
from media_pipeline.cli._tables import print_table
from media_pipeline.cli.context import App
from media_pipeline.errors import UsageError

if TYPE_CHECKING:
    from media_pipeline.server.backup_restore import Restored

FORMAT = click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
SNAPSHOT = click.option("--snapshot", metavar="ID", help="Beginning of an id that `list` shows. [default: newest]")
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def installation() -> None:
    """Back up home, PostgreSQL and configuration of a server: encrypted, incremental, to a folder or an S3 store.

    Where to, when and for how long are settings: MEDIA_PIPELINE_SERVER__BACKUP_… in .env.
    """


@installation.command()
@click.option(
    "--key-file", type=click.Path(dir_okay=False, path_type=Path), help="[default: restic_password of the keys]"
)
@click.pass_obj
def init(app: App, key_file: Path | None) -> None:
    """Make a key, where there is none, and print it this one time. Without it no backup can ever be read."""
    from media_pipeline.server.backup_restic import KEY_FILE, make_key

    path = key_file or app.settings.server.backup_keys / KEY_FILE
    if path.exists():
        raise UsageError(f"there is a key in {path}", "keep it: it opens the backups made with it")
    key = make_key()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{key}\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "name another file with --key-file") from error
    click.echo(f"The key of the backups, in {path}:\n\n    {key}\n", err=True)
    click.echo(
        "Write it down now and keep it somewhere else than on this server. It is not shown again, and without it all\n"
        "backups are lost with the server.",
        err=True,
    )


@installation.command()
@FORMAT
@click.pass_obj
def backup(app: App, output: str) -> int:
    """Take a snapshot now, and remove old ones. Exit code 3: some files are not in it; they are listed."""
    from media_pipeline.server.backup import back_up_and_note, outcome

    status, report = back_up_and_note(app.settings)
    if output == "json":
        problems = dict(report.problems) if report is not None else {}
        _print_json(asdict(status) | {"left_out": problems, "copied_bytes": report.copied_bytes if report else 0})
    elif report is None:
        click.echo(printable(outcome(status, report)), err=True)
    else:
        console = Console(stderr=True)
        if report.created:
            console.print("[yellow]made a new repository:[/] is its key kept somewhere else?")
        _warn_of_one_disk(app, console)
        print_problems(console, report.problems, "not in the backup")
        if report.manifest.linked_outside:
            console.print(
                f"[yellow]{report.manifest.linked_outside} media[/] are linked from outside the home: their files are "
                "not in the backup"
            )
        console.print(escape(outcome(status, report)), highlight=False, soft_wrap=True)
    if report is None:
        return 1
    return EXIT_SOME_FAILED if report.problems else 0


@installation.command("list")
@FORMAT
@click.pass_obj
def list_(app: App, output: str) -> None:
    """The snapshots there are, the oldest first."""
    from media_pipeline.server.backup import taken_at
    from media_pipeline.server.backup_restic import Restic

    rows = [
        {
            "snapshot": snapshot.id[:8],
            "taken_at": taken_at(snapshot).isoformat(timespec="seconds"),
            "product_version": next(
                (t.removeprefix("version-") for t in snapshot.tags if t.startswith("version-")), ""
            ),
        }
        for snapshot in Restic(app.settings).snapshots()
    ]
    if output == "json":
        _print_json(rows)
    else:
        print_table(("SNAPSHOT", "TAKEN AT", "VERSION"), [list(row.values()) for row in rows])


@installation.command()
@click.option("--read-data", is_flag=True, help="Read every stored byte, not only a part.")
@click.option("--part", metavar="N/M", help="Read this part of the data. [default: the structure only]")
@click.pass_obj
def check(app: App, read_data: bool, part: str | None) -> None:
    """Look for damage in the repository. Exit code 1: there is some."""
    from media_pipeline.server.backup import check as check_all

    check_all(app.settings, "100%" if read_data else part)
    click.echo("no damage found", err=True)


@installation.command()
@click.option(
    "--all-before", type=click.DateTime(["%Y-%m-%d"]), help="Instead: every snapshot of before this day (UTC)."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune(app: App, all_before: datetime | None, yes: bool) -> None:
    """Remove snapshots that are too old by the settings. The newest always stays.

    After an erasure: take a snapshot, then `prune --all-before` the next day, which removes every byte that only older
    ones need.
    """
    from media_pipeline.server.backup import forget, purge

    if all_before is None:
        click.echo(f"{forget(app.settings)} snapshots removed", err=True)
        return
    if not yes:
        confirm(f"Remove all snapshots of before {all_before:%Y-%m-%d} but the newest?")
    gone = purge(app.settings, all_before.replace(tzinfo=UTC))
    click.echo(f"{len(gone)} snapshots removed, with all that only they held", err=True)


@installation.command()
@SNAPSHOT
@click.option("--home", type=FOLDER, required=True, help="New or empty folder; nothing is ever overwritten.")
@click.option("--configuration", type=FOLDER, help="New folder for .env and what else was backed up as configuration.")
@click.option("--postgres/--no-postgres", default=None, help="[default: where DAGSTER_POSTGRES_HOST is set]")
@click.option("--database", default="dagster", show_default=True, help="Empty database for Dagster's storage.")
@FORMAT
@click.pass_obj
def restore(
    app: App,
    snapshot: str | None,
    home: Path,
    configuration: Path | None,
    postgres: bool | None,
    database: str,
    output: str,
) -> int:
    """Make an installation of a snapshot: an empty home and an empty database are filled, and compared with its list.

    Interrupted, the same command begins again. Exit code 1: it is not what the list says.
    """
    from media_pipeline.server import backup_postgres
    from media_pipeline.server.backup_restore import restore as restore_it

    console = Console(stderr=True)
    home = home.expanduser().absolute()
    wanted = backup_postgres.is_used(app.settings) if postgres is None else postgres
    done = restore_it(app.settings, snapshot, home, configuration=configuration, database=database if wanted else None)
    _make_derived(home)
    if output == "json":
        said = asdict(done) | {"home": str(home)}
        _print_json({name: value for name, value in said.items() if name != "manifest"})
    else:
        _print_restored(console, done, home)
    return 1 if done.wrong else 0


@installation.command()
@SNAPSHOT
@click.option("--in", "folder", type=FOLDER, help="Folder with room for a whole home. [default: of the backup's notes]")
@click.option("--without-originals", is_flag=True, help="Leave originals and the inbox out, for want of room.")
@FORMAT
@click.pass_obj
def drill(app: App, snapshot: str | None, folder: Path | None, without_originals: bool, output: str) -> int:
    """Restore the newest snapshot beside the installation, compare, and remove it. Exit code 1: differences."""
    from media_pipeline.server.backup_drill import drill as drill_it

    done = drill_it(app.settings, snapshot, folder=folder, originals=not without_originals)
    if output == "json":
        _print_json(asdict(done) | {"differences": len(done.differences)})
        return 1 if done.differences else 0
    print_table(
        ("WHAT", "NAME", "LIVE NOW", "SNAPSHOT", "RESTORED", "VERDICT"),
        [[ln.what, printable(ln.name), ln.live, ln.snapshot, ln.restored, printable(ln.verdict)] for ln in done.lines],
        right=("LIVE NOW", "SNAPSHOT", "RESTORED"),
    )
    verdict = f"{len(done.differences)} DIFFERENCES" if done.differences else "no difference"
    click.echo(
        f"snapshot {done.snapshot[:8]} of {done.taken_at}: {len(done.lines)} things restored and compared in "
        f"{done.seconds:.1f} s: {verdict}"
    )
    return 1 if done.differences else 0


@installation.command()
@click.pass_obj
def schedule(app: App) -> None:
    """Back up every night and read a part of the backups every week, until stopped: the container `backup`."""
    from media_pipeline.server.backup_schedule import run

    def say(line: str) -> None:
        click.echo(f"{datetime.now(UTC).isoformat(timespec='seconds')} {printable(line)}")

    run(app.settings, say)


def _make_derived(home: Path) -> None:
    """What a backup leaves out because it can be made. Search indexes are made by the first search."""
    from contextlib import closing

    from media_pipeline.config import load_settings
    from media_pipeline.execution.pipeline import Pipeline

    with closing(Pipeline(load_settings(home=home))) as pipeline:
        pipeline.catalog.publish()


def _print_restored(console: Console, done: Restored, home: Path) -> None:
    print_problems(console, dict.fromkeys(done.wrong, "the restored is not what was backed up"), "wrong")
    if done.manifest.linked_outside:
        console.print(
            f"[yellow]{done.manifest.linked_outside} media[/] are linked from outside the home: not in the backup, "
            "their files must lie where they lay"
        )
    if done.erased_since:
        console.print(
            f"[bold red]{len(done.erased_since)} erasures came after this snapshot: what they removed is back.[/] "
            "Erase it again before the home is used; the receipts are in the newest snapshot:"
        )
        for path in done.erased_since:
            console.print(f"    {escape(printable(path))}", highlight=False, soft_wrap=True)
    what = f" and the database {done.database}" if done.database else ""
    console.print(
        f"{done.files} files, {size(done.bytes)}{what} of snapshot {done.snapshot[:8]} restored to {escape(str(home))} "
        f"in {done.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def _warn_of_one_disk(app: App, console: Console) -> None:
    from media_pipeline.server.backup_restic import Restic

    restic = Restic(app.settings)
    if restic.is_local and Path(restic.repository).stat().st_dev == app.settings.home.stat().st_dev:
        console.print("[yellow]the backups lie on the disk of the home:[/] if it fails, both are gone")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
