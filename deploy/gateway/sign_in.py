"""Who is it, and what may he do: answers the `auth_request` of nginx for every request.

Why not nginx's own `auth_basic`: it computes bcrypt for each request, on purpose a quarter of a second. A page of
Dagster makes 60 requests, so 15 seconds of CPU in which nginx serves nobody else; and `limit_req` counts before it is
known whether a password was right, so it cannot tell an attacker from a page. Here a password that was right is known
again by a keyed hash in memory for a quarter of an hour, for as long as the line of its user stays what it was: a page
costs one bcrypt, a removed user is out with the next request. Only unknown passwords are computed, one at a time, and
only they are counted: ten wrong ones from one address within five minutes, and that address gets 429 for what is not
known to be right, while people behind the same address who are signed in go on.
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any, Literal

LEAST_COST = 10
# Longer ones would be cut silently by bcrypt.
MAX_PASSWORD_BYTES = 72
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
REMEMBER_S = 900.0
REMEMBER_WRONG_S = 60.0
# More people than a server has, and few enough that a flood of names costs a few MB.
_REMEMBERED = 20_000
# Requests with unknown passwords that may wait for their turn, room for the first page of two people at once; beyond
# that the answer is "later", immediately.
_WAITING = 128
# Compared with where there is no such user, so that the time does not tell names.
_NOBODY = "$2y$12$abcdefghijklmnopqrstuunYdhHrPrQsWwVD7FJZar2U048CuDd2m"

Role = Literal["operator", "viewer"]
Outcome = Literal["in", "out", "forbidden", "later"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a request.

    Attributes:
        name: of the user; of one who is out only where there is such a user: a password typed into the wrong field
            must not end up in a log
        retry_s: of "later", when to try again
    """

    outcome: Outcome
    name: str = ""
    role: Role | None = None
    retry_s: int = 0


def crypt(password: bytes, setting: str) -> str | None:
    """bcrypt of libxcrypt, which Debian's own login uses; Python's module for it has been taken out."""
    data = ctypes.create_string_buffer(32768)
    result = _libcrypt().crypt_rn(password, setting.encode(), data, len(data))
    return result.decode() if result else None


def _libcrypt() -> Any:
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt_rn.restype = ctypes.c_char_p
    return library


class Users:
    """The files `users` (NAME:BCRYPT, as of htpasswd) and `operators` (a name a line), read again when changed."""

    def __init__(self, secrets_folder: Path, complain: Callable[[str], None] = print) -> None:
        self._users_file = secrets_folder / "users"
        self._operators_file = secrets_folder / "operators"
        self._complain = complain
        self._seen: tuple[object, ...] | None = None
        self._hashes: dict[str, str] = {}
        self._operators: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def look_up(self, name: str) -> tuple[str | None, Role]:
        """The hash of a user's password, None without such a user, and his role."""
        with self._lock:
            seen = (_stamp(self._users_file), _stamp(self._operators_file))
            if seen != self._seen:
                self._read()
                self._seen = seen
            return self._hashes.get(name), "operator" if name in self._operators else "viewer"

    def __len__(self) -> int:
        self.look_up("")
        return len(self._hashes)

    def _read(self) -> None:
        hashes = {}
        for number, line in enumerate(_lines(self._users_file, self._complain), 1):
            name, _, rest = line.partition(":")
            found = BCRYPT.fullmatch(rest)
            if not NAME.fullmatch(name) or not found or int(found[1]) < LEAST_COST:
                self._complain(
                    f"line {number} of {self._users_file} is left out: it is not NAME:HASH with bcrypt of cost "
                    f"{LEAST_COST} or more; write it anew with `user passwd NAME`"
                )
            else:
                hashes[name] = rest
        self._hashes = hashes
        self._operators = frozenset(_lines(self._operators_file, self._complain))


def _lines(path: Path, complain: Callable[[str], None]) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        complain(f"{path} cannot be read ({error}): nobody is in it; it must belong to user {os.getuid()}")
        return []
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


