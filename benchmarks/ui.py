"""How long `media-pipeline serve` takes until the user interface answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx

from benchmarks.measure import python

GIVE_UP_AFTER_S = 120


def seconds_until_ui(home: Path) -> float:
    """On a fresh home, from the command to the first good answer of the page."""
    port = _free_port()
    command = python("media_pipeline", "--home", str(home), "serve", "--port", str(port))
    started = time.monotonic()
    server = subprocess.Popen(
        command,
        env={**os.environ, "MEDIA_PIPELINE_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.monotonic() - started < GIVE_UP_AFTER_S:
            if _answers(port):
                return time.monotonic() - started
            time.sleep(0.1)
        raise SystemExit("the user interface did not answer")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
