"""The image of a rented machine: deploy/Dockerfile, target gpu, what it installs and what it must not contain."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
STAGE = re.sub(r"\\\n\s*", "", TEXT).partition("\nFROM ${GPU_BASE}")[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMAGE = "media-pipeline-gpu"  # as docs/gpu-image.md builds it


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", STAGE, re.MULTILINE)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def test_it_is_a_stage_of_its_own_and_the_last() -> None:
    """Docker without BuildKit builds all stages before the target: the server's image must not wait for CUDA."""
    assert STAGE.splitlines()[0] == " AS gpu"
    assert not instructions("FROM")
    assert "--from=" not in STAGE


def test_one_onnxruntime() -> None:
    """Two builds of it overwrite each other's files, and results of the two must be comparable."""
    (gpu,) = (line for line in PROJECT["optional-dependencies"]["gpu"] if line.startswith("onnxruntime-gpu"))
    assert gpu == f"onnxruntime-gpu=={pins()['onnxruntime']}"
    lines = (ROOT / "deploy" / "overrides-gpu.txt").read_text(encoding="utf-8").splitlines()
    dropped = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert "onnxruntime" in dropped
    assert "onnxruntime-gpu" not in dropped
    for option in ("constraints constraints.txt", "overrides overrides.txt", "overrides deploy/overrides-gpu.txt"):
        assert f"--{option}" in STAGE


def test_the_worker_can_be_started_over_ssh() -> None:
    """A session over ssh has no PATH of the image's; the program must be where every session looks."""
    module, _, function = PROJECT["scripts"]["media-worker"].partition(":")
    assert callable(getattr(import_module(module), function))
    assert "ln -s /opt/media-pipeline/.venv/bin/media-worker /usr/local/bin/" in STAGE
    assert instructions("CMD") == ['["media-worker", "--check"]']
    assert instructions("USER") == []  # Vast.ai's sessions are root's


def test_what_is_copied_is_sent_to_the_engine() -> None:
    sources = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()}
    assert set(sources) <= sent
    assert not {"resources", "sensors"} & set(sources)  # a worker knows no Dagster


def test_no_secret_can_come_in() -> None:
    assert "rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*" in STAGE
    assert {line.split("=")[0] for line in instructions("ARG")} == {"EXTRAS"}  # arguments stay in an image's history


def test_host_keys_are_made_before_sshd_starts(tmp_path: Path) -> None:
    """With stand-ins for both programs: in an image there is only one /etc/ssh."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    for name in ("ssh-keygen", "sshd.distrib", "mkdir"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\n')
        (tools / name).chmod(0o755)
    script = tmp_path / "sshd"
    script.write_text((ROOT / "deploy" / "sshd").read_text(encoding="utf-8").replace("/usr/sbin/", ""))
    done = subprocess.run(["sh", script, "-D", "-e"], env={"PATH": f"{tools}:/usr/bin:/bin"})
    assert done.returncode == 0
    assert log.read_text().splitlines() == ["ssh-keygen -A", "mkdir -p /run/sshd", "sshd.distrib -D -e"]


# --- the image itself, where it was built -----------------------------------------------------------------------------


@pytest.fixture
def image() -> str:
    """Building it takes minutes and 4 GB of downloads: that is not for a test."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode != 0:
        pytest.skip(f"no image {IMAGE}: docs/gpu-image.md says how it is built")
    return IMAGE


@pytest.mark.slow
def test_built_image_says_what_it_computes_on(image: str) -> None:
    command = ["docker", "run", "--rm", "--network", "none", image]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    hello = json.loads(done.stdout)
    assert hello["device"] in ("cpu", "cuda")
    assert set(hello["libraries"]) == {"torch", "onnxruntime", "ctranslate2"}


@pytest.mark.slow
def test_built_image_lacks_nothing_but_the_driver(image: str) -> None:
    """All that onnxruntime's CUDA part and CTranslate2 load is there; the driver's library is the machine's."""
    code = """
import ctypes, onnxruntime
from importlib.util import find_spec
from media_pipeline.analyzers import _device
onnxruntime.preload_dlls()
_device._open_cublas12()
print(_device._missing_library(_device._beside("onnxruntime", "capi/libonnxruntime_providers_cuda.so")))
"""
    command = ["docker", "run", "--rm", "--network", "none", image, "/opt/media-pipeline/.venv/bin/python", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    missing = done.stdout.strip()
    assert missing.startswith("libcuda.so.1:") or "undefined symbol" in missing or missing == "None"
    assert not re.search(r"lib(cudnn|cublas|cufft|curand|cudart)", missing)


@pytest.fixture
def reached(image: str, tmp_path: Path) -> Iterator[list[str]]:
    """The command that logs in to a container whose sshd was started as Vast.ai starts it."""
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    inside = f"mkdir -m 700 -p ~/.ssh && echo '{public}' >~/.ssh/authorized_keys && exec /usr/sbin/sshd -D"
    start = ["docker", "run", "--rm", "--detach", "--publish", f"127.0.0.1:{port}:22", image]
    done = subprocess.run([*start, "sh", "-c", inside], capture_output=True, text=True)
    if done.returncode == 125:  # Docker itself
        pytest.skip(f"no container with a port can be started: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={tmp_path / 'hosts'}"]
    command = ["ssh", "-F", "none", "-i", str(key), "-p", str(port), *(f"-o{option}" for option in options)]
    try:
        for _ in range(60):  # host keys are made first
            if subprocess.run([*command, "root@127.0.0.1", "true"], capture_output=True).returncode == 0:
                break
            time.sleep(0.5)
        yield [*command, "root@127.0.0.1"]
    finally:
        subprocess.run(["docker", "rm", "--force", done.stdout.strip()], capture_output=True)


@pytest.mark.slow
def test_built_image_answers_over_ssh(reached: list[str]) -> None:
    done = subprocess.run([*reached, "media-worker --check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["protocol"] >= 1
