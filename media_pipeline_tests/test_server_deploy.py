"""`make vps-deploy`: checks, sends, starts, upgrades over a real ssh connection to a real engine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from media_pipeline_tests import _server
from media_pipeline_tests._server import ROOT, free_port, until

pytestmark = pytest.mark.slow

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[str]:
    """A command that logs in to this machine, through an sshd of the test's own."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("OpenSSH is not installed")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'authorized'}\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nAcceptEnv *\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port), 30, "sshd listens")
        yield (
            f"ssh -p {port} -i {folder / 'user'} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            " -o LogLevel=ERROR -o SendEnv=DOCKER_HOST -o SendEnv=COMPOSE_PROJECT_NAME -o SendEnv=PIP_FIND_LINKS"
        )
    finally:
        daemon.terminate()
        daemon.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def deploy(checkout: Path, ssh: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("MEDIA_PIPELINE_", "DAGSTER_", "COMPOSE_"))}
    return subprocess.run(
        ["make", "--no-print-directory", "vps-deploy", "HOST=127.0.0.1"],
        cwd=checkout,
        env=known | {"SSH": ssh} | environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )


def test_a_machine_that_is_not_ready_is_told_so_and_stays_as_it_is(ssh: str, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    done = deploy(ROOT, ssh, FOLDER=str(folder), DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")
    assert done.returncode != 0
    assert "missing: a Docker that answers" in done.stderr and "is not ready" in done.stderr
    assert not folder.exists()
    assert "whereto?" in subprocess.run(["deploy/vps-deploy.sh", ""], cwd=ROOT, capture_output=True, text=True).stderr


def test_install_then_again_then_a_newer_release(ssh: str, tmp_path: Path) -> None:
    address = _server.engine()
    checkout, folder = tmp_path / "checkout", tmp_path / "there"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    ports = free_port(), free_port()
    (tmp_path / "my.env").write_text(
        f"MEDIA_PIPELINE_SERVER__HTTP_PORT={ports[0]}\nMEDIA_PIPELINE_SERVER__HTTPS_PORT={ports[1]}\n"
    )
    there = {"FOLDER": str(folder), "DOCKER_HOST": address, "COMPOSE_PROJECT_NAME": "media-pipeline-deployed"}
    there |= _server.wheels(address)
    try:
        done = deploy(checkout, ssh, ENV=str(tmp_path / "my.env"), **there)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"https://localhost:{ports[1]}/" in done.stdout and "operator   " in done.stdout
        secret = (folder / "secrets" / "media" / "postgres_password").read_text()

        # Another release, with a file less and one more.
        (checkout / "examples.txt").write_text("new\n")
        for command in (
            ["rm", "--quiet", "-r", "examples"],
            ["add", "examples.txt"],
            ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "newer"],
        ):
            subprocess.run(["git", *command], cwd=checkout, check=True)
        done = deploy(checkout, ssh, **there)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "upgraded to" in done.stdout and "operator   " not in done.stdout
        assert (folder / "examples.txt").exists() and not (folder / "examples").exists()
        assert (folder / "secrets" / "media" / "postgres_password").read_text() == secret
        assert f"{ports[1]}" in (folder / ".env").read_text()
    finally:
        _server.take_away(address, there["COMPOSE_PROJECT_NAME"])
