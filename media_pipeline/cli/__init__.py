"""The console script `media-pipeline`.

Exit codes: 0 all done, 2 usage, 3 some files failed and are listed, 1 anything else. Errors go to stderr as one line
with cause and remedy; a traceback only with --debug.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from media_pipeline import __version__
from media_pipeline.cli.context import App
from media_pipeline.errors import MediaPipelineError, UsageError

EXIT_USAGE = 2

# Each command lives in the module of its name and is imported only when it is called: `--help` stays instant.
COMMANDS = {
    "analyze": "Take files and folders in and analyse them here and now.",
    "backup": "Copy the home: consistent, incremental, verified; list, test, prune.",
    "doctor": "Check every dependency, model, disk and memory; say what to do.",
    "erase": "Erase media, a person or a voice for good, and prove it.",
    "export": "Write results as subtitles, JSON, CSV, COCO or Parquet.",
    "gpu": "Rented machines: what runs, what it costs, and giving it back.",
    "installation": "Back up a whole server, encrypted, and restore it; list, check, drill.",
    "metrics": "Serve metrics for Prometheus, and the health of a server.",
    "models": "List and download models.",
    "moderate": "Approve or block media, above what rules say.",
    "persons": "Who is to be seen: list, name, merge, split, enrol.",
    "quote": "What analysing files would take and cost, here and on a rented GPU.",
    "reprocess": "Make anew what a new version, model or option made stale.",
    "restore": "Make a home from a backup.",
    "retention": "Let go what is old: originals, cached frames, results, runs.",
    "rules": "Check, try and apply the rules of moderation.",
    "search": "Find moments by text, picture, face or voice.",
    "serve": "Run the Dagster UI and the daemon on this machine.",
    "settings": "Check a file of settings, with the lines to mend.",
    "sql": "Ask the results in SQL, read-only.",
    "status": "What is done, waiting, failed, and why.",
    "voices": "Who is to be heard: list, name, merge, split, enrol.",
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = __import__(f"media_pipeline.cli.{cmd_name}", fromlist=[cmd_name])
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", type=click.Path(file_okay=False), help="Home folder [default: $MEDIA_PIPELINE_HOME or ./data]")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__)
@click.pass_context
def cli(ctx: click.Context, home: str | None, debug: bool) -> None:
    """Pictures, videos and recordings understood: text, speech, scenes, search."""
    ctx.obj = App(home=home, debug=debug)
    ctx.call_on_close(ctx.obj.close)


def main(args: list[str] | None = None) -> Any:
    debug = "--debug" in (sys.argv[1:] if args is None else args)
    try:
        code = cli.main(args=args, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MediaPipelineError as error:
        if debug:
            raise
        _fail(str(error), EXIT_USAGE if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # `media-pipeline sql … | head` is no error
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        _fail(f"{type(error).__name__}: {error}; run it again with --debug to see where", 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"media-pipeline: {message}", err=True)
    sys.exit(code)
