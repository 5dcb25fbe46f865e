"""What WebDAV clients (Finder, Explorer, rclone, curl) need of a folder: listed, read, written as a whole, tidied up.

nginx has modules for it, which do not fit: a LOCK makes an empty file, a COPY writes under the final name, folders
cannot be moved the way Explorer asks for it, PROPPATCH is missing, a full disk is an "internal error", and nginx itself
would have to write into the inbox.

Locks are granted and not enforced: clients refuse to write without one, and each file is replaced as a whole anyway.
"""

from __future__ import annotations

import os
import secrets
import stat as mode
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from .inbox import Inbox
from .refusal import Refused

METHODS = "OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"
# Bodies of questions; anything larger is none.
MAX_XML = 64 << 10
_D = "{DAV:}"
_EMPTY_S = 3600.0
ET.register_namespace("D", "DAV:")


class Placeholders:
    """Names that have been announced by a PUT of nothing, which Finder and Explorer begin with.

    They are listed as empty files, so that the client goes on, and are none: the watcher of the inbox must not take an
    empty file for a medium while its content is on the way.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, path: str) -> None:
        with self._lock:
            now = time.monotonic()
            self._until = {one: until for one, until in self._until.items() if until > now}
            if len(self._until) >= 10_000:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "Too many files have been announced; try again later.")
            self._until[path] = now + _EMPTY_S

    def drop(self, path: str) -> bool:
        with self._lock:
            return self._until.pop(path, 0.0) > time.monotonic()

    def __contains__(self, path: str) -> bool:
        with self._lock:
            return self._until.get(path, 0.0) > time.monotonic()

    def below(self, folder: str) -> list[str]:
        with self._lock:
            now = time.monotonic()
            return [path for path, until in self._until.items() if until > now and path.rpartition("/")[0] == folder]


def listing(inbox: Inbox, placeholders: Placeholders, path: str, *, children: bool) -> bytes:
    """The answer to PROPFIND.

    Raises:
        Refused: nothing is there
    """
    root = ET.Element(f"{_D}multistatus")
    if path in placeholders:
        _describe(root, path, None, None)
        return _document(root)
    place = inbox.place(path) if path else inbox.root
    try:
        stat = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(HTTPStatus.NOT_FOUND, "There is nothing of that name.") from None
    free = inbox.room.free()
    _describe(root, path, stat, free)
    if children and mode.S_ISDIR(stat.st_mode):
        for name, below in _children(inbox, place, path):
            _describe(root, name, below, free)
        for announced in placeholders.below(path):
            _describe(root, announced, None, free)
    return _document(root)


def _children(inbox: Inbox, folder: Path, path: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            name = f"{path}/{entry.name}".lstrip("/")
            try:
                stat = entry.stat(follow_symlinks=False)
                # Links and pipes are not listed, nor is what has a name that could not be asked for.
                if mode.S_ISREG(stat.st_mode) or mode.S_ISDIR(stat.st_mode):
                    inbox.place(name)
                    yield name, stat
            except (Refused, FileNotFoundError):
                continue


def _describe(root: ET.Element, path: str, stat: os.stat_result | None, free: int | None) -> None:
    folder = stat is not None and mode.S_ISDIR(stat.st_mode)
    changed = stat.st_mtime if stat else time.time()
    response = ET.SubElement(root, f"{_D}response")
    href = "/upload/" + quote(path, errors="surrogateescape") + ("/" if folder and path else "")
    ET.SubElement(response, f"{_D}href").text = href
    status = ET.SubElement(response, f"{_D}propstat")
    properties = ET.SubElement(status, f"{_D}prop")
    ET.SubElement(properties, f"{_D}displayname").text = path.rpartition("/")[2] or "upload"
    ET.SubElement(properties, f"{_D}getlastmodified").text = formatdate(changed, usegmt=True)
    ET.SubElement(properties, f"{_D}creationdate").text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(changed))
    kind = ET.SubElement(properties, f"{_D}resourcetype")
    if folder:
        ET.SubElement(kind, f"{_D}collection")
        if free is not None:
            ET.SubElement(properties, f"{_D}quota-available-bytes").text = str(free)
    else:
        ET.SubElement(properties, f"{_D}getcontentlength").text = str(stat.st_size if stat else 0)
        ET.SubElement(properties, f"{_D}getcontenttype").text = "application/octet-stream"
        if stat:
            ET.SubElement(properties, f"{_D}getetag").text = etag(stat)
    entry = ET.SubElement(ET.SubElement(properties, f"{_D}supportedlock"), f"{_D}lockentry")
    ET.SubElement(ET.SubElement(entry, f"{_D}lockscope"), f"{_D}exclusive")
    ET.SubElement(ET.SubElement(entry, f"{_D}locktype"), f"{_D}write")
    ET.SubElement(status, f"{_D}status").text = "HTTP/1.1 200 OK"


def etag(stat: os.stat_result) -> str:
    return f'"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"'


def lock(path: str, token: str | None) -> tuple[str, bytes]:
    """A token, that of the client where it renews one, and the answer to LOCK."""
    token = token or f"urn:uuid:{secrets.token_hex(16)}"
    root = ET.Element(f"{_D}prop")
    active = ET.SubElement(ET.SubElement(root, f"{_D}lockdiscovery"), f"{_D}activelock")
    ET.SubElement(ET.SubElement(active, f"{_D}locktype"), f"{_D}write")
    ET.SubElement(ET.SubElement(active, f"{_D}lockscope"), f"{_D}exclusive")
    ET.SubElement(active, f"{_D}depth").text = "infinity"
    ET.SubElement(active, f"{_D}timeout").text = "Second-3600"
    ET.SubElement(ET.SubElement(active, f"{_D}locktoken"), f"{_D}href").text = token
    ET.SubElement(ET.SubElement(active, f"{_D}lockroot"), f"{_D}href").text = "/upload/" + quote(path)
    return token, _document(root)


def patched(path: str, body: bytes) -> bytes:
    """The answer to PROPPATCH: yes, and nothing is kept. Explorer sets times, and takes a no for a failed copy."""
    try:
        # Entities are bounded by expat itself, and the body by MAX_XML.
        asked = ET.fromstring(body)  # noqa: S314
    except ET.ParseError:
        raise Refused(HTTPStatus.BAD_REQUEST, "The body is no XML.") from None
    root = ET.Element(f"{_D}multistatus")
    response = ET.SubElement(root, f"{_D}response")
    ET.SubElement(response, f"{_D}href").text = "/upload/" + quote(path)
    status = ET.SubElement(response, f"{_D}propstat")
    properties = ET.SubElement(status, f"{_D}prop")
    for name in _property_names(asked):
        ET.SubElement(properties, name)
    ET.SubElement(status, f"{_D}status").text = "HTTP/1.1 200 OK"
    return _document(root)


def _property_names(asked: ET.Element) -> Iterable[str]:
    return [one.tag for group in asked.iter(f"{_D}prop") for one in group][:100]


def _document(root: ET.Element) -> bytes:
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text
