"""Requests to Vast.ai: spaced, bounded, repeated where that is safe, and without a secret in any error or log."""

from __future__ import annotations

import itertools
import json
import logging
import re
import threading
import time
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from media_pipeline.cloud._pacing import asked_seconds, pacer
from media_pipeline.cloud.records import Json
from media_pipeline.errors import MediaPipelineError, ProviderUnreachable, RentalRefused, UsageError
from media_pipeline.wording import printable

log = logging.getLogger(__name__)

KEY_REMEDY = "set VAST_API_KEY to a key of your account: https://cloud.vast.ai/manage-keys/"
_MAX_BYTES = 8 * 1024**2  # of an answer; a full page of instances takes 0.1 MB
_ATTEMPTS = 4  # of a request that was not answered, or with nonsense; one that came too early: until patience ends
_GONE = ("no_such_instance", "not_found")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Json | None  # None: anything but a JSON object
    text: str  # its beginning
    retry_after: str | None

    @property
    def error(self) -> str:
        return str((self.body or {}).get("error") or "")

    @property
    def words(self) -> str:
        body = self.body or {}
        said = next((body[k] for k in ("msg", "message", "detail", "error") if isinstance(body.get(k), str)), "")
        return said or f"status {self.status} with {self._kind()}"

    @property
    def is_about_the_key(self) -> bool:
        return self.error == "auth_error" or (self.status in (401, 403) and self.body is not None)

    def _kind(self) -> str:
        if self.body is not None:
            return "no reason"
        text = self.text.strip()
        if self.status == 429 and text and len(text) < 100:
            return text  # plain, and says what is allowed
        return "HTML" if text.startswith("<") else "no JSON object" if text else "nothing"


class NotSent(Exception):
    """No connection: the server knows nothing of the request."""


class NoAnswer(Exception):
    """It went out, and nothing usable came back."""


