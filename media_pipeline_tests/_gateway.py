"""The gateway as it runs, before small servers that say who they are: for the tests of deploy/gateway."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parent.parent
GATEWAY = ROOT / "deploy" / "gateway"
needs_nginx = pytest.mark.skipif(
    not Path("/usr/sbin/nginx").exists() or not Path("/usr/bin/openssl").exists(),
    reason="needs nginx and openssl: apt-get install nginx-light openssl",
)
needs_htpasswd = pytest.mark.skipif(not shutil.which("htpasswd"), reason="needs apache2-utils")
needs_acme = pytest.mark.skipif(
    not (shutil.which("pebble") and Path("/usr/bin/certbot").exists()), reason="needs pebble and certbot"
)

# bcrypt of cost 10, made once: "operator-password" and "viewer-password".
OPERATOR = ("olga", "operator-password")
VIEWER = ("victor", "viewer-password")
HASHES = {
    "olga": "$2y$10$Ga86zL4WYbDB5j7VhnZt6.R0vogajaEGNxppGsal/UmmFwxI8vViG",
    "victor": "$2y$10$aMvwdfrCUF7ygURyGntPfuozsqRW48KbUVExJBG8qGrj9/zVHRyLq",
}
DEADLINE_S = 60.0


def wait_for(what: Callable[[], Any], why: str, seconds: float = DEADLINE_S) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, httpx.HTTPError, AssertionError):
            if found := what():
                return found
        time.sleep(0.05)
    raise AssertionError(f"after {seconds} s still not: {why}")


def free_port() -> int:
    """Below those that the system gives to outgoing connections, one of which would take it before it is used."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Names:
    """A DNS server that knows the names it is told, as Docker's does; everything else does not exist."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                asked, client = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(asked), client)

    def _answer(self, asked: bytes) -> bytes:
        labels, at = [], 12
        while asked[at]:
            labels.append(asked[at + 1 : at + 1 + asked[at]].decode())
            at += 1 + asked[at]
        question = asked[12 : at + 5]
        address = self.known.get(".".join(labels))
        if address is None:
            return asked[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question
        if question[-4:-2] != b"\0\1":
            return asked[:2] + b"\x81\x80\0\1\0\0\0\0\0\0" + question  # no IPv6
        record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address)
        return asked[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + record

    def close(self) -> None:
        self._socket.close()


@dataclass
class Echo:
    """Answers every request with who it is and what came; speaks enough websocket to echo one frame."""

    name: str
    port: int = 0
    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        echo = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                told = {
                    "service": echo.name,
                    "method": self.command,
                    "path": self.path,
                    "headers": {key.lower(): value for key, value in self.headers.items()},
                    "body": body.decode(errors="replace"),
                }
                echo.seen.append(told)
                if self.headers.get("Upgrade") == "websocket":
                    self._websocket()
                    return
                decide = getattr(echo, "decide", None)
                status, headers = decide(told) if decide else (200, {})
                answer = json.dumps(told).encode()
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            def _websocket(self) -> None:
                key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
                self.send_header("Sec-WebSocket-Accept", accept)
                self.end_headers()
                head = self.rfile.read(2)
                mask = self.rfile.read(4)
                text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
                reply = f"{echo.name} heard {text.decode()}".encode()
                self.wfile.write(bytes([0x81, len(reply)]) + reply)
                self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _any  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        # nginx ends idle connections as it likes.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def start(role: str, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    base = {key: value for key, value in os.environ.items() if not key.startswith(("MEDIA_PIPELINE_", "GATEWAY_"))}
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "gateway", role],
            env=base | {"PYTHONPATH": str(ROOT / "deploy"), "PYTHONUNBUFFERED": "1"} | dict(environment),
            stdout=sink,
            stderr=sink,
            cwd=log.parent,
        )


def stop(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(timeout=10)


@dataclass
class Stack:
    """A running gateway, its upload service and its upstreams."""

    folder: Path
    environment: dict[str, str]
    upstreams: dict[str, Echo]
    names: Names
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def https(self) -> int:
        return int(self.environment["GATEWAY_HTTPS"])

    @property
    def http(self) -> int:
        return int(self.environment["GATEWAY_HTTP"])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.https}"

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def client(self, who: tuple[str, str] | None = None, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=False, auth=who, timeout=60, trust_env=False, **more)

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text(errors="replace")

    def audit(self) -> list[dict[str, Any]]:
        path = self.folder / "logs" / "audit.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def audited(self, **wanted: Any) -> dict[str, Any]:
        """The first line of the audit log that has these values, once it is there."""

        def look() -> dict[str, Any] | None:
            fits = (one for one in self.audit() if all(one.get(key) == value for key, value in wanted.items()))
            return next(fits, None)

        found: dict[str, Any] = wait_for(look, f"an audit line with {wanted}, of {self.audit()[-5:]}", 20)
        return found

    def start(self) -> None:
        for role, log in (("upload", "upload.log"), ("run", "gateway.log")):
            self.processes[role] = start(role, self.environment, self.folder / log)
        self.await_ready()

    def await_ready(self) -> None:
        health = f"http://127.0.0.1:{self.environment['GATEWAY_HEALTH']}/healthz"

        def ready() -> bool:
            ended = {role: one.returncode for role, one in self.processes.items() if one.poll() is not None}
            if ended:
                pytest.fail(f"{ended} has ended: {self.log()}")
            upload = f"http://127.0.0.1:{self.environment['GATEWAY_UPLOAD_PORT']}/healthz"
            return all(httpx.get(url, trust_env=False).status_code == 200 for url in (health, upload))

        wait_for(ready, "the gateway is healthy")

    def close(self) -> None:
        for process in self.processes.values():
            stop(process)
        for upstream in self.upstreams.values():
            upstream.close()
        self.names.close()


@contextmanager
def stack(folder: Path, **more: str) -> Iterator[Stack]:
    """A gateway in `folder`. `more` are further variables; an upstream that is to be named by DNS goes in there."""
    made = prepare(folder, **more)
    try:
        made.start()
        yield made
    finally:
        made.close()


def prepare(folder: Path, **more: str) -> Stack:
    for name in ("inbox", "secrets", "certificates", "acme", "logs"):
        (folder / name).mkdir(parents=True)
    (folder / "secrets" / "users").write_text("".join(f"{name}:{hashed}\n" for name, hashed in HASHES.items()))
    (folder / "secrets" / "operators").write_text("olga\n")
    names = Names()
    upstreams = {
        name: Echo(name) for name in ("webserver", "viewer", "metrics", "grafana", "prometheus", "alertmanager")
    }
    ports = {name: str(free_port()) for name in ("HTTP", "HTTPS", "HEALTH", "UPLOAD_PORT")}
    # A short path: that of a socket has 107 characters at most.
    environment = {
        "GATEWAY_ADDRESS": "127.0.0.1",
        "GATEWAY_RESOLVER": names.address,
        "GATEWAY_SECRETS": str(folder / "secrets"),
        "GATEWAY_INBOX": str(folder / "inbox"),
        "GATEWAY_CERTIFICATES": str(folder / "certificates"),
        "GATEWAY_ACME": str(folder / "acme"),
        "GATEWAY_LOGS": str(folder / "logs"),
        "GATEWAY_RUN": str(folder / "run"),
        "GATEWAY_LOOK_MS": "200",
        "GATEWAY_UPLOAD": f"127.0.0.1:{ports['UPLOAD_PORT']}",
        "MEDIA_PIPELINE_MIN_FREE_BYTES": "0",
        "MEDIA_PIPELINE_SERVER__HTTPS_PORT": ports["HTTPS"],
        "MEDIA_PIPELINE_SERVER__HTTP_PORT": ports["HTTP"],
    }
    environment |= {f"GATEWAY_{name}": port for name, port in ports.items()}
    environment |= {f"GATEWAY_{name.upper()}": one.address for name, one in upstreams.items()}
    environment |= more
    return Stack(folder, environment, upstreams, names)


def children(pid: int) -> list[int]:
    """Processes that this one has started and that are still there."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in brackets, may hold anything.
            if int(file.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(file.parent.name))
    return found


def raw(port: int, text: bytes, *, tls: bool = True, patience: float = 20) -> bytes:
    """The whole answer to bytes as they are; a client library would mend them first."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=patience)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    with connection:
        connection.sendall(text)
        answer = b""
        with suppress(OSError):
            while block := connection.recv(65536):
                answer += block
        return answer


def basic(who: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(who).encode()).decode()
