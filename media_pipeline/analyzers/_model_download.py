"""One file from the hub to the disk: bounded waits, resumed by Range, checked against its digest."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from media_pipeline.analyzers._model_catalog import ModelFile
from media_pipeline.errors import ModelUnavailable

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)  # seconds without a byte
_ATTEMPTS = 4  # in a row that bring nothing; any progress starts the count anew


class HubUnreachable(Exception):
    """The hub did not answer, or kept breaking off."""


def probe(url: str, seconds: float) -> str | None:
    """Whether anything answers at `url`, in at most that time: None, or why not."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            with httpx.Client(timeout=seconds, follow_redirects=True) as client, client.stream("GET", url):
                answer.append(None)
        except httpx.HTTPError as error:
            answer.append(_words(error))

    # A name server that is silent blocks longer than any socket timeout, so the wait itself is what is bounded.
    thread = threading.Thread(target=ask, name="hub-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    host = httpx.URL(url).host
    if not answer:
        return f"the model hub {host} did not answer in {seconds:g} s"
    return None if answer[0] is None else f"the model hub {host} cannot be reached ({answer[0]})"


def download_file(url: str, target: Path, file: ModelFile, on_bytes: Callable[[int], None]) -> None:
    """Bring `file` to `target`, going on where `target`.part ends; `on_bytes` hears how many bytes are there.

    Raises:
        HubUnreachable: connections failed or broke off again and again; the part stays for the next attempt.
        ModelUnavailable: the hub refused, or sent something else than the pinned bytes; the part is gone.
        OSError: the disk.
    """
    if target.exists() and _sha256(target) == file.sha256:
        on_bytes(file.bytes)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"}) as client:
        _fill(client, url, part, file, on_bytes)
    digest = _sha256(part)
    if digest != file.sha256:
        part.unlink()
        raise ModelUnavailable(
            f"{url} sent other bytes than the pinned ones (SHA-256 {digest[:12]}…, expected {file.sha256[:12]}…)",
            "check MEDIA_PIPELINE_HUB_URL and any proxy in between, then pull again",
        )
    part.rename(target)


def _fill(client: httpx.Client, url: str, part: Path, file: ModelFile, on_bytes: Callable[[int], None]) -> None:
    failures = 0
    while (have := _size(part)) < file.bytes:
        try:
            _stream(client, url, part, file, on_bytes)
            cause = "it sent less than it promised"
        except httpx.TransportError as error:
            cause = _words(error)
        failures = 0 if _size(part) > have else failures + 1
        if failures >= _ATTEMPTS:
            raise HubUnreachable(f"{httpx.URL(url).host} broke off {failures} times in a row ({cause})")
        if _size(part) < file.bytes:
            time.sleep(0.25 * 2**failures)


def _stream(client: httpx.Client, url: str, part: Path, file: ModelFile, on_bytes: Callable[[int], None]) -> None:
    have = _size(part)
    with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        if response.status_code >= 500:
            raise httpx.RemoteProtocolError(f"status {response.status_code}")
        if response.status_code not in (200, 206):
            raise ModelUnavailable(
                f"{url} answered {response.status_code} {response.reason_phrase}",
                "check MEDIA_PIPELINE_HUB_URL, or copy the model's folder to the models folder by hand",
            )
        if response.status_code == 200:  # no ranges here: from the beginning
            have = 0
        with part.open("ab" if have else "wb") as stream:
            for chunk in response.iter_raw():  # as it comes: what a broken connection brought is kept
                stream.write(chunk)
                have += len(chunk)
                if have > file.bytes:
                    break  # the digest will say that it is something else; no need to read on
                on_bytes(have)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
