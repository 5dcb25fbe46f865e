"""A server that is hurt while it works loses and doubles nothing. Every fault: media_pipeline_tests.server_faults."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from media_pipeline_tests import server_faults
from media_pipeline_tests._server_files import make_files
from media_pipeline_tests._server_hurt import Stack, installed
from media_pipeline_tests._server_judge import Verdict, among, compared, media_id
from media_pipeline_tests.server_faults import FAULTS, PROJECT, SETTINGS, Outcome, row

A, B, C = (letter * 64 for letter in "abc")


def _medium(media: str, text: str = "") -> str:
    return repr({"media_id": media, "text": text})


def test_what_is_lost_doubled_or_different_is_told_apart() -> None:
    expected = {"ocr": Counter({_medium(A, "one"): 1, _medium(A, "two"): 2, _medium(B): 1})}
    found = {"ocr": Counter({_medium(A, "one"): 2, _medium(A, "two"): 1, _medium(B, "other"): 1})}
    lost, doubled, foreign = compared(expected, found)
    assert lost == {f"ocr {_medium(A, 'two')}", f"ocr {_medium(B)}"}
    assert doubled == {f"ocr {_medium(A, 'one')}"}
    assert foreign == {f"ocr {_medium(B, 'other')}"}
    assert compared(expected, expected) == (set(), set(), set())


def test_only_what_was_delivered_is_compared() -> None:
    pair = repr({"media_id": A, "other_id": B, "distance": 1})
    rows = {
        "ocr": Counter({_medium(A): 1, _medium(C): 1}),
        "analyses": Counter({repr({"media_id": A, "fingerprint": C}): 1}),
        "duplicate_pairs": Counter({pair: 1}),
        "face_persons": Counter({f"{A} 0 + {B} 1": 1}),
    }
    only_a = among(rows, {A})
    assert only_a["ocr"] == Counter({_medium(A): 1})
    assert sum(only_a["analyses"].values()) == 1, "a digest that is no medium does not count"
    assert not only_a["duplicate_pairs"]
    assert only_a["face_persons"] == Counter({f"{A} 0": 1})
    assert among(rows, {A, B})["duplicate_pairs"] == Counter({pair: 1})


def test_a_fault_that_was_not_survived_shows_in_the_table() -> None:
    good = Outcome("postgres killed", 14, 21.0, 40.0)
    assert good.is_good and row(good) == "| postgres killed | 14 | 21 s | 40 s | 0 | 0 | 0 | 0 | 0 |"
    bad = Outcome("power loss", 14, 21.0, None, Verdict(lost=frozenset({"ocr x"})), 1, "everything is analysed")
    assert not bad.is_good and "| never | 1 | 0 | 0 | 0 | 1 |" in row(bad)


@pytest.mark.slow
def test_the_files_are_of_every_kind_and_no_two_are_the_same(tmp_path: Path) -> None:
    made = make_files(tmp_path, 22)
    assert {path.suffix for path in made} == {".png", ".jpg", ".wav", ".mp4"}
    assert len({media_id(path) for path in made}) == len(made)
    again = make_files(tmp_path / "again", 22)
    assert [media_id(p) for p in again if p.suffix != ".wav"] == [media_id(p) for p in made if p.suffix != ".wav"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with installed(tmp_path_factory.mktemp("faults"), PROJECT, SETTINGS) as running:
        yield running


@pytest.mark.slow
def test_nothing_is_lost_or_doubled(stack: Stack, tmp_path: Path) -> None:
    names = ["postgres killed", "container of the run killed", "all processes killed at once"]
    assert set(names) <= set(FAULTS)
    stack.chance = random.Random(7)
    files = make_files(tmp_path / "files", 18, seed=2)
    found = list(server_faults.suffer(stack, names, files, tmp_path / "reference"))
    told = "\n".join(map(row, found))
    assert all(outcome.is_good and not outcome.lacks for outcome in found), told
    assert all(outcome.verdict == Verdict() for outcome in found), told
