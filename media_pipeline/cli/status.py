"""`status`: what is done, waiting, failed, and why."""

from __future__ import annotations

import json
import shutil
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from media_pipeline.cli.context import App
from media_pipeline.cli.failures import print_failures


@click.command()
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--all", "show_all", is_flag=True, help="List every failure, not only the first ones.")
@click.pass_obj
def status(app: App, output: str, show_all: bool) -> None:
    """What is done, waiting, failed, and why."""
    report = collect(app)
    if output == "json":
        click.echo(json.dumps(report, ensure_ascii=False, indent=2, default=str))
    else:
        _print(Console(), report, show_all=show_all)


def collect(app: App) -> dict[str, Any]:
    """Everything `status` shows, as plain values."""
    from media_pipeline.execution.stages import stage_infos

    pipeline = app.pipeline
    media = list(pipeline.sources.all_media())
    entries = pipeline.ledger.entries()
    by_id = {m.media_id: m for m in media}
    stages: dict[str, dict[str, int]] = {
        info.name: {"done": 0, "failed": 0, "unavailable": 0} for info in stage_infos()
    }
    failures, unavailable = [], {}
    for (media_id, analyzer), entry in entries.items():
        if media_id not in by_id or analyzer not in stages:
            continue
        stages[analyzer][entry.status] += 1
        if entry.status == "failed":
            failures.append(
                {"name": by_id[media_id].name, "media_id": media_id, "analyzer": analyzer, "reason": entry.reason}
            )
        elif entry.status == "unavailable":
            unavailable[analyzer] = entry.reason
    begun = {media_id for media_id, _ in entries}
    usage = shutil.disk_usage(pipeline.layout.home)
    return {
        "home": str(pipeline.layout.home),
        "media": len(media),
        "waiting": sum(1 for m in media if m.media_id not in begun),
        "stuck": [m.name for m in media if m.attempts >= 3],
        "stages": stages,
        "unavailable": unavailable,
        "failures": sorted(failures, key=lambda f: (f["analyzer"], f["name"])),
        "refused": [{"path": str(path), "reason": reason} for path, reason in pipeline.sources.refused()],
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
    if report["stuck"]:
        console.print(
            f"[red]stuck:[/] the run died three times with {', '.join(map(escape, report['stuck'][:5]))};"
            " analyse them by hand: `media-pipeline analyze PATH --debug`",
            highlight=False,
        )
    console.print(
        f"disk: {report['disk_free_bytes'] / 1e9:.1f} GB free; cache {report['cache_bytes'] / 1e6:.0f} MB",
        highlight=False,
    )
