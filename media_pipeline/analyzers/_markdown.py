"""Text of media as Markdown: previews are rendered in a browser, and what a slide says must not become a link there."""

from __future__ import annotations

import re

# With the colon and the at sign: GitHub's Markdown makes links of bare addresses.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&$:@=])")


def escaped(text: str) -> str:
    """The text in one line, no character of it Markdown or HTML any more."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
