"""The rules of deploy/monitoring by Prometheus' own means: each fires when it must, and not when it comes near."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from media_pipeline.config import Alerts
from media_pipeline_tests._alert_rules import CASES, MONITORING, ROOT, RULES, UP, program, rules

GUIDE = ROOT / "docs" / "operations-alerts.md"


def promtool(*args: str | Path) -> str:
    done = subprocess.run([program("promtool"), *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_configuration_and_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)
    promtool("check", "config", MONITORING / "prometheus.yml")


def test_every_alert_says_what_to_do() -> None:
    anchors = {
        re.sub(r"[^\w-]", "", title.strip().lower().replace(" ", "-"))
        for title in re.findall(r"^#+ (.+)$", GUIDE.read_text(encoding="utf-8"), re.M)
    }
    for name, rule in rules().items():
        annotations = rule["annotations"]
        assert annotations["summary"].endswith(".") and annotations["remedy"].endswith("."), name
        page, _, anchor = annotations["runbook"].partition("#")
        assert (page, anchor) == ("docs/operations-alerts.md", name.lower())
        assert anchor in anchors, f"{GUIDE.name} has no section {name}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_alert_is_tried_both_ways() -> None:
    assert set(CASES) == set(rules())
    for name, cases in CASES.items():
        assert {bool(case.fires) for case in cases} == {True, False}, name


@pytest.mark.slow
def test_rules_fire_when_they_must_and_never_else(tmp_path: Path) -> None:
    severity = {name: rule["labels"]["severity"] for name, rule in rules().items()}

    def firing(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
        told = {**labels, "alertname": name, "alertstate": "firing", "severity": severity[name]}
        return {"labels": f"ALERTS{{{','.join(f'{k}={json.dumps(v)}' for k, v in told.items())}}}", "value": 1}

    tests = [
        {
            "name": f"{name} {number}",
            "interval": "1m",
            "input_series": [{"series": s, "values": v} for s, v in {**UP, **case.series}.items()],
            "promql_expr_test": [
                {
                    "expr": f'ALERTS{{alertname="{name}",alertstate="firing"}}',
                    "eval_time": case.at,
                    "exp_samples": [firing(name, labels) for labels in case.fires],
                }
            ],
        }
        for name, cases in CASES.items()
        for number, case in enumerate(cases)
    ]
    suite = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(suite))
    promtool("test", "rules", tmp_path / "tests.yml")


def test_only_metrics_that_the_exporter_has_are_asked_for() -> None:
    """A rule over a metric that was renamed would be silent for ever."""
    names = set(re.findall(r"media_pipeline_[a-z0-9_]+", " ".join(rule["expr"] for rule in rules().values())))
    source = "\n".join(path.read_text() for path in (ROOT / "media_pipeline" / "server").glob("metrics*.py"))
    known = set(re.findall(r'"(?:media_pipeline_)?([a-z0-9_]+)"', source))
    assert {name for name in names if name.removeprefix("media_pipeline_").removesuffix("_total") not in known} == set()


# --- whom Alertmanager tells ----------------------------------------------------------------------------------------


def rendered(tmp_path: Path, **settings: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEDIA_PIPELINE_")}
    environment |= {f"MEDIA_PIPELINE_ALERTS__{name}": value for name, value in settings.items()}
    command = [sys.executable, str(MONITORING / "alertmanager_config.py"), str(MONITORING / "alert.tmpl")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    if done.returncode:
        return done, {}
    (tmp_path / "alertmanager.yml").write_text(done.stdout)
    checked = subprocess.run(
        [program("amtool"), "check-config", str(tmp_path / "alertmanager.yml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return done, found


def test_nobody_is_told_and_it_says_so(tmp_path: Path) -> None:
    done, found = rendered(tmp_path)
    assert found["receivers"] == [{"name": "everybody"}]
    assert "nobody is told of alerts" in done.stderr and "WEBHOOK_URL_FILE" in done.stderr
    assert found["route"]["repeat_interval"] == "12h"


def test_webhook_and_mail(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://chat.example/hook?token=s3cret\n")
    done, found = rendered(
        tmp_path,
        WEBHOOK_URL_FILE=str(tmp_path / "url"),
        EMAIL_TO="a@example.org, b@example.org",
        SMTP_HOST="mx.example.org",
        SMTP_USER='us: "er"',
        SMTP_PASSWORD_FILE="/run/secrets/smtp_password",
    )
    assert done.stderr == ""
    (receiver,) = found["receivers"]
    assert receiver["webhook_configs"][0]["url"] == "https://chat.example/hook?token=s3cret"
    (mail,) = receiver["email_configs"]
    assert (mail["to"], mail["from"], mail["smarthost"]) == (
        "a@example.org, b@example.org", "a@example.org", "mx.example.org:587",
    )  # fmt: skip
    assert (mail["require_tls"], mail["auth_username"], mail["auth_password_file"]) == (
        True, 'us: "er"', "/run/secrets/smtp_password",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"WEBHOOK_URL": "chat.example"}, "WEBHOOK_URL is no http"),
        ({"WEBHOOK_URL_FILE": "/gone"}, "cannot be read"),
        ({"EMAIL_TO": "a@b"}, "set SMTP_HOST"),
        ({"EMAIL_TO": "a@b", "SMTP_HOST": "h", "SMTP_SECURITY": "tls"}, "SMTP_PORT=465"),
        ({"EMAIL_TO": "a@b", "SMTP_HOST": "h", "SMTP_PORT": "465"}, "SMTP_PORT=465"),
        ({"EMAIL_TO": "a@b", "SMTP_HOST": "h", "SMTP_SECURITY": "ssl"}, "none of starttls"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, str], cause: str) -> None:
    done, _ = rendered(tmp_path, **settings)
    assert done.returncode == 2
    assert cause in done.stderr


def test_it_knows_every_setting_of_alerts_that_concerns_it() -> None:
    """A new setting of `Alerts` is either used here or has no meaning for Alertmanager."""
    text = (MONITORING / "alertmanager_config.py").read_text()
    without_meaning = {"webhook_secret", "webhook_secret_file", "timeout_s", "retries"}
    for name in set(Alerts.model_fields) - without_meaning:
        assert name.upper().removesuffix("_FILE") in text, name
