"""A Docker engine of a test's own, and an image in which this checkout runs as it is, without being built into it."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "media-pipeline-test"
# Without /sbin: there Docker puts the process that buries children.
_SYSTEM = tuple(Path(name) for name in ("/usr", "/bin", "/lib", "/lib64", "/etc"))


@contextmanager
def docker_engine() -> Iterator[tuple[str, Any]]:
    """Address and client of an engine whose containers reach no network; skips where no dockerd can be started.

    It lives in a network of its own, so that it has nothing to do with bridges and rules of an engine that is there.
    """
    if shutil.which("dockerd") is None or shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("no dockerd is installed, or nobody here may start it: only root")
    folder = Path(tempfile.mkdtemp(prefix="media-pipeline-docker-", dir="/var/tmp"))  # overlayfs wants a real disk
    address = f"unix://{folder}/docker.sock"
    command = ["unshare", "--net", "dockerd", f"--host={address}", f"--data-root={folder}/data"]
    command += [f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", "--bridge=none", "--iptables=false"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        client = _client(address, daemon, folder / "log")
        try:
            yield address, client
        finally:
            for container in client.containers.list(all=True):
                container.remove(force=True)
            client.close()
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _client(address: str, daemon: subprocess.Popen[bytes], log: Path) -> Any:
    socket = Path(address.removeprefix("unix://"))
    for _ in range(240):
        if daemon.poll() is not None:
            break
        if socket.exists():  # made when it listens
            return docker.DockerClient(base_url=address, timeout=60)
        time.sleep(0.25)
    pytest.skip(f"dockerd does not start here: {log.read_text()[-500:]}")


def make_image(client: Any) -> None:
    """An image with hardly a file: what the interpreter needs is mounted, see `mounts`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for link in filter(Path.is_symlink, _SYSTEM):  # /lib is /usr/lib in most systems of today
            entry = tarfile.TarInfo(link.name)
            entry.type, entry.linkname = tarfile.SYMTYPE, str(link.readlink())
            archive.addfile(entry)
    client.api.import_image_from_data(packed.getvalue(), repository=IMAGE, tag="latest")


def mounts() -> list[str]:
    """This system's programs and libraries, the interpreter, and the checkout with its environment; read-only."""
    folders = {path for path in _SYSTEM if path.is_dir() and not path.is_symlink()}
    folders |= {Path(sys.base_prefix), Path(sys.prefix), ROOT}
    return [f"{folder}:{folder}:ro" for folder in sorted(folders)]
