"""The container `certbot`: gets the certificate, and renews it when it has less than 30 days left.

It knows nothing of nginx: the challenge lies in a volume that nginx serves on port 80, the certificate in another that
the gateway watches.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from .certificates import LINEAGE
from .settings import Settings

CERTBOT = "/usr/bin/certbot"
# Let's Encrypt allows five failures an hour for a name.
_FIRST_RETRY_S = 900


def main(environment: Mapping[str, str]) -> int:
    settings = Settings.read(environment)
    scratch = settings.run / "certbot"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if settings.tls != "acme":
        _say(f"MEDIA_PIPELINE_SERVER__TLS={settings.tls}: there is nothing to do")
        (scratch / "alive").touch()
        stopping.wait()
        return 0
    retry_s = min(_FIRST_RETRY_S, settings.renew_seconds)
    while True:
        done = attempt(settings, scratch, environment)
        (scratch / "alive").touch()
        if done:
            wait_s, retry_s = settings.renew_seconds, min(_FIRST_RETRY_S, settings.renew_seconds)
        else:
            wait_s, retry_s = retry_s, min(2 * retry_s, settings.renew_seconds)
            _say(
                f"no certificate for {settings.domain} this time; tried again in {wait_s // 60} minutes. The ACME "
                f"server must reach http://{settings.domain}/ on port 80: check the name's address and the firewall"
            )
        if stopping.wait(wait_s):
            return 0


def command(settings: Settings, scratch: Path) -> list[str]:
    contact = ["--email", settings.acme_email] if settings.acme_email else ["--register-unsafely-without-email"]
    return [
        *(CERTBOT, "certonly", "--non-interactive", "--agree-tos", *contact),
        *("--server", settings.acme_url),
        *("--webroot", "--webroot-path", str(settings.acme), "--preferred-challenges", "http"),
        # One name for whatever domain, so that the gateway finds it also after the domain has changed.
        *("--cert-name", LINEAGE, "--domain", settings.domain, "--renew-with-new-domains", "--keep-until-expiring"),
        *("--key-type", "ecdsa"),
        *("--config-dir", str(settings.certificates)),
        *("--work-dir", str(scratch / "work"), "--logs-dir", str(scratch / "logs")),
    ]


def attempt(settings: Settings, scratch: Path, environment: Mapping[str, str]) -> bool:
    own = dict(environment)
    if settings.acme_ca:
        own["REQUESTS_CA_BUNDLE"] = settings.acme_ca
    try:
        done = subprocess.run(  # noqa: S603
            command(settings, scratch), env=own, capture_output=True, text=True, timeout=900, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _say(f"certbot could not run: {error}")
        return False
    for line in (done.stdout + done.stderr).splitlines():
        if line.strip() and not set(line) <= set("- "):
            _say(line)
    return done.returncode == 0


def _say(text: str) -> None:
    print(f"certbot[{os.getpid()}]: {text}", flush=True)
