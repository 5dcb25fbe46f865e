"""An installation small enough to be backed up in a test: a home, keys, configuration, a repository of restic."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.config import Settings, load_settings
from media_pipeline.config_server import Server
from media_pipeline.server import backup as installation
from media_pipeline.server.backup_restic import Restic
from media_pipeline.server.backup_restore import Restored, restore
from media_pipeline.server.backup_state import State, Status
from media_pipeline.storage.layout import STAGE
from media_pipeline_tests import _cli
from media_pipeline_tests._backup_home import BackupHome, content

KEY = "key-of-the-test-that-nobody-may-see"
needs_restic = pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed")
PATIENCE_S = 120.0
NOISE = random.Random(7)


class Installation:
    """All below one folder. Its home is written to like a real one (`_backup_home`)."""

    def __init__(self, folder: Path, **server: Any) -> None:
        self.folder = folder
        self.home = BackupHome(folder / "home", folder / "unused")
        self.keys, self.configuration = folder / "keys", folder / "configuration"
        content(self.keys / "restic_password", f"{KEY}\n".encode(), mode=0o600)
        content(self.configuration / ".env", b"MEDIA_PIPELINE_LANGUAGE=de\n")
        content(self.configuration / "secrets" / "media" / "vast_api_key", b"opens the purse", mode=0o600)
        content(self.configuration / "secrets" / "backup" / "restic_password", KEY.encode(), mode=0o600)
        self.server: dict[str, Any] = {
            "backup_repository": str(folder / "repository"),
            "backup_state": folder / "state",
            "backup_keys": self.keys,
            "backup_configuration": self.configuration,
            **server,
        }

    def settings(self, **server: Any) -> Settings:
        return load_settings(home=self.path, server=Server(**{**self.server, **server}))

    @property
    def path(self) -> Path:
        return self.home.layout.home

    @property
    def repository(self) -> Path:
        return Path(self.server["backup_repository"])

    @property
    def stage(self) -> Path:
        return self.path / STAGE

    @property
    def status(self) -> Status:
        return State(self.settings()).status()

    def environment(self, **server: Any) -> dict[str, str]:
        """For the command line."""
        settings = {f"MEDIA_PIPELINE_SERVER__{k.upper()}": str(v) for k, v in {**self.server, **server}.items()}
        return _cli.environment(MEDIA_PIPELINE_HOME=str(self.path), **settings)

    def cli(self, *args: str | Path, **server: Any) -> subprocess.CompletedProcess[str]:
        env = self.environment(**server)
        for name in ("DAGSTER_POSTGRES_HOST", "DAGSTER_POSTGRES_PASSWORD", "PATH"):
            if name in os.environ:
                env[name] = os.environ[name]
        return _cli.run(self.path, "installation", *args, **env)

    def add(self, media: int = 3, size: int = 100_000) -> list[str]:
        """Media with originals in the inbox and results in the tables."""
        found = [self.home.take_in(f"{NOISE.random()}.jpg", NOISE.randbytes(size)) for _ in range(media)]
        self.home.add(*found)
        return found

    def back_up(self, **server: Any) -> installation.Report:
        return installation.back_up(self.settings(**server))

    def back_up_and_note(self, **server: Any) -> Status:
        return installation.back_up_and_note(self.settings(**server))[0]

    def restic(self) -> Restic:
        return Restic(self.settings())

    def run_restic(self, *args: str) -> str:
        """restic itself, as a person would call it."""
        env = {**os.environ, "RESTIC_REPOSITORY": str(self.server["backup_repository"]), "RESTIC_PASSWORD": KEY}
        done = subprocess.run(["restic", *args], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def restore(self, target: Path, snapshot: str | None = None, **options: Any) -> Restored:
        return restore(self.settings(), snapshot, target, **options)

    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.repository / "data").rglob("*") if path.is_file())


def make(folder: Path, **server: Any) -> Installation:
    made = Installation(folder, **server)
    made.add()
    return made


def record_arguments(monkeypatch: pytest.MonkeyPatch, folder: Path, *programs: str) -> Path:
    """The arguments with which these programs are called go to a file; then they are called."""
    log = folder / "arguments"
    for program in programs:
        real = shutil.which(program)
        assert real is not None
        script = f'#!/bin/sh\nprintf "%s " {program} "$@" >>{log}\necho >>{log}\nexec {real} "$@"\n'
        content(folder / "bin" / program, script.encode(), mode=0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return log


def start(installation: Installation, *args: str, **server: Any) -> subprocess.Popen[str]:
    return _cli.start(installation.path, "installation", *args, **installation.environment(**server))


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return found
