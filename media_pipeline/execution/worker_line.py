"""The three pipes of a worker: messages in and out, and a watch over its signs of life."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from media_pipeline.errors import WorkerLost
from media_pipeline.execution import messages
from media_pipeline.execution.messages import BadMessage, Message, SchemaOf
from media_pipeline.execution.places import Place
from media_pipeline.wording import printable

REMEDY = "its media are tried again"
_END_S = 5.0  # for a worker whose input was closed
_WAITING_ANSWERS = 64  # beyond which nothing is read: a worker cannot fill this process's memory
_TAKES_S = 600.0  # for one message: a worker that reads nothing is of no use, however lively it is
_LINE_BYTES = 16_384  # of what it logs; the rest of a longer line is left out
_WORDS = 300  # characters of it that are repeated to people
_LEVELS = {"warning": logging.WARNING, "error": logging.ERROR, "critical": logging.ERROR}

log = logging.getLogger(__name__)


class WorkerLine:
    """Starts a worker. One thread may `send`, another `receive`.

    Args:
        rows: the schema that rows may have which it sends
        timeout_s: silence after which it counts as lost
        start_s: the same until its first sign of life: Python and its libraries may come from a slow disk
        max_bytes: of one of its messages

    Raises:
        WorkerLost: the command cannot be started.
    """

    def __init__(
        self,
        place: Place,
        arguments: Sequence[str],
        rows: SchemaOf,
        *,
        timeout_s: float,
        start_s: float,
        max_bytes: int,
    ) -> None:
        self._place, self._rows, self._max_bytes = place, rows, max_bytes
        self._timeout_s = timeout_s
        self._why: str | None = None  # it was given up
        self._last_words = ""
        self.sent_bytes = self.received_bytes = 0  # of what messages hold
        self._sending_since: float | None = None
        self._incoming: queue.Queue[Message | WorkerLost | None] = queue.Queue(_WAITING_ANSWERS)
        self._is_closed = threading.Event()
        self._killing = threading.Lock()
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [*place.command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=None if place.environment is None else dict(place.environment),
                start_new_session=True,  # Ctrl-C is for this process, which then ends the others in order
            )
        except OSError as error:
            raise WorkerLost(f"{place.name} cannot be started: {error}", REMEDY) from None
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self._silent_from = time.monotonic() + max(0.0, start_s - timeout_s)
        self._threads = [
            threading.Thread(target=self._read, name="worker-answers", daemon=True),
            threading.Thread(target=self._watch, name="worker-heartbeat", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Of the process that was started here: the worker, or what connects with it."""
        return self._process.pid

    def send(self, message: Message) -> None:
        """
        Raises:
            WorkerLost: it is gone.
        """
        self._sending_since = time.monotonic()
        try:
            messages.write(self._stdin, message)
            self.sent_bytes += message.table.nbytes
        except (OSError, ValueError):  # closed
            raise self._lost() from None
        finally:
            self._sending_since = None

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None where none came in time.

        Raises:
            WorkerLost: it is gone, or what it sent is no message.
        """
        try:
            found = self._incoming.get(timeout=timeout_s) if timeout_s != 0 else self._incoming.get_nowait()
        except queue.Empty:
            return None
        if found is None:
            raise self._lost()
        if isinstance(found, WorkerLost):
            raise found
        return found

    def give_up(self, why: str) -> None:
        """End it at once, for this reason."""
        with self._killing:
            self._why = self._why or why
            # Not after it was waited for: its number may be another process's then.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, *, at_once: bool = False) -> None:
        """End it; may be called again. A worker that is in the middle of something stops there."""
        self._is_closed.set()
        with contextlib.suppress(OSError, ValueError):
            self._stdin.close()
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        self.give_up("it was ended")
        self._process.wait()
        for thread in self._threads:
            thread.join(_END_S)
        for pipe in (self._stdout, self._stderr):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()

    # --- in threads of its own ------------------------------------------------------------------------------------

    def _read(self) -> None:
        found: Message | WorkerLost | None
        try:
            while (found := messages.read(self._stdout, self._rows, self._max_bytes)) is not None:
                self._silent_from = time.monotonic()
                self.received_bytes += found.table.nbytes
                if not self._put(found):
                    return
        except BadMessage as error:
            self.give_up(error.cause)
            found = BadMessage(f"{self._place.name}: {error.cause}", error.remedy)
        except (WorkerLost, OSError, ValueError):  # broken off, closed
            found = None
        self._put(found)

    def _put(self, found: Message | WorkerLost | None) -> bool:
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self._incoming.put(found, timeout=0.5)
                return True
        return False

    def _watch(self) -> None:
        line = b""
        while not self._is_closed.is_set():
            left_s = self._silent_from + self._timeout_s - time.monotonic()
            if left_s <= 0:
                self.give_up(f"gave no sign of life for {self._timeout_s:g} s")
                return
            since = self._sending_since
            if since is not None and time.monotonic() - since > _TAKES_S:
                self.give_up(f"takes nothing, for {_TAKES_S:g} s")
                return
            if not select.select([self._stderr], [], [], min(left_s, 1.0))[0]:
                continue
            data = os.read(self._stderr.fileno(), _LINE_BYTES)
            if not data:
                return
            *lines, line = (line + data).split(b"\n")
            line = line[:_LINE_BYTES]
            for one in lines:
                self._hear(one)

    def _hear(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):  # a library, ssh, or the traceback of what did not start
            self._last_words = _readable(line) or self._last_words
            log.debug("%s: %s", self._place.name, _readable(line))
        elif "beat" in said:
            self._silent_from = time.monotonic()
        elif "log" in said:
            text = _readable(str(said.get("text")).encode(errors="replace"))
            level = _LEVELS.get(str(said["log"]), logging.DEBUG)
            if level == logging.ERROR:
                self._last_words = text
            log.log(level, "%s: %s", self._place.name, text)

    # --------------------------------------------------------------------------------------------------------------

    def _lost(self) -> WorkerLost:
        """How it ended, once its pipes have."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        if self._why is not None:
            how = self._why
        elif self._process.returncode is None:
            how = "closed its output"
        elif self._process.returncode < 0:
            how = f"was killed by {signal.Signals(-self._process.returncode).name}"
        else:
            how = f"ended with {self._process.returncode}"
        self._threads[1].join(1.0)  # its last words may still be in the pipe
        said = f" ({self._last_words})" if self._last_words and self._why is None else ""
        return WorkerLost(f"{self._place.name} {how}{said}", REMEDY)


def _readable(line: bytes) -> str:
    return printable(line.decode(errors="replace").strip()[-_WORDS:])
