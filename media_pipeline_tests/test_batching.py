"""Queues are cut by count, bytes and duration, in order and without losing anybody."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from media_pipeline.config import Batching
from media_pipeline.media.batching import batches


@dataclass(frozen=True)
class Item:
    media_id: str
    name: str = "a.jpg"
    bytes: int = 10


def sizes(items: list[Item], limits: Batching, durations: dict[str, float | None] | None = None) -> list[int]:
    cut = list(batches(items, limits, durations))
    assert [item for batch in cut for item in batch] == items
    return [len(batch) for batch in cut]


def test_count() -> None:
    assert sizes([Item(str(n)) for n in range(10)], Batching(max_media=4)) == [4, 4, 2]
    assert sizes([], Batching()) == []


def test_bytes_and_one_that_is_too_large_alone() -> None:
    items = [Item("a"), Item("b", bytes=500), Item("c"), Item("d", bytes=95), Item("e")]
    assert sizes(items, Batching(max_bytes=100)) == [1, 1, 1, 1, 1]
    assert sizes([Item(str(n)) for n in range(25)], Batching(max_bytes=100)) == [10, 10, 5]


def test_duration_of_what_was_decoded_before() -> None:
    items = [Item(str(n), "talk.mp4") for n in range(4)]
    assert sizes(items, Batching(max_duration_s=100), {"0": 60, "1": 60, "2": 30, "3": None}) == [1, 3]


@pytest.mark.parametrize(("name", "expected"), [("long.mp3", [1, 1]), ("long.mp4", [2]), ("large.png", [2])])
def test_duration_is_guessed_from_kind_and_size(name: str, expected: list[int]) -> None:
    hour_of_sound = 16_000 * 3600
    assert (
        sizes([Item("a", name, hour_of_sound), Item("b", name, hour_of_sound)], Batching(max_duration_s=3600))
        == expected
    )
