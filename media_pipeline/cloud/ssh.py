"""Talking to a rented machine: OpenSSH's client with a throwaway key, and nothing of the user's own ssh.

A machine is pinned by the host key it shows first, in a file of its lease; another one later ends the connection.
Nothing is forwarded, no agent is asked, no configuration is read, and no connection stays open for others to use.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import selectors
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from media_pipeline.errors import UsageError, WorkerLost
from media_pipeline.wording import printable

_CONNECT_S, _ALIVE_S = 10, 10
_OPTIONS = (
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "PreferredAuthentications=publickey",
    "BatchMode=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "Tunnel=no",
    "ControlMaster=no",
    "ControlPath=none",
    "ControlPersist=no",
    "StrictHostKeyChecking=accept-new",
    "GlobalKnownHostsFile=none",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "CheckHostIP=no",
    f"ConnectTimeout={_CONNECT_S}",
    f"ServerAliveInterval={_ALIVE_S}",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
)
# English, so that its messages can be told apart; it needs nothing else.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
_MOST_BYTES = 4 * 1024**2  # of what a machine may say in answer to one command
_BLOCK = 1024**2
_MEASURED_BYTES = 2 * 1024**2
_ATTEMPTS = 3  # of a transfer, in a row that bring nothing
_SSH_FAILED = 255
_WORDS = (
    (r"Connection refused", "refused the connection"),
    (r"Permission denied", "did not accept the key"),
    (r"timed? ?out|No route|unreachable", "did not answer"),
    (r"Could not resolve", "has no address"),
    (r"closed|reset|Broken pipe|banner", "broke the connection off"),
)


class HostKeyChanged(WorkerLost):
    """It is not the machine it was: restarted, or another one in its place."""


class RemoteFailed(WorkerLost):
    """The connection is good; the command there ended with an error."""

    def __init__(self, cause: str, remedy: str | None = None, status: int = 1) -> None:
        super().__init__(cause, remedy)
        self.status = status

    def __reduce__(self) -> Any:
        return (type(self), (self.cause, self.remedy, self.status))


@dataclass(frozen=True, slots=True)
class Key:
    """A key pair for one machine, which knows us by nothing else."""

    private: Path
    public: str  # one line, without a comment: it would name this machine

    @classmethod
    def make(cls, folder: Path) -> Key:
        """The pair in this folder, made (ed25519, for its owner only) where there is none."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
            load_ssh_private_key,
        )

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = folder / "key"
        with contextlib.suppress(FileNotFoundError):
            old = load_ssh_private_key(private.read_bytes(), None).public_key()
            return cls(private, old.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())
        new = Ed25519PrivateKey.generate()
        content = new.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as stream:  # made with 0600
            stream.write(content)
        Path(stream.name).rename(private)
        return cls(private, new.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


class Connection:
    """How to reach one machine. Every command is a connection of its own that ends with it."""

    def __init__(self, host: str, port: int, key: Key, known_hosts: Path, *, user: str = "root") -> None:
        self.host, self.port = host, port
        # Of uploads, as last measured; None: not yet.
        self.upload_bytes_per_s: float | None = None
        self._key, self._known_hosts, self._user = key, known_hosts, user

    def __repr__(self) -> str:
        return f"Connection({self.host}:{self.port})"

    def command(self, remote: str) -> tuple[str, ...]:
        """The local command that runs `remote` in the shell there, with its three pipes."""
        files = (f"IdentityFile={_quoted(self._key.private)}", f"UserKnownHostsFile={_quoted(self._known_hosts)}")
        options = [part for option in (*_OPTIONS, *files) for part in ("-o", option)]
        return (_ssh(), "-F", "none", "-T", "-e", "none", *options, "-p", str(self.port), "-l", self._user,
                "--", self.host, remote)  # fmt: skip

    def run(self, remote: str, *, timeout_s: float, stdin: bytes | Path | None = None) -> str:
        """What a command there writes to stdout.

        Raises:
            RemoteFailed: it ended with an error; the cause has stderr's last lines.
            HostKeyChanged
            WorkerLost: no connection, no end in time, or more output than anything of ours has.
        """
        with _stream(stdin) as stream:
            return self._run(remote, timeout_s, stream)

    def upload(
        self, source: Path, target: str, *, timeout_s: float, sha256: str | None = None, staging: str | None = None
    ) -> None:
        """Brings a file to `target` (a path there), which appears only when it is complete and its digest is right.

        A transfer that was cut off goes on where it was, also when it is called anew later.

        Args:
            staging: folder there for what has not arrived completely; that of `target` when None

        Raises:
            WorkerLost: no connection, not in time, or other bytes arrived than were sent.
        """
        until, total = time.monotonic() + timeout_s, source.stat().st_size
        sha256 = sha256 or _sha256(source)
        part = f"{staging or os.path.dirname(target) or '.'}/{sha256[:24]}.part"  # noqa: PTH120 - not a path here
        state = _state_of_upload(target, part, sha256, total)
        have, idle, wrong, said = -1, 0, 0, list[str]()
        while True:
            try:
                said = said or self.run(state, timeout_s=_left(until, target)).split()[-1:]
                if said == ["done"]:
                    return
                wrong += said == ["other"]
                before, have = have, int(said[0]) if said and said[0].isdecimal() else 0
                idle = 0 if have > before else idle + 1
                if wrong > 1 or idle > _ATTEMPTS:
                    raise RemoteFailed(f"{self.host} does not store what is sent to it")
                said = []
                said = self._send(source, part, have // _BLOCK, state, _left(until, target)).split()[-1:]
            except (HostKeyChanged, RemoteFailed):
                raise
            except WorkerLost:
                idle += 1
                if idle > _ATTEMPTS or time.monotonic() > until:
                    raise
                time.sleep(min(idle, max(0.0, until - time.monotonic())))

    def measure_upload(self, *, timeout_s: float = 60) -> float:
        """Bytes per second that go there, measured with 2 MB.

        Raises:
            WorkerLost: no connection, or it takes longer than that.
        """
        start = time.monotonic()
        remote = "s=$(date +%s%N); cat >/dev/null; echo $(($(date +%s%N) - s))"
        said = self.run(remote, timeout_s=timeout_s, stdin=secrets.token_bytes(_MEASURED_BYTES)).strip()
        took = time.monotonic() - start
        # Its own clock leaves the greeting out; it is believed as far as it can be true.
        there = int(said) / 1e9 if said.isdecimal() and len(said) < 18 else took
        self.upload_bytes_per_s = _MEASURED_BYTES / min(took, max(there, took / 100))
        return self.upload_bytes_per_s

    def _send(self, source: Path, part: str, block: int, state: str, timeout_s: float) -> str:
        with source.open("rb") as stream:
            stream.seek(block * _BLOCK)
            size, start = source.stat().st_size - stream.tell(), time.monotonic()
            # To a place, not to the end: what a connection that was cut off still writes there is the same.
            write = f"dd of={shlex.quote(part)} bs={_BLOCK} seek={block} conv=notrunc status=none || exit"
            said = self._run(f"{write}\n{state}", timeout_s, stream)
        if size >= _MEASURED_BYTES:
            self.upload_bytes_per_s = size / max(time.monotonic() - start, 1e-3)
        return said

    def _run(self, remote: str, timeout_s: float, stdin: IO[bytes] | None) -> str:
        status, out, err = _exchange(self.command(remote), stdin, timeout_s)
        text = err.decode(errors="replace")
        if status is None:
            is_endless = len(out) + len(err) > _MOST_BYTES
            why = "has no end of words" if is_endless else f"did not finish in {timeout_s:.0f} s"
            raise WorkerLost(f"{self.host}: a command there {why}")
        if status == _SSH_FAILED:
            raise self._failure(text)
        if status != 0:
            raise RemoteFailed(f"{self.host} answered: {_last_lines(text) or f'exit status {status}'}", status=status)
        return out.decode(errors="replace")

    def _failure(self, text: str) -> WorkerLost:
        if re.search(r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed", text):
            return HostKeyChanged(f"{self.host} shows another host key than before", "another machine is rented")
        words = next((words for pattern, words in _WORDS if re.search(pattern, text, re.IGNORECASE)), None)
        return WorkerLost(f"{self.host}:{self.port} {words or 'cannot be reached'} ({_last_lines(text)})")


def connect(candidates: Sequence[tuple[str, int]], key: Key, folder: Path, *, deadline: float) -> Connection:
    """The first of the addresses at which the machine lets us in; all in turn until the deadline.

    Args:
        folder: of the lease; keeps the machine's host key
        deadline: as time.monotonic() counts

    Raises:
        HostKeyChanged
        WorkerLost: none does; the cause says what each of them did last.
    """
    seen: dict[tuple[str, int], str] = {}
    token = secrets.token_hex(8)
    pause = 1.0
    while True:
        for host, port in candidates:
            connection = Connection(host, port, key, folder / "known_hosts")
            left = max(1.0, min(2.0 * _CONNECT_S, deadline - time.monotonic()))
            try:
                if token in connection.run(f"echo {token}", timeout_s=left):
                    return connection
                seen[host, port] = f"{host}:{port} has no shell"
            except HostKeyChanged:
                raise
            except WorkerLost as error:
                seen[host, port] = error.cause
        if time.monotonic() + pause > deadline:
            raise WorkerLost(f"no way in by ssh: {'; '.join(seen.values()) or 'no address'}")
        time.sleep(pause)
        pause = min(pause * 1.5, 5.0)


def _state_of_upload(target: str, part: str, sha256: str, total: int) -> str:
    """Shell that says done, other, or how many bytes are there; puts a complete file in its place."""
    t, p = shlex.quote(target), shlex.quote(part)
    return f"""
sum() {{ sha256sum < "$1" | cut -c1-64; }}
mkdir -p "$(dirname {t})" "$(dirname {p})" || exit
if [ -f {t} ] && [ "$(sum {t})" = {sha256} ]; then echo done; exit; fi
size=$(stat -c %s {p} 2>/dev/null || echo 0)
if [ "$size" -lt {total} ] || [ ! -f {p} ]; then echo "$size"
elif [ "$(sum {p})" = {sha256} ]; then mv -f {p} {t} && echo done
else rm -f {p}; echo other; fi"""


def _exchange(argv: Sequence[str], stdin: IO[bytes] | None, timeout_s: float) -> tuple[int | None, bytes, bytes]:
    """Exit status, stdout and stderr. The status is None where it had to be killed: too late, or too many words."""
    until = time.monotonic() + timeout_s
    # If this process is killed, ssh goes with it; a file as its stdin would keep it busy.
    setpriv = shutil.which("setpriv")
    bound = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    with (
        subprocess.Popen(  # noqa: S603
            [*bound, *argv],
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for this process, which ends what it started
        ) as process,
        selectors.DefaultSelector() as waiting,
    ):
        assert process.stdout is not None and process.stderr is not None
        said = {process.stdout: bytearray(), process.stderr: bytearray()}
        status = None
        for pipe in said:
            waiting.register(pipe, selectors.EVENT_READ)
        try:
            while waiting.get_map():
                ready = waiting.select(max(0.0, until - time.monotonic()))
                if not ready or sum(map(len, said.values())) > _MOST_BYTES:
                    break
                for key, _ in ready:
                    chunk = os.read(key.fd, 65536)
                    said[key.fileobj] += chunk  # type: ignore[index]
                    if not chunk:
                        waiting.unregister(key.fileobj)
            with contextlib.suppress(subprocess.TimeoutExpired):
                if not waiting.get_map():
                    status = process.wait(max(0.0, until - time.monotonic()) + 1)
        finally:
            process.kill()
        return status, bytes(said[process.stdout]), bytes(said[process.stderr])


@contextlib.contextmanager
def _stream(stdin: bytes | Path | None) -> Iterator[IO[bytes] | None]:
    if stdin is None:
        yield None
    elif isinstance(stdin, Path):
        with stdin.open("rb") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            yield file


def _ssh() -> str:
    found = shutil.which("ssh")
    if found is None:
        raise UsageError("rented machines are reached by ssh, which is not installed", "install openssh-client")
    return found


def _quoted(path: Path) -> str:
    # As in a configuration file: words are split at blanks, and % begins a token.
    return '"' + str(path.absolute()).replace("%", "%%").replace('"', '\\"') + '"'


def _left(until: float, target: str) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise WorkerLost(f"{target} could not be sent in time")
    return left


def _last_lines(text: str) -> str:
    lines = [printable(line).strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-300:]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
