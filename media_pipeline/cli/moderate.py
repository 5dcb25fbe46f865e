"""`media-pipeline moderate`: what people decide on media, above what rules say."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import click

from media_pipeline.cli._moderation_output import print_json, reason_line
from media_pipeline.cli._tables import print_table
from media_pipeline.cli.context import App
from media_pipeline.errors import UsageError
from media_pipeline.wording import printable

ROWS_SHOWN = 50  # of a list, on the screen
_FORMAT = click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
_MEDIA = click.argument("media", nargs=-1, required=True, metavar="MEDIUM...")
_BY = click.option("--by", required=True, metavar="NAME", help="Who decides.")
_REASON = click.option("--reason", metavar="TEXT", help="Why; stays in the log.")
_LIST = """
    SELECT
        moderation.media_id, media.name, verdict, decided_by, decided_at, rule_verdict,
        list_sort(list_distinct(list_transform(reasons, lambda r: r.rule))) AS rules, unchecked, decision_reason
    FROM moderation LEFT JOIN media USING (media_id)
    WHERE list_contains($verdicts, verdict)
    ORDER BY verdict = 'block' DESC, decided_at DESC, media_id
"""


@click.group()
def moderate() -> None:
    """Look at what rules object to, and decide: approve, block, note, undo. Decisions stand above the rules."""


@moderate.command("list")
@click.option("--verdict", type=click.Choice(["allow", "review", "block"]), multiple=True, help="Only these media.")
@click.option("--all", "show_all", is_flag=True, help="Every one, not only the first.")
@_FORMAT
@click.pass_obj
def list_media(app: App, verdict: tuple[str, ...], show_all: bool, format_: str) -> None:
    """Media to look at: blocked ones and those for review, the newest first."""
    with app.catalog().connect() as connection:
        cursor = connection.execute(_LIST, {"verdicts": list(verdict or ("review", "block"))})
        columns = [column[0] for column in cursor.description]
        found = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    if format_ == "json":
        print_json(found)
        return
    if not found:
        click.echo("nothing to look at", err=True)
        return
    shown = found if show_all else found[:ROWS_SHOWN]
    headings = ("VERDICT", "MEDIUM", "MEDIA_ID", "RULES", "DECIDED BY", "AT")
    print_table(headings, [_list_row(row) for row in shown], wraps="MEDIUM")
    if len(shown) < len(found):
        click.echo(f"{len(found) - len(shown)} more: --all lists them", err=True)


@moderate.command()
@click.argument("medium")
@_FORMAT
@click.pass_obj
def show(app: App, medium: str, format_: str) -> None:
    """Verdict, evidence and the log of decisions of one medium."""
    media_id = _resolved(app, (medium,))[0]
    with app.catalog().connect() as connection:
        cursor = connection.execute(
            "SELECT moderation.*, media.name FROM moderation LEFT JOIN media USING (media_id) WHERE media_id = ?",
            [media_id],
        )
        columns, row = [column[0] for column in cursor.description], cursor.fetchone()
    if row is None:
        raise UsageError(f"{media_id} has not been judged yet", "`media-pipeline rules apply` judges all media")
    facts = dict(zip(columns, row, strict=True))
    log = [asdict(decision) for decision in app.pipeline.moderation.decisions(media_id)]
    if format_ == "json":
        print_json({**facts, "decisions": log})
        return
    click.echo(f"{printable(facts['name'] or '?')}  {media_id}")
    click.echo(f"{facts['verdict']}, decided by {printable(facts['decided_by'])} at {_time(facts['decided_at'])}")
    if facts["rule_verdict"] is not None:
        click.echo(f"the rules ({facts['rules_version']}) say {facts['rule_verdict']}")
    for reason in facts["reasons"] or ():
        click.echo(f"  {reason_line(reason)}")
    if facts["unchecked"]:
        click.echo(f"not looked at by: {', '.join(facts['unchecked'])}")
    if log:
        rows = [
            [_time(d["decided_at"]), _action(d), printable(d["decided_by"]), printable(d["reason"] or "")] for d in log
        ]
        print_table(("AT", "DECISION", "BY", "REASON"), rows, wraps="REASON")


def _deciding(name: Literal["approve", "block", "note"], help_: str) -> None:
    @moderate.command(name, help=help_)
    @_MEDIA
    @_BY
    @_REASON
    @click.pass_obj
    def decide(app: App, media: tuple[str, ...], by: str, reason: str | None) -> None:
        if name == "note" and not (reason or "").strip():
            raise UsageError("a note without a text", "give --reason TEXT")
        ids = _resolved(app, media)
        app.pipeline.moderation.decide(ids, name, by, reason)
        _done(app, ids)


_deciding("approve", "These media may be shown, whatever rules say.")
_deciding("block", "These media must not be shown, whatever rules say.")
_deciding("note", "Write something down about these media; verdicts stay.")


@moderate.command()
@_MEDIA
@_BY
@_REASON
@click.pass_obj
def undo(app: App, media: tuple[str, ...], by: str, reason: str | None) -> None:
    """Take the newest decision on these media back; it stays in the log."""
    ids = _resolved(app, media)
    app.pipeline.moderation.undo(ids, by, reason)
    _done(app, ids)


def _resolved(app: App, media: tuple[str, ...]) -> list[str]:
    from media_pipeline.results.media import resolve_all

    return list(dict.fromkeys(resolve_all(app.tables, media)))


def _done(app: App, media_ids: list[str]) -> None:
    """Says what the verdicts are now, and lets the user's own tools see them."""
    catalog = app.catalog()
    catalog.publish()
    with catalog.connect() as connection:
        rows = connection.execute(
            "SELECT name, media_id, verdict, decided_by FROM moderation LEFT JOIN media USING (media_id) "
            "WHERE list_contains($ids, media_id) ORDER BY name, media_id",
            {"ids": media_ids},
        ).fetchall()
    for name, media_id, verdict, by in rows:
        click.echo(f"{printable(name or '?')} ({media_id[:12]}): {verdict}, decided by {printable(by)}")


def _list_row(row: dict[str, Any]) -> list[str]:
    rules = ", ".join(row["rules"] or ())
    return [
        row["verdict"],
        printable(row["name"] or "?"),
        row["media_id"][:12],
        rules,
        printable(row["decided_by"]),
        _time(row["decided_at"]),
    ]


def _action(decision: dict[str, Any]) -> str:
    return f"undo of {decision['undoes']}" if decision["undoes"] else f"{decision['decision_id']} {decision['action']}"


def _time(at: Any) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
