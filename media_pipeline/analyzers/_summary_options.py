"""Options of `summary`, and what they refuse."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from media_pipeline.analyzers._spec import Options


class SummaryOptions(Options):
    """Options of `summary`. What only says how to reach a server is no part of the fingerprint."""

    max_sentences: int = Field(8, ge=1, le=100, description="key sentences of a long medium; short ones have fewer")
    min_sentences: int = Field(5, ge=1, description="sentences below which a text is its own summary: no rows")
    model: str | None = Field(None, description="text encoder, as option model of text_embeddings")
    threads: int = Field(1, ge=1, exclude=True, description="threads of one call of the encoder")
    endpoint: str | None = Field(
        None, exclude=True, description="OpenAI-compatible chat server, e.g. http://127.0.0.1:11434/v1; off when empty"
    )
    endpoint_model: str | None = Field(None, exclude=True, description="the model's name on that server")
    allow_remote: bool = Field(False, exclude=True, description="text of media may be sent to another machine")
    answer_language: str = Field("auto", pattern=r"^(auto|[a-z]{2,3})$", description="ISO 639-1, or that of the text")
    timeout_s: float = Field(120.0, gt=0, le=86_400, exclude=True, description="seconds for one answer")
    max_retries: int = Field(3, ge=0, le=10, exclude=True, description="further attempts after a passing failure")
    parallel_calls: int = Field(1, ge=1, exclude=True, description="questions to the server at a time")
    max_call_tokens: int = Field(3000, ge=500, description="tokens of one question: what the model's context holds")
    max_input_tokens: int = Field(24_000, ge=500, description="tokens sent per medium; longer texts are thinned evenly")
    max_output_tokens: int = Field(4000, ge=100, description="tokens answered per medium")

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            url = urlsplit(value)
            # urlsplit passes over blanks and control characters; what sends the text reads them otherwise.
            plain = value.isascii() and value.isprintable() and " " not in value and "\\" not in value
            usable = plain and url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("not an address like http://127.0.0.1:11434/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("keys do not belong into the address: set MEDIA_PIPELINE_SUMMARY_API_KEY")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _is_allowed(self) -> SummaryOptions:
        if self.endpoint is None:
            return self
        if not self.endpoint_model:
            raise ValueError("an endpoint needs endpoint_model, the name of the model on that server")
        if not (self.allow_remote or is_local(self.endpoint)):
            raise ValueError(
                "the endpoint is another machine: set MEDIA_PIPELINE_OPTIONS__SUMMARY__ALLOW_REMOTE=true if what "
                "media say may leave this one"
            )
        return self


def is_local(url: str) -> bool:
    """Whether what is sent there stays on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
