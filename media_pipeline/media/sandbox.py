"""Disposable processes for bytes nobody vouches for.

    this process ── control socket ── nursery ── fork ──> child   (one per worker; decodes, is reused, may die)
          └───────────── one socket per child ──────────────┘

The nursery is a fresh interpreter without threads and without our environment; it imports the decoders once, touches
no foreign byte and forks children in a millisecond. It dies when this process does, however that dies, and its
children die with it. Messages are JSON: nothing that comes out of a child is ever unpickled.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import math
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from media_pipeline.errors import (
    CorruptMedia,
    DiskFull,
    LimitExceeded,
    MediaPipelineError,
    UnsafePath,
    UnsupportedMedia,
    WorkerLost,
)

MAX_MESSAGE_BYTES = 128 * 1024  # a packet must fit the socket's buffer at once
BEAT_S = 1.0  # how often a child says that it is getting on
_START_S = 60.0
_OPEN_FILES = 256

Message = dict[str, Any]
Handler = Callable[[Message, Callable[[], None]], Message]

_ERRORS = {
    cls.__name__: cls for cls in (CorruptMedia, DiskFull, LimitExceeded, UnsafePath, UnsupportedMedia, WorkerLost)
}


def error_of(message: Message) -> MediaPipelineError:
    """The typed error a child reported; only those of a medium or of the disk are accepted from it."""
    cls = _ERRORS.get(str(message.get("error")), CorruptMedia)
    remedy = message.get("remedy")
    return cls(str(message.get("cause"))[:500], str(remedy)[:500] if remedy else None)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended."""

    signal: signal.Signals | None
    cpu_s: float  # CPU seconds of its whole life


class Child:
    """One sandboxed process, as seen from outside."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.jobs = 0
        self.cpu_s = 0.0  # of the jobs it has finished
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, job: Message) -> None:
        """Raises OSError when the child is gone."""
        self.jobs += 1
        self._sock.send(json.dumps(job).encode())

    def receive(self) -> Message | None:
        """The next message, or None: it has closed the line or talks nonsense. Blocks while there is none."""
        try:
            data = self._sock.recv(MAX_MESSAGE_BYTES)
            message = json.loads(data) if data else None
        except (OSError, ValueError, RecursionError):
            return None
        return message if isinstance(message, dict) else None

    def kill(self) -> None:
        # Its number cannot have been given to another process: the nursery has not reaped it yet.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self._sock.close()


class Sandbox:
    """Starts children that run one handler. Safe to use from several threads.

    Args:
        handler: ``module:function``; the function takes ``config`` and returns the handler of jobs.
        config: plain JSON values for it.
        memory_bytes: address space a child may add to what it begins with.
    """

    def __init__(self, handler: str, config: Message, memory_bytes: int) -> None:
        self._setup: Message = {"handler": handler, "config": config, "memory_bytes": memory_bytes}
        self._lock = threading.Lock()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def spawn(self) -> Child:
        """A new child.

        Raises:
            WorkerLost: processes cannot be started here and now.
        """
        with self._lock:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                try:
                    reply = self._ask({"spawn": True}, theirs)
                except WorkerLost:
                    self._stop()  # the nursery was killed; a new one takes its place
                    reply = self._ask({"spawn": True}, theirs)
            return Child(int(reply["pid"]), ours)

    def bury(self, child: Child) -> Exit:
        """Ends a child and says how it ended, if it had not been ended by this."""
        child.kill()
        child.close()
        with self._lock:
            try:
                reply = self._ask({"reap": child.pid})
            except WorkerLost:
                self._stop()
                return Exit(signal.SIGKILL, child.cpu_s)
        status = int(reply["status"])
        ended_by = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None
        return Exit(ended_by, float(reply["cpu_s"]))

    def close(self) -> None:
        """Ends the nursery and with it every child."""
        with self._lock:
            self._stop()

    def _ask(self, message: Message, passed: socket.socket | None = None) -> Message:
        control = self._control or self._start()
        try:
            fds = [passed.fileno()] if passed is not None else []
            socket.send_fds(control, [json.dumps(message).encode()], fds)
            reply = control.recv(MAX_MESSAGE_BYTES)
        except OSError as error:
            raise WorkerLost(f"the decoding processes do not answer ({error})") from None
        if not reply:
            raise WorkerLost("the process that starts decoders was killed", "look for a lack of memory and try again")
        answer: Message = json.loads(reply)
        if "failed" in answer:
            raise WorkerLost(f"no decoding process can be started: {answer['failed']}")
        return answer

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._nursery = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "media_pipeline.media.sandbox", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                # Nothing of our environment: no keys to steal, and no threads behind the back of fork.
                env={
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "LANG": "C.UTF-8",
                    "OPENBLAS_NUM_THREADS": "1",
                    "OMP_NUM_THREADS": "1",
                    "MALLOC_ARENA_MAX": "2",
                },
                start_new_session=True,  # Ctrl-C is for this process, which then ends the others in order
            )
        self._control = ours
        ours.send(json.dumps(self._setup).encode())
        ours.settimeout(_START_S)
        try:
            ready = ours.recv(MAX_MESSAGE_BYTES)
        except OSError:
            ready = b""
        if not ready:
            self._nursery.kill()
            stderr = self._nursery.communicate()[1]
            self._control = self._nursery = None
            ours.close()
            raise WorkerLost(
                "the decoders cannot be loaded: " + (stderr.decode(errors="replace").strip() or "?")[-300:]
            )
        assert self._nursery.stderr is not None
        self._nursery.stderr.close()
        return ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._nursery is not None:
            self._nursery.kill()
            self._nursery.wait()
        self._control = self._nursery = None


# ---- in the nursery ---------------------------------------------------------------------------------------------

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Entry point of the nursery: ``python -m media_pipeline.media.sandbox <control socket>``."""
    parent = os.getppid()
    control = socket.socket(fileno=int(sys.argv[1]))
    setup: Message = json.loads(control.recv(MAX_MESSAGE_BYTES))
    _give_up_rights()
    module, function = setup["handler"].split(":")
    handler: Handler = getattr(importlib.import_module(module), function)(setup["config"])
    control.send(b"{}")
    # Decoder libraries write what they think of a file to stderr; it belongs to nobody's screen.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _nurse(control, parent, handler, int(setup["memory_bytes"]))


