"""`status`: what is done, waiting, failed, and why."""

from __future__ import annotations

import json
import shutil
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from media_pipeline.cli._tables import output
from media_pipeline.cli.context import App
from media_pipeline.cli.failures import print_failures

_EMPTY = {"done": 0, "failed": 0, "unavailable": 0}


@click.command()
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--all", "show_all", is_flag=True, help="List every failure, not only the first ones.")
@click.pass_obj
def status(app: App, format_: str, show_all: bool) -> None:
    """What is done, waiting, failed, and why."""
    report = collect(app)
    if format_ == "json":
        click.echo(json.dumps(report, ensure_ascii=False, indent=2, default=str))
    else:
        _print(output(), report, show_all=show_all)


def collect(app: App) -> dict[str, Any]:
    """Everything `status` shows, as plain values."""
    from media_pipeline.execution.stages import stage_infos
    from media_pipeline.storage.sources import HELD_UP, MAX_ATTEMPTS

    pipeline = app.pipeline
    counts = pipeline.ledger.counts()
    stages = {info.name: _EMPTY | counts.get(info.name, {}) for info in stage_infos()}
    standing = [entry for entry in pipeline.ledger.failures() if entry.analyzer in stages]
    failed = [entry for entry in standing if entry.status == "failed"]
    known = pipeline.sources.by_id({entry.media_id for entry in failed})
    failures = [
        {"name": known[e.media_id].name, "media_id": e.media_id, "analyzer": e.analyzer, "reason": e.reason}
        for e in failed
        if e.media_id in known
    ]
    media = pipeline.sources.count()
    usage = shutil.disk_usage(pipeline.layout.home)
    return {
        "home": str(pipeline.layout.home),
        "media": media,
        "waiting": media - sum(stages["media"].values()),
        "held_up": pipeline.sources.note(HELD_UP) if pipeline.sources.unannounced(1) else None,
        "given_up": [medium.path for medium in pipeline.sources.given_up(max_attempts=MAX_ATTEMPTS)],
        "stages": stages,
        "unavailable": {e.analyzer: e.reason for e in standing if e.status == "unavailable"},
        "failures": sorted(failures, key=lambda f: (f["analyzer"], f["name"])),
        "refused": [{"path": str(path), "reason": reason} for path, reason in pipeline.sources.refused()],
        "open_erasures": len(list(pipeline.layout.erasures.glob("*.json"))),
        "disk_free_bytes": usage.free,
        "cache_bytes": pipeline.cache.size(),
    }


def _print(console: Console, report: dict[str, Any], *, show_all: bool) -> None:
    console.print(
        f"[bold]{escape(report['home'])}[/]: {report['media']} media, {report['waiting']} waiting", highlight=False
    )
    table = Table("stage", "done", "failed", "unavailable")
    for name, counts in report["stages"].items():
        table.add_row(name, *(str(counts[key] or "") for key in ("done", "failed", "unavailable")))
    console.print(table)
    for analyzer, reason in report["unavailable"].items():
        console.print(f"[yellow]{analyzer} unavailable:[/] {escape(reason or '')}", highlight=False)
    failures = [(f["name"], f["analyzer"], f["reason"] or "") for f in report["failures"]]
    failures += [(r["path"], "intake", r["reason"]) for r in report["refused"]]
    print_failures(console, failures, show_all=show_all)
    if report["held_up"]:
        console.print(f"[red]held up[/]: {escape(report['held_up'])}", highlight=False, soft_wrap=True)
        console.print("    `serve` tries again within 30 minutes, `media-pipeline analyze PATH` at once")
    if report["given_up"]:
        console.print(
            "[red]given up[/]: the run died each time; find out why with `media-pipeline --debug analyze PATH`"
        )
        for path in report["given_up"]:
            console.print(f"    {escape(path)}", highlight=False, soft_wrap=True)
    if report["open_erasures"]:
        console.print(
            f"[red]{report['open_erasures']} erasure(s) not finished[/]: `media-pipeline erase --resume` goes on",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"disk: {report['disk_free_bytes'] / 1e9:.1f} GB free; cache {report['cache_bytes'] / 1e6:.0f} MB",
        highlight=False,
    )
