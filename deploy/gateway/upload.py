"""The service `upload`: takes files into the inbox, by tus 1.0 (resumable) and by what WebDAV writes.

nginx before it has checked who it is and passes bodies on as they come. tus (https://tus.io/protocols/resumable-upload)
is written here, on the standard library: tuspyserver, the one maintained library, wants FastAPI, leaves finished files
under their ids, and says nothing of a full disk.

A file is written into a hidden part and appears under its name when it is complete and on the disk, never before.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from . import dav
from .inbox import Inbox, Part, Refused, refusal_of
from .settings import GatewayError, Settings

TUS = "/upload/tus/"
DAV = "/_dav/"
_BLOCK = 1 << 18
# Written through at these steps, so that the end of a long upload does not wait for all of it.
_SYNC_BYTES = 64 << 20
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[^\r\n]*)?\r?\n")
_TOKEN = re.compile(r"<(urn:uuid:[0-9a-f]{32})>")
_LOOK_S = 3600.0


def main(environment: Mapping[str, str]) -> int:
    settings = Settings.read(environment)
    inbox = Inbox(settings.inbox, min_free_bytes=settings.min_free_bytes, max_file_bytes=settings.max_file_bytes)
    try:
        inbox.prepare()
    except OSError as error:
        raise GatewayError(
            f"{settings.inbox} cannot be written to: {error.strerror}",
            f"mount the volume of the inbox there; it must belong to user {os.getuid()}",
        ) from None
    server = Server((settings.listen_address, settings.listen_upload), inbox)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    threading.Thread(target=_expire, args=(inbox,), daemon=True).start()
    print(f"upload: takes files into {settings.inbox}", flush=True)
    server.serve_forever()
    return 0


def _expire(inbox: Inbox) -> None:
    while True:
        try:
            gone = inbox.expire()
            if gone:
                print(f"upload: {gone} abandoned uploads have been removed", flush=True)
        except OSError as error:
            print(f"upload: abandoned uploads cannot be removed: {error}", file=sys.stderr, flush=True)
        time.sleep(_LOOK_S)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], inbox: Inbox) -> None:
        self.inbox = inbox
        self.placeholders = dav.Placeholders()
        self._writers: dict[str, socket.socket] = {}
        self._free = threading.Condition()
        super().__init__(address, _Handler)

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


class _Incomplete(Exception):
    """The body ended before its end."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 180
    server: Server

    def _dispatch(self) -> None:
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, "ok\n")
            return
        tus = self._path == TUS.rstrip("/") or self._path.startswith(TUS)
        action = (_TUS_ACTIONS if tus else _DAV_ACTIONS).get(self.command)
        try:
            if action is None:
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} does nothing here.")
            action(self)
        except Refused as refused:
            self._refuse(refused)
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self._refuse(refusal_of(error))
        except _Incomplete:
            self.close_connection = True

    do_OPTIONS = do_HEAD = do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _dispatch  # noqa: N815
    do_MKCOL = do_COPY = do_MOVE = do_PROPFIND = do_PROPPATCH = do_LOCK = do_UNLOCK = _dispatch  # noqa: N815

    def _options(self) -> None:
        self._answer(HTTPStatus.OK, headers={"DAV": "1, 2", "MS-Author-Via": "DAV", "Allow": dav.METHODS})

    # -- tus ---------------------------------------------------------------------------------------------------------

    def _tus_options(self) -> None:
        self._answer(
            HTTPStatus.NO_CONTENT,
            headers={
                "Tus-Version": "1.0.0",
                "Tus-Extension": "creation,expiration,termination",
                "Tus-Max-Size": str(self.server.inbox.max_file_bytes),
            },
        )

    def _create(self) -> None:
        if self._path.rstrip("/") != TUS.rstrip("/"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "An upload begins at /upload/tus/ only.")
        self._must_speak_tus()
        length = self.headers.get("Upload-Length", "")
        if not re.fullmatch(r"\d{1,18}", length):
            raise Refused(HTTPStatus.BAD_REQUEST, "Upload-Length is missing: the size must be known from the start.")
        path = _metadata(self.headers.get("Upload-Metadata", "")).get("filename", "")
        if not path:
            raise Refused(HTTPStatus.BAD_REQUEST, "Upload-Metadata has no filename.")
        part = self.server.inbox.begin(path, int(length), self._who)
        headers = {"Location": f"{TUS}{part.id}", "Upload-Expires": _date(part), "X-Upload-Path": _header(part.path)}
        if part.length == 0:
            self.server.inbox.finish(part)
        self._answer(HTTPStatus.CREATED, headers=headers)

    def _where(self) -> None:
        self._must_speak_tus()
        part = self._part()
        with self.server.alone(part.id, self.connection):
            offset = self.server.inbox.offset(part)
            if offset == part.length:
                # All had arrived when the connection broke or the service ended.
                self.server.inbox.finish(part)
        self._answer(
            HTTPStatus.OK,
            headers={
                "Upload-Offset": str(offset),
                "Upload-Length": str(part.length),
                "Upload-Expires": _date(part),
                "Cache-Control": "no-store",
            },
        )

    def _append(self) -> None:
        self._must_speak_tus()
        if self.headers.get("Content-Type", "") != "application/offset+octet-stream":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/offset+octet-stream.")
        inbox, part = self.server.inbox, self._part()
        with self.server.alone(part.id, self.connection):
            offset = inbox.offset(part)
            if self.headers.get("Upload-Offset") != str(offset):
                raise Refused(HTTPStatus.CONFLICT, f"The upload stands at {offset}.")
            with inbox.bytes_file(part).open("ab", buffering=0) as file:
                try:
                    # Kept whatever happens: the next request goes on there.
                    self._copy_body(file, part.length - offset)
                finally:
                    os.fsync(file.fileno())
            part = inbox.touch(part)
            offset = inbox.offset(part)
            headers = {"Upload-Offset": str(offset), "Upload-Expires": _date(part)}
            if offset == part.length:
                headers["X-Upload-Path"] = _header(inbox.finish(part))
        self._answer(HTTPStatus.NO_CONTENT, headers=headers)

    def _terminate(self) -> None:
        self._must_speak_tus()
        part = self._part()
        with self.server.alone(part.id, self.connection):
            self.server.inbox.drop(part)
        self._answer(HTTPStatus.NO_CONTENT)

    def _part(self) -> Part:
        return self.server.inbox.find(self._path.removeprefix(TUS), self._who)

    def _must_speak_tus(self) -> None:
        if self.headers.get("Tus-Resumable") != "1.0.0":
            raise Refused(HTTPStatus.PRECONDITION_FAILED, "This is tus 1.0.0: Tus-Resumable is missing.")

    # -- WebDAV ------------------------------------------------------------------------------------------------------

    def _get(self) -> None:
        path = self._target()
        if path in self.server.placeholders:
            self._answer(HTTPStatus.OK)
            return
        handle, stat = self.server.inbox.open(path)
        with os.fdopen(handle, "rb") as file:
            self.send_response_only(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(stat.st_size))
            self.send_header("Last-Modified", formatdate(stat.st_mtime, usegmt=True))
            self.send_header("ETag", dav.etag(stat))
            self.end_headers()
            if self.command == "GET":
                self.wfile.flush()
                self.connection.sendfile(file, 0, stat.st_size or None)

    def _put(self) -> None:
        inbox, path = self.server.inbox, self._target()
        if self.headers.get("Content-Range"):
            raise Refused(HTTPStatus.BAD_REQUEST, "Parts of a file are not taken with PUT; /upload/tus/ resumes.")
        if self._path.endswith("/"):
            raise Refused(HTTPStatus.CONFLICT, "That is the name of a folder.")
        place = inbox.place(path)
        if self.headers.get("If-None-Match") == "*" and place.exists():
            raise Refused(HTTPStatus.PRECONDITION_FAILED, "There is something of that name already.")
        # Finder sends the length in a header of its own.
        length = self.headers.get("Content-Length") or self.headers.get("X-Expected-Entity-Length") or "0"
        if not length.isdigit():
            raise Refused(HTTPStatus.BAD_REQUEST, "Content-Length is not a number.")
        if length == "0" and not self.headers.get("Transfer-Encoding"):
            if not place.exists():
                self.server.placeholders.add(path)
            self._answer(HTTPStatus.CREATED)
            return
        inbox.check_room(int(length))
        scratch = inbox.scratch()
        try:
            with scratch.open("wb", buffering=0) as file:
                self._copy_body(file, inbox.max_file_bytes)
                os.fsync(file.fileno())
            new = inbox.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        new = not self.server.placeholders.drop(path) and new
        self._answer(HTTPStatus.CREATED if new else HTTPStatus.NO_CONTENT, headers={"X-Upload-Path": _header(path)})

    def _make_folder(self) -> None:
        if self._body():
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "MKCOL takes no body.")
        self.server.inbox.make_folder(self._target())
        self._answer(HTTPStatus.CREATED)

    def _remove(self) -> None:
        path = self._target()
        if not self.server.placeholders.drop(path):
            self.server.inbox.remove(path)
        self._answer(HTTPStatus.NO_CONTENT)

    def _move(self) -> None:
        source, target = self._target(), self._destination()
        if self.server.placeholders.drop(source):
            self.server.placeholders.add(target)
            self._answer(HTTPStatus.CREATED)
            return
        new = self.server.inbox.move(source, target, overwrite=self._overwrite)
        self._answer(HTTPStatus.CREATED if new else HTTPStatus.NO_CONTENT, headers={"X-Upload-Path": _header(target)})

    def _copy(self) -> None:
        target = self._destination()
        new = self.server.inbox.copy(self._target(), target, overwrite=self._overwrite)
        self._answer(HTTPStatus.CREATED if new else HTTPStatus.NO_CONTENT, headers={"X-Upload-Path": _header(target)})

    def _list(self) -> None:
        self._body()
        depth = self.headers.get("Depth", "1")
        if depth not in ("0", "1"):
            raise Refused(HTTPStatus.FORBIDDEN, "Depth is 0 or 1 here.")
        body = dav.listing(self.server.inbox, self.server.placeholders, self._target(), children=depth == "1")
        self._answer(HTTPStatus.MULTI_STATUS, body)

    def _patch_properties(self) -> None:
        path, body = self._target(), self._body()
        self._must_be_there(path)
        self._answer(HTTPStatus.MULTI_STATUS, dav.patched(path, body))

    def _lock(self) -> None:
        body, path = self._body(), self._target()
        renewed = _TOKEN.search(self.headers.get("If", ""))
        if path:
            self.server.inbox.place(path)
        token, answer = dav.lock(path, renewed[1] if renewed and not body else None)
        self._answer(HTTPStatus.OK, answer, headers={"Lock-Token": f"<{token}>"})

    def _unlock(self) -> None:
        self._body()
        self._answer(HTTPStatus.NO_CONTENT)

    def _must_be_there(self, path: str) -> None:
        if path and path not in self.server.placeholders and not self.server.inbox.place(path).exists():
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing of that name.")

    def _target(self) -> str:
        """The path below the inbox; empty for the inbox itself."""
        if not self._path.startswith(DAV):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "Not here.")
        return _decoded(self._path.removeprefix(DAV)).strip("/")

    def _destination(self) -> str:
        destination = urlsplit(self.headers.get("X-Destination", ""))
        prefix, found, rest = destination.path.partition("/upload/")
        if prefix or not found or not rest or (destination.netloc and destination.netloc != self.headers.get("Host")):
            raise Refused(HTTPStatus.FORBIDDEN, "The destination is not below /upload/ of this server.")
        return _decoded(rest).strip("/")

    @property
    def _overwrite(self) -> bool:
        return self.headers.get("Overwrite", "T") != "F"

    # -- HTTP --------------------------------------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    @property
    def _who(self) -> str:
        return self.headers.get("X-Auth-User", "")

    def _refuse(self, refused: Refused) -> None:
        # What is left of the body is not read.
        self.close_connection = True
        self._answer(refused.status, f"{refused}\n")

    def _answer(self, status: HTTPStatus, content: str | bytes = "", headers: Mapping[str, str] | None = None) -> None:
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

    def _body(self) -> bytes:
        """Of a question."""
        body = b""
        for block in self._blocks():
            body += block
            if len(body) > dav.MAX_XML:
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The question is too long.")
        return body

    def _copy_body(self, file: BinaryIO, most: int) -> None:
        """The body into the file, block by block.

        Raises:
            _Incomplete: the connection ended first; what has arrived is in the file
            Refused: it has more bytes than `most`
        """
        since_sync = copied = 0
        for block in self._blocks():
            copied += len(block)
            if copied > most:
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "More bytes have come than were announced.")
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
            raise _Incomplete
        return int(found[1], 16)

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            try:
                # read1: what is there now; a slow connection's bytes are kept as they come.
                block = self.rfile.read1(min(size, _BLOCK))
            except (ConnectionError, TimeoutError):
                block = b""
            if not block:
                raise _Incomplete
            size -= len(block)
            yield block

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """nginx logs."""


