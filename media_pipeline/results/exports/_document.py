"""Formats with one file per medium."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from media_pipeline.results.exports._library import Library, Medium, Portion


@dataclass(frozen=True, slots=True)
class Document:
    """The file of one medium.

    Attributes:
        text: pieces of it, in order; None where there is nothing to write
        why_not: then, the reason
    """

    medium: Medium
    text: Iterable[str] | None
    why_not: str | None = None


class Format(Protocol):
    """A format with one file per medium."""

    suffix: str

    def documents(self, library: Library, portion: Portion) -> Iterator[Document]:
        """One per medium of the portion, in order."""
        ...
