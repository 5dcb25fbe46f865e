"""The chat server's part of a summary, as rows; loaded only where a server is set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import SecretStr

from media_pipeline.analyzers._summary_client import Budget, ChatClient, Endpoint, EndpointError
from media_pipeline.analyzers._summary_options import SummaryOptions, is_local
from media_pipeline.analyzers._summary_prose import Line, Prose, write
from media_pipeline.analyzers._summary_sentences import Sentence


class Writer:
    """Writes with the model of one chat server. Safe for threads."""

    def __init__(self, client: ChatClient, options: SummaryOptions) -> None:
        self._client, self._options = client, options

    def rows(self, found: Sequence[Sentence], *, has_time: bool) -> Iterator[dict[str, Any]]:
        """Rows of `summary` without their medium: prose, chapters and tags, or one of kind "failure"."""
        for row in self._rows(found, has_time=has_time):
            yield {"source": "endpoint", "model": self._client.endpoint.model, "score": None, **row}

    def _rows(self, found: Sequence[Sentence], *, has_time: bool) -> Iterator[dict[str, Any]]:
        options = self._options
        # The last moment of which anything is known: no chapter begins after it.
        end_s = max((s.end_s or s.start_s or 0.0 for s in found), default=0.0) if has_time else None
        try:
            prose = write(
                self._client,
                [Line(s.start_s if has_time else None, s.text) for s in found],
                end_s,
                language=options.answer_language,
                call_tokens=min(options.max_call_tokens, options.max_input_tokens),
                budget=Budget(options.max_input_tokens, options.max_output_tokens),
            )
        except EndpointError as error:
            yield _row("failure", 0, str(error))
        else:
            yield from _prose_rows(prose)


def _prose_rows(prose: Prose) -> Iterator[dict[str, Any]]:
    yield _row("prose", 0, prose.text)
    for number, chapter in enumerate(prose.chapters):
        yield _row("chapter", number, chapter.title, chapter.start_s, chapter.end_s)
    for number, tag in enumerate(prose.tags):
        yield _row("tag", number, tag)


def _row(
    kind: str, row_index: int, text: str, start_s: float | None = None, end_s: float | None = None
) -> dict[str, Any]:
    return {"kind": kind, "row_index": row_index, "text": text, "start_s": start_s, "end_s": end_s}


def endpoint_of(options: SummaryOptions, key: SecretStr | None) -> Endpoint:
    """Where these options say to ask."""
    assert options.endpoint is not None and options.endpoint_model is not None
    return Endpoint(
        url=options.endpoint,
        model=options.endpoint_model,
        api_key=key,
        timeout_s=options.timeout_s,
        max_retries=options.max_retries,
        parallel_calls=options.parallel_calls,
        is_local=is_local(options.endpoint),
    )