def _metadata(header: str) -> dict[str, str]:
    values = {}
    for pair in header.split(","):
        key, _, encoded = pair.strip().partition(" ")
        try:
            values[key] = base64.b64decode(encoded.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise Refused(HTTPStatus.BAD_REQUEST, "Upload-Metadata is not base64 of UTF-8.") from None
    return values


def _decoded(path: str) -> str:
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise Refused(HTTPStatus.BAD_REQUEST, "The name is not UTF-8.") from None


def _header(path: str) -> str:
    """UTF-8 in a header, for nginx, which writes it into the audit log; http.server would have it Latin-1."""
    return path.encode().decode("latin-1")


_TUS_ACTIONS: dict[str, Callable[[_Handler], None]] = {
    "OPTIONS": _Handler._tus_options,
    "POST": _Handler._create,
    "HEAD": _Handler._where,
    "PATCH": _Handler._append,
    "DELETE": _Handler._terminate,
}
_DAV_ACTIONS: dict[str, Callable[[_Handler], None]] = {
    "OPTIONS": _Handler._options,
    "GET": _Handler._get,
    "HEAD": _Handler._get,
    "PUT": _Handler._put,
    "DELETE": _Handler._remove,
    "MKCOL": _Handler._make_folder,
    "COPY": _Handler._copy,
    "MOVE": _Handler._move,
    "PROPFIND": _Handler._list,
    "PROPPATCH": _Handler._patch_properties,
    "LOCK": _Handler._lock,
    "UNLOCK": _Handler._unlock,
}


def _date(part: Part) -> str:
    return formatdate(part.expires, usegmt=True)