class Http:
    """See `Vast` for the arguments."""

    def __init__(self, key: SecretStr, url: str, *, timeout_s: float, patience_s: float, pace: float | None) -> None:
        secret = key.get_secret_value()
        if not secret or not secret.isascii() or not secret.isprintable():
            raise UsageError("VAST_API_KEY is not a key", KEY_REMEDY)
        try:
            address = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL:
            address = httpx.URL("")
        is_here = address.host in _LOOPBACK
        if not address.host or not (address.scheme == "https" or (is_here and address.scheme == "http")):
            raise UsageError("MEDIA_PIPELINE_VAST_URL is not the address of a https server", "leave it empty")
        self.url, self.host = str(address), address.host
        self._key, self._timeout_s, self._patience_s = key, timeout_s, patience_s
        self.pacer = pacer(self.url, secret, (0.0 if is_here else 1.0) if pace is None else pace)
        self._closed = threading.Event()
        self._client = httpx.Client(
            base_url=self.url,
            # Uncompressed: the limit is to be one on memory.
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "media-pipeline"},
            timeout=timeout_s,
            follow_redirects=False,  # they would take the key elsewhere
            trust_env=not is_here,
            verify=address.scheme == "https",  # loading certificates takes time
        )

    def close(self) -> None:
        self._closed.set()
        self._client.close()

    def holds_key(self, text: str) -> bool:
        return self._key.get_secret_value() in text

    def ask(
        self,
        route: str,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        params: dict[str, str] | None = None,
        refused: type[MediaPipelineError] = ProviderUnreachable,
    ) -> Json | None:
        """A request that may be repeated; the JSON object of an answer without an error, None: no such thing.

        Raises:
            refused: the key is not accepted.
            RentalRefused: no further search today.
            ProviderUnreachable
        """
        deadline = time.monotonic() + self._patience_s
        failures, why = 0, "too many requests"
        for attempt in itertools.count():
            self._wait(route, deadline, why)
            asked = None
            try:
                answer = self._once(method, path, body, params)
                if answer.body is not None and answer.status < 500 and answer.status != 429:
                    return self._judged(route, answer, refused)
                asked = asked_seconds(answer.retry_after, answer.body)
                why = self.clean(answer.words)
                is_early = answer.status == 429
            except (NotSent, NoAnswer) as error:
                why, is_early = str(error), False
            if is_early and answer.error == "search_quota_exceeded":
                self.pacer.search_is_used_up()
                raise no_search_today()
            failures += not is_early
            if failures >= _ATTEMPTS:
                break
            log.info("Vast.ai, %s: %s; again", route, why)
            self.pacer.postpone(route, attempt, asked)
        raise self._no_answer(route, why)

    def send(self, route: str, method: str, path: str, body: Json) -> Answer:
        """A request that must not be repeated.

        Raises:
            NotSent: it did not reach the server.
            NoAnswer: it may have.
            ProviderUnreachable: its turn does not come; it was not sent.
        """
        self._wait(route, time.monotonic() + self._patience_s, "too many requests")
        return self._once(method, path, body)

    def read(self, url: httpx.URL, most: int) -> str | None:
        """A text at an address that is not Vast.ai's and must not see the key; None: not there (yet).

        Raises:
            httpx.HTTPError, NoAnswer
        """
        with (
            httpx.Client(timeout=5, follow_redirects=False, headers={"Accept-Encoding": "identity"}) as client,
            client.stream("GET", url) as response,
        ):
            return _text(self._content(response, most)) if response.status_code == 200 else None

    def pause(self, seconds: float) -> bool:
        """Waits; whether it was closed meanwhile."""
        return self._closed.wait(seconds)

    def clean(self, text: str) -> str:
        """Foreign text for people: one line of bounded length without what is or looks like a secret."""
        text = text.replace(self._key.get_secret_value(), "[hidden]")
        text = re.sub(
            r"(?i)([\w-]*(?:key|token|secret|password|authorization)[\w-]*[\"']?\s*[=:]).*", r"\1 [hidden]", text
        )
        return printable(re.sub(r"[0-9a-fA-F]{32,}|[A-Za-z0-9+/_-]{60,}", "[hidden]", text))[:300]

    def odd(self, route: str, what: str) -> ProviderUnreachable:
        return ProviderUnreachable(f"Vast.ai answered {route} with {self.clean(what)}", "try again later")

    def retired(self, route: str) -> ProviderUnreachable:
        return ProviderUnreachable(
            f"Vast.ai has retired the address of its API for {route}",
            "look for machines on https://cloud.vast.ai/instances/ and update media-pipeline",
        )

    def _judged(self, route: str, answer: Answer, refused: type[MediaPipelineError]) -> Json | None:
        assert answer.body is not None
        if answer.status == 200 and answer.body.get("success", True) is True:
            return answer.body
        words = self.clean(answer.words)
        if answer.is_about_the_key:
            raise refused(f"Vast.ai does not accept the key ({words})", KEY_REMEDY)
        if answer.error in _GONE:
            return None
        if answer.error == "deprecated_endpoint" or answer.status == 410:
            raise self.retired(route)
        raise ProviderUnreachable(f"Vast.ai refused {route} ({words})", "try again later")

    def _wait(self, route: str, deadline: float, why: str) -> None:
        wait = self.pacer.turn(route)
        if time.monotonic() + wait > deadline:
            raise self._no_answer(route, why)
        if self._closed.wait(wait):
            raise ProviderUnreachable("the connection to Vast.ai was closed")

    def _once(self, method: str, path: str, body: Json | None, params: dict[str, str] | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}"}
        try:
            with self._client.stream(method, path, json=body, params=params, headers=headers) as response:
                content = self._content(response, _MAX_BYTES)
        # Not `from error`: it holds the request, and that the key.
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(type(error).__name__) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise NoAnswer(type(error).__name__) from None
        except RuntimeError:  # of a client that another thread has closed
            raise NotSent("closed") from None
        return Answer(response.status_code, _parsed(content), _text(content[:500]), response.headers.get("Retry-After"))

    def _content(self, response: httpx.Response, most: int) -> bytes:
        content, until = bytearray(), time.monotonic() + 2 * self._timeout_s
        for chunk in response.iter_bytes():
            content += chunk
            # A server may also drip: each byte in time, and no end.
            if len(content) > most or time.monotonic() > until:
                raise NoAnswer("an answer without an end")
        return bytes(content)

    def _no_answer(self, route: str, why: str) -> ProviderUnreachable:
        return ProviderUnreachable(f"Vast.ai gave no answer to {route} ({why})", "check the network, and try again")


def no_search_today() -> RentalRefused:
    return RentalRefused("Vast.ai answers no further search today: no GPU today", "try again after midnight UTC")


def _parsed(content: bytes) -> Json | None:
    # By content: a proxy or a new version may call JSON text/plain, and HTML JSON.
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")