def _give_up_rights() -> None:
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard) if hard > 0 else _OPEN_FILES,) * 2)
    # An empty network: needs a privilege, or a user namespace, which some systems forbid. Demuxers refuse network
    # protocols anyway.
    if _libc.unshare(_CLONE_NEWNET) != 0 and os.geteuid() != 0:
        _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _nurse(control: socket.socket, parent: int, handler: Handler, memory_bytes: int) -> None:
    while os.getppid() == parent:
        # A forked sibling of our parent may hold the other end open, so its end alone is not waited for.
        if not select.select([control], [], [], 1.0)[0]:
            continue
        data, fds, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 1)
        if not data:
            return
        message = json.loads(data)
        try:
            if "spawn" in message:
                reply: Message = {"pid": _fork(control, fds[0], handler, memory_bytes)}
            else:
                _, status, usage = os.wait4(message["reap"], 0)
                reply = {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime}
        except OSError as error:
            reply = {"failed": str(error)}
        for fd in fds:
            os.close(fd)
        control.send(json.dumps(reply).encode())


def _fork(control: socket.socket, fd: int, handler: Handler, memory_bytes: int) -> int:
    nursery = os.getpid()
    pid = os.fork()
    if pid == 0:
        control.close()
        _live(socket.socket(fileno=fd), nursery, handler, memory_bytes)
    return pid


def _live(sock: socket.socket, nursery: int, handler: Handler, memory_bytes: int) -> NoReturn:
    """The whole life of a child."""
    status = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != nursery:  # it died before the line above
            os._exit(1)
        _limit_memory(memory_bytes)
        while data := sock.recv(MAX_MESSAGE_BYTES):
            _serve(sock, handler, json.loads(data))
        status = 0
    finally:
        os._exit(status)


def _limit_memory(memory_bytes: int) -> None:
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        own = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + memory_bytes,) * 2)


def _serve(sock: socket.socket, handler: Handler, job: Message) -> None:
    wall, cpu = time.monotonic(), time.process_time()
    # The kernel keeps these two even while a decoder is deep in its own code.
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu + job["max_cpu_s"]) + 1, hard))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["max_output_bytes"], hard))
    try:
        reply: Message = {"result": handler(job, _Beat(sock))}
    except BaseException as error:
        reply = _report(error)
    reply |= {"seconds": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    sock.send(json.dumps(reply).encode())


class _Beat:
    """Called at every packet or frame; tells the parent now and then, and never waits for it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._next = time.monotonic() + BEAT_S

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + BEAT_S
            with contextlib.suppress(BlockingIOError):
                self._sock.send(b'{"beat": true}', socket.MSG_DONTWAIT)


_FULL = (errno.ENOSPC, errno.EDQUOT)


def _report(error: BaseException) -> Message:
    """Says in our own words what a decoder raised."""
    known = error if isinstance(error, MediaPipelineError) else _typed(error)
    return {"error": type(known).__name__, "cause": known.cause, "remedy": known.remedy}


def _typed(error: BaseException) -> MediaPipelineError:
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "Insufficient memory" in str(error):
        return LimitExceeded(
            "decoding it takes more memory than allowed", "reduce it or raise MEDIA_PIPELINE_DECODE__MAX_MEMORY_BYTES"
        )
    if number in _FULL:
        return DiskFull("no room left on the device of the cache", "free some space; it goes on by itself")
    if number == errno.EFBIG:
        return LimitExceeded(
            "its frames and sound would take more cache than allowed",
            "raise MEDIA_PIPELINE_DECODE__MAX_OUTPUT_BYTES",
        )
    if isinstance(error, FileNotFoundError | PermissionError):
        return WorkerLost(f"the original cannot be opened: {error.strerror}", "see that it is there and readable")
    return CorruptMedia(f"the decoder gave up: {type(error).__name__}: {error}", "copy it again from its source")


if __name__ == "__main__":
    main()
