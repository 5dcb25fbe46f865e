"""Reasons of failures in a few classes: a monitor must not keep names, paths and free text, nor ever more series."""

from __future__ import annotations

import re

OTHER = "other"
# The first that fits counts. What is looked for are the sentences of `errors.InputError` and its siblings, of which
# the ledger keeps the text and not the type.
_CLASSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("analyzer_error", r"^\w+ failed on this medium: "),
        ("disk_full", r"no room |GB free at|must stay free|database or disk is full"),
        ("timeout", r"took longer than|made no progress for|CPU seconds"),
        ("limit", r"more than [\d,.]+|are the limit|than allowed|more cache|MEDIA_PIPELINE_DECODE__"),
        ("unsupported", r"not a picture, video or recording|no known picture|refused|neither picture nor sound that"),
        (
            "damaged",
            r"damaged|cut off|cannot be (read|decoded)|could be decoded|file is empty|no pixels|makes no sense|"
            r"decoder (crashed|gave up|was taken over)|reader was taken over|nothing arrived in the cache",
        ),
        ("unsafe_path", r"not a regular file|is not a file|, not a file|the link .* leaves|replaced while"),
        ("process_lost", r"process|worker|a line |\bline to\b"),
    )
)
CLASSES = (*(name for name, _ in _CLASSES), OTHER)


def reason_class(reason: str | None) -> str:
    """Which of `CLASSES` a reason in `analyses` or `sources` belongs to."""
    return next((name for name, pattern in _CLASSES if reason and pattern.search(reason)), OTHER)
