"""The worker: analyzers in a process of their own, here or on a rented machine. A filter:

    stdin   messages: what to compute, and on what        (`messages`, `uploads`)
    stdout  messages: results; each is the acknowledgement of its medium
    stderr  lines of JSON: a heartbeat every second, what was logged; and whatever libraries print

    hello                                        -> hello {protocol, code, device, …}
    run {run, analyzer, options, fingerprint}    -> ready {run, batch_media} | cannot {run, cause, remedy}
    frames | sound | scores | rows {medium}      nothing, unless there is no room
    work {run, media: [described]}               -> result {run, medium, seconds, device, error} + rows, for each
    end {run}                                    -> done {run, cost}; what is still computed is answered later
    drop {media}                                 nothing
    anything else                                -> refused {cause}

It ends with its input: when whoever started it closes the line, or dies.

    python -m media_pipeline.execution.worker [--device auto|cpu|cuda] [--threads N] [--home DIR] [--check]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import psutil
import pyarrow as pa

from media_pipeline.analyzers._device import CPU, CUDA
from media_pipeline.analyzers._gpu_memory import card, is_gpu_failure, is_out_of_memory
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._registry import registry
from media_pipeline.analyzers._spec import Medium
from media_pipeline.config import load_settings
from media_pipeline.errors import AnalyzerFailed, MediaPipelineError
from media_pipeline.execution import messages
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.hello import Hello
from media_pipeline.execution.in_process import KEEP_MODELS_BELOW_BYTES, InProcessExecutor, Loaded
from media_pipeline.execution.messages import BadMessage, Header, Kind, Message
from media_pipeline.execution.uploads import FRAMES, ROWS, SCORES, SOUND_FILES, HeldMedia

BEAT_S = 1.0
# Free memory of a GPU below which the models of analyzers that are through make room for the next.
_ROOM_ON_GPU = 0.5
_LOG_CHARS = 1000  # of a line: several threads write, and only short lines are written at once


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="media_pipeline.execution.worker", description="Runs analyzers for others.")
    parser.add_argument("--device", choices=("auto", CPU, CUDA), default="auto", help="where analyzers compute")
    parser.add_argument("--threads", type=int, default=0, help="media at a time; 0: one per core")
    parser.add_argument("--home", type=Path, help="home of the models, and of media while they are here")
    parser.add_argument("--check", action="store_true", help="say as one line of JSON what there is, and end")
    given = parser.parse_args(arguments)
    # Whatever a library prints must not end up between two messages.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    line = _Line()
    if not given.check:
        threading.Thread(target=line.beat, name="heartbeat", daemon=True).start()
    logging.basicConfig(handlers=[line], level=logging.INFO)
    try:
        settings = load_settings(home=given.home)
    except MediaPipelineError as error:
        parser.exit(2, f"{error}\n")
    threads = given.threads or settings.thread_count
    hello = Hello.here(given.device, threads, settings.home)
    if given.check:
        out.write(json.dumps(hello.to_json()).encode() + b"\n")
        out.close()
        return
    executor = InProcessExecutor(threads, hello.device)
    held = HeldMedia(settings.home, hello.max_held_bytes)
    # It never downloads by itself: a model that is not here is another one than was asked for.
    _Worker(sys.stdin.buffer, out, executor, ModelStore.of(settings, fetch=False), held, hello, line).live()


class _Line(logging.Handler):
    """Standard error, as lines of JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._parent = os.getppid()
        self.has_gpu = False

    def say(self, what: Header) -> None:
        try:
            os.write(2, json.dumps(what).encode() + b"\n")
        except OSError:
            os._exit(1)  # nobody is there to hear

    def emit(self, record: logging.LogRecord) -> None:
        self.say({"log": record.levelname.lower(), "text": record.getMessage()[:_LOG_CHARS]})

    def beat(self) -> None:
        """Every second, as long as whoever started this process lives.

        The end of its input says so too, but a process that was forked beside it may hold the other end open.
        """
        process = psutil.Process()
        while os.getppid() == self._parent:
            found = card() if self.has_gpu else None
            self.say({"beat": process.memory_info().rss, "free_gpu_mb": found.free_mb if found else None})
            time.sleep(BEAT_S)
        os._exit(1)


