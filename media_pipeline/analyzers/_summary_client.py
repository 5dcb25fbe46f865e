"""Questions to a chat server that speaks OpenAI's protocol: llama.cpp, Ollama, vLLM, or a rented one.

What comes back is foreign: bounded in time and size, never redirected, and no word of it is believed before it is
checked. The key is sent in one header and stands in no message, log or error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import BaseModel, Field, SecretStr, ValidationError

log = logging.getLogger(__name__)

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_NAMED_TYPES = ("text/html", "text/plain", "text/event-stream")
_MAX_ANSWER_BYTES = 1 << 20  # some models think aloud at length; no answer is a megabyte
_CONNECT_S = 10.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0  # between attempts; a server that wants longer is asked another day
_REST_S = 60.0  # after a failure that is the server's, it is not asked again for that long
_BYTES_PER_TOKEN = 4  # of English; other languages and scripts need more bytes and more tokens alike
_MOST_TOKENS = 10_000_000  # no server counts more for one answer; beyond it the count is a lie


class EndpointError(Exception):
    """No answer to use. The text is one sentence for people, without a full stop and without secrets."""

    def __init__(self, cause: str, *, is_down: bool = False) -> None:
        super().__init__(" ".join(cause.split()))
        self.is_down = is_down  # any other question would fail as well


class _Retry(Exception):
    """Worth another attempt."""

    def __init__(self, cause: str, after_s: float | None = None, *, was_read: bool = False) -> None:
        super().__init__(cause)
        self.after_s = after_s
        self.was_read = was_read  # the question may have been paid for, though nothing came back


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, as whom, and how patiently."""

    url: str  # up to and with the version: http://127.0.0.1:11434/v1
    model: str
    api_key: SecretStr | None = None
    timeout_s: float = 120.0
    max_retries: int = 3
    parallel_calls: int = 1
    is_local: bool = True


@dataclass(slots=True)
class Budget:
    """Tokens that may still be spent on one medium. Estimates until the server says what it counted."""

    input_tokens: int
    output_tokens: int

    def reserve(self, input_tokens: int, output_tokens: int) -> int:
        """Takes the tokens of one attempt; how many the answer may have.

        Raises:
            EndpointError: there are not enough left.
        """
        allowed = min(output_tokens, self.output_tokens)
        if input_tokens > self.input_tokens or allowed < 1:
            raise EndpointError("the budget of tokens for this medium is used up")
        self.input_tokens -= input_tokens
        self.output_tokens -= allowed
        return allowed

    def settle(self, reserved: tuple[int, int], used: tuple[int | None, int | None]) -> None:
        """Corrects an estimate by what the server counted."""
        self.input_tokens += reserved[0] - (reserved[0] if used[0] is None else used[0])
        self.output_tokens += reserved[1] - (reserved[1] if used[1] is None else used[1])


@dataclass(frozen=True, slots=True)
class Reply:
    """The text of an answer, and whether it was cut off at its allowance."""

    text: str
    is_cut: bool


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS)
    completion_tokens: int | None = Field(None, ge=0, le=_MOST_TOKENS)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def tokens_of(text: str) -> int:
    """An estimate, seldom too low: four bytes of UTF-8 each."""
    return len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN + 1


