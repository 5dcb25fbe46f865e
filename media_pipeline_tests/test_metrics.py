from __future__ import annotations

import json
import sqlite3
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from media_pipeline.errors import CorruptMedia, MediaPipelineError, UsageError
from media_pipeline.server import metrics_source
from media_pipeline.server.metrics import Exporter, server
from media_pipeline.server.metrics_backup import STATUS_FILE, backup_source, read_status
from media_pipeline.server.metrics_home import Finished
from media_pipeline.server.metrics_reasons import CLASSES, OTHER, reason_class
from media_pipeline.server.metrics_services import Service, ServicesSource, ask
from media_pipeline.server.metrics_source import Part, Problem, Source, gauge
from media_pipeline_tests._metrics import eventually, of, samples


def answered(source: Source) -> Source:
    thread = source.refresh()
    assert thread is not None
    thread.join(30)
    return source


def numbers(*values: float) -> Iterator[Part]:
    for value in values:
        yield Part(lambda _, value=value: [gauge("n", "n", value)])  # type: ignore[misc]


# --- sources --------------------------------------------------------------------------------------------------------


def test_a_source_is_read_once_per_period() -> None:
    parts = numbers(1, 2)
    source = Source(["a"], lambda: {"a": next(parts)}, every_s=3600)
    assert answered(source).refresh() is None
    assert samples(source.metrics(0)) == {("n", ()): 1}


def test_a_source_that_was_never_read_is_no_good_yet() -> None:
    source = Source(["a"], dict, every_s=0)
    assert source.problems()["a"] is not None
    assert source.metrics(0) == []


def test_numbers_outlive_a_bad_moment_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Part | Exception] = [next(numbers(1)), MediaPipelineError("it broke", "mend it")]

    def read() -> dict[str, Part]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"a": answer}

    source = Source(["a"], read, every_s=0)
    assert answered(source).problems() == {"a": None}
    assert answered(source).problems() == {"a": Problem("it broke", "mend it")}
    assert samples(source.metrics(0)) == {("n", ()): 1}
    monkeypatch.setattr(metrics_source, "KEPT_S", -1.0)
    assert source.metrics(0) == []


def test_a_part_that_fails_leaves_the_others_alone() -> None:
    good, bad = next(numbers(1)), Part(None, Problem("it is gone"))
    source = answered(Source(["a", "b", "c"], lambda: {"a": good, "b": bad}, every_s=0))
    assert samples(source.metrics(0)) == {("n", ()): 1}
    assert source.problems() == {"a": None, "b": Problem("it is gone"), "c": Problem("it was not read")}


@pytest.mark.slow
def test_a_source_that_hangs_holds_nobody_up() -> None:
    release = threading.Event()
    hanging = Source(["slow"], lambda: {"slow": Part(lambda _: ())} if release.wait(60) else {}, 0, hung_s=0.0)
    exporter = Exporter([hanging, Source(["fast"], lambda: {"fast": next(numbers(1))}, 0)], ServicesSource([], ""))
    began = time.monotonic()
    found = samples(exporter.collect())
    assert time.monotonic() - began < 5
    assert of(found, "n") == 1
    assert of(found, "exporter_source_up", source="slow") == 0
    assert of(found, "exporter_source_up", source="fast") == 1
    problem = hanging.problems()["slow"]
    assert problem is not None and "no answer" in problem.cause
    release.set()


def test_a_family_of_two_sources_stands_in_one_place() -> None:
    def part(kind: str) -> Part:
        def render(_: float) -> list[object]:
            metric = gauge("backup_last_failed", "f", labels=("kind",))
            metric.add_metric([kind], 1)
            return [metric]

        return Part(render)  # type: ignore[arg-type]

    sources = [Source([kind], lambda kind=kind: {kind: part(kind)}, 3600) for kind in ("x", "y")]  # type: ignore[misc]
    exporter = Exporter(sources, ServicesSource([], ""))
    for _ in range(2):  # what a source renders is not added to
        families = [metric.name for metric in exporter.collect()]
        assert len(families) == len(set(families))
        assert of(samples(exporter.collect()), "backup_last_failed", kind="y") == 1


def test_finished_files_are_counted_from_the_start_and_never_backwards() -> None:
    finished = Finished()
    assert [finished.total(n) for n in (1000, 1010, 1004, 1010)] == [0, 10, 10, 16]


