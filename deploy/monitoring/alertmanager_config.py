"""Alertmanager's configuration from the settings that tell the product whom to alert (MEDIA_PIPELINE_ALERTS__…).

    python3 alertmanager_config.py alert.tmpl > alertmanager.yml

Needs nothing but Python. JSON is YAML, and quotes everything right. The output may hold a secret address: keep it where
nobody else reads it. Exit code 2 with a sentence when a setting cannot be.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PREFIX = "MEDIA_PIPELINE_ALERTS__"
_IMPLICIT_TLS_PORT = 465


class WrongSetting(Exception):
    """Says which, and what to do."""


def configuration(environment: Mapping[str, str], template: str) -> dict[str, Any]:
    """The whole file.

    Args:
        template: path of the texts of e-mails

    Raises:
        WrongSetting
    """
    given = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    receiver: dict[str, Any] = {"name": "everybody"}
    if url := _secret(given, "WEBHOOK_URL"):
        if not url.startswith(("https://", "http://")):
            raise WrongSetting("WEBHOOK_URL is no http(s) address")
        receiver["webhook_configs"] = [{"url": url, "send_resolved": True, "max_alerts": 0}]
    if given.get("EMAIL_TO"):
        receiver["email_configs"] = [_email(given)]
    return {
        "global": {"resolve_timeout": "5m"},
        "templates": [template],
        "route": {
            "receiver": "everybody",
            "group_by": ["alertname"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "12h",
        },
        # Who knows that all is spent need not be told that it nearly is.
        "inhibit_rules": [
            {
                "source_matchers": ["alertname = GpuBudgetSpent"],
                "target_matchers": ["alertname = GpuBudgetNearlySpent"],
                "equal": ["period"],
            }
        ],
        "receivers": [receiver],
    }


def _email(given: Mapping[str, str]) -> dict[str, Any]:
    receivers = [part.strip() for part in given["EMAIL_TO"].split(",") if part.strip()]
    host, port = given.get("SMTP_HOST", ""), int(given.get("SMTP_PORT") or 587)
    security = given.get("SMTP_SECURITY") or "starttls"
    if not host:
        raise WrongSetting("e-mails need a mail server: set SMTP_HOST")
    if security not in ("starttls", "tls", "none"):
        raise WrongSetting("SMTP_SECURITY is none of starttls, tls and none")
    if (security == "tls") != (port == _IMPLICIT_TLS_PORT):
        raise WrongSetting(
            f"Alertmanager speaks TLS from the first byte on port {_IMPLICIT_TLS_PORT} and only there: "
            "set SMTP_SECURITY=tls with SMTP_PORT=465, or starttls with another port"
        )
    found: dict[str, Any] = {
        "to": ", ".join(receivers),
        "from": given.get("EMAIL_FROM") or receivers[0],
        "smarthost": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "require_tls": security == "starttls",
        "send_resolved": True,
        "headers": {"Subject": '{{ template "media_pipeline.subject" . }}'},
        "text": '{{ template "media_pipeline.text" . }}',
        "html": "",
    }
    if ca_file := given.get("SMTP_CA_FILE"):
        found["tls_config"] = {"ca_file": ca_file}
    if user := given.get("SMTP_USER"):
        found["auth_username"] = user
        if file := given.get("SMTP_PASSWORD_FILE"):
            found["auth_password_file"] = file
        elif password := given.get("SMTP_PASSWORD"):
            found["auth_password"] = password
    return found


def _secret(given: Mapping[str, str], name: str) -> str:
    file = given.get(f"{name}_FILE")
    if given.get(name) or not file:
        return given.get(name, "")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise WrongSetting(f"{name}_FILE: {file} cannot be read") from None


def main() -> int:
    try:
        found = configuration(os.environ, sys.argv[1])
    except (WrongSetting, ValueError) as error:
        print(f"alertmanager: {PREFIX}…: {error}", file=sys.stderr)
        return 2
    told = [name for name in ("webhook_configs", "email_configs") if name in found["receivers"][0]]
    if not told:
        print(
            "alertmanager: nobody is told of alerts, they only show in Prometheus; "
            f"set {PREFIX}WEBHOOK_URL_FILE or {PREFIX}EMAIL_TO and …SMTP_HOST",
            file=sys.stderr,
        )
    json.dump(found, sys.stdout, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
