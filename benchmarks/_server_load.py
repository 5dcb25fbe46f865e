"""What a server is asked and how it is watched while it works."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks._server_box import Box
from media_pipeline_tests._server import Server

# Rarely enough that asking does not become the load: a command takes seconds of a processor to start.
_PAGE_EVERY_S, _COMMAND_EVERY_S, _MEMORY_EVERY_S = 4.0, 30.0, 0.5
_ASSETS = "query { assetNodes { id assetKey { path } partitionStats { numMaterialized numPartitions numFailed } } }"
_RUNS = "query { runsOrError(limit: 25) { ... on Runs { results { runId status startTime endTime } } } }"
_SQL = "SELECT kind, count(*) AS n FROM media GROUP BY kind ORDER BY n DESC"
_SEARCHED = "the contract"


@dataclass
class Latencies:
    """Seconds of each kind of question, and the questions that were not answered."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def take(self, name: str, ask: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            ask()
        except (httpx.HTTPError, AssertionError):
            self.failed[name] = self.failed.get(name, 0) + 1
            return
        self.seconds.setdefault(name, []).append(time.monotonic() - began)

    def quantile(self, name: str, share: float) -> float | None:
        found = sorted(self.seconds.get(name, []))
        if len(found) < 2:
            return found[0] if found else None
        return statistics.quantiles(found, n=100, method="inclusive")[round(share * 100) - 1]


class Questions:
    """People at work: pages and their queries through the gateway, `sql` and `search` beside it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.latencies = Latencies()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._pages), threading.Thread(target=self._commands)]

    def __enter__(self) -> Questions:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _pages(self) -> None:
        with self._server.browser("operator", self._server.password) as web:
            while not self._end.wait(_PAGE_EVERY_S):
                self.latencies.take("UI, first page", lambda: _good(web.get("/")))
                self.latencies.take("UI, state of all assets", lambda: _query(web, _ASSETS))
                self.latencies.take("UI, latest runs", lambda: _query(web, _RUNS))

    def _commands(self) -> None:
        while not self._end.wait(_COMMAND_EVERY_S):
            self.latencies.take("`sql`", lambda: _succeeds(self._server, "sql", _SQL))
            self.latencies.take("`search`", lambda: _succeeds(self._server, "search", "--text", _SEARCHED))


def _good(answer: httpx.Response) -> httpx.Response:
    assert answer.status_code == 200, answer.status_code
    return answer


def _query(web: httpx.Client, query: str) -> None:
    assert "errors" not in _good(web.post("/graphql", json={"query": query})).json()


def _succeeds(server: Server, *arguments: str) -> None:
    done = server.cli(*arguments)
    assert done.returncode == 0, done.stderr


@dataclass
class Memory:
    """Bytes without the pages of files."""

    services: int = 0
    runs: int = 0
    total: int = 0


class Watched:
    """The most memory that services, runs and all together took while it was looked at."""

    def __init__(self, server: Server, box: Box) -> None:
        self._server, self._box = server, box
        self.peak = Memory()
        self.by_service: dict[str, int] = {}
        self.with_caches = 0
        self._names: dict[str, str] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(_MEMORY_EVERY_S):
            used = self._box.used_bytes()
            if unknown := used.keys() - self._names.keys():
                self._names |= {i: self._name(i) for i in unknown}
            self.with_caches = max(self.with_caches, self._box.with_caches_bytes())
            services = {self._names[i]: n for i, n in used.items() if self._names[i]}
            runs = sum(n for i, n in used.items() if not self._names[i])
            self.peak.services = max(self.peak.services, sum(services.values()))
            self.peak.runs = max(self.peak.runs, runs)
            self.peak.total = max(self.peak.total, sum(services.values()) + runs)
            for name, n in services.items():
                self.by_service[name] = max(self.by_service.get(name, 0), n)

    def _name(self, container: str) -> str:
        """Of the service; empty for a run."""
        label = '{{index .Config.Labels "com.docker.compose.service"}}'
        with suppress(AssertionError):
            return self._server.docker("inspect", "--format", label, container).strip()
        return ""
