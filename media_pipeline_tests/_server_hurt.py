"""A server that can be looked at and hurt from beside it: its own interfaces may be what is broken."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from media_pipeline_tests import _server
from media_pipeline_tests._server import Server, until
from media_pipeline_tests._server_judge import put

DISK_BYTES = 4 * 1024**3
_ON_DISK = ("home", "inbox", "postgres")
_SENT_S = 420.0
MATERIALIZED = "dagster_event_type = 'ASSET_MATERIALIZATION'"
_OPEN = "status IN ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED', 'CANCELING')"
_UNFINISHED = (
    "import sqlite3; print(*sqlite3.connect('file:/data/sources.sqlite?mode=ro', uri=True, timeout=10).execute("
    "'SELECT count(*), coalesce(sum(announced = 0 OR attempts > 0), 0) FROM media').fetchone())"
)


class Stack:
    """A server, asked and hurt beside its own interfaces, which may be what is broken.

    Args:
        disk: the file system of its volumes, where it has one of its own
    """

    def __init__(self, server: Server, disk: Path | None, chance: random.Random) -> None:
        self.server, self.disk, self.chance = server, disk, chance
        self.services = sorted(server.containers())

    # --- what it does

    def rows(self, query: str) -> list[str] | None:
        """Of Dagster's database; None where it does not answer."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            command = ("psql", "--username=dagster", "--dbname=dagster", "--tuples-only", "--no-align", "--command")
            return self.server.docker("exec", self.server.container("postgres"), *command, query).split("\n")[:-1]
        return None

    def open_runs(self) -> int | None:
        found = self.rows(f"SELECT count(*) FROM runs WHERE {_OPEN}")
        return int(found[0]) if found else None

    def last_event(self) -> int:
        return int((self.rows("SELECT coalesce(max(id), 0) FROM event_logs") or ["0"])[0])

    def has_begun_since(self, event: int) -> bool:
        """Whether something was finished since, and more is under way."""
        found = self.rows(f"SELECT count(*) FROM event_logs WHERE id > {event} AND {MATERIALIZED}")
        return bool(found and int(found[0]))

    def media(self) -> tuple[int, int]:
        """How many it knows, and how many of them no run has brought to an end."""
        with suppress(AssertionError, subprocess.TimeoutExpired, ValueError):
            answer = self.server.docker("exec", self.server.container("code"), "python", "-c", _UNFINISHED)
            known, unfinished = map(int, answer.split())
            return known, unfinished
        return -1, -1

    def entries(self) -> int:
        with suppress(AssertionError, subprocess.TimeoutExpired, ValueError):
            return int(self.server.sql("SELECT count(*) AS n FROM analyses")[0]["n"])
        return -1

    def is_through(self, media: int, entries: int) -> bool:
        return self.open_runs() == 0 and self.media() == (media, 0) and self.entries() >= entries

    def deliver(self, files: Sequence[Path], at_half: Callable[[], object] | None = None) -> None:
        """Through the gateway as a person would, and again when it did not answer."""
        for number, path in enumerate(files):
            if at_half and number == len(files) // 2:
                at_half()
            if "gateway" not in self.services:
                put(self.server, self.server.container("code"), [path])
                continue
            until(partial(self._sent, path), _SENT_S, f"{path.name} is uploaded")

    def _sent(self, path: Path) -> bool:
        try:
            self.server.upload([path])
        except (httpx.HTTPError, AssertionError):
            return False
        return True

    # --- what is done to it

    def started(self) -> dict[str, str]:
        """When each service's container was started last."""
        ids = [self.server.container(service) for service in self.services]
        times = self.server.docker("inspect", "--format", "{{.State.StartedAt}}", *ids).split()
        return dict(zip(self.services, times, strict=True))

    def crash(self, service: str) -> None:
        """Its processes are killed, by nobody whom Docker knows of: that is what its restart policy is for."""
        self.server.docker("exec", self.server.container(service), "sh", "-c", "kill -9 -1", check=False)

    def resize_disk(self, free_bytes: int | None) -> None:
        """So that so much is free; None: as much as there was at first."""
        assert self.disk is not None
        found = os.statvfs(self.disk)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        size = DISK_BYTES if free_bytes is None else used + free_bytes
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.disk)], check=True)

    def override(self, name: str, content: dict[str, Any] | None) -> None:
        """A part of the installation is different in this test."""
        path = self.server.folder / "docker-compose.override.yml"
        parts = yaml.safe_load(path.read_text()) if path.exists() else {}
        parts.pop(name, None)
        parts |= {name: content} if content else {}
        path.write_text(yaml.safe_dump(parts)) if parts else path.unlink(missing_ok=True)


@contextmanager
def installed(folder: Path, project: str, settings: dict[str, str]) -> Iterator[Stack]:
    """A server with its volumes on a file system of its own, where that can be had; all gone at the end."""
    address = _server.engine()
    building = _server.wheels(address)
    with _small_disk(folder / "disk") as disk:
        clone = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", str(_server.ROOT), str(clone)], check=True)
        server = Server(clone, address, settings, building, project)
        stack = Stack(server, disk, random.Random(1))
        if disk:
            stack.override("volumes", {name: _placed(f"{project}-{name}", disk / name) for name in _ON_DISK})
        try:
            server.up()
            stack.services = sorted(server.containers())
            yield stack
        finally:
            runs = server.runs()
            if runs:
                server.docker("rm", "--force", *runs, check=False)
            server.close()


def _placed(name: str, folder: Path) -> dict[str, Any]:
    return {"name": name, "driver_opts": {"type": "none", "o": "bind", "device": str(folder)}}


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """In memory, because its size can be changed while it is in use."""
    folder.mkdir()
    options = f"size={DISK_BYTES},mode=0755"
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]).returncode:
        yield None
        return
    try:
        for name in _ON_DISK:
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, 1000, 1000)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
