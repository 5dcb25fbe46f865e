"""Child processes that live and die with their parent: started, watched, started again, stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ChildLostError(Exception):
    """A child died more often than it may be started again."""


@dataclass(slots=True)
class Child:
    """One child: what to start, and its present process."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], None] = lambda: None  # before each start
    process: subprocess.Popen[bytes] | None = None
    deaths: list[float] = field(default_factory=list)


class Children:
    """A handful of child processes, driven by one thread.

    Args:
        say: told each line a child prints, and what happens to the children, as (name, line).
        max_deaths: of one child within ``window_s`` seconds; one more and `ChildLostError` is raised.
    """

    def __init__(
        self, env: Mapping[str, str], say: Callable[[str, str], None], *, max_deaths: int = 5, window_s: float = 600
    ) -> None:
        self._env, self._say = dict(env), say
        self._max_deaths, self._window_s = max_deaths, window_s
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._unfinished: dict[int, bytes] = {}

    def start(self, child: Child) -> None:
        if child not in self._children:
            self._children.append(child)
        child.prepare()
        # A session of its own: Ctrl-C reaches the parent alone, which then stops all in order. No other thread runs
        # here, so code between fork and exec is safe.
        child.process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            list(child.command),
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
        assert child.process.stdout is not None
        os.set_blocking(child.process.stdout.fileno(), False)
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def attend(self, seconds: float) -> None:
        """Pass on what the children print, for this long; start again those that died.

        Raises:
            ChildLostError: one of them does not stay alive.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._pass_on(min(left, 0.2))
            for child in self._children:
                if child.process is not None and child.process.poll() is not None:
                    self._bury(child)
                    self.start(child)

    def stop(self, patience_s: float) -> None:
        """Ask all to stop, the last started first; kill those that do not within this many seconds."""
        deadline = time.monotonic() + patience_s
        for child in reversed(self._children):
            if child.process is not None and child.process.poll() is None:
                # The whole session: a run under way in a process of the code server's is to stop too, not to be waited
                # for.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGTERM)
        while time.monotonic() < deadline and any(c.process and c.process.poll() is None for c in self._children):
            self._pass_on(0.1)
        for child in self._children:
            if child.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
                self._forget_output(child)
        self._selector.close()

    def _bury(self, child: Child) -> None:
        assert child.process is not None
        now = time.monotonic()
        child.deaths = [at for at in child.deaths if now - at < self._window_s] + [now]
        code = child.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self._forget_output(child)
        child.process = None
        if len(child.deaths) > self._max_deaths:
            minutes = f"{self._window_s / 60:.0f} minutes"
            raise ChildLostError(f"the process `{child.name}` {how} and died {len(child.deaths)} times in {minutes}")
        self._say(child.name, f"{how}; it is started again")

    def _pass_on(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            for line in self._lines(key.fd):
                self._say(key.data.name, line)

    def _lines(self, fd: int) -> Iterator[str]:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        if not data:
            self._unregister(fd)
        *lines, rest = (self._unfinished.pop(fd, b"") + data).split(b"\n")
        if data:
            self._unfinished[fd] = rest
        elif rest:
            lines.append(rest)
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip()

    def _forget_output(self, child: Child) -> None:
        assert child.process is not None and child.process.stdout is not None
        fd = child.process.stdout.fileno()
        for line in self._lines(fd):  # its last words
            self._say(child.name, line)
        self._unfinished.pop(fd, None)
        self._unregister(fd)
        child.process.stdout.close()

    def _unregister(self, fd: int) -> None:
        with contextlib.suppress(KeyError):  # at the end of its output already
            self._selector.unregister(fd)


def _die_with(parent: int) -> Callable[[], None]:
    """Code for the child: get SIGTERM when the parent dies, be it by SIGKILL."""

    def prepare() -> None:
        # A child inherits what its parent ignores or blocks: a background job of a script ignores SIGINT, and under
        # Dagster SIGTERM with it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return prepare
