"""`quote`: what analysing files would take and cost, here and on a rented GPU, before anything is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from media_pipeline.cli._tables import output
from media_pipeline.cli.analyze import progress_bar, stages_for
from media_pipeline.cli.context import App
from media_pipeline.config_gpu import TARGETS
from media_pipeline.errors import UsageError
from media_pipeline.execution.wish import Wish

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.execution.placement import Decision, Option
    from media_pipeline.execution.workload import Workload
    from media_pipeline.media.walk import Found


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--analyzers", help="Only these, separated by commas; what they need is counted too.")
@click.option("--target", type=click.Choice(TARGETS), default="auto", show_default=True, help="As if asked for so.")
@click.option("--max-usd", type=click.FloatRange(min=0), help="As if the run might spend so much.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def quote(
    app: App, paths: tuple[Path, ...], analyzers: str | None, target: str, max_usd: float | None, format_: str
) -> None:
    """What analysing PATH… (files or folders) would take and cost. Takes nothing in, computes and rents nothing.

    Lengths are read from the headers of the files, and equal files count once; what a frame and a second of sound cost
    was learnt from earlier runs on this machine and on rented ones.
    """
    pipeline = app.pipeline
    wish = Wish.of(app.settings.gpu, target=target, max_usd=max_usd)
    work = _work(pipeline, paths, stages_for(analyzers))
    decision = pipeline.placements.quote(work, wish, compare=True)
    eur = app.settings.gpu.eur_per_usd
    if format_ == "json":
        click.echo(json.dumps(_facts(work, decision, eur), ensure_ascii=False, indent=2))
    else:
        _print(output(), work, decision, eur)


def _work(pipeline: Pipeline, paths: Sequence[Path], stages: Sequence[str]) -> Workload:
    from media_pipeline.execution.workload import of_files, of_media
    from media_pipeline.media.contents import distinct

    known: set[str] = set()
    unknown: list[Found] = []
    new: list[Path] = []
    refused: dict[str, str] = {}
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("looking at files", total=None)
        for found in _files(paths):
            progress.advance(task)
            if found.refusal is not None or found.stat is None:
                refused[found.path] = str(found.refusal or "it cannot be looked at")
            elif media_id := pipeline.sources.unchanged(found.path, found.stat):
                known.add(media_id)
            else:
                unknown.append(found)
        progress.update(task, description="comparing files of one size", completed=0, total=len(unknown))
        for content in distinct(unknown, pipeline.sources):
            progress.advance(task)
            if isinstance(content, str):
                known.add(content)
            else:
                new.append(Path(content.path))
        progress.update(task, description="reading headers", total=None)
        return of_media(pipeline, list(pipeline.sources.by_id(known).values()), stages) + of_files(
            pipeline, new, stages, refused
        )


def _files(paths: Sequence[Path]) -> Iterator[Found]:
    """Every file that `analyze` would look at."""
    from media_pipeline.media.walk import inspect_given, walk

    for path in paths:
        if path.is_dir():
            yield from walk(os.path.realpath(path))
            continue
        try:
            yield inspect_given(str(path))
        except (OSError, ValueError):
            raise UsageError(f"{path} does not exist", "name files or folders that are there") from None


def _facts(work: Workload, decision: Decision, eur: float | None) -> dict[str, Any]:
    return {
        **decision.facts(eur),
        "media": round(work.total.media),
        "frames": round(work.total.frames),
        "sound_s": round(work.total.audio_s, 1),
        "guessed_media": work.guessed,
        "unreadable": dict(work.unreadable),
        "stages": [
            {"stage": part.stage, "seconds": round(part.seconds, 2), "where": part.where, "basis": part.basis}
            for part in decision.chosen.parts
        ],
    }


def _print(console: Console, work: Workload, decision: Decision, eur: float | None) -> None:
    for path, why in work.unreadable.items():
        console.print(f"[yellow]left out:[/] {escape(path)}: {escape(why)}", highlight=False, soft_wrap=True)
    known = "" if not work.guessed else f"; {work.guessed} of them by their headers"
    console.print(
        f"{work.total.media:,.0f} media with work to do: {work.total.frames:,.0f} frames, "
        f"{work.total.audio_s / 60:,.1f} minutes of sound{known}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("", "where", "minutes", "USD", *(["EUR"] if eur else []), "basis")
    for option in (decision.chosen, *decision.alternatives):
        table.add_row(*_cells(option, eur), style="bold" if option is decision.chosen else "")
    console.print(table)
    console.print(f"→ {escape(decision.chosen.name)}: {escape(decision.reason)}", highlight=False, soft_wrap=True)


def _cells(option: Option, eur: float | None) -> list[str]:
    money = [f"{option.usd:.3f}"] + ([f"{option.usd * eur:.3f}"] if eur else [])
    return [
        option.target,
        option.name,
        f"{option.minutes:.1f}",
        *money,
        "measured" if option.is_measured else "estimated",
    ]
