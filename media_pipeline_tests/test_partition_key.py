from __future__ import annotations

import re
import unicodedata

import pytest

from media_pipeline.media.partition_key import partition_key, slug

MEDIA_ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Rechnung Köln 4711.JPG", "rechnung-koeln-4711"),
        ("Straße_Übung.mp4", "strasse_uebung"),
        (unicodedata.normalize("NFD", "Käse.png"), "kaese"),
        ("café à la crème.png", "cafe-a-la-creme"),
        ("-video-with-dash-.mp4", "video-with-dash"),
        ("..hidden.png", "hidden"),
        ("a\nb\tc.png", "a-b-c"),
        ("a, b; c~d.png", "a-b-c-d"),
        ("v1.2 final", "v1.2-final"),
        ("archive.tar.gz", "archive.tar"),
        ("写真.jpg", "unnamed"),
        (".jpg", "jpg"),
        ("", "unnamed"),
        ("caf\udce9.png", "caf"),
        ("../../etc/passwd", "etc-passwd"),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_key_is_slug_and_twelve_digits() -> None:
    assert partition_key("My Clip.mp4", MEDIA_ID) == "my-clip~0123456789ab"


@pytest.mark.parametrize("name", ["x" * 5000 + ".mp4", "ß" * 300, "a-" * 300, "\U0001f600" * 99, ".-_" * 50])
def test_any_name_gives_a_bounded_key_of_safe_characters(name: str) -> None:
    key = partition_key(name, MEDIA_ID)
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,59}~[0-9a-f]{12}", key)
