"""The key of a medium in Dagster: a name that a person recognises and nothing trips over.

Commas, spaces and slashes in keys break backfills in Dagster's UI and file names everywhere, so a key is made of
`[a-z0-9._-]`, then `~` and the first twelve hex digits of the content's hash.
"""

from __future__ import annotations

import re
import unicodedata

MAX_SLUG = 60
HASH_DIGITS = 12
UNNAMED = "unnamed"

# Only what looks like an extension: `v1.2 final` keeps its `.2 final`.
_EXTENSION = re.compile(r"(?<=.)\.[A-Za-z0-9]{1,5}$")
_OTHER = re.compile(r"[^a-z0-9._-]+")
# German spelling first; NFKD would turn ä into a. The others are letters that NFKD does not take apart.
_LETTERS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "þ": "th"}
)


def slug(name: str) -> str:
    """The readable part: lower case, transliterated, 1 to 60 characters, never starting with a dot or a dash."""
    # macOS hands out decomposed names (a + combining dots); composing first lets the table above see the umlaut.
    composed = unicodedata.normalize("NFC", _EXTENSION.sub("", name)).lower().translate(_LETTERS)
    ascii_only = unicodedata.normalize("NFKD", composed)
    letters = "".join(c for c in ascii_only if not unicodedata.combining(c))
    dashed = re.sub(r"([._-])[._-]+", r"\1", _OTHER.sub("-", letters))
    return dashed.strip("._-")[:MAX_SLUG].rstrip("._-") or UNNAMED


def partition_key(name: str, media_id: str) -> str:
    """`Rechnung Köln.pdf.jpg`, `3fa9…` -> `rechnung-koeln.pdf~3fa9c1d2e3f4`.

    Args:
        name: file name under which the content was seen first; may hold any character, undecodable bytes included
        media_id: sha256 of the content, 64 hex digits
    """
    return f"{slug(name)}~{media_id[:HASH_DIGITS]}"