# --- reasons --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("the file cannot be read, its index is missing or damaged (x); it was cut off; copy it again", "damaged"),
        ("the picture is cut off or damaged: 40% of it can be decoded; copy it again from its source", "damaged"),
        ("the decoder crashed (SIGSEGV) on this file; copy it again from its source", "damaged"),
        ("this is a text, not a picture, video or recording; convert it to a common format", "unsupported"),
        ("the container holds neither picture nor sound that can be decoded", "unsupported"),
        ("the picture measures 90,000 x 90,000 pixels, more than 200,000,000; reduce it", "limit"),
        ("'a.mov' has 80.0 GB, and 68.7 GB are the limit", "limit"),
        ("decoding took longer than 7200 s; raise MEDIA_PIPELINE_DECODE__MAX_WALL_S", "timeout"),
        ("ocr failed on this medium: ValueError: damaged; report this with the file", "analyzer_error"),
        ("0.5 GB free at /data, and 1.0 GB must stay free; free some space", "disk_full"),
        ("the decoding process was killed; look for a lack of memory and try again", "process_lost"),
        ("'x' is a pipe, not a file; remove it from the folder", "unsafe_path"),
        ("nobody knows", OTHER),
        (None, OTHER),
    ],
)
def test_reasons_fall_into_classes(reason: str | None, expected: str) -> None:
    assert reason_class(reason) == expected
    assert expected in CLASSES


def test_a_file_name_does_not_become_a_class() -> None:
    assert {reason_class(f"{word} {'x' * 50}") for word in ("Köln.jpg", "/srv/a", "secret")} == {OTHER}


# --- backups --------------------------------------------------------------------------------------------------------

STATUS = {
    "started_at": "2026-11-30T01:00:00+00:00",
    "finished_at": "2026-11-30T01:10:00+00:00",
    "ok": True,
    "error": None,
    "last_success_at": "2026-11-30T01:10:00+00:00",
    "bytes_added": 1234,
    "check_error": None,
}
GOOD = datetime(2026, 11, 30, 1, 10, tzinfo=UTC).timestamp()


def backup(folder: Path, now: float, first_at: float | None = None, **changes: object) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATUS_FILE).write_text(json.dumps({**STATUS, **changes}))
    found = samples(answered(backup_source(folder, lambda: first_at)).metrics(now))
    assert {labels for _, labels in found} <= {(("kind", "installation"),)}
    return {name.removeprefix("backup_"): value for (name, _), value in found.items()}


def test_a_good_backup(tmp_path: Path) -> None:
    expected = {"age_seconds": 60, "last_success_timestamp_seconds": GOOD, "last_added_bytes": 1234, "last_failed": 0}
    assert backup(tmp_path, GOOD + 60) == expected


def test_a_failed_backup_keeps_the_time_of_the_good_one(tmp_path: Path) -> None:
    found = backup(tmp_path, GOOD + 60, ok=False, finished_at="2026-11-30T01:10:30+00:00")
    assert found == {"age_seconds": 60, "last_success_timestamp_seconds": GOOD, "last_failed": 1}


def test_damage_that_a_check_found_is_a_failure(tmp_path: Path) -> None:
    assert backup(tmp_path, GOOD, check_error="the repository is damaged")["last_failed"] == 1


def test_without_a_backup_its_age_counts_from_the_first_medium(tmp_path: Path) -> None:
    source = answered(backup_source(tmp_path, lambda: 1000.0))
    assert samples(source.metrics(1100)) == {("backup_age_seconds", (("kind", "installation"),)): 100}
    running = backup(tmp_path, 1200, first_at=1000, finished_at=None, ok=False, last_success_at=None)
    assert running == {"age_seconds": 200}


def test_where_nobody_backs_up_nothing_is_told(tmp_path: Path) -> None:
    source = answered(backup_source(tmp_path / "none" / "state", lambda: 0.0))
    assert source.metrics(0) == []
    assert source.problems() == {"backup": None}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"finished_at": "yesterday", "ok": true}'])
def test_a_broken_status_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS_FILE).write_text(text)
    with pytest.raises(MediaPipelineError, match="not what a backup writes"):
        read_status(tmp_path / STATUS_FILE)


# --- services -------------------------------------------------------------------------------------------------------


