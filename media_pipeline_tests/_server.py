"""A whole server, as `make up` starts it from a clone, on an engine that is there or can be started."""

from __future__ import annotations

import atexit
import errno
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = "debian:bookworm-slim"
_BUILD_S = 1800
_WHEELS_PORT = 8199  # always the same: it is part of what layers are remembered by


# --- the engine -----------------------------------------------------------------------------------------------------


@functools.cache
def engine() -> str:
    """Address of a Docker Engine with the base image whose containers reach the package registries.

    The one that is there (DOCKER_HOST), else a private one that ends with this process, so that images are built once;
    skips where neither can be had.
    """
    given = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if shutil.which("docker") and _docker(given, "info").returncode == 0:
        _require_base(given)
        return given
    missing = [name for name in ("docker", "dockerd", "iptables") if shutil.which(name, path=_path()) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no Docker Engine answers, and none can be started here: {', '.join(missing) or 'not root'}")
    folder = Path(tempfile.mkdtemp(prefix="media-pipeline-engine-", dir="/var/tmp"))  # overlayfs wants a real disk
    address = f"unix://{folder}/docker.sock"
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                *("dockerd", f"--host={address}", f"--data-root={folder}/data"),
                *(f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"PATH": _path()},
        )
    atexit.register(_stop, daemon, folder)
    until(lambda: daemon.poll() is not None or _docker(address, "info").returncode == 0, 120, "dockerd answers")
    if daemon.poll() is not None:
        pytest.skip(f"dockerd does not start here: {(folder / 'log').read_text()[-500:]}")
    _require_base(address)
    return address


