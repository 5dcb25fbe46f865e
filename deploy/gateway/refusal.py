"""What the service `upload` says when it does not do what it was asked for."""

from __future__ import annotations

import errno
import os
from http import HTTPStatus


class Refused(Exception):
    """What cannot be done, as HTTP says it, and a sentence for the person."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def disk_full(free: int) -> Refused:
    return Refused(
        HTTPStatus.INSUFFICIENT_STORAGE,
        f"The disk of the server is full: {free} bytes are left for uploads. "
        "Free some space on the server, then continue.",
    )


def refusal_of(error: OSError) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(0)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Refused(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            f"The inbox cannot be written to by user {os.getuid()} of the server: {error.strerror}.",
        )
    if error.errno == errno.ENAMETOOLONG:
        return Refused(HTTPStatus.BAD_REQUEST, "The name is too long.")
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, f"The inbox cannot be used: {error.strerror}.")
