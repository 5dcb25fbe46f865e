"""How far lists are read, and what a moment counts that only a later look finds."""

from __future__ import annotations

from collections.abc import Callable

from media_pipeline.results._search_hits import Found
from media_pipeline.results._search_indexes import Look
from media_pipeline.results._search_lists import Answer, Part, RankedList, read_on


def listed(*media: str, asked: list[Look] | None = None) -> Callable[[Look], Part]:
    """A list with moments of these media, in this order, numbered for each medium."""
    moments = [((name, "ocr", media[:at].count(name)), name) for at, name in enumerate(media)]

    def read(look: Look) -> Part:
        if asked is not None:
            asked.append(look)
        left = [(key, Found("ocr", 0.0)) for key, name in moments if name not in look.without]
        return Part(left[: look.depth], len(left) >= look.depth)

    return read


def test_a_later_look_finds_what_the_first_media_hid() -> None:
    answer = Answer([RankedList("words", listed("talk", "talk", "talk", "talk", "a", "b"))])
    first = read_on([answer], Look(3))
    assert [key for key, _ in first.items()] == [("talk", "ocr", n) for n in range(3)]
    second = read_on([answer], Look(3, without=frozenset(["talk"])))
    assert {key[0]: moment.ranks for key, moment in second.items()} == {"a": {"words": 4}, "b": {"words": 5}}
    assert not answer.is_cut
    assert min(moment.score for moment in first.values()) > max(moment.score for moment in second.values())


def test_what_was_found_before_keeps_its_score() -> None:
    words, meaning = listed("talk", "talk", "a", "b"), listed("b", "x", "talk", "talk")
    answer = Answer([RankedList("words", words), RankedList("meaning", meaning)])
    first = read_on([answer], Look(2))
    before = {key: moment.score for key, moment in first.items()}
    assert {key[0] for key in before} == {"talk", "b", "x"}
    second = read_on([answer], Look(2, without=frozenset(["talk"])))
    assert {key[0] for key in second} == {"a"}
    assert {key: moment.score for key, moment in first.items()} == before


def test_a_list_that_was_read_to_its_end_is_not_asked_again() -> None:
    asked: list[Look] = []
    answer = Answer([RankedList("words", listed(*"aabb")), RankedList("meaning", listed("c", asked=asked))])
    for _ in range(3):
        read_on([answer], Look(2))
    assert len(asked) == 1


def test_a_moment_of_a_later_look_counts_with_its_medium_in_the_other_answers() -> None:
    faces = Answer([RankedList("face", listed("both", "x"))])
    texts = Answer([RankedList("words", listed("talk", "talk", "y", "both"))])
    read_on([faces, texts], Look(2))
    found = read_on([faces, texts], Look(2, without=frozenset(["talk"])))
    scores = {key[0]: moment.score for key, moment in found.items()}
    assert list(found) == [("y", "ocr", 0)]  # the other one has the same key in both
    assert scores["y"] < 0.5
