"""A PostgreSQL server of a test's own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "postgres"


@contextmanager
def postgres(*, password: str | None = None) -> Iterator[str]:
    """The address of an empty database; skips where there is no server program.

    Args:
        password: asked of everybody; None: nobody is asked for one
    """
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("PostgreSQL is not installed")
    # The server refuses to be root, and its socket's path must be short.
    user = USER if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="media-pipeline-pg-"))
    try:
        if user is not None:
            try:
                account = pwd.getpwnam(user)
            except KeyError:
                pytest.skip(f"PostgreSQL does not run as root, and there is no user {user}")
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, log = folder / "data", folder / "log"
        auth = ["--auth=trust"]
        if password is not None:
            (folder / "password").write_text(password)
            auth = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
            folder.chmod(0o755)
            (folder / "password").chmod(0o644)
        _run(["initdb", "-D", str(data), "-U", "test", *auth, "--no-sync"], user)
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        _run(["pg_ctl", "-D", str(data), "-l", str(log), "-o", options, "-w", "start"], user)
        try:
            yield f"postgresql://test{f':{password}' if password else ''}@/postgres?host={folder}"
        finally:
            _run(["pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop"], user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], user: str | None) -> None:
    done = subprocess.run(
        command, user=user, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
