"""Media to cached frames and sound, several at once, each in a sandbox of its own.

Formats: what `sniff` lists. Rules a reader may wonder about: an animation is an image with several frames; a recording
with a cover picture is a recording, the cover is its thumbnail; a picture of which less than half can be decoded is
corrupt; a video or recording counts as readable when anything of it can be decoded, with a warning that says how much.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import select
import selectors
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import (
    CorruptMedia,
    DiskFull,
    LimitExceeded,
    MediaPipelineError,
    UnsupportedMedia,
    WorkerLost,
)
from media_pipeline.media.cache import Cache
from media_pipeline.media.sandbox import Child, Exit, Message, Sandbox, error_of
from media_pipeline.media.types import MediaFacts, facts_from_json

DECODE_VERSION = "4"  # bump when the cached frames or sound of any medium may change

# Decoders leak and fragment; a new child costs a few milliseconds.
_MEDIA_PER_CHILD = 200
# From this size on a video gets all the cores: below, one thread each is cheaper and keeps every core busy anyway.
_LARGE_BYTES = 32 * 1024**2
_TICK_S = 0.2

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP})


def decode_fingerprint(sampling: Sampling) -> str:
    """16 hex digits that change when the cached frames or sound may: our version and how frames are sampled."""
    parts = [DECODE_VERSION, sampling.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class DecodeJob:
    media_id: str
    path: Path


@dataclass(frozen=True)
class Decoded:
    """The result of one job: facts, or the error that is its own and nobody else's."""

    media_id: str
    facts: MediaFacts | None
    error: MediaPipelineError | None
    seconds: float  # wall time
    cpu_s: float


@dataclass
class _Task:
    job: DecodeJob
    child: Child
    folder: Path
    started: float
    last_beat: float

    def overdue(self, now: float, limits: DecodeLimits) -> LimitExceeded | None:
        if now - self.started > limits.max_wall_s:
            return LimitExceeded(
                f"decoding took longer than {limits.max_wall_s:g} s",
                "cut it into parts or raise MEDIA_PIPELINE_DECODE__MAX_WALL_S",
            )
        if now - self.last_beat > limits.max_stall_s:
            return LimitExceeded(
                f"the decoder made no progress for {limits.max_stall_s:g} s",
                "the file is damaged, or raise MEDIA_PIPELINE_DECODE__MAX_STALL_S",
            )
        return None


