"""`settings check`: every mistake in a file of settings, with its line."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def settings() -> None:
    """Check a file of settings, with the lines to mend."""


@settings.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path(".env"))
def check(file: Path) -> int:
    """Look for settings that do not exist or have a wrong value in FILE [default: .env]."""
    from media_pipeline.config_file import mistakes_in

    mistakes = mistakes_in(file)
    for mistake in mistakes:
        click.echo(f"{file}:{mistake.line}: {mistake.text}", err=True)
    if not mistakes:
        click.echo(f"{file}: every setting is known and well-formed")
    return 2 if mistakes else 0