@contextmanager
def web(status: int = 200, certificate: tuple[Path, Path] | None = None) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def certificate(folder: Path, days: float) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "media.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    paths = folder / "c.pem", folder / "k.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def test_services_that_answer_and_do_not(tmp_path: Path) -> None:
    with web() as good, web(503) as bad:
        services = [
            Service("good", f"http://127.0.0.1:{good}/server_info"),
            Service("bad", f"http://127.0.0.1:{bad}/"),
            Service("open", f"tcp://127.0.0.1:{good}"),
            Service("gone", "http://127.0.0.1:1/"),
            Service("code", f"grpc://127.0.0.1:{good}"),  # something listens, and speaks another language
            Service("nameless", "http://no-such-host.invalid/"),
        ]
        exporter = Exporter([], ServicesSource(services, ""))
        exporter.refresh(30)
        found = samples(exporter.collect())
    up = {dict(labels)["service"]: value for (name, labels), value in found.items() if name == "service_up"}
    assert up == {"good": 1, "bad": 0, "open": 1, "gone": 0, "code": 0, "nameless": 0}
    is_well, told = exporter.health()
    assert not is_well
    assert told["services"]["good"] == {"ok": True}
    assert told["services"]["bad"]["cause"] == "it answers with status 503"
    assert all(told["services"][name]["remedy"] for name in ("bad", "gone", "code", "nameless"))


@pytest.mark.parametrize("days", [30, -2])
def test_the_certificate_of_the_gateway(tmp_path: Path, days: int) -> None:
    """Also one that nobody vouches for, or that has ended."""
    with web(certificate=certificate(tmp_path, days)) as port:
        source = answered(ServicesSource([Service("gateway", f"tls://127.0.0.1:{port}")], "media.example"))
    found = samples(source.metrics(time.time()))
    assert of(found, "service_up", service="gateway") == 1
    assert of(found, "certificate_expiry_seconds", service="gateway") == pytest.approx(days * 86400, abs=120)


def test_a_code_server_says_that_it_serves() -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    service = health.HealthServicer()
    running = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(service, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        service.set("DagsterApi", health_pb2.HealthCheckResponse.SERVING)
        assert ask(Service("code", f"grpc://127.0.0.1:{port}")).problem is None
        service.set("DagsterApi", health_pb2.HealthCheckResponse.NOT_SERVING)
        problem = ask(Service("code", f"grpc://127.0.0.1:{port}")).problem
        assert problem is not None and "does not serve" in problem.cause
    finally:
        running.stop(None)


@pytest.mark.parametrize("text", ["web", "web=", "=http://x", "web=ftp://x", "web=http://"])
def test_what_is_no_service(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=URL"):
        Service.parse(text)


# --- answers --------------------------------------------------------------------------------------------------------


@contextmanager
def serving(exporter: Exporter) -> Iterator[str]:
    with server(exporter, "127.0.0.1", 0) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_what_is_answered() -> None:
    healths: list[Part] = [Part(lambda _: [gauge("n", "n", 1)]), Part(None, Problem("it broke", "mend it"))]
    source = Source(["a"], lambda: {"a": healths[0]}, every_s=0)
    with serving(Exporter([source], ServicesSource([], ""))) as url:
        assert get(f"{url}/-/healthy") == (200, "ok\n")
        assert of(samples(get(f"{url}/metrics")[1]), "n") == 1
        status, body = get(f"{url}/healthz")
        assert (status, json.loads(body)["status"]) == (200, "ok")
        del healths[0]
        eventually(lambda: get(f"{url}/healthz")[0] == 503)
        assert json.loads(get(f"{url}/healthz")[1])["sources"]["a"] == {
            "ok": False,
            "cause": "it broke",
            "remedy": "mend it",
        }
        assert of(samples(get(f"{url}/metrics")[1]), "exporter_source_up", source="a") == 0
        assert get(f"{url}/-/healthy") == (200, "ok\n")  # the container is not restarted for what others lack
        assert get(f"{url}/")[0] == 404


def test_causes_are_said_as_the_product_says_them() -> None:
    assert Problem.of(CorruptMedia("a", "b")) == Problem("a", "b")
    assert Problem.of(sqlite3.OperationalError("no such\ntable: x")) == Problem("OperationalError: no such table: x")
