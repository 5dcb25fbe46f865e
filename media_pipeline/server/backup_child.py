"""Programs that work for a backup: looked after while they run, and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from media_pipeline.errors import TransientError, UsageError

_TICK_S = 10.0
_STOP_PATIENCE_S = 20.0
_PR_SET_PDEATHSIG = 1
_PACKAGES = {"pg_dump": "postgresql-client", "pg_restore": "postgresql-client"}
_libc = ctypes.CDLL(None)

Tick = Callable[[], None]


def run_child(
    command: Sequence[str],
    env: Mapping[str, str],
    tick: Tick = lambda: None,
    folder: Path | None = None,
    stdin: bytes | None = None,
    timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program that dies with us, and looks after it.

    Raises:
        UsageError: it is not installed.
        TransientError: it was not done in time.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - programs and arguments of ours
            list(command),
            env=dict(env),
            cwd=folder,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_prepared(os.getpid()),
        )
    except FileNotFoundError as error:
        raise UsageError(
            f"{command[0]} is not installed", f"apt-get install {_PACKAGES.get(command[0], command[0])}"
        ) from error
    waited, given = 0.0, stdin
    try:
        while True:
            try:
                out, err = process.communicate(given, timeout=_TICK_S)
                break
            except subprocess.TimeoutExpired:
                tick()
                given, waited = None, waited + _TICK_S
                if timeout_s is not None and waited >= timeout_s:
                    raise TransientError(f"{command[0]} gave no answer for {waited:.0f} s", "try again later") from None
    finally:
        if process.poll() is None:
            _stop(process)
    text = [part.decode("utf-8", "surrogateescape") for part in (out, err)]
    return subprocess.CompletedProcess(list(command), process.returncode, *text)


def _prepared(parent: int) -> Callable[[], None]:
    """Code for the child: no signal is ignored, it dies with its parent, and the pipeline goes first."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)  # the signal upon which restic takes its lock with it
        os.nice(10)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=_STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
