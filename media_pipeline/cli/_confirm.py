"""Asking before something goes for good."""

from __future__ import annotations

import sys

import click

from media_pipeline.errors import UsageError


def confirm(question: str) -> None:
    """Goes on after a yes.

    Raises:
        click.Abort: the answer is no, or Ctrl-C.
        UsageError: there is nobody to answer, as in `docker exec` without `-it`, or in cron.
    """
    nobody = UsageError("nobody is there to answer", "give --yes, or call it in a terminal")
    if sys.stdin is None:
        raise nobody
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as abort:
        # click makes one of both: of the end of the input and of Ctrl-C.
        if isinstance(abort.__context__, EOFError) and not sys.stdin.isatty():
            click.echo(err=True)  # the question stands alone on its line
            raise nobody from None
        raise
    if not agreed:
        raise click.Abort
