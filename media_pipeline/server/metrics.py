"""The exporter: `/metrics` for Prometheus, `/healthz` for people and programs, `/-/healthy` for its container.

Numbers are read when somebody asks, each kind at most so often, on threads of their own: an answer never waits longer
than `PATIENCE_S`, and what was not read by then is told as it was last. Of media no name, path or text is told, and no
label takes values that come from outside.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from media_pipeline.config import Settings
from media_pipeline.server.metrics_backup import backup_source
from media_pipeline.server.metrics_dagster import dagster_source
from media_pipeline.server.metrics_home import home_sources
from media_pipeline.server.metrics_services import Service, ServicesSource
from media_pipeline.server.metrics_source import Problem, Source, gauge

PATIENCE_S = 0.7
_REQUEST_S = 10.0


class Exporter(Collector):
    """All sources, and what is told of them."""

    def __init__(self, sources: Sequence[Source], services: ServicesSource) -> None:
        self._sources, self._services = (*sources, services), services
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    @classmethod
    def of(cls, settings: Settings, services: Sequence[Service]) -> Exporter:
        of_home, first_at = home_sources(settings)
        sources = [*of_home, dagster_source(settings.home), backup_source(settings.server.backup_state, first_at)]
        return cls(sources, ServicesSource(services, settings.server.domain))

    def refresh(self, patience_s: float = PATIENCE_S) -> None:
        """Begins to read what is due and waits a little for it."""
        deadline = time.monotonic() + patience_s
        for thread in [source.refresh() for source in self._sources]:
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        self.refresh()
        now = time.time()
        merged: dict[str, Metric] = {}
        for source in self._sources:
            for metric in source.metrics(now):
                # Backups are known from several sources; a family stands in one place.
                if metric.name in merged:
                    merged[metric.name].samples.extend(metric.samples)
                else:
                    merged[metric.name] = metric
        yield from merged.values()
        up = gauge("exporter_source_up", "1: the source could be read last time.", labels=("source",))
        for name, problem in self._problems().items():
            up.add_metric([name], int(problem is None))
        yield up

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and what is not, with cause and remedy."""
        self.refresh()
        services = {name: answer.problem for name, answer in self._services.answers.items()}
        for service in self._services.services:
            services.setdefault(service.name, Problem("it has not been asked yet", "wait"))
        sources = self._problems()
        is_well = not any((*services.values(), *sources.values()))
        return is_well, {
            "status": "ok" if is_well else "degraded",
            "services": {name: _told(problem) for name, problem in services.items()},
            "sources": {name: _told(problem) for name, problem in sources.items()},
        }

    def _problems(self) -> dict[str, Problem | None]:
        return {name: problem for source in self._sources for name, problem in source.problems().items()}


def _told(problem: Problem | None) -> dict[str, object]:
    return {"ok": True} if problem is None else {"ok": False, "cause": problem.cause, "remedy": problem.remedy}


def server(exporter: Exporter, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and wants `serve_forever`."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_S
        server_version = "media-pipeline"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(exporter.registry))
            elif path == "/healthz":
                is_well, found = exporter.health()
                self._answer(200 if is_well else 503, "application/json", json.dumps(found, indent=2).encode() + b"\n")
            elif path == "/-/healthy":
                self._answer(200, "text/plain; charset=utf-8", b"ok\n")
            else:
                self._answer(404, "text/plain; charset=utf-8", b"/metrics, /healthz or /-/healthy\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass  # somebody asks every few seconds

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # whoever asked has hung up

    return Server((host, port), Handler)
