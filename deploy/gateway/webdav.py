"""What file managers ask of a WebDAV share (RFC 4918), answered with the inbox. `dav` has the XML of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import urlsplit

from . import dav
from .refusal import Refused
from .request import Request, decoded, in_header

DAV = "/_dav/"
_TOKEN = re.compile(r"<(urn:uuid:[0-9a-f]{32})>")


def _options(request: Request) -> None:
    request.answer(HTTPStatus.OK, headers={"DAV": "1, 2", "MS-Author-Via": "DAV", "Allow": dav.METHODS})


def _get(request: Request) -> None:
    path = _target(request)
    if path in request.server.placeholders:
        request.answer(HTTPStatus.OK)
        return
    handle, stat = request.server.inbox.open(path)
    with os.fdopen(handle, "rb") as file:
        request.send_response_only(HTTPStatus.OK)
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", str(stat.st_size))
        request.send_header("Last-Modified", formatdate(stat.st_mtime, usegmt=True))
        request.send_header("ETag", dav.etag(stat))
        request.end_headers()
        if request.command == "GET":
            request.wfile.flush()
            request.connection.sendfile(file, 0, stat.st_size or None)


def _put(request: Request) -> None:
    inbox, path = request.server.inbox, _target(request)
    if request.headers.get("Content-Range"):
        raise Refused(HTTPStatus.BAD_REQUEST, "Parts of a file are not taken with PUT; /upload/tus/ resumes.")
    if request.route.endswith("/"):
        raise Refused(HTTPStatus.CONFLICT, "That is the name of a folder.")
    place = inbox.place(path)
    if request.headers.get("If-None-Match") == "*" and place.exists():
        raise Refused(HTTPStatus.PRECONDITION_FAILED, "There is something of that name already.")
    # Finder sends the length in a header of its own.
    length = request.headers.get("Content-Length") or request.headers.get("X-Expected-Entity-Length") or "0"
    if not length.isdigit():
        raise Refused(HTTPStatus.BAD_REQUEST, "Content-Length is not a number.")
    if length == "0" and not request.headers.get("Transfer-Encoding"):
        if not place.exists():
            request.server.placeholders.add(path)
        request.answer(HTTPStatus.CREATED)
        return
    with inbox.arriving(int(length)) as scratch:
        with scratch.open("wb", buffering=0) as file:
            request.copy_body(file, scratch, inbox.max_file_bytes)
            os.fsync(file.fileno())
        new = inbox.replace(scratch, path)
    new = not request.server.placeholders.drop(path) and new
    request.answer(HTTPStatus.CREATED if new else HTTPStatus.NO_CONTENT, headers={"X-Upload-Path": in_header(path)})


def _make_folder(request: Request) -> None:
    if request.body():
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "MKCOL takes no body.")
    request.server.inbox.make_folder(_target(request))
    request.answer(HTTPStatus.CREATED)


def _remove(request: Request) -> None:
    path = _target(request)
    if not request.server.placeholders.drop(path):
        request.server.inbox.remove(path)
    request.answer(HTTPStatus.NO_CONTENT)


def _move(request: Request) -> None:
    source, target = _target(request), _destination(request)
    if request.server.placeholders.drop(source):
        request.server.placeholders.add(target)
        request.answer(HTTPStatus.CREATED)
        return
    new = request.server.inbox.move(source, target, overwrite=_overwrite(request))
    request.answer(HTTPStatus.CREATED if new else HTTPStatus.NO_CONTENT, headers={"X-Upload-Path": in_header(target)})


def _copy(request: Request) -> None:
    target = _destination(request)
    new = request.server.inbox.copy(_target(request), target, overwrite=_overwrite(request))
    request.answer(HTTPStatus.CREATED if new else HTTPStatus.NO_CONTENT, headers={"X-Upload-Path": in_header(target)})


def _list(request: Request) -> None:
    request.body()
    depth = request.headers.get("Depth", "1")
    if depth not in ("0", "1"):
        raise Refused(HTTPStatus.FORBIDDEN, "Depth is 0 or 1 here.")
    body = dav.listing(request.server.inbox, request.server.placeholders, _target(request), children=depth == "1")
    request.answer(HTTPStatus.MULTI_STATUS, body)


def _patch_properties(request: Request) -> None:
    path, body = _target(request), request.body()
    _must_be_there(request, path)
    request.answer(HTTPStatus.MULTI_STATUS, dav.patched(path, body))


def _lock(request: Request) -> None:
    body, path = request.body(), _target(request)
    renewed = _TOKEN.search(request.headers.get("If", ""))
    if path:
        request.server.inbox.place(path)
    token, answer = dav.lock(path, renewed[1] if renewed and not body else None)
    request.answer(HTTPStatus.OK, answer, headers={"Lock-Token": f"<{token}>"})


def _unlock(request: Request) -> None:
    request.body()
    request.answer(HTTPStatus.NO_CONTENT)


def _must_be_there(request: Request, path: str) -> None:
    if path and path not in request.server.placeholders and not request.server.inbox.place(path).exists():
        raise Refused(HTTPStatus.NOT_FOUND, "There is nothing of that name.")


def _target(request: Request) -> str:
    """The path below the inbox; empty for the inbox itrequest."""
    if not request.route.startswith(DAV):
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "Not here.")
    return decoded(request.route.removeprefix(DAV)).strip("/")


def _destination(request: Request) -> str:
    destination = urlsplit(request.headers.get("X-Destination", ""))
    prefix, found, rest = destination.path.partition("/upload/")
    if prefix or not found or not rest or (destination.netloc and destination.netloc != request.headers.get("Host")):
        raise Refused(HTTPStatus.FORBIDDEN, "The destination is not below /upload/ of this server.")
    return decoded(rest).strip("/")


def _overwrite(request: Request) -> bool:
    return request.headers.get("Overwrite", "T") != "F"


ACTIONS: dict[str, Callable[[Request], None]] = {
    "OPTIONS": _options,
    "GET": _get,
    "HEAD": _get,
    "PUT": _put,
    "DELETE": _remove,
    "MKCOL": _make_folder,
    "COPY": _copy,
    "MOVE": _move,
    "PROPFIND": _list,
    "PROPPATCH": _patch_properties,
    "LOCK": _lock,
    "UNLOCK": _unlock,
}