class Decoder:
    """Decodes media into a cache. A context manager: its processes start when needed and end with it."""

    def __init__(self, cache: Cache, limits: DecodeLimits, sampling: Sampling, workers: int) -> None:
        self._cache, self._limits = cache, limits
        self._workers = max(1, workers)
        self._fingerprint = decode_fingerprint(sampling)
        config = {"limits": limits.model_dump(mode="json"), "sampling": sampling.model_dump(mode="json")}
        self._sandbox = Sandbox("media_pipeline.media.worker:make_handler", config, limits.max_memory_bytes)
        self._idle: list[Child] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for child in self._idle:
            child.close()
        self._idle.clear()
        self._sandbox.close()

    def decode(self, jobs: Iterable[DecodeJob]) -> Iterator[Decoded]:
        """Results as they complete. Jobs are taken one by one when a worker is free; what is cached costs nothing.

        A crash, a hang or a bomb is that job's error and nothing else's.
        """
        pending = iter(jobs)
        with selectors.DefaultSelector() as running:
            try:
                while True:
                    yield from self._fill(pending, running)
                    if not running.get_map():
                        return
                    yield from self._collect(running)
            finally:
                for key in list(running.get_map().values()):
                    self._sandbox.bury(key.data.child)
                    self._cache.abandon(key.data.folder)

    def _fill(self, pending: Iterator[DecodeJob], running: selectors.BaseSelector) -> Iterator[Decoded]:
        while len(running.get_map()) < self._workers and (job := next(pending, None)) is not None:
            cached = self._cache.get(job.media_id, self._fingerprint)
            if cached is not None:
                yield Decoded(job.media_id, cached.facts, None, 0.0, 0.0)
                continue
            try:
                task = self._start(job)
            except (MediaPipelineError, OSError) as error:
                yield Decoded(job.media_id, None, _typed(error), 0.0, 0.0)
            else:
                running.register(task.child, selectors.EVENT_READ, task)

    def _start(self, job: DecodeJob) -> _Task:
        folder = self._cache.incoming(job.media_id)
        try:
            child = self._send(job, folder)
        except BaseException:
            self._cache.abandon(folder)
            raise
        now = time.monotonic()
        return _Task(job, child, folder, now, now)

    def _send(self, job: DecodeJob, folder: Path) -> Child:
        path = job.path.absolute()
        threads = len(os.sched_getaffinity(0)) if path.stat().st_size >= _LARGE_BYTES else 1
        message: Message = {
            "path": os.fsencode(path).hex(),  # names need not be UTF-8
            "folder": str(folder),
            "threads": threads,
            "max_cpu_s": self._limits.max_cpu_s,
            "max_output_bytes": self._limits.max_output_bytes,
        }
        while True:
            child = self._take()
            try:
                child.send(message)
                return child
            except OSError:  # it was killed while it was idle
                fresh = child.jobs == 1
                self._sandbox.bury(child)
                if fresh:
                    raise WorkerLost("the decoding process ended before it began", "try again") from None

    def _collect(self, running: selectors.BaseSelector) -> Iterator[Decoded]:
        for key, _ in running.select(_TICK_S):
            task: _Task = key.data
            message = task.child.receive()
            if message is not None and "beat" in message:
                task.last_beat = time.monotonic()
            else:
                running.unregister(task.child)
                yield self._finish(task, message)
        # Only after every waiting message was read: whoever consumes the results may have been away for long.
        for key in list(running.get_map().values()):
            task = key.data
            error = task.overdue(time.monotonic(), self._limits)
            if error is not None and not _has_message(task.child):
                running.unregister(task.child)
                yield self._lost(task, error)

    def _finish(self, task: _Task, message: Message | None) -> Decoded:
        if message is None:
            return self._lost(task, None)
        try:
            seconds, cpu_s = float(message["seconds"]), float(message["cpu_s"])
            error = error_of(message) if "error" in message else None
            facts = None if error else facts_from_json(message["result"])
        except (KeyError, TypeError, ValueError):
            return self._lost(task, CorruptMedia("the decoder was taken over or broken by this file"))
        task.child.cpu_s += cpu_s
        if facts is not None:
            try:
                self._cache.commit(task.folder, task.job.media_id, self._fingerprint, facts)
            except OSError as problem:
                error = _typed(problem)
            except ValueError:  # not a number where one should be
                error = CorruptMedia("the decoder's account of this file makes no sense", "copy it again")
        if error is not None:
            self._cache.abandon(task.folder)
        # Whoever failed may still hold the room and the files it took; refusing at the first bytes takes none.
        self._release(task.child, tired=error is not None and not isinstance(error, UnsupportedMedia))
        return Decoded(task.job.media_id, None if error else facts, error, seconds, cpu_s)

    def _lost(self, task: _Task, error: MediaPipelineError | None) -> Decoded:
        """A child that ended, or is ended here because of ``error``."""
        end = self._sandbox.bury(task.child)
        self._cache.abandon(task.folder)
        seconds = time.monotonic() - task.started
        cpu_s = max(0.0, end.cpu_s - task.child.cpu_s)
        return Decoded(task.job.media_id, None, error or _cause_of_death(end, self._limits), seconds, cpu_s)

    def _take(self) -> Child:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._sandbox.spawn()

    def _release(self, child: Child, tired: bool) -> None:
        if tired or child.jobs >= _MEDIA_PER_CHILD:
            self._sandbox.bury(child)
        else:
            with self._lock:
                self._idle.append(child)


def _has_message(child: Child) -> bool:
    waiting = select.poll()  # select() knows no descriptors above 1023
    waiting.register(child, select.POLLIN)
    return bool(waiting.poll(0))


def _cause_of_death(end: Exit, limits: DecodeLimits) -> MediaPipelineError:
    if end.signal in _CRASHES:
        return CorruptMedia(f"the decoder crashed ({end.signal.name}) on this file", "copy it again from its source")
    if end.signal is signal.SIGXCPU:
        return LimitExceeded(
            f"decoding took more than {limits.max_cpu_s:g} CPU seconds",
            "cut it into parts or raise MEDIA_PIPELINE_DECODE__MAX_CPU_S",
        )
    how = f"was ended from outside ({end.signal.name})" if end.signal else "ended without a word"
    return WorkerLost(f"the decoding process {how}", "look for a lack of memory and try again")


def _typed(error: MediaPipelineError | OSError) -> MediaPipelineError:
    if isinstance(error, MediaPipelineError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("no room left on the device of the cache", "free some space; it goes on by itself")
    return WorkerLost(f"the cache cannot be written: {error}", "see that its folder is there and writable")
