"""Which services answer, and how long the gateway's certificate is good.

A service is named with an address of what to ask:

    http://webserver:3000/server_info     answers with a status below 400
    grpc://code:4000                      says that it serves (grpc.health.v1)
    tls://gateway:8443                    takes a TLS connection; its certificate is looked at, and not judged
    tcp://postgres:5432                   takes a connection
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from prometheus_client.core import Metric

from media_pipeline.errors import MediaPipelineError, UsageError
from media_pipeline.server.metrics_source import Part, Problem, Render, Source, gauge

EVERY_S = 15.0
_TIMEOUT_S = 4.0
_DAGSTER_HEALTH = b"\x0a\x0aDagsterApi"  # HealthCheckRequest(service="DagsterApi"), which Dagster's code servers answer
_SERVING = b"\x08\x01"  # HealthCheckResponse(status=SERVING)
_SCHEMES = ("http", "grpc", "tls", "tcp")


@dataclass(frozen=True, slots=True)
class Service:
    """Something that should answer."""

    name: str
    url: str

    @classmethod
    def parse(cls, text: str) -> Service:
        """`NAME=URL`. Raises: UsageError."""
        name, _, url = text.partition("=")
        parts = urlsplit(url)
        if not name or parts.scheme not in _SCHEMES or not parts.hostname:
            raise UsageError(f"{text!r} is no service", f"write NAME=URL with one of {', '.join(_SCHEMES)}")
        return cls(name, url)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking."""

    problem: Problem | None
    not_after: float | None = None  # of its certificate, seconds since 1970


class ServicesSource(Source):
    """All services, asked at once.

    Args:
        server_name: the name that a TLS server is asked for: it may have several certificates
    """

    def __init__(self, services: Sequence[Service], server_name: str) -> None:
        self.services = tuple(services)
        self._server_name = server_name
        self.answers: dict[str, Answer] = {}
        super().__init__(("services",), self._ask_all, EVERY_S)

    def _ask_all(self) -> Mapping[str, Part]:
        if not self.services:
            return {"services": Part(lambda _: ())}
        with ThreadPoolExecutor(len(self.services)) as threads:
            answers = list(threads.map(lambda service: ask(service, self._server_name), self.services))
        self.answers = {service.name: answer for service, answer in zip(self.services, answers, strict=True)}
        return {"services": Part(_render(self.answers))}


def ask(service: Service, server_name: str = "") -> Answer:
    """One attempt; never raises."""
    url = urlsplit(service.url)
    try:
        return Answer(None, _PROBES[url.scheme](url, server_name))
    except MediaPipelineError as error:
        return Answer(Problem(error.cause, error.remedy or ""))
    except socket.gaierror:
        return Answer(Problem(f"{url.hostname} has no address: its container does not run", _look_at(service.name)))
    except (OSError, ValueError) as error:
        what = "it did not answer in time" if isinstance(error, TimeoutError) else f"it does not answer ({error})"
        return Answer(Problem(what, _look_at(service.name)))


def _look_at(name: str) -> str:
    return f"`make logs` shows what {name} says; `make status` whether it runs"


def _http(url: SplitResult, _: str) -> None:
    import http.client

    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", url.path or "/")
        status = connection.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(type(error).__name__) from error
    finally:
        connection.close()
    if status >= 400:
        raise MediaPipelineError(f"it answers with status {status}", _look_at(url.hostname or ""))


def _grpc(url: SplitResult, _: str) -> None:
    import grpc

    with grpc.insecure_channel(url.netloc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = check(_DAGSTER_HEALTH, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise OSError(error.code().name.lower()) from None
    if answer != _SERVING:
        raise MediaPipelineError("it says that it does not serve", _look_at(url.hostname or ""))


def _tcp(url: SplitResult, _: str) -> None:
    socket.create_connection((url.hostname or "", url.port or 0), _TIMEOUT_S).close()


def _tls(url: SplitResult, server_name: str) -> float:
    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # an own certificate has an end as well
    with (
        socket.create_connection((url.hostname or "", url.port or 443), _TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=server_name or url.hostname) as secure,
    ):
        certificate = secure.getpeercert(binary_form=True)
    if certificate is None:
        raise MediaPipelineError("it has no certificate", _look_at(url.hostname or ""))
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()


_PROBES: dict[str, Callable[[SplitResult, str], float | None]] = {
    "http": _http,
    "grpc": _grpc,
    "tcp": _tcp,
    "tls": _tls,
}


def _render(answers: Mapping[str, Answer]) -> Render:
    ends = {name: answer.not_after for name, answer in answers.items() if answer.not_after is not None}

    def render(now: float) -> Iterable[Metric]:
        up = gauge("service_up", "1: the service answers.", labels=("service",))
        for name, answer in answers.items():
            up.add_metric([name], int(answer.problem is None))
        yield up
        if ends:
            left = gauge("certificate_expiry_seconds", "Until the certificate of a service ends.", labels=("service",))
            for name, end in ends.items():
                left.add_metric([name], end - now)
            yield left

    return render
