"""`erase`: media, persons and voices, for good, with a proof and a receipt."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from media_pipeline.cli._confirm import confirm
from media_pipeline.cli.context import App
from media_pipeline.errors import UsageError
from media_pipeline.wording import printable

if TYPE_CHECKING:
    from media_pipeline.results.erasure import Erased, Eraser, Plan

WAIT_S = 3600.0
SHOWN = 20
EXIT_LEFT = 1


@click.command()
@click.argument("media", nargs=-1, metavar="[MEDIA_ID]...")
@click.option("--from", "listed", type=click.File("r"), help="Media one per line from this file; - is standard input.")
@click.option("--person", "persons", multiple=True, metavar="ID|NAME", help="Every face of this person.")
@click.option("--voice", "voices", multiple=True, metavar="ID|NAME", help="Every turn of this voice.")
@click.option("--with-media", is_flag=True, help="And all media in which the person or voice is.")
@click.option(
    "--files",
    "which_files",
    type=click.Choice(["watched", "all", "none"]),
    default="watched",
    show_default=True,
    help="Which of your own files go: those in watched folders, all, or none of them.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--wait", is_flag=True, help="Wait for runs that have one of the media in hand.")
@click.option("--by", help="Who erases, for the receipt [default: your login name].")
@click.option("--resume", is_flag=True, help="Only go on with erasures that were cut off.")
@click.option(
    "--verify", "receipt", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Check this receipt."
)
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def erase(
    app: App,
    media: tuple[str, ...],
    listed: Any,
    persons: tuple[str, ...],
    voices: tuple[str, ...],
    with_media: bool,
    which_files: str,
    yes: bool,
    dry_run: bool,
    wait: bool,
    by: str | None,
    resume: bool,
    receipt: Path | None,
    output: str,
) -> int:
    """Erase media, a person or a voice for good: files, rows with their history, indexes, Dagster's memory.

    MEDIA_ID is a media_id, eight digits of it or more, or a partition key. Afterwards every byte of the home is
    searched for what was erased; a signed receipt stays. Erasing a person takes faces, vectors, name and decisions; the
    media themselves stay, unless --with-media.
    """
    if receipt is not None:
        return _verify(app, receipt, [*media, *persons, *voices], output)
    wanted = [*media, *(line.strip() for line in listed or () if line.strip())]
    if not (wanted or persons or voices or resume):
        raise UsageError("nothing is to be erased", "name media, --person or --voice; --help says how")
    if output == "json" and not (yes or dry_run or resume):
        raise UsageError("--format json cannot ask", "add --yes or --dry-run")
    console = Console(stderr=True)
    with _eraser(app, console, wait_s=WAIT_S if wait else 0.0) as eraser:
        ended = [] if dry_run else eraser.resume()
        for erased in ended if output == "text" else ():
            _print_end(console, erased)
        if resume and not (wanted or persons or voices):
            return _finish(ended, output)
        plan = eraser.plan(wanted, persons=persons, voices=voices, with_media=with_media, which_files=which_files)
        if output == "text":
            _print_plan(console, plan)
        if dry_run:
            if output == "json":
                click.echo(json.dumps(_described(plan), ensure_ascii=False, indent=2))
            return 0
        if not yes:
            confirm("This cannot be undone. Erase?")
        erased = eraser.erase(plan, by or getpass.getuser())
    if output == "text":
        _print_end(console, erased)
    return _finish([*ended, erased], output)


@contextmanager
def _eraser(app: App, console: Console, *, wait_s: float) -> Iterator[Eraser]:
    from media_pipeline.engine.forgetting import DagsterMemory
    from media_pipeline.engine.instance import open_instance
    from media_pipeline.results.erasure import Eraser

    with open_instance(app.settings) as instance, _progress(console) as show:
        yield Eraser(app.pipeline, DagsterMemory(instance), on_step=show, wait_s=wait_s)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal that is there while something is done, and not while a question is asked."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("looking", total=None, visible=False)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None, visible=True)

        yield show


def _print_plan(console: Console, plan: Plan) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    for medium in plan.media[:SHOWN]:
        line(f"[bold]{escape(printable(medium.names[0] if medium.names else ''))}[/] {medium.partition_key}")
    if len(plan.media) > SHOWN:
        line(f"… and {len(plan.media) - SHOWN} more media")
    for identity in plan.identities:
        name = f" ({printable(identity.name)})" if identity.name else ""
        seen = f"{len(identity.tracks)} tracks in {len({media_id for media_id, _ in identity.tracks})} media"
        line(f"[bold]{identity.kind} {identity.identity_id}{escape(name)}[/]: {seen}")
    going = ", ".join(f"{count} {name}" for name, count in plan.counts.items() if count)
    line(f"goes: {going or 'nothing but names'}; {plan.bytes / 1e6:.1f} MB of files")
    for path in plan.going[:SHOWN]:
        line(f"    your file {escape(printable(str(path)))}")
    hint = "remove it yourself" if plan.files == "all" else "--files all takes it too"
    for path in plan.staying[:SHOWN]:
        line(f"[yellow]stays[/]: your file {escape(printable(str(path)))}; {hint}")
    if plan.identities and not plan.media:
        line(
            "stays: the media themselves, in which the person is still to be seen or heard; --with-media takes them too"
        )


def _print_end(console: Console, erased: Erased) -> None:
    report = erased.scan
    looked = f"{report.files} files, {report.bytes / 1e6:.1f} MB in {report.seconds:.1f} s"
    pieces = ", ".join(f"{count} {kind}" for kind, count in report.looked_for.items())
    if erased.file is None:
        console.print(f"[red]erased, but {report.count} traces are left[/] ({looked})", highlight=False, soft_wrap=True)
        for hit in report.hits[:SHOWN]:
            console.print(f"    {escape(hit.where)}: {hit.count} x {hit.kind}", highlight=False, soft_wrap=True)
        console.print("remove what is yours there, then `media-pipeline erase --resume`", highlight=False)
        return
    console.print(f"[green]erased[/]: 0 hits in {looked}; looked for {pieces}", highlight=False, soft_wrap=True)
    for hit in report.mentions[:SHOWN]:
        what = f"{escape(hit.where)}, which stays, speaks of it itself ({hit.kind})"
        console.print(f"[yellow]mention:[/] {what}", highlight=False, soft_wrap=True)
    for name in report.unreadable[:SHOWN]:
        console.print(f"[yellow]only as it lies there:[/] {escape(name)} cannot be decoded", highlight=False)
    console.print(f"receipt: {escape(str(erased.file))}", highlight=False, soft_wrap=True)


def _finish(ended: list[Erased], output: str) -> int:
    if output == "json":
        click.echo(json.dumps([_outcome(erased) for erased in ended], ensure_ascii=False, indent=2))
    return 0 if all(erased.file is not None for erased in ended) else EXIT_LEFT


def _described(plan: Plan) -> dict[str, Any]:
    return {
        "media": [{"media_id": m.media_id, "partition_key": m.partition_key} for m in plan.media],
        "identities": [{"kind": i.kind, "id": i.identity_id, "tracks": len(i.tracks)} for i in plan.identities],
        "files": [str(path) for path in plan.going],
        "files_staying": [str(path) for path in plan.staying],
        "bytes": plan.bytes,
        "counts": dict(plan.counts),
    }


def _outcome(erased: Erased) -> dict[str, Any]:
    hits = [{"where": hit.where, "kind": hit.kind, "count": hit.count} for hit in erased.scan.hits]
    return {"erasure": erased.journal.erasure_id, "hits": hits, "receipt": erased.receipt}


def _verify(app: App, file: Path, identities: list[str], output: str) -> int:
    """Whether a receipt is as it was signed, by this home's key, and speaks of these ids."""
    from media_pipeline.results import receipts
    from media_pipeline.storage.layout import Layout

    try:
        receipt = json.loads(file.read_bytes())
    except ValueError:
        raise UsageError(f"{file} is no JSON", "name a file of the folder `receipts`") from None
    key = receipts.verify(receipt)
    ours = receipts.Signer(Layout(app.settings.home).keys).public_key() == key
    found = {identity: receipts.names(receipt, identity) for identity in identities}
    if output == "json":
        click.echo(json.dumps({"valid": True, "this_home": ours, "public_key": key, "names": found}, indent=2))
    else:
        click.echo(f"valid; signed by {'this home' if ours else 'another home'}, key {key}")
        click.echo(f"{len(receipt['erased'])} erased at {receipt['ended_at']} by {receipt['by']}: 0 hits afterwards")
        for identity, kind in found.items():
            click.echo(f"{identity}: {f'erased ({kind})' if kind else 'this receipt does not speak of it'}")
    return 0 if all(found.values()) else EXIT_LEFT
