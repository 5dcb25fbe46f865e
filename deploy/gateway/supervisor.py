"""The first process of the container: prepares, starts nginx and the sign-in, and looks after both.

Every some seconds it looks whether the certificate has changed (then nginx reloads) and whether the audit log is full
(then it is moved away, compressed, and nginx opens a new one).
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from . import configuration
from .certificates import Certificates
from .settings import GatewayError, Settings
from .sign_in import Doorkeeper, Server, Users, serve

# nginx's own messages quote requests and referrers with their query strings, which may hold tokens.
_QUERY = re.compile(r"\?[^\s\"]*")


def say(text: str) -> None:
    print(f"gateway: {text}", flush=True)


def main(environment: Mapping[str, str]) -> int:
    settings = Settings.read(environment)
    os.umask(0o077)
    _folders(settings)
    users = Users(settings.secrets, say)
    if not len(users) and not settings.oidc_proxy:
        say(
            "nobody can sign in: there is no valid line in the file `users`; add somebody with "
            "`docker compose exec gateway user add NAME --operator`"
        )
    certificates = Certificates(settings)
    config = configuration.write(settings)
    certificates.refresh()
    say(certificates.said)
    configuration.check(config)
    doorkeeper = Doorkeeper(users, failures=settings.failures, failure_seconds=settings.failure_seconds)
    server = serve(settings.run / "sign-in.sock", doorkeeper)
    return _Keeper(settings, certificates, server).run(config)


def _folders(settings: Settings) -> None:
    for folder, what in (
        (settings.run, "what nginx needs while it runs"),
        (settings.logs, "the audit log"),
    ):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise GatewayError(
                f"{folder} cannot be written to ({error.strerror}), and {what} belongs there",
                f"mount a volume there that belongs to user {os.getuid()}",
            ) from None


class _Keeper:
    def __init__(self, settings: Settings, certificates: Certificates, server: Server) -> None:
        self._settings = settings
        self._certificates = certificates
        self._server = server
        self._stopping = threading.Event()

    def run(self, config: Path) -> int:
        """Until nginx ends, or a signal asks to end."""
        nginx = subprocess.Popen(  # noqa: S603
            [configuration.NGINX, "-c", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for stream, target in ((nginx.stdout, sys.stdout), (nginx.stderr, sys.stderr)):
            assert stream is not None
            threading.Thread(target=_pass_on, args=(stream, target), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        say(f"serves https on port {self._settings.https_port} of the server")
        while nginx.poll() is None and not self._stopping.wait(self._settings.look_seconds):
            self._look(nginx)
        if nginx.poll() is None:
            self._end(nginx)
            return 0
        say(f"nginx has ended with {nginx.returncode}")
        return 1

    def _look(self, nginx: subprocess.Popen[str]) -> None:
        try:
            before = self._certificates.said
            changed = self._certificates.refresh()
            if self._certificates.said != before:
                say(self._certificates.said)
            if changed:
                nginx.send_signal(signal.SIGHUP)
                say("nginx serves another certificate from now on")
            rotate(self._settings, nginx)
        except (OSError, subprocess.SubprocessError, GatewayError) as error:
            # What could not be done now is tried again; nginx goes on with what it has.
            say(f"{type(error).__name__}: {error}")

    def _end(self, nginx: subprocess.Popen[str]) -> None:
        """Lets requests end, but not for longer than Docker waits."""
        nginx.send_signal(signal.SIGQUIT)
        try:
            nginx.wait(timeout=7)
        except subprocess.TimeoutExpired:
            nginx.terminate()
            nginx.wait(timeout=10)


def _pass_on(stream: IO[str], target: IO[str]) -> None:
    for line in stream:
        target.write(_QUERY.sub("?…", line))
        target.flush()


def rotate(settings: Settings, nginx: subprocess.Popen[str]) -> None:
    """Moves a full audit log away, removes the oldest, and packs the one moved before.

    Packed one rotation late: until each worker has opened the new log, it writes into the one that was moved.
    """
    log = settings.logs / "audit.jsonl"
    if not log.exists() or log.stat().st_size < settings.audit_bytes:
        return
    # To the microsecond, so that names sort and never meet.
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f".{time.time_ns() // 1000 % 1_000_000:06d}"
    log.rename(settings.logs / f"audit-{stamp}.jsonl")
    nginx.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for old in sorted(settings.logs.glob("audit-*"))[: -settings.audit_files]:
        old.unlink()
    for moved in sorted(settings.logs.glob("audit-*.jsonl"))[:-1]:
        packed = moved.with_suffix(".jsonl.gz")
        part = packed.with_suffix(".part")
        with moved.open("rb") as source, gzip.open(part, "wb", compresslevel=6) as sink:
            shutil.copyfileobj(source, sink)
        part.rename(packed)
        moved.unlink()
