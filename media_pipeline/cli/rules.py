"""`media-pipeline rules`: what decides what may be shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from media_pipeline.cli._moderation_output import (
    plain_backtest,
    print_backtest,
    print_json,
    progress_bar,
)
from media_pipeline.cli._tables import print_table
from media_pipeline.cli.context import App
from media_pipeline.errors import UsageError
from media_pipeline.wording import printable

if TYPE_CHECKING:
    from media_pipeline.results._moderation_rules import RuleSet
    from media_pipeline.results.moderation import Moderation

_SUFFIXES = (".yaml", ".yml")
_FORMAT = click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.group()
def rules() -> None:
    """Check, try and apply the rules of moderation; yours lie in <home>/rules."""


@rules.command("list")
@_FORMAT
@click.pass_obj
def list_rules(app: App, format_: str) -> None:
    """The rules in force, and those that have nothing to look for."""
    moderation = app.pipeline.moderation
    found, warnings = moderation.rules(), _warnings(moderation)
    facts = [
        {
            "rule": active.rule.name,
            "severity": active.rule.severity,
            "threshold": active.parameters.get("threshold"),
            "needs": sorted(active.needs),
            "state": "nothing to look for" if active.is_idle else "active",
            "text": active.rule.text,
            "source": active.source,
        }
        for active in found.rules
    ]
    if format_ == "json":
        problems = [str(problem) for problem in found.problems]
        print_json({"version": found.version, "rules": facts, "problems": problems, "warnings": warnings})
    else:
        headings = ("RULE", "SEVERITY", "THRESHOLD", "NEEDS", "STATE", "TEXT")
        rows = [[_cell(fact[name.lower()]) for name in headings] for fact in facts]
        print_table(headings, rows, wraps="TEXT", right=("THRESHOLD",))
        click.echo(f"rules version {found.version}", err=True)
        _print_complaints(found, warnings)


@rules.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.pass_context
def check(context: click.Context, files: tuple[Path, ...]) -> None:
    """Check rule files, or the rules in force; each complaint names file and line. Exit 1 when something is wrong.

    Blocked persons whom nobody knows are named too. They are no mistake: a name may be given later.
    """
    from media_pipeline.results._moderation_files import read_files

    app: App = context.obj
    moderation = app.pipeline.moderation
    found = moderation.rules_of(*read_files(list(files))) if files else moderation.rules()
    _print_complaints(found, _warnings(moderation))
    if found.problems:
        context.exit(1)
    idle = sum(active.is_idle for active in found.rules)
    click.echo(f"{len(found.rules)} rules are right, {idle} of them with nothing to look for; version {found.version}")


@rules.command()
@click.option("--against", required=True, metavar="GITREV|FILE", help="The rules before: a file, folder or revision.")
@click.option("--examples", type=click.IntRange(0, 100), default=5, show_default=True, help="Media shown per flip.")
@_FORMAT
@click.pass_obj
def backtest(app: App, against: str, examples: int, format_: str) -> None:
    """What the rules in force change: every medium judged by other rules and by these. Nothing is written.

    \b
    media-pipeline rules backtest --against HEAD~1      # <home>/rules as it was in Git
    media-pipeline rules backtest --against old.yaml    # this file in the place of <home>/rules
    """
    moderation = app.pipeline.moderation
    before = _right(_rules_at(app, against), against)
    _right(moderation.rules(), "the rules in force")
    with progress_bar("judging") as on_portion:
        result = moderation.backtest(before, max_examples=examples, on_portion=on_portion)
    shown = [flip.media_id for flips in result.examples.values() for flip in flips]
    names, decided = moderation.verdicts.names(shown), moderation.store.decided(shown)
    if format_ == "json":
        print_json(plain_backtest(result, names, decided))
    else:
        print_backtest(result, against, names, decided)


@rules.command()
@click.pass_obj
def apply(app: App) -> None:
    """Judge all media by the rules in force now, without waiting for the next batch."""
    moderation = app.pipeline.moderation
    _right(moderation.rules(), "the rules in force")
    with progress_bar("judging") as on_portion:
        update = moderation.update([], everything=True, on_portion=on_portion)
    app.catalog().publish()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(update.verdicts.items())) or "no media"
    click.echo(f"{counts}; {len(update.blocked)} newly blocked; rules {update.version}")
    for warning in update.warnings:
        click.echo(printable(warning), err=True)


def _rules_at(app: App, against: str) -> RuleSet:
    """The shipped rules with those of a file, a folder or a revision in the place of the user's."""
    from media_pipeline.execution.git_files import files_at
    from media_pipeline.results._moderation_files import Source, read_files, read_folder

    moderation, path = app.pipeline.moderation, Path(against)
    if path.is_dir():
        return moderation.rules_of(*read_folder(path))
    if path.exists() or path.suffix in _SUFFIXES:
        return moderation.rules_of(*read_files([path]))
    folder = app.settings.moderation.rules or app.layout.rules
    texts = files_at(folder, against, _SUFFIXES)
    return moderation.rules_of([Source(f"{against}:{name}", text) for name, text in sorted(texts.items())])


def _right(found: RuleSet, what: str) -> RuleSet:
    if found.problems:
        raise UsageError(f"{what}: {found.problems[0]}", "`media-pipeline rules check` lists everything")
    return found


def _warnings(moderation: Moderation) -> list[str]:
    """What may be meant as it is."""
    setting = "MEDIA_PIPELINE_MODERATION__BLOCKED_PERSONS"
    remedy = "`media-pipeline persons` lists who is known"
    return [f"{setting}: nobody is known as {given!r} yet; {remedy}" for given in moderation.unknown_persons()]


def _print_complaints(found: RuleSet, warnings: list[str]) -> None:
    for complaint in (*found.problems, *warnings):
        click.echo(printable(str(complaint)), err=True)


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else printable(str(value))