class ChatClient:
    """One server. Safe for threads; only `parallel_calls` of them ask at a time."""

    def __init__(self, endpoint: Endpoint, wait: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = endpoint
        self._wait = wait
        self._turns = threading.BoundedSemaphore(endpoint.parallel_calls)
        self._down: tuple[float, str] | None = None  # until when, by the monotonic clock, and why
        self._takes_schema = True

    def ask(self, system: str, user: str, schema: dict[str, Any], output_tokens: int, budget: Budget) -> Reply:
        """The answer of the model to one question, as JSON of this schema where the server can be told so.

        Raises:
            EndpointError: no answer, and why.
        """
        with self._turns:
            self._refuse_while_down()
            try:
                return self._ask(system, user, schema, output_tokens, budget)
            except EndpointError as error:
                if error.is_down:
                    self._down = (time.monotonic() + _REST_S, str(error))
                    log.warning("summaries: %s", error)
                raise

    def _refuse_while_down(self) -> None:
        if self._down is not None and time.monotonic() < self._down[0]:
            raise EndpointError(self._down[1])

    def _ask(self, system: str, user: str, schema: dict[str, Any], output_tokens: int, budget: Budget) -> Reply:
        input_tokens = tokens_of(system) + tokens_of(user)
        wait_s = _FIRST_WAIT_S
        for attempts_left in range(self.endpoint.max_retries, -1, -1):
            allowed = budget.reserve(input_tokens, output_tokens)
            body = self._body(system, user, schema, allowed)
            try:
                completion = self._post(body)
            except _Retry as trouble:
                budget.settle((input_tokens, allowed), (input_tokens if trouble.was_read else 0, 0))
                if not attempts_left or (trouble.after_s or 0.0) > _LONGEST_WAIT_S:
                    raise EndpointError(str(trouble), is_down=True) from None
                self._wait(trouble.after_s if trouble.after_s is not None else wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                continue
            usage = completion.usage or _Usage()
            budget.settle((input_tokens, allowed), (usage.prompt_tokens, usage.completion_tokens))
            first = completion.choices[0]
            return Reply(first.message.content or "", first.finish_reason == "length")
        raise AssertionError("the last attempt returns or raises")

    def _body(self, system: str, user: str, schema: dict[str, Any], max_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            "temperature": 0,
            "max_tokens": max_tokens,
            "stream": False,
        }
        if self._takes_schema:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "summary", "schema": schema}}
        return body

    def _post(self, body: dict[str, Any]) -> _Completion:
        try:
            status, headers, content = self._exchange(body)
            if status in (400, 422) and "response_format" in body:
                # Not every server knows schemas. The prompt asks for JSON as well, and the answer is checked anyway.
                status, headers, content = self._exchange({k: v for k, v in body.items() if k != "response_format"})
                self._takes_schema = status in (400, 422)  # then it was the text
        except httpx.TimeoutException:
            raise _Retry(
                f"the server {self._name} did not answer in {self.endpoint.timeout_s:g} s", was_read=True
            ) from None
        except httpx.TransportError as error:
            raise _Retry(f"the server {self._name} cannot be reached ({type(error).__name__})") from None
        if status in _RETRIED:
            raise _Retry(f"the server {self._name} answered with status {status}", _retry_after_s(headers))
        if status != 200:
            is_down = status in (401, 403, 404, 405) or 300 <= status < 400
            raise EndpointError(f"the server {self._name} refused with status {status}{_hint(status)}", is_down=is_down)
        kind = headers.get("content-type", "").partition(";")[0].strip()
        if "json" not in kind:
            # Not in the server's words: it may say our key in them.
            shown = kind if kind in _NAMED_TYPES else "another type"
            raise EndpointError(f"the server {self._name} answered with {shown}, not JSON")
        try:
            return _Completion.model_validate_json(content)
        except ValidationError:
            raise EndpointError(f"the server {self._name} sent what is no chat completion") from None

    def _exchange(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body, read for at most the timeout as a whole and up to a megabyte."""
        deadline = time.monotonic() + self.endpoint.timeout_s
        url = f"{self.endpoint.url.rstrip('/')}/chat/completions"
        content = bytearray()
        with self._open() as http, http.stream("POST", url, json=body) as response:
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > _MAX_ANSWER_BYTES:
                    raise EndpointError(f"the server {self._name} sent more than {_MAX_ANSWER_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer as a whole")
            return response.status_code, response.headers, bytes(content)

    def _open(self) -> httpx.Client:
        # Beside the seconds an answer takes a new connection is nothing, and none is left open.
        endpoint = self.endpoint
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key.get_secret_value()}"
        return httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(endpoint.timeout_s, connect=min(_CONNECT_S, endpoint.timeout_s)),
            follow_redirects=False,  # the text would go to somebody nobody chose
            trust_env=not endpoint.is_local,  # a proxy is for other machines
            verify=endpoint.url.startswith("https:"),  # without TLS the list of authorities need not be read
        )

    @property
    def _name(self) -> str:
        url = httpx.URL(self.endpoint.url)
        return f"{url.host}:{url.port}" if url.port else url.host


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _hint(status: int) -> str:
    if status in (401, 403):
        return " (see MEDIA_PIPELINE_SUMMARY_API_KEY)"
    if status in (400, 413, 422):
        return " (does the model's context hold max_call_tokens and the answer?)"
    if status == 404:
        return " (is it the address up to /v1, and does it have the model?)"
    return " (redirects are not followed)" if 300 <= status < 400 else ""