def _stop(daemon: subprocess.Popen[bytes], folder: Path) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(60)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _docker(address: str, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DOCKER_HOST": address}
    return subprocess.run(["docker", *arguments], env=environment, capture_output=True, text=True, **how)


def _require_base(address: str) -> None:
    """Debian's slim image: there, or pulled, or made of Debian's packages as it is made upstream."""
    if _docker(address, "image", "inspect", BASE).returncode == 0 or _docker(address, "pull", BASE).returncode == 0:
        return
    if shutil.which("debootstrap", path=_path()) is None:
        pytest.skip(f"{BASE} can neither be pulled nor, without debootstrap, be made")
    folder = Path(tempfile.mkdtemp(prefix="media-pipeline-base-", dir="/var/tmp"))
    try:
        made = subprocess.run(
            [
                *("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm"),
                *(str(folder / "root"), "http://deb.debian.org/debian"),
            ],
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": _path()},
        )
        if made.returncode != 0:
            pytest.skip(f"debootstrap: {made.stdout[-300:]}")
        for cache in ("var/cache/apt/archives", "var/lib/apt/lists"):  # upstream's has none
            shutil.rmtree(folder / "root" / cache, ignore_errors=True)
        # Where an organisation's own authority signs the registries, this machine knows it.
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        shutil.copy(authorities, folder / "root" / authorities.relative_to("/"))
        packed = folder / "root.tar"
        subprocess.run(["tar", "-C", str(folder / "root"), "-cf", str(packed), "."], check=True)
        imported = _docker(address, "import", str(packed), BASE)
        assert imported.returncode == 0, imported.stderr
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def wheels(address: str) -> dict[str, str]:
    """What a build is told of wheels that lie on this machine (PIP_FIND_LINKS); containers reach no folder of it.

    They are served as long as this process lives. Another one that does so already will do.
    """
    folder = os.environ.get("PIP_FIND_LINKS", "")
    if not folder or not Path(folder).is_dir():
        return {"PIP_FIND_LINKS": folder} if folder else {}
    shown = _docker(address, "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}")
    host = str(
        next(ip_network(shown.stdout.strip()).hosts())
    )  # this machine, as containers of the default bridge see it
    try:
        served = ThreadingHTTPServer((host, _WHEELS_PORT), functools.partial(_Quiet, directory=folder))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    else:
        threading.Thread(target=served.serve_forever, daemon=True).start()
    return {"PIP_FIND_LINKS": f"http://{host}:{_WHEELS_PORT}/"}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


# --- the server -----------------------------------------------------------------------------------------------------


class Server:
    """An installation, in a clone of this checkout.

    Args:
        folder: the clone
        engine: address of the Docker Engine
        settings: what stands in its .env
        building: what `make` is told besides
    """

    def __init__(
        self,
        folder: Path,
        engine: str,
        settings: dict[str, str],
        building: dict[str, str] | None = None,
        project: str = "media-pipeline-test",
    ) -> None:
        self.folder, self.engine, self.project = folder, engine, project
        self._building = building or {}
        self.http_port, self.https_port = free_port(), free_port()
        settings = {
            "MEDIA_PIPELINE_SERVER__HTTP_PORT": str(self.http_port),
            "MEDIA_PIPELINE_SERVER__HTTPS_PORT": str(self.https_port),
            "MEDIA_PIPELINE_OFFLINE": "1",
            **settings,
        }
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.password = ""
        self._client: httpx.Client | None = None

    def make(self, target: str, *, timeout_s: float = _BUILD_S, **environment: str) -> subprocess.CompletedProcess[str]:
        foreign = ("MEDIA_PIPELINE_", "DAGSTER_", "COMPOSE_", "PIP_FIND_LINKS")
        known = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        known |= {"DOCKER_HOST": self.engine, "COMPOSE_PROJECT_NAME": self.project, "TERM": "dumb"} | self._building
        done = subprocess.run(
            ["make", "--no-print-directory", target],
            cwd=self.folder,
            env=known | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        for line in done.stdout.splitlines():
            if "operator   " in line:
                self.password = line.split()[-1]
        return done

    def up(self) -> str:
        done = self.make("up")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def web(self) -> httpx.Client:
        """Signed in as the first operator."""
        if self._client is None:
            self._client = self.browser("operator", self.password)
        return self._client

    def browser(self, user: str | None = None, password: str = "") -> httpx.Client:
        return httpx.Client(
            base_url=f"https://localhost:{self.https_port}",
            verify=False,
            auth=(user, password) if user else None,
            timeout=60,
        )

    def upload(self, paths: Sequence[Path], prefix: str = "") -> None:
        for path in paths:
            with path.open("rb") as stream:
                answer = self.web.put(f"/upload/{quote(prefix + path.name)}", content=stream)
            assert answer.status_code in (200, 201, 204), (answer.status_code, answer.text)

    # --- its containers

    def docker(self, *arguments: str, timeout_s: float = 120, check: bool = True) -> str:
        done = _docker(self.engine, *arguments, timeout=timeout_s)
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def container(self, service: str) -> str:
        return self.docker(
            *("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}"),
            *(
                "--filter",
                f"label=com.docker.compose.service={service}",
                "--filter",
                "label=com.docker.compose.oneoff=False",
            ),
        ).strip()

    def containers(self) -> dict[str, str]:
        """Status by service."""
        lines = self.docker(
            *("ps", "--all", "--filter", f"label=com.docker.compose.project={self.project}"),
            *("--filter", "label=com.docker.compose.oneoff=False"),
            *("--format", '{{.Label "com.docker.compose.service"}}|{{.Status}}'),
        ).split("\n")
        return dict(line.split("|", 1) for line in lines if line)

    def runs(self) -> list[str]:
        """Ids of the containers of runs."""
        return self.docker(
            "ps", "--quiet", "--no-trunc", "--filter", "label=dagster/run_id", "--filter", f"volume={self.project}-home"
        ).split()

    def kill(self, service: str) -> None:
        self.docker("kill", self.container(service))

    def is_well(self) -> bool:
        return all("(healthy)" in status for status in self.containers().values())

    def memory_mb(self) -> dict[str, float]:
        """What each container takes, by name, without the pages of files."""
        ids = self.docker("ps", "--quiet").split()
        lines = self.docker("stats", "--no-stream", "--format", "{{.Name}}|{{.MemUsage}}", *ids).splitlines()
        return {name: _megabytes(usage.split("/")[0]) for name, usage in (line.split("|") for line in lines)}

    # --- what it knows

    def cli(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return _docker(self.engine, "exec", self.container("code"), "media-pipeline", *arguments, timeout=timeout_s)

    def sql(self, query: str) -> list[dict[str, Any]]:
        done = self.cli("sql", "--format", "json", query)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def status(self) -> dict[str, Any]:
        done = self.cli("status", "--format", "json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def graphql(self, query: str, **variables: Any) -> Any:
        answer = self.web.post("/graphql", json={"query": query, "variables": variables})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def open_runs(self) -> list[dict[str, str]]:
        found = self.graphql(
            "query { runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]})"
            " { ... on Runs { results { runId status } } } }"
        )
        return list(found["runsOrError"]["results"])

    def close(self) -> None:
        """Everything of it is gone, volumes too."""
        take_away(self.engine, self.project)
        if self._client is not None:
            self._client.close()


def take_away(address: str, project: str) -> None:
    """Containers, volumes and networks of a project."""

    def found(*arguments: str) -> list[str]:
        return _docker(address, *arguments, "--quiet").stdout.split()

    containers = found("ps", "--all", "--filter", f"label=com.docker.compose.project={project}")
    containers += found("ps", "--all", "--filter", "label=dagster/run_id", "--filter", f"volume={project}-home")
    for kind, names in (
        ("container", containers),
        ("volume", found("volume", "ls", "--filter", f"name=^{project}-")),
        ("network", found("network", "ls", "--filter", f"name=^{project}")),
    ):
        if names:
            _docker(address, kind, "rm", *(["--force"] if kind != "network" else []), *names)


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[Server]:
    """A server from a clone of this checkout, all well; taken away at the end."""
    if shutil.which("docker-compose") is None and shutil.which("docker") is None:
        pytest.skip("Docker is not installed")
    address = engine()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    running = Server(folder, address, settings, wheels(address))
    try:
        running.up()
        yield running
    finally:
        running.close()


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition says once it is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
        time.sleep(1)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _megabytes(text: str) -> float:
    units = {"GiB": 1024.0, "MiB": 1.0, "KiB": 1 / 1024, "B": 1 / 1024**2}
    text = text.strip()
    unit = next(u for u in units if text.endswith(u))
    return float(text.removesuffix(unit)) * units[unit]
