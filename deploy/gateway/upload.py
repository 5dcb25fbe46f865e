"""The service `upload`: takes files into the inbox, by tus 1.0 (resumable) and by what WebDAV writes.

nginx before it has checked who it is and passes bodies on as they come. A file is written into a hidden part and
appears under its name when it is complete and on the disk, never before.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus

from . import tus, webdav
from .inbox import Inbox
from .refusal import Refused, refusal_of
from .request import Incomplete, Request, Server
from .settings import GatewayError, Settings

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
    server = made((settings.listen_address, settings.listen_upload), inbox)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    threading.Thread(target=_expire, args=(inbox,), daemon=True).start()
    print(f"upload: takes files into {settings.inbox}", flush=True)
    server.serve_forever()
    return 0


def made(address: tuple[str, int], inbox: Inbox) -> Server:
    """The server of an inbox, listening; `serve_forever` answers."""
    return Server(address, _Handler, inbox)


def _expire(inbox: Inbox) -> None:
    while True:
        try:
            gone = inbox.expire()
            if gone:
                print(f"upload: {gone} abandoned uploads have been removed", flush=True)
        except OSError as error:
            print(f"upload: abandoned uploads cannot be removed: {error}", file=sys.stderr, flush=True)
        time.sleep(_LOOK_S)


class _Handler(Request):
    def _dispatch(self) -> None:
        if self.path == "/healthz":
            self.answer(HTTPStatus.OK, "ok\n")
            return
        resumable = f"{self.route}/".startswith(tus.TUS)
        action = (tus.ACTIONS if resumable else webdav.ACTIONS).get(self.command)
        try:
            if action is None:
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} does nothing here.")
            action(self)
        except Refused as refused:
            self.refuse(refused)
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self.refuse(refusal_of(error))
        except Incomplete:
            self.close_connection = True

    do_OPTIONS = do_HEAD = do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _dispatch  # noqa: N815
    do_MKCOL = do_COPY = do_MOVE = do_PROPFIND = do_PROPPATCH = do_LOCK = do_UNLOCK = _dispatch  # noqa: N815
