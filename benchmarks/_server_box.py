"""A smaller server on this machine: all containers of an installation within one limit of memory and processors.

Compose and the launcher of runs know limits per container only. So both speak to the Docker Engine through a socket
that puts every container they make into one control group, which has the limits.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
# systemd, where it manages the groups, wants such a name, and sees a path in dashes.
_NAME = f"mediapipelinesizing{os.getpid()}.slice"
_PERIOD_US = 100_000
_CREATE = re.compile(rb"^POST (/v[\d.]+)?/containers/create[ ?]")
_HEAD_BYTES = 64 * 1024


class Box:
    """The control group of a server that is measured. Root only; both versions of control groups.

    Args:
        memory_bytes: of all its containers together, caches of files included, as on a machine of that size
        cpus: processors
    """

    def __init__(self, memory_bytes: int, cpus: float) -> None:
        self._is_old = not (_CGROUPS / "cgroup.controllers").exists()
        memory, cpu = ("memory", "cpu") if self._is_old else ("", "")
        self._memory, self._cpu = _CGROUPS / memory / _NAME, _CGROUPS / cpu / _NAME
        for folder in {self._memory, self._cpu}:
            folder.mkdir(exist_ok=True)
        quota = int(cpus * _PERIOD_US)
        if self._is_old:
            (self._memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
            (self._cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self._cpu / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (_CGROUPS / "cgroup.subtree_control").write_text("+memory +cpu")
            (self._memory / "memory.max").write_text(str(memory_bytes))
            (self._memory / "cpu.max").write_text(f"{quota} {_PERIOD_US}")

    def used_bytes(self) -> dict[str, int]:
        """Memory without the pages of files, by the id of the container; only those that run."""
        found = {}
        for folder in self._memory.iterdir():
            if folder.is_dir():
                with suppress(OSError):  # it has just ended
                    container = folder.name.removeprefix("docker-").removesuffix(".scope")
                    found[container] = self._anonymous(folder)
        return found

    def with_caches_bytes(self) -> int:
        name = "memory.usage_in_bytes" if self._is_old else "memory.current"
        return int((self._memory / name).read_text())

    def cpu_s(self) -> float:
        """Processor seconds of all its containers until now, those that are gone too."""
        if self._is_old:
            return int((_CGROUPS / "cpuacct" / _NAME / "cpuacct.usage").read_text()) / 1e9
        return _values(self._cpu / "cpu.stat")["usage_usec"] / 1e6

    def killed(self) -> int:
        """Processes that were killed for lack of memory."""
        name = "memory.oom_control" if self._is_old else "memory.events"
        files = [self._memory / name, *self._memory.glob(f"*/{name}")]
        return sum(int(_values(path).get("oom_kill", 0)) for path in files if path.exists())

    def close(self) -> None:
        for folder in {self._memory, self._cpu, _CGROUPS / "cpuacct" / _NAME}:
            with suppress(OSError):
                folder.rmdir()

    def _anonymous(self, folder: Path) -> int:
        values = _values(folder / "memory.stat")
        names = ("total_rss", "total_shmem") if self._is_old else ("anon", "shmem", "kernel")
        return sum(values.get(name, 0) for name in names)


def _values(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


def machine_cpu_s() -> float:
    """Processor seconds that this machine has worked, whoever for."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@contextmanager
def boxed_engine(address: str, folder: Path) -> Iterator[str]:
    """Address of a socket through which the engine makes containers of the box."""
    real, path = address.removeprefix("unix://"), folder / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        os.chown(path, -1, Path(real).stat().st_gid)
        path.chmod(0o660)
        listener.listen(64)
        threading.Thread(target=_serve, args=(listener, real, _parent(real)), daemon=True).start()
        yield f"unix://{path}"
    path.unlink()


def _serve(listener: socket.socket, real: str, parent: str) -> None:
    with suppress(OSError):  # closed: the end
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_connection, args=(client, real, parent), daemon=True).start()


def _connection(client: socket.socket, real: str, parent: str) -> None:
    """One request: the engine is asked to close afterwards, so that each begins a connection and can be looked at."""
    with client, socket.socket(socket.AF_UNIX) as engine, suppress(OSError, ValueError):
        engine.connect(real)
        received = b""
        while b"\r\n\r\n" not in received and len(received) < _HEAD_BYTES:
            if not (part := client.recv(65536)):
                return
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        if _CREATE.match(head):
            while len(body) < int(fields[b"content-length"]):
                body += client.recv(65536)
            wanted = json.loads(body)
            wanted.setdefault("HostConfig", {})["CgroupParent"] = parent
            body = json.dumps(wanted).encode()
            lines = [line for line in lines if not line.lower().startswith(b"content-length:")]
            lines.append(b"Content-Length: %d" % len(body))
        if b"upgrade" not in fields:
            lines = [*(line for line in lines if not line.lower().startswith(b"connection:")), b"Connection: close"]
        engine.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        back = threading.Thread(target=_pump, args=(engine, client), daemon=True)
        back.start()
        _pump(client, engine)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _parent(real: str) -> str:
    """The group's name as this engine wants it."""
    command = ["docker", "--host", f"unix://{real}", "info", "--format", "{{.CgroupDriver}}"]
    driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return _NAME if driver == "systemd" else f"/{_NAME}"
