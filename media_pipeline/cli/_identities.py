"""The commands `persons` and `voices`: one implementation, since both are identities."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from media_pipeline.cli._tables import print_table
from media_pipeline.cli.context import App
from media_pipeline.wording import clock, printable

if TYPE_CHECKING:
    from media_pipeline.results.identities import Identities

ROWS_SHOWN = 50  # of a list, on the screen


@dataclass(frozen=True, slots=True)
class Wording:
    """One kind in the words of the command line."""

    plural: str  # the command, and the view
    singular: str
    sightings: str
    sample: str


PERSONS = Wording("persons", "person", "FACES", "a picture with one clear face")
VOICES = Wording("voices", "voice", "TURNS", "a recording in which one person speaks")


def group(what: Wording) -> click.Group:
    """The command of one kind, with its subcommands."""
    command = click.Group(
        what.plural,
        callback=partial(_list, what),
        params=[_format(), click.Option(["--all", "show_all"], is_flag=True, help="Every one, not only the first.")],
        invoke_without_command=True,
        help=f"List the {what.plural} of all media; show, name, merge and split them.",
    )
    identity = click.Argument(["given"], metavar="ID")
    commands: tuple[tuple[str, Callable[..., None], list[click.Parameter], str], ...] = (
        ("show", _show, [identity, _format()], f"In which media a {what.singular} is, and when. ID may be a name."),
        ("name", _name, [identity, click.Argument(["name"])], f"Give a {what.singular} a name; it stays for good."),
        ("unname", _unname, [identity], "Take the name away, and the samples enrolled under it."),
        ("merge", _merge, [identity, _many("others", "OTHER...")], "The others are the same as the first."),
        ("split", _split, [identity, _many("tracks", "MEDIA_ID[:TRACK]...")], "These tracks are someone else."),
        ("recluster", _recluster, [], "Cluster everything anew; names and what was merged or split stay."),
        ("enrol", _enrol, [click.Argument(["name"]), _file()], f"Name a {what.singular} by a sample: {what.sample}."),
    )
    for name, callback, params, help_ in commands:
        command.add_command(click.Command(name, callback=partial(callback, what), params=params, help=help_))
    return command


def _format() -> click.Option:
    return click.Option(
        ["--format", "format_"], type=click.Choice(["table", "json"]), default="table", show_default=True
    )


def _many(name: str, metavar: str) -> click.Argument:
    return click.Argument([name], metavar=metavar, nargs=-1, required=True)


def _file() -> click.Argument:
    return click.Argument(["file"], type=click.Path(path_type=Path))


# -- asking ------------------------------------------------------------------------------------------------------


def _list(what: Wording, format_: str, show_all: bool) -> None:
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        return
    columns = (f"{what.singular}_id", "name", "members", "media", "first_seen", "last_seen", "samples")
    query = f"SELECT {', '.join(columns)} FROM {what.plural} ORDER BY name IS NULL, members DESC, name, 1"  # noqa: S608
    with context.obj.catalog().connect() as connection:
        found = [dict(zip(columns, row, strict=True)) for row in connection.execute(query).fetchall()]
    if format_ == "json":
        _print_json(found)
        return
    shown = found if show_all else found[:ROWS_SHOWN]
    rows = [[_cell(row[column]) for column in columns] for row in shown]
    if rows:
        headings = (what.singular.upper(), "NAME", "TRACKS", "MEDIA", "FIRST SEEN", "LAST SEEN", "SAMPLES")
        print_table(headings, rows, wraps="NAME")
    else:
        click.echo(f"no {what.plural} yet; `media-pipeline status` says what was analysed", err=True)
    if len(shown) < len(found):
        click.echo(f"{len(found) - len(shown)} more: --all lists them", err=True)


def _show(what: Wording, given: str, format_: str) -> None:
    with _opened(what) as identities:
        identity = identities.find(given)
        name, tracks = identities.name_of(identity), identities.sightings(identity)
    if format_ == "json":
        _print_json({f"{what.singular}_id": identity, "name": name, "tracks": [asdict(track) for track in tracks]})
        return
    click.echo(f"{identity}  {printable(name or '(no name)')}")
    rows = [
        [
            _cell(track.name),
            track.media_id[:12],
            str(track.track),
            _span(track.start_s, track.end_s),
            str(track.sightings),
            "" if track.score is None else f"{track.score:.2f}",
            track.decided_by,
        ]
        for track in tracks
    ]
    headings = ("MEDIUM", "MEDIA_ID", "TRACK", "WHEN", what.sightings, "SCORE", "DECIDED BY")
    print_table(headings, rows, wraps="MEDIUM")


# -- deciding ----------------------------------------------------------------------------------------------------


def _name(what: Wording, given: str, name: str) -> None:
    _decide(what, lambda identities: identities.name(given, name))


def _unname(what: Wording, given: str) -> None:
    _decide(what, lambda identities: identities.unname(given))


def _merge(what: Wording, given: str, others: tuple[str, ...]) -> None:
    _decide(what, lambda identities: identities.merge(given, others))


def _split(what: Wording, given: str, tracks: tuple[str, ...]) -> None:
    _decide(what, lambda identities: identities.split(given, tracks))


def _decide(what: Wording, decision: Callable[[Identities], str]) -> None:
    """Carries a decision out and says what the identity is now."""
    with _opened(what, publish=True) as identities:
        click.echo(_described(identities, decision(identities)))


def _recluster(what: Wording) -> None:
    with _opened(what, publish=True) as identities:
        changes = identities.recluster()
    click.echo(f"{changes.tracks} tracks, of which {changes.moved} are another {what.singular} now")


def _enrol(what: Wording, name: str, file: Path) -> None:
    from media_pipeline.results._identity_decisions import checked_name
    from media_pipeline.results._identity_samples import embed_sample

    app: App = click.get_current_context().obj
    with _opened(what, publish=True) as identities:
        checked_name(identities.kind, name)  # before a model is loaded for it
        enrolment = identities.enrol(name, embed_sample(identities.kind, file, app.settings, app.models))
        click.echo(_described(identities, enrolment.identity))
    for other in enrolment.resembling:
        click.echo(f"the sample resembles {printable(other)} too", err=True)


@contextmanager
def _opened(what: Wording, *, publish: bool = False) -> Iterator[Identities]:
    from media_pipeline.results.identities import KINDS, Identities

    app: App = click.get_current_context().obj
    kind = next(kind for kind in KINDS if kind.plural == what.plural)
    with closing(Identities(kind, app.tables, app.layout)) as identities:
        yield identities
    if publish:
        app.catalog().publish()  # the user's own tools see it too


def _described(identities: Identities, identity: str) -> str:
    name, tracks = identities.name_of(identity), identities.sightings(identity)
    media = len({track.media_id for track in tracks})
    counts = f"{len(tracks)} track{'' if len(tracks) == 1 else 's'} in {media} media"
    return f"{identity} ({printable(name)}): {counts}" if name else f"{identity}: {counts}"


# -- printing ----------------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=datetime.isoformat))


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.date().isoformat()
    return "" if value is None else printable(str(value))


def _span(start_s: float | None, end_s: float | None) -> str:
    if start_s is None or end_s is None:
        return ""
    start, end = clock(start_s), clock(end_s)
    return start if start == end else f"{start} - {end}"
