"""tus 1.0, resumable uploads: https://tus.io/protocols/resumable-upload.

Written here: tuspyserver, the one maintained library, wants FastAPI, leaves finished files under their ids, and says
nothing of a full disk.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

from .inbox import Part
from .refusal import Refused
from .request import Request, in_header

TUS = "/upload/tus/"


def _options(request: Request) -> None:
    request.answer(
        HTTPStatus.NO_CONTENT,
        headers={
            "Tus-Version": "1.0.0",
            "Tus-Extension": "creation,expiration,termination",
            "Tus-Max-Size": str(request.server.inbox.max_file_bytes),
        },
    )


def _create(request: Request) -> None:
    if request.route.rstrip("/") != TUS.rstrip("/"):
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "An upload begins at /upload/tus/ only.")
    _must_speak_tus(request)
    length = request.headers.get("Upload-Length", "")
    if not re.fullmatch(r"\d{1,18}", length):
        raise Refused(HTTPStatus.BAD_REQUEST, "Upload-Length is missing: the size must be known from the start.")
    path = _metadata(request.headers.get("Upload-Metadata", "")).get("filename", "")
    if not path:
        raise Refused(HTTPStatus.BAD_REQUEST, "Upload-Metadata has no filename.")
    part = request.server.inbox.begin(path, int(length), request.who)
    headers = {"Location": f"{TUS}{part.id}", "Upload-Expires": _date(part), "X-Upload-Path": in_header(part.path)}
    if part.length == 0:
        request.server.inbox.finish(part)
    request.answer(HTTPStatus.CREATED, headers=headers)


def _where(request: Request) -> None:
    _must_speak_tus(request)
    part = _part(request)
    with request.server.alone(part.id, request.connection):
        offset = request.server.inbox.offset(part)
        if offset == part.length:
            # All had arrived when the connection broke or the service ended.
            request.server.inbox.finish(part)
    request.answer(
        HTTPStatus.OK,
        headers={
            "Upload-Offset": str(offset),
            "Upload-Length": str(part.length),
            "Upload-Expires": _date(part),
            "Cache-Control": "no-store",
        },
    )


def _append(request: Request) -> None:
    _must_speak_tus(request)
    if request.headers.get("Content-Type", "") != "application/offset+octet-stream":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/offset+octet-stream.")
    inbox, part = request.server.inbox, _part(request)
    with request.server.alone(part.id, request.connection):
        offset = inbox.offset(part)
        if request.headers.get("Upload-Offset") != str(offset):
            raise Refused(HTTPStatus.CONFLICT, f"The upload stands at {offset}.")
        with inbox.bytes_file(part).open("ab", buffering=0) as file:
            try:
                # Kept whatever happens: the next request goes on there.
                request.copy_body(file, inbox.bytes_file(part), part.length - offset)
            finally:
                os.fsync(file.fileno())
        part = inbox.touch(part)
        offset = inbox.offset(part)
        headers = {"Upload-Offset": str(offset), "Upload-Expires": _date(part)}
        if offset == part.length:
            headers["X-Upload-Path"] = in_header(inbox.finish(part))
    request.answer(HTTPStatus.NO_CONTENT, headers=headers)


def _terminate(request: Request) -> None:
    _must_speak_tus(request)
    part = _part(request)
    with request.server.alone(part.id, request.connection):
        request.server.inbox.drop(part)
    request.answer(HTTPStatus.NO_CONTENT)


def _part(request: Request) -> Part:
    return request.server.inbox.find(request.route.removeprefix(TUS), request.who)


def _must_speak_tus(request: Request) -> None:
    if request.headers.get("Tus-Resumable") != "1.0.0":
        raise Refused(HTTPStatus.PRECONDITION_FAILED, "This is tus 1.0.0: Tus-Resumable is missing.")


def _metadata(header: str) -> dict[str, str]:
    values = {}
    for pair in header.split(","):
        key, _, encoded = pair.strip().partition(" ")
        try:
            values[key] = base64.b64decode(encoded.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise Refused(HTTPStatus.BAD_REQUEST, "Upload-Metadata is not base64 of UTF-8.") from None
    return values


def _date(part: Part) -> str:
    return formatdate(part.expires, usegmt=True)


ACTIONS: dict[str, Callable[[Request], None]] = {
    "OPTIONS": _options,
    "POST": _create,
    "HEAD": _where,
    "PATCH": _append,
    "DELETE": _terminate,
}
