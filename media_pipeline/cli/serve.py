"""`serve`: the Dagster UI and the daemon on this machine, over one code server."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
import httpx
from filelock import FileLock, Timeout

from media_pipeline.cli._children import Child, ChildLostError, Children
from media_pipeline.cli.context import App
from media_pipeline.config import Settings, child_environment
from media_pipeline.errors import MediaPipelineError, UsageError

_DEFINITIONS = "media_pipeline.definitions"
_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 120.0
_STOP_PATIENCE_S = 15.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Without news for the person at the terminal. Tracebacks (indented) stand in the run's log in the UI.
_NOISE = re.compile(r"Warning: |warnings\.warn|^\s*$|No cursor for event type|^Stack Trace:|^Traceback|^\s\s+\S")
# "2026-01-31 12:00:00 +0000 - dagster.daemon - INFO - job - run id - step - what matters"
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d [\d:]{8} [+-]\d{4} - [\w.]+ - (?:INFO - )?")
_RUN = re.compile(r"^((?:ERROR|WARNING) - )?\w+ - ([0-9a-f]{8})-[0-9a-f-]{27} - (?:\d+ - )?(?:[\w.]+ - )?")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
@click.pass_obj
def serve(app: App, host: str, port: int) -> int:
    """Run the UI, the watch folders and the daemon until Ctrl-C."""
    settings = app.settings
    _require_free(host, port)
    with _only_one(settings), _stop_signals() as stopped, tempfile.TemporaryDirectory(prefix="media-pipeline-") as run:
        _open_home(settings)
        children = Children(child_environment(settings), _tell_all if app.debug else _tell)
        try:
            _start(children, Path(run), host, port, stopped)
            if not stopped:
                _welcome(settings, host, port)
            while not stopped:
                children.attend(0.5)
        except ChildLostError as error:
            raise MediaPipelineError(str(error), "look at what it printed above, mend it and start again") from None
        finally:
            _tell("serve", "stopping")
            children.stop(_STOP_PATIENCE_S)
    return 0


# --- before the start -----------------------------------------------------------------------------------------------


def _require_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port), reuse_port=False):
            pass
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port} ({error.strerror})", "choose another with --port") from None
    if host not in _LOOPBACK:
        _tell("serve", f"there is no sign-in: whoever reaches {host}:{port} can operate everything")


@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Two daemons on one home would ask for every run twice."""
    folder = settings.home / "locks"
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / "serve.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"another `serve` works on {settings.home}", "stop it first, or use another --home") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Signals that ask to stop are collected; the caller looks into the list."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_home(settings: Settings) -> None:
    """Make the home and its instance before several processes would do it at once; tidy up after a crash."""
    from media_pipeline.engine.instance import open_instance, reconcile_dead_runs
    from media_pipeline.storage.layout import Layout

    Layout(settings.home).create()
    for folder in settings.watched:
        folder.mkdir(parents=True, exist_ok=True)
    with open_instance(settings) as instance:
        for run_id in reconcile_dead_runs(instance):
            _tell("serve", f"run {run_id[:8]} had been cut off; what it left undone is asked for again")


# --- the three processes --------------------------------------------------------------------------------------------


def _start(children: Children, folder: Path, host: str, port: int, stopped: list[int]) -> None:
    """One code server, which the webserver and the daemon share; each is waited for."""
    code_socket = folder / "code.sock"  # in the temporary folder: socket paths are limited to 107 bytes
    workspace = folder / "workspace.yaml"
    workspace.write_text(f"load_from:\n  - grpc_server: {{socket: {code_socket}, location_name: media_pipeline}}\n")
    quiet = ("--log-level", "warning")
    for child in (
        Child(
            "code",
            [
                *(sys.executable, "-m", "dagster", "api", "grpc", "--socket", str(code_socket)),
                *("--module-name", _DEFINITIONS, "--working-directory", str(_PROJECT_ROOT)),
                *("--location-name", "media_pipeline", *quiet),
            ],
            prepare=lambda: code_socket.unlink(missing_ok=True),
        ),
        Child(
            "ui",
            [
                *(sys.executable, "-m", "media_pipeline.server.webserver", "--host", host, "--port", str(port)),
                *("--workspace", str(workspace), *quiet, "--dagster-log-level", "warning"),
            ],
        ),
        Child("daemon", [sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace), *quiet]),
    ):
        children.start(child)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not stopped and not _is_ready(child.name, code_socket, host, port):
            if time.monotonic() > deadline:
                raise MediaPipelineError(
                    f"the {child.name} process did not answer within {_START_TIMEOUT_S:.0f} s",
                    "look at what it printed above",
                )
            children.attend(0.2)
        if stopped:
            return


def _is_ready(name: str, code_socket: Path, host: str, port: int) -> bool:
    if name == "code":
        with socket.socket(socket.AF_UNIX) as probe:
            return code_socket.exists() and probe.connect_ex(str(code_socket)) == 0
    if name == "ui":
        try:
            return httpx.get(f"{_address(host, port)}/server_info", timeout=1).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
    return True  # nobody waits for the daemon


def _address(host: str, port: int) -> str:
    # What listens everywhere is reached here; an IPv6 address wants brackets.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a comparison, not a binding
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


# --- what is said ---------------------------------------------------------------------------------------------------


def _welcome(settings: Settings, host: str, port: int) -> None:
    click.echo(f"\n  UI      {_address(host, port)}")
    for folder in settings.watched:
        click.echo(f"  inbox   {folder}")
    click.echo("  Drop media into the inbox; Ctrl-C stops.\n")


def _tell(name: str, line: str) -> None:
    line = _RUN.sub(r"run \2: ", _STAMP.sub("", _COLOUR.sub("", line)))
    if not _NOISE.search(line):
        _tell_all(name, line)


def _tell_all(name: str, line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {name:<6} {line}", err=True)
