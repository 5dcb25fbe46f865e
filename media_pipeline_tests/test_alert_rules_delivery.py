"""Every alert on its whole way: numbers, Prometheus, Alertmanager, and two receivers of this machine."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from media_pipeline_tests._alert_rules import MONITORING, RULES, free_port, program, rules
from media_pipeline_tests._metrics import eventually
from media_pipeline_tests.test_alerts import (  # noqa: F401 - fixtures
    Hook,
    MailServer,
    certificate,
    hook,
    mail,
)

pytestmark = pytest.mark.slow

# Numbers of a bad day: all at once. `{n}` grows with each scrape.
BAD_DAY = """\
media_pipeline_media_oldest_waiting_age_seconds 9000
media_pipeline_media_finished_total 7
media_pipeline_disk_free_bytes 5
media_pipeline_disk_size_bytes 100
media_pipeline_backup_last_failed{kind="installation"} 1
media_pipeline_backup_age_seconds{kind="installation"} 200000
media_pipeline_gpu_spent_usd{period="day"} 2.5
media_pipeline_gpu_spent_usd{period="month"} 19.9
media_pipeline_gpu_limit_usd{period="day"} 3
media_pipeline_gpu_limit_usd{period="month"} 20
media_pipeline_gpu_reserved_usd 0
media_pipeline_lease_oldest_age_seconds 50000
media_pipeline_lease_deadline_seconds 43200
media_pipeline_exporter_source_up{source="dagster"} 1
media_pipeline_exporter_source_up{source="gpu"} 0
media_pipeline_daemon_heartbeat_age_seconds{daemon="sensor"} 900
media_pipeline_certificate_expiry_seconds{service="gateway"} 86400
media_pipeline_service_up{service="viewer"} 0
media_pipeline_failures{stage="ocr",reason="damaged"} {n}
alertmanager_notifications_failed_total{integration="email"} {n}
"""


@dataclass
class Numbers:
    text: str
    port: int = 0
    scrapes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def exporter(numbers: Numbers) -> Iterator[Numbers]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with numbers.lock:
                numbers.scrapes += 1
                body = numbers.text.replace("{n}", str(numbers.scrapes * 20)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        numbers.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield numbers
        server.shutdown()
        thread.join()


@contextmanager
def running(folder: Path, name: str, *args: str) -> Iterator[None]:
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen([program(name), *args], cwd=folder, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()


@contextmanager
def alertmanager(folder: Path, configuration: Path, port: int) -> Iterator[None]:
    with running(
        folder,
        "prometheus-alertmanager",
        f"--config.file={configuration}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.route-prefix=/alertmanager",
        "--cluster.listen-address=",
    ):
        yield


def at_once(text: str) -> str:
    """The rules as they are, but without waiting: only how long something must last is another."""
    return re.sub(r"^( +for:) \w+$", r"\1 0s", text, flags=re.MULTILINE)


def alertmanager_configuration(folder: Path, **settings: str) -> Path:
    """What the service would start with, but for the patience with which it gathers alerts."""
    environment = {**os.environ, **{f"MEDIA_PIPELINE_ALERTS__{name}": value for name, value in settings.items()}}
    made = subprocess.run(
        [sys.executable, str(MONITORING / "alertmanager_config.py"), str(MONITORING / "alert.tmpl")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = json.loads(made.stdout)
    found["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    path = folder / "alertmanager.yml"
    path.write_text(json.dumps(found))
    return path


def prometheus_configuration(folder: Path, exporter_port: int, alertmanager_port: int) -> Path:
    """That of the service, at other addresses and faster. A second `metrics` is not there."""
    found = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    found["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    found["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    jobs["media-pipeline"]["static_configs"] = [{"targets": [f"127.0.0.1:{exporter_port}", f"127.0.0.1:{free_port()}"]}]
    found["scrape_configs"] = [jobs["media-pipeline"]]
    (folder / "alert-rules.yml").write_text(at_once(RULES.read_text(encoding="utf-8")))
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(found))
    return path


def posted(hook: Hook) -> list[dict[str, object]]:  # noqa: F811
    return [alert for _, body in list(hook.got) for alert in json.loads(body)["alerts"]]


def names(alerts: list[dict[str, object]], status: str) -> set[str]:
    return {alert["labels"]["alertname"] for alert in alerts if alert["status"] == status}  # type: ignore[index]


def letters(server: MailServer) -> list[tuple[str, str]]:
    """(subject, text)."""
    parsed = [email.message_from_bytes(message, policy=email.policy.default) for message in list(server.messages)]
    return [(str(letter["Subject"]), letter.get_body(("plain",)).get_content()) for letter in parsed]  # type: ignore[attr-defined]


def test_every_alert_reaches_a_webhook_and_a_mailbox(
    tmp_path: Path,
    hook: Hook,  # noqa: F811
    mail: MailServer,  # noqa: F811
    certificate: tuple[Path, Path],  # noqa: F811
) -> None:
    """With STARTTLS, a password from a file, and the address of the webhook from a file."""
    program("prometheus"), program("prometheus-alertmanager")
    (tmp_path / "url").write_text(f"{hook.url}\n")
    (tmp_path / "password").write_text("hunter2")
    manager, prometheus = free_port(), free_port()
    configuration = alertmanager_configuration(
        tmp_path,
        WEBHOOK_URL_FILE=str(tmp_path / "url"),
        EMAIL_TO="ops@example.org",
        SMTP_HOST="127.0.0.1",
        SMTP_PORT=str(mail.port),
        SMTP_CA_FILE=str(certificate[0]),
        SMTP_USER="us",
        SMTP_PASSWORD_FILE=str(tmp_path / "password"),
    )
    with (
        exporter(Numbers(BAD_DAY)) as numbers,
        alertmanager(tmp_path, configuration, manager),
        running(
            tmp_path,
            "prometheus",
            f"--config.file={prometheus_configuration(tmp_path, numbers.port, manager)}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
            "--web.route-prefix=/prometheus",
        ),
    ):
        eventually(lambda: names(posted(hook), "firing") == set(rules()), 180)
        eventually(lambda: {subject.rpartition(": ")[2] for subject, _ in letters(mail)} == set(rules()), 180)
        told = letters(mail)
        assert all(mail.encrypted) and set(mail.logins) == {"\0us\0hunter2"}
        for subject, text in told:
            name = subject.rpartition(": ")[2]
            rule = rules()[name]["annotations"]
            assert subject.startswith("[media-pipeline] ") and "firing" in subject
            assert "FIRING since 20" in text
            assert f"What to do: {rule['remedy']}" in " ".join(text.split()), text
            assert rule["runbook"] in text
        for alert in posted(hook):
            annotations = alert["annotations"]
            assert isinstance(annotations, dict) and set(annotations) == {"summary", "remedy", "runbook"}
            assert "<" not in annotations["summary"] and "%!" not in annotations["summary"], annotations["summary"]
        # The month is spent: that it nearly is, is no news. The day nearly is.
        periods = {
            (alert["labels"]["alertname"], alert["labels"]["period"])  # type: ignore[index]
            for alert in posted(hook)
            if "period" in alert["labels"]  # type: ignore[operator]
        }
        assert ("GpuBudgetNearlySpent", "day") in periods and ("GpuBudgetSpent", "month") in periods
        assert ("GpuBudgetNearlySpent", "month") not in periods
        # What is mended is over, and somebody says so.
        numbers.text = BAD_DAY.replace("disk_free_bytes 5", "disk_free_bytes 50")
        eventually(lambda: "DiskLow" in names(posted(hook), "resolved"), 120)
        eventually(lambda: any(subject == "[media-pipeline] over: DiskLow" for subject, _ in letters(mail)), 120)


def test_without_receivers_it_runs_all_the_same(tmp_path: Path) -> None:
    port = free_port()
    configuration = alertmanager_configuration(tmp_path)
    with alertmanager(tmp_path, configuration, port):

        def is_healthy() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/alertmanager/-/healthy", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually(is_healthy, 60)
        # What docker asks for its health.
        asked = [program("amtool"), f"--alertmanager.url=http://127.0.0.1:{port}/alertmanager", "alert", "query"]
        assert subprocess.run(asked, capture_output=True, timeout=60).returncode == 0
