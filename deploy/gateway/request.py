"""One HTTP request to the service `upload`, and the server that takes them: bodies as they come, answers, errors.

On the standard library: nginx before it speaks with the world.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from . import room
from .dav import MAX_XML, Placeholders
from .inbox import Inbox
from .refusal import Refused

_BLOCK = 1 << 18
# Written through at these steps, so that the end of a long upload does not wait for all of it.
_SYNC_BYTES = 64 << 20
_LINGER_S = 5.0
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[^\r\n]*)?\r?\n")


class Incomplete(Exception):
    """The body ended before its end."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], handler: type[Request], inbox: Inbox) -> None:
        self.inbox = inbox
        self.placeholders = Placeholders()
        self._writers: dict[str, socket.socket] = {}
        self._free = threading.Condition()
        super().__init__(address, handler)

    @contextmanager
    def alone(self, identity: str, connection: socket.socket) -> Iterator[None]:
        """One at a time for an upload: the newest.

        A connection that broke on the way looks open from here for minutes, and its successor must not wait so long.
        """
        with self._free:
            while identity in self._writers:
                with suppress(OSError):
                    self._writers[identity].shutdown(socket.SHUT_RD)
                if not self._free.wait(timeout=20):
                    raise Refused(HTTPStatus.LOCKED, "Another request writes to this upload; try again.")
            self._writers[identity] = connection
        try:
            yield
        finally:
            with self._free:
                del self._writers[identity]
                self._free.notify_all()

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"upload: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


class Request(BaseHTTPRequestHandler):
    """What the protocols need of HTTP; who it is nginx has made sure of."""

    protocol_version = "HTTP/1.1"
    timeout = 180
    # Headers and body are two writes: the second would wait 40 ms until the first is acknowledged.
    disable_nagle_algorithm = True
    server: Server

    @property
    def route(self) -> str:
        return self.path.partition("?")[0]

    @property
    def who(self) -> str:
        return self.headers.get("X-Auth-User", "")

    def refuse(self, refused: Refused) -> None:
        # What is left of the body is not kept.
        self.close_connection = True
        self.answer(refused.status, f"{refused}\n")
        self._linger()

    def _linger(self) -> None:
        """To close on a body that nobody has read would reset the connection, and the answer would be lost with it."""
        if self.headers.get("Content-Length", "0") == "0" and not self.headers.get("Transfer-Encoding"):
            return
        end = time.monotonic() + _LINGER_S
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_LINGER_S)
            while time.monotonic() < end and self.rfile.read1(_BLOCK):
                pass

    def answer(self, status: HTTPStatus, content: str | bytes = "", headers: Mapping[str, str] | None = None) -> None:
        """Text for people, or XML."""
        text = isinstance(content, str)
        body = content.encode() if isinstance(content, str) else content
        self.send_response_only(status)
        self.send_header("Tus-Resumable", "1.0.0")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", f"{'text/plain' if text else 'application/xml'}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        """Of a question."""
        body = b""
        for block in self._blocks():
            body += block
            if len(body) > MAX_XML:
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The question is too long.")
        return body

    def copy_body(self, file: BinaryIO, path: Path, most: int) -> None:
        """The body into the file, block by block, for as long as the disk has room.

        Raises:
            Incomplete: the connection ended first; what has arrived is in the file
            Refused: it has more bytes than `most`, or the disk gets full
        """
        since_sync = copied = look_at = 0
        for block in self._blocks():
            if copied + len(block) > most:
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "More bytes have come than were announced.")
            if copied + len(block) > look_at:
                self.server.inbox.room.go_on(path, len(block))
                look_at = copied + room.STEP_BYTES
            copied += len(block)
            view = memoryview(block)
            while view:
                view = view[file.write(view) :]
            since_sync += len(block)
            if since_sync >= _SYNC_BYTES:
                os.fdatasync(file.fileno())
                since_sync = 0

    def _blocks(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := self._chunk_size():
                yield from self._exactly(size)
                self.rfile.readline(3)
            while self.rfile.readline(8192).strip():
                pass
        else:
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))

    def _chunk_size(self) -> int:
        found = _CHUNK_LINE.fullmatch(self.rfile.readline(8192))
        if not found:
            raise Incomplete
        return int(found[1], 16)

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            try:
                # read1: what is there now; a slow connection's bytes are kept as they come.
                block = self.rfile.read1(min(size, _BLOCK))
            except (ConnectionError, TimeoutError):
                block = b""
            if not block:
                raise Incomplete
            size -= len(block)
            yield block

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """nginx logs."""


def decoded(path: str) -> str:
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise Refused(HTTPStatus.BAD_REQUEST, "The name is not UTF-8.") from None


def in_header(path: str) -> str:
    """UTF-8 in a header, for nginx, which writes it into the audit log; http.server would have it Latin-1."""
    return path.encode().decode("latin-1")
