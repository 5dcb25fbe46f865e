"""Text of media as Markdown: previews are rendered in a browser, and what a slide says must not become a link there."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&$])")


def escaped(text: str) -> str:
    """No character of it is Markdown or HTML any more."""
    return _SPECIAL.sub(r"\\\1", text)
