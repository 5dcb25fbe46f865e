"""A worker as an executor's partner: told what to compute, fed within bounds, its answers taken apart."""

from __future__ import annotations

import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pydantic_core

from media_pipeline import errors
from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice, Options
from media_pipeline.errors import AnalyzerFailed, ContractViolation, MediaPipelineError, StorageConflict, WorkerLost
from media_pipeline.execution import uploads
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.hello import Hello, code_digest
from media_pipeline.execution.messages import MAX_BYTES, BadMessage, Header, Kind, Message
from media_pipeline.execution.places import Place
from media_pipeline.execution.worker_line import REMEDY, WorkerLine
from media_pipeline.storage.costs import Cost
from media_pipeline.wording import printable

START_S = 120.0
# Batches beyond those it can compute at a time: on their way while it computes, and no more than that.
_AHEAD = 2
_MAX_BATCH = 1024
_MAX_DEVICE = 100

_ERRORS = {
    name: cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type) and issubclass(cls, MediaPipelineError) and cls is not MediaPipelineError
}


class Cannot(MediaPipelineError):
    """The worker does not compute what was asked for; it is well otherwise."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of one medium: columns and names are as they must be, values are as they came."""

    name: str  # under which it was sent
    medium: Medium
    result: AnalyzerResult


class WorkerClient:
    """One worker, for one thread.

    Every method but `close` raises WorkerLost when it is gone: it died, was silent for too long, or sent what is no
    answer. `in_flight` are the media, by name, that it owes then.

    Args:
        heartbeat_timeout_s: silence after which it counts as lost
        arguments: appended to the place's command
        max_bytes: of one of its messages
    """

    def __init__(
        self,
        place: Place,
        *,
        heartbeat_timeout_s: float,
        arguments: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        start_s: float = START_S,
    ) -> None:
        self.place = place
        self.in_flight: dict[str, Medium] = {}
        self.batch_media = 1  # media to send at a time
        self._is_greeted = False
        self._spec: AnalyzerSpec | None = None
        self._model = ""
        self._run, self._began = 0, 0.0
        self._started_s = 0.0  # until it could begin: its own start, where this is its first run, and the model's
        self._sent_bytes, self._sending_s = 0, 0.0  # of frames and sound in this run
        self._answered = (0, 0, 0.0)  # media, frames and seconds of sound in this run
        self._abandoned: dict[int, tuple[AnalyzerSpec, set[str]]] = {}  # by run
        self._held: OrderedDict[str, dict[str, int]] = OrderedDict()  # bytes there, by name and part
        self.hello: Hello
        self._moved = (0, 0)
        self._line = WorkerLine(
            place, arguments, self._rows, timeout_s=heartbeat_timeout_s, start_s=start_s, max_bytes=max_bytes
        )

    def moved(self) -> tuple[int, int]:
        """Bytes sent and received since this was asked last."""
        now = (self._line.sent_bytes, self._line.received_bytes)
        before, self._moved = self._moved, now
        return now[0] - before[0], now[1] - before[1]

    @property
    def pid(self) -> int:
        return self._line.pid

    def greet(self) -> None:
        """Wait until it is there. The first thing to do; once is enough.

        Raises:
            BadMessage: it is not this program.
        """
        if self._is_greeted:
            return
        began = time.monotonic()
        self._line.send(Message("hello"))
        self.hello = Hello.from_json(self._expect("hello").header)
        # Here it is this very installation, and an upgrade of it while this process runs is what fingerprints are for.
        if self.place.is_foreign and self.hello.code != code_digest():
            raise BadMessage(f"{self.place.name} runs another version of this program", "install this one there")
        self._is_greeted = True
        self._started_s = time.monotonic() - began

    def begin(self, spec: AnalyzerSpec, choice: ModelChoice, options: Options) -> None:
        """Have the analyzer loaded.

        Raises:
            Cannot: it has another model, or none, or it cannot be loaded.
        """
        self._run += 1
        self._spec, self._model, self._answered = spec, choice.name, (0, 0, 0.0)
        self._began, self._sent_bytes, self._sending_s = time.monotonic(), 0, 0.0
        asked: Header = {
            "run": self._run,
            "analyzer": spec.name,
            # What only makes it quicker was set for this machine.
            "options": options.model_dump(mode="json") if self.place.is_foreign else _all_of(options),
            "fingerprint": spec.fingerprint(choice, options),
        }
        self._line.send(Message("run", asked))
        answer = self._expect("ready", "cannot")
        if answer.operation == "cannot":
            error = _error(answer.header)
            raise Cannot(error.cause, error.remedy)
        self.batch_media = answer.header.get("batch_media", 0)
        if not isinstance(self.batch_media, int) or not 1 <= self.batch_media <= _MAX_BATCH:
            raise self.refuse(f"batches of {str(self.batch_media)[:20]} media")
        self._started_s += time.monotonic() - self._began

    @property
    def window(self) -> int:
        """Media that may be in flight."""
        return (self.hello.threads + _AHEAD) * self.batch_media

    def fits(self, medium: Medium) -> bool:
        """Whether it can be sent at all."""
        if not uploads.is_sendable(medium):
            return False
        if not self.place.is_foreign:
            return True
        with contextlib.suppress(OSError):
            return uploads.input_bytes(medium) <= self.hello.max_held_bytes / (self.window + 1)
        return False

    def send(self, batch: Sequence[tuple[str, Medium]]) -> None:
        """Media that it `fits`, each under a name. Returns when they are in the pipe.

        Raises:
            StorageConflict: one of them cannot be read here; none of them is in flight.
        """
        self.in_flight.update(batch)  # from here on they are lost with it
        try:
            for name, medium in batch:
                if self.place.is_foreign:
                    self._upload(name, medium)
                else:
                    self._send_all(uploads.table_messages(medium, name))
            described = [uploads.described(m, name, by_path=not self.place.is_foreign) for name, m in batch]
        except StorageConflict:
            for name, _ in batch:
                del self.in_flight[name]
            raise
        self._line.send(Message("work", {"run": self._run, "media": described}))

    def receive(self, timeout_s: float | None = None) -> Answer | None:
        """The next answer; None where none came in time."""
        message = self._line.receive(timeout_s)
        if message is None or self._is_abandoned(message):
            return None
        name = message.header.get("medium")
        if message.operation != "result" or message.header.get("run") != self._run or name not in self.in_flight:
            raise self.refuse(f"answered {message.operation[:20]!r} for {str(name)[:70]!r}, which was not asked for")
        answer = self._answer(name, message)
        del self.in_flight[name]
        media, frames, audio_s = self._answered
        self._answered = (media + 1, frames + answer.result.frames, audio_s + answer.result.audio_s)
        return answer

    def end(self) -> Cost | None:
        """The analyzer is through. What it took, where that is a sensible answer."""
        self._line.send(Message("end", {"run": self._run}))
        told = self._expect("done").header.get("cost")
        cpu_s, wall_s, load_s = (_seconds(told, name) for name in ("cpu_s", "wall_s", "load_s"))
        if self._spec is None or cpu_s is None or wall_s is None:
            return None
        media, frames, audio_s = self._answered
        device = printable(str(told["device"])[:_MAX_DEVICE]) if isinstance(told, dict) and "device" in told else "cpu"
        started_s, self._started_s = self._started_s, 0.0
        return Cost(
            self._spec.name,
            self._model,
            device,
            media,
            frames,
            audio_s,
            cpu_s,
            wall_s=min(wall_s, time.monotonic() - self._began),
            load_s=None if load_s is None else started_s,
            machine=self.place.machine,
            sent_bytes=self._sent_bytes,
            sending_s=self._sending_s,
        )

    def lost(self, why: str) -> WorkerLost:
        """End it, because there is no use in waiting."""
        self._line.give_up(why)
        return WorkerLost(f"{self.place.name} {why}", REMEDY)

    def refuse(self, why: str) -> BadMessage:
        """End it for what it answered."""
        self._line.give_up(why)
        return BadMessage(f"{self.place.name} {why}", REMEDY)

    def abandon(self) -> None:
        """What is in flight is not wanted any more; what is answered for it later is passed over."""
        if self._spec is not None:
            self._abandoned[self._run] = (self._spec, set(self.in_flight))
        self.in_flight = {}

    def interrupt(self) -> None:
        """For another thread: whatever the worker's own waits for ends with WorkerLost."""
        self._line.give_up("is not needed any more")

    def close(self, *, at_once: bool = False) -> None:
        """End it; may be called again."""
        self._line.close(at_once=at_once)

    def _expect(self, *operations: str) -> Message:
        message = None
        while message is None or self._is_abandoned(message):
            message = self._line.receive()
        if message.operation not in operations or message.header.get("run", self._run) != self._run:
            raise self.refuse(f"answered {message.operation[:20]!r} where {operations[0]!r} was expected")
        return message

    def _rows(self, header: Header, _schema: pa.Schema) -> pa.Schema | None:
        run, spec = header.get("run"), None
        if run == self._run:
            spec = self._spec
        elif isinstance(run, int) and run in self._abandoned:
            spec = self._abandoned[run][0]
        return spec.schema if spec is not None else None

    def _is_abandoned(self, message: Message) -> bool:
        run = message.header.get("run")
        names = self._abandoned[run][1] if isinstance(run, int) and run in self._abandoned else set()
        name = message.header.get("medium")
        if message.operation != "result" or name not in names:
            return False
        names.remove(name)
        return True

    def _upload(self, name: str, medium: Medium) -> None:
        """What is not there yet; what was there longest without being used makes room for it."""
        there = self._held.setdefault(name, {})
        self._held.move_to_end(name)
        parts: dict[str, Iterator[Message]] = {}
        if uploads.FRAMES not in there:
            parts[uploads.FRAMES] = uploads.frame_messages(medium, name)
        if uploads.SOUND_FILES not in there:
            parts[uploads.SOUND_FILES] = uploads.sound_messages(medium, name)
        self._make_room(uploads.input_bytes(medium) if parts else 0)
        began = time.monotonic()
        for part, pieces in parts.items():
            if sent := self._send_all(pieces, name):
                there[part] = sent
                self._sent_bytes += sent
        self._sending_s += time.monotonic() - began

    def _make_room(self, size: int) -> None:
        total = size + sum(sum(parts.values()) for parts in self._held.values())
        gone = []
        for name in list(self._held):
            if total <= self.hello.max_held_bytes:
                break
            if name not in self.in_flight:
                total -= sum(self._held.pop(name).values())
                gone.append(name)
        if gone:
            self._line.send(Message("drop", {"media": gone}))

    def _send_all(self, pieces: Iterable[Message], name: str | None = None) -> int:
        """Bytes sent.

        Raises:
            StorageConflict: the cache let them go meanwhile.
        """
        size = 0
        iterator = iter(pieces)
        while True:
            try:
                piece = next(iterator, None)
            except (OSError, ValueError, pa.ArrowException, StorageConflict) as error:
                if name is not None:
                    self._held.pop(name, None)
                    self._line.send(Message("drop", {"media": [name]}))
                raise StorageConflict(f"frames or sound left the cache while they were read: {error}") from None
            if piece is None:
                return size
            self._line.send(piece)
            size += piece.table.nbytes

    def _answer(self, name: str, message: Message) -> Answer:
        medium, told, spec = self.in_flight[name], message.header, self._spec
        assert spec is not None
        seconds, device = _seconds(told, "seconds"), told.get("device")
        if seconds is None or not isinstance(device, str) or (message.kind is Kind.ROWS) == ("error" in told):
            raise self.refuse("answered with neither rows nor an error")
        rows, error = None, None
        if message.kind is Kind.ROWS:
            try:
                spec.check(message.table, {name})
            except ContractViolation as violation:
                raise self.refuse(f"answered with what was not asked for: {violation.cause}") from None
            rows = _renamed(message.table, name, medium.media_id)
        else:
            error = _error(told["error"])
        device = printable(device[:_MAX_DEVICE])
        sizes = (medium.frame_count, medium.audio_s)
        return Answer(name, medium, AnalyzerResult(medium.media_id, rows, error, seconds, *sizes, device))


def _all_of(options: Options) -> Any:
    """Also those that `model_dump` leaves out, because they are no part of the fingerprint."""
    return pydantic_core.to_jsonable_python(dict(options))


def _renamed(rows: pa.Table, name: str, media_id: str) -> pa.Table:
    if name == media_id:
        return rows
    ids = pa.array([media_id] * rows.num_rows, pa.string())
    return rows.set_column(0, rows.schema.field(0), ids)


def _seconds(told: Any, name: str) -> float | None:
    value = told.get(name) if isinstance(told, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _error(told: Any) -> MediaPipelineError:
    """The typed error that a worker reports."""
    if not isinstance(told, dict):
        return AnalyzerFailed("the worker does not say what failed")
    remedy = told.get("remedy")
    cls = _ERRORS.get(str(told.get("type")), AnalyzerFailed)
    return cls(printable(str(told.get("cause"))[:2000]), printable(str(remedy)[:2000]) if remedy else None)