class Doorkeeper:
    """Decides about one request. Safe for threads.

    Args:
        failures: wrong passwords from one address within `failure_seconds`, after which it waits
    """

    def __init__(
        self, users: Users, *, failures: int, failure_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._users = users
        self._failures = failures
        self._failure_seconds = failure_seconds
        self._clock = clock
        self._key = secrets.token_bytes(32)
        # By keyed hash of name and password: (hash in the file, until when).
        self._right: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._wrong: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._counts: OrderedDict[str, deque[float]] = OrderedDict()
        self._turn = threading.Lock()
        self._memory = threading.Lock()
        self._waiting = 0

    def judge(self, authorization: str | None, address: str, *, operators_only: bool) -> Answer:
        credentials = _basic(authorization)
        if credentials is None:
            return Answer("out")
        name, password = credentials
        hashed, role = self._users.look_up(name)
        token = hmac.digest(self._key, name.encode() + b"\0" + password, hashlib.sha256)
        known = name if hashed else ""
        right = self._remembered(token, hashed)
        if right is None:
            retry_s = self._blocked(address)
            if retry_s:
                return Answer("later", known, retry_s=retry_s)
            right = self._compute(token, hashed, password, address)
            if right is None:
                return Answer("later", known, retry_s=5)
        if not right:
            return Answer("out", known)
        if operators_only and role != "operator":
            return Answer("forbidden", name, role)
        return Answer("in", name, role)

    def _remembered(self, token: bytes, hashed: str | None) -> bool | None:
        now = self._clock()
        with self._memory:
            for memory, verdict in ((self._right, True), (self._wrong, False)):
                found = memory.get(token)
                if found and found[0] == (hashed or "") and found[1] > now:
                    return verdict
        return None

    def _compute(self, token: bytes, hashed: str | None, password: bytes, address: str) -> bool | None:
        with self._memory:
            if self._waiting >= _WAITING:
                return None
            self._waiting += 1
        try:
            with self._turn:
                again = self._remembered(token, hashed)
                if again is not None:
                    return again
                if self._blocked(address):
                    return None
                right = bool(
                    hmac.compare_digest(crypt(password, hashed or _NOBODY) or "*", hashed or _NOBODY) and hashed
                )
                self._remember(token, hashed, right, address)
                return right
        finally:
            with self._memory:
                self._waiting -= 1

    def _remember(self, token: bytes, hashed: str | None, right: bool, address: str) -> None:
        now = self._clock()
        with self._memory:
            memory = self._right if right else self._wrong
            memory[token] = (hashed or "", now + (REMEMBER_S if right else REMEMBER_WRONG_S))
            memory.move_to_end(token)
            if len(memory) > _REMEMBERED:
                memory.popitem(last=False)
            if not right:
                # The same wrong password, sent by 60 requests of one page, is one mistake.
                times = self._counts.setdefault(_network(address), deque(maxlen=self._failures))
                times.append(now)
                self._counts.move_to_end(_network(address))
                if len(self._counts) > _REMEMBERED:
                    self._counts.popitem(last=False)

    def _blocked(self, address: str) -> int:
        """Seconds until this address may try again."""
        with self._memory:
            times = self._counts.get(_network(address))
            if not times or len(times) < self._failures:
                return 0
            return max(0, int(times[0] + self._failure_seconds - self._clock() + 0.999))


def _network(address: str) -> str:
    """One household has one IPv4 address, but 2^64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if parsed.version == 6 else address


def _basic(header: str | None) -> tuple[str, bytes] | None:
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        # A character that is no base64 is an error, not to be skipped.
        name, separator, password = base64.b64decode(value.strip(), validate=True).partition(b":")
        if not separator or b"\0" in password or len(password) > MAX_PASSWORD_BYTES:
            return None
        return name.decode(), password
    except (binascii.Error, UnicodeDecodeError):
        return None


class Server(ThreadingMixIn, UnixStreamServer):
    """Listens on a socket that only this user can open."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, path: Path, doorkeeper: Doorkeeper) -> None:
        path.unlink(missing_ok=True)
        self.doorkeeper = doorkeeper
        super().__init__(str(path), _Handler)
        path.chmod(0o600)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Longer than nginx keeps an idle connection, so that it never sends into one that is being closed.
    timeout = 90
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(200, {})
            return
        answer = self.server.doorkeeper.judge(
            self.headers.get("Authorization"),
            self.headers.get("X-Address", ""),
            operators_only=self.path == "/operator",
        )
        headers = {"X-Auth-User": answer.name, "X-Auth-Role": answer.role or ""}
        if answer.outcome == "in":
            self._answer(204, headers)
        elif answer.outcome == "out":
            self._answer(401, {"WWW-Authenticate": 'Basic realm="media-pipeline", charset="UTF-8"'} | headers)
        elif answer.outcome == "forbidden":
            self._answer(403, headers)
        else:
            # auth_request passes on 401 and 403 only; nginx makes 429 of this one.
            self._answer(403, headers | {"X-Auth-Retry": str(answer.retry_s)})

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def setup(self) -> None:
        super().setup()
        self.request.settimeout(self.timeout)

    def address_string(self) -> str:
        return "nginx"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """nginx logs."""


def serve(path: Path, doorkeeper: Doorkeeper) -> Server:
    """Answers from now on, in threads."""
    server = Server(path, doorkeeper)
    threading.Thread(target=server.serve_forever, name="sign-in", daemon=True).start()
    return server