class _Worker:
    """Reads in one thread, so that it hears that the line was closed whatever is being computed."""

    def __init__(
        self,
        source: BinaryIO,
        sink: BinaryIO,
        executor: InProcessExecutor,
        store: ModelStore,
        held: HeldMedia,
        hello: Hello,
        line: _Line,
    ) -> None:
        self._source, self._sink, self._executor, self._store, self._held = source, sink, executor, store, held
        self._hello, self._line = hello, line
        line.has_gpu = hello.device != CPU
        self._sending = threading.Lock()
        self._todo: queue.SimpleQueue[Message | tuple[Header, list[Medium]]] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(executor.threads, thread_name_prefix="analyzer")
        self._loaded: Loaded | None = None

    def live(self) -> NoReturn:
        threading.Thread(target=self._listen, name="reader", daemon=True).start()
        while True:
            try:
                self._do(self._todo.get())
            except BaseException as error:
                self._end(f"{type(error).__name__}: {error}")

    # --- in the reading thread ------------------------------------------------------------------------------------

    def _listen(self) -> None:
        why = None
        try:
            while (message := messages.read(self._source, _any_rows)) is not None and message.operation != "cancel":
                self._take(message)
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
        self._end(why)

    def _take(self, message: Message) -> None:
        header = message.header
        try:
            if message.operation in (FRAMES, SOUND_FILES, SCORES, ROWS):
                self._held.add(message)
            elif message.operation == "drop":
                self._held.drop(header["media"])
            elif message.operation == "work":
                self._todo.put((header, list(self._media(header))))
            elif message.operation == "hello":
                self._send(Message("hello", self._hello.to_json()))
            elif message.operation in ("run", "end"):
                self._todo.put(message)
            else:
                self._send(Message("refused", {"cause": f"{message.operation[:50]!r} means nothing to a worker"}))
        except (KeyError, TypeError, ValueError) as error:
            cause = f"{message.operation!r} that cannot be understood: {type(error).__name__}: {error}"
            self._send(Message("refused", {"cause": cause[:500]}))

    def _media(self, header: Header) -> list[Medium]:
        media = []
        for description in header["media"]:
            try:
                media.append(self._held.medium(description))
            except (MediaPipelineError, OSError, pa.ArrowException) as error:
                self._answer(header["run"], AnalyzerResult(description["medium"], None, _as_ours(error), 0.0))
        return media

    # --- in the main thread ---------------------------------------------------------------------------------------

    def _do(self, what: Message | tuple[Header, list[Medium]]) -> None:
        if isinstance(what, tuple):
            self._work(what[0]["run"], tuple(what[1]))
        elif what.operation == "run":
            self._run(what.header)
        else:
            self._finish(what.header)

    def _run(self, header: Header) -> None:
        try:
            self._loaded = self._prepared(header)
        except MediaPipelineError as error:
            self._send(Message("cannot", {"run": header.get("run"), **_told(error)}))
            return
        self._send(Message("ready", {"run": header["run"], "batch_media": self._loaded.batch_media}))

    def _prepared(self, header: Header) -> Loaded:
        """
        Raises:
            MediaPipelineError: it cannot compute just what was asked for.
        """
        try:
            spec = registry().get(header["analyzer"])
            if spec is None:
                raise AnalyzerFailed(f"no analyzer is called {header['analyzer']!r} here")
            options = spec.options(**header["options"])
            choice = spec.choose(options, self._store)
            found = spec.fingerprint(choice, options)
            if found != header["fingerprint"]:
                raise AnalyzerFailed(f"{spec.name} would compute with {choice.name} there, not with what was asked for")
            self._make_room()
            return self._executor.load(spec, choice, options)
        except (MediaPipelineError, MemoryError):
            raise
        except Exception as error:  # wrong options, a folder that is gone, and all that loading a library can raise
            raise AnalyzerFailed(f"{type(error).__name__}: {str(error)[:300]}") from error

    def _make_room(self) -> None:
        self._loaded = None
        found = card() if self._line.has_gpu else None
        if found is not None:
            is_tight = found.free_mb < _ROOM_ON_GPU * found.total_mb
        else:
            is_tight = psutil.Process().memory_info().rss > KEEP_MODELS_BELOW_BYTES
        if is_tight:
            self._executor.unload()

    def _work(self, run: Any, batch: tuple[Medium, ...]) -> None:
        if self._loaded is None or not batch:
            return
        self._pool.submit(self._compute, self._loaded, run, batch)

    def _finish(self, header: Header) -> None:
        if self._loaded is not None:
            cost = asdict(self._loaded.cost())
            self._send(Message("done", {"run": header["run"], "cost": cost}))

    # --- in any thread --------------------------------------------------------------------------------------------

    def _compute(self, loaded: Loaded, run: Any, batch: tuple[Medium, ...]) -> None:
        try:
            for result in loaded.run(batch):
                if loaded.device != CPU and result.error is not None:
                    _raise_if_broken(result.error)
                self._answer(run, result)
        except BaseException as error:  # no memory: the whole process is in trouble, not this medium
            self._end(f"{type(error).__name__}: {error}")

    def _answer(self, run: Any, result: AnalyzerResult) -> None:
        header = {"run": run, "medium": result.media_id, "seconds": result.seconds, "device": result.device}
        if result.rows is not None:
            try:
                self._send(Message("result", header, Kind.ROWS, result.rows))
                return
            except BadMessage as error:
                result = AnalyzerResult(result.media_id, None, error, result.seconds)
        assert result.error is not None
        self._send(Message("result", {**header, "error": _told(result.error)}))

    def _send(self, message: Message) -> None:
        with self._sending:
            try:
                messages.write(self._sink, message)
            except OSError:
                self._end("nobody reads the results")

    def _end(self, why: str | None) -> NoReturn:
        """At once, whatever is being computed: threads inside of libraries cannot be asked to stop."""
        if why:
            self._line.say({"log": "error", "text": why[:_LOG_CHARS]})
        self._held.close()
        os._exit(1 if why else 0)


def _raise_if_broken(error: MediaPipelineError) -> None:
    """After most errors of CUDA nothing can be computed in the same process any more, whatever the medium."""
    if isinstance(error, AnalyzerFailed) and is_gpu_failure(error) and not is_out_of_memory(error):
        raise error


def _any_rows(_header: Header, schema: pa.Schema) -> pa.Schema:
    """Rows of other analyzers come out of tables, whose columns may be older than the analyzer."""
    return schema


def _told(error: MediaPipelineError) -> Header:
    return {"type": type(error).__name__, "cause": error.cause[:2000], "remedy": (error.remedy or "")[:2000] or None}


def _as_ours(error: Exception) -> MediaPipelineError:
    if isinstance(error, MediaPipelineError):
        return error
    return AnalyzerFailed(f"its frames and sound cannot be read: {type(error).__name__}: {str(error)[:300]}")


if __name__ == "__main__":
    main()
