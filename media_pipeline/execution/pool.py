"""Analyzers on rented machines: batches to whoever is free, the rest on this one."""

from __future__ import annotations

import logging
import os
import secrets
import sysconfig
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice, Options
from media_pipeline.config import Settings
from media_pipeline.execution.executor import AnalyzerResult, Executor
from media_pipeline.execution.places import Fleet, Place
from media_pipeline.execution.pool_run import PoolRun
from media_pipeline.execution.worker_client import WorkerClient
from media_pipeline.storage.costs import Cost

# Of one message of a rented machine: rows of one medium. This one's own workers may send more.
_FOREIGN_BYTES = 64 * 1024**2

log = logging.getLogger(__name__)


def may_leave(
    spec: AnalyzerSpec, choice: ModelChoice, settings: Settings, options: Options | None = None
) -> str | None:
    """Why an analyzer stays on this machine; None: a rented one may and can compute it.

    Frames and sound may leave, and nothing else: no rows of other analyzers, no secrets, no files of the user's, no
    paths, which are names. And it must gain something there: a path to the GPU.
    """
    if spec.upstream_analyzers:
        return f"it reads what {' and '.join(spec.upstream_analyzers)} found, which stays here"
    if spec.reads_scores:
        return "it reads the scores of frames, which stay here"
    if spec.reads_frame_times:
        return "it reads the table of frames, which stays here"
    if choice.secret is not None:
        return "it uses a key, which stays here"
    if choice.path is not None and not _is_known(choice.path, settings):
        return f"its model {choice.name} is a file of yours, which stays here"
    if options is not None and _names_a_path(options.model_dump(mode="json")):
        return "its options name a file of yours, which stays here"
    if settings.gpu.needs_cuda and (spec.uses_gpu is None or not spec.uses_gpu(choice)):
        return f"it does not compute on a GPU with {choice.name}"
    return None


class PooledExecutor:
    """Hands media to the places of a fleet, several at once, and to this machine what they must not or cannot do.

    Workers live as long as the executor: models stay loaded there, and what was uploaded for one analyzer serves the
    next. A place that is lost is reported to the fleet; what it owed goes to another one, or is computed here.

    What a foreign place answers is checked (`foreign`), held back until a part of it has proved right, and a share of
    it is computed here as well (`trial`).

    Args:
        fleet: stays its owner's: `close` ends the workers, not the machines
        here: this machine's; stays its owner's, too
        say: told what people should know, one line each
        on_cost: told what each run of an analyzer took on each place
    """

    def __init__(
        self,
        fleet: Fleet,
        here: Executor,
        *,
        settings: Settings,
        say: Callable[[str], None],
        on_cost: Callable[[Cost], None] | None = None,
    ) -> None:
        self.fleet, self.here, self.settings, self.on_cost = fleet, here, settings, on_cost
        # Media by analyzer whose results were handed out before the place that computed them lied.
        self.suspects: dict[str, list[str]] = {}
        self._say = say
        self._said: set[str] = set()
        self._names: dict[str, str] = {}
        self._workers: dict[str, WorkerClient] = {}
        self._lost: set[str] = set()
        self._lock = threading.Lock()

    def run(
        self, spec: AnalyzerSpec, choice: ModelChoice, options: Options, media: Iterable[Medium]
    ) -> Iterator[AnalyzerResult]:
        """Results as they complete, one per medium.

        Raises:
            MediaPipelineError: what has to be computed here cannot be.
        """
        reason = may_leave(spec, choice, self.settings, options)
        if reason is not None:
            log.info("%s is computed here: %s", spec.name, reason)
            return self.here.run(spec, choice, options, media)
        return PoolRun(self, spec, choice, options, media).results()

    def unload(self) -> None:
        self.here.unload()

    def close(self) -> None:
        """Ends the workers, not the machines they are on; may be called again."""
        with self._lock:
            workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.close()

    # --- for its runs ---------------------------------------------------------------------------------------------

    def name_of(self, medium: Medium) -> str:
        """What places know a medium by: it says nothing, and another executor gives another one."""
        return self._names.setdefault(medium.media_id, secrets.token_hex(16))

    def worker(self, place: Place) -> WorkerClient:
        """The worker there, started if there is none; it is to be greeted.

        Raises:
            WorkerLost: there is none to be had.
        """
        with self._lock:
            worker = self._workers.get(place.name)
        if worker is None:
            timeout_s = self.settings.gpu.heartbeat_timeout_s
            limits: dict[str, Any] = {"max_bytes": _FOREIGN_BYTES} if place.is_foreign else {}
            worker = WorkerClient(place, heartbeat_timeout_s=timeout_s, **limits)
            with self._lock:
                self._workers[place.name] = worker
        return worker

    def discard(self, place: Place) -> None:
        """End the worker there, in the middle of whatever it does."""
        with self._lock:
            worker = self._workers.pop(place.name, None)
        if worker is not None:
            worker.close(at_once=True)

    def is_lost(self, place: Place) -> bool:
        return place.name in self._lost

    def lost(
        self, place: Place, why: str, analyzer: str, relied_on: Collection[str], tell: Callable[[str], None]
    ) -> None:
        self._lost.add(place.name)
        self.fleet.lost(place, why)
        tell(f"{place.name} is given up: {why}")
        if relied_on:
            self.suspects.setdefault(analyzer, []).extend(relied_on)
            tell(
                f"{len(relied_on)} results of {analyzer} were taken from {place.name} before that, and should be made "
                "again; the log names the media"
            )
            log.error("results of %s not to be relied on: %s", analyzer, ", ".join(relied_on))

    def tell(self, words: str) -> None:
        self._say(words)

    def tell_once(self, words: str, tell: Callable[[str], None] | None = None) -> None:
        with self._lock:
            if words in self._said:
                return
            self._said.add(words)
        (tell or self._say)(words)


def _is_known(path: Path, settings: Settings) -> bool:
    """Whether a rented machine can have it: a model out of the catalogue, or a file of an installed package."""
    paths = sysconfig.get_paths()
    folders = [settings.models, *(Path(paths[name]) for name in ("purelib", "platlib"))]
    resolved = path.resolve()
    return any(resolved.is_relative_to(folder.resolve()) for folder in folders)


def _names_a_path(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_names_a_path, value.values()))
    if isinstance(value, list):
        return any(map(_names_a_path, value))
    return isinstance(value, str) and (os.sep in value or value.startswith("~"))
