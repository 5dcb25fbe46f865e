"""The measures against cases worked out by hand."""

from __future__ import annotations

import random
from functools import cache

import pytest

from quality import metrics
from quality.metrics import Counts, DiarizationError, PairCounts


def test_edit_distance_by_hand() -> None:
    assert metrics.edit_distance("kitten", "sitting") == 3  # two replaced, one inserted
    assert metrics.edit_distance("", "abc") == 3
    assert metrics.edit_distance("abc", "") == 3
    assert metrics.edit_distance(["the", "cat"], ["the", "cat"]) == 0


def test_edit_distance_against_the_textbook() -> None:
    draw = random.Random(1)
    for _ in range(60):
        a, b = ("".join(draw.choices("abc", k=draw.randrange(12))) for _ in range(2))
        assert metrics.edit_distance(a, b) == _textbook(a, b), (a, b)


@cache
def _textbook(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(_textbook(a[1:], b) + 1, _textbook(a, b[1:]) + 1, _textbook(a[1:], b[1:]) + (a[0] != b[0]))


def test_pooled_error_by_hand() -> None:
    pages = [metrics.edits("Größe 12", "Grosse 12"), metrics.edits("ja", "ja")]
    assert pages == [(3, 8), (0, 2)]  # ö and ß replaced, one s inserted
    assert metrics.pooled_error(pages) == 3 / 10
    assert (
        metrics.pooled_error([metrics.edits(metrics.words("Ask not, what!"), metrics.words("ask what you"))]) == 2 / 3
    )
    with pytest.raises(ValueError, match="not empty"):
        metrics.pooled_error([(1, 0)])


def test_words_are_free_of_case_and_punctuation() -> None:
    assert metrics.words("Der „schnelle” Fuchs, it's 12.5 %!") == ["der", "schnelle", "fuchs", "it's", "12", "5"]


def test_recalled_counts_repetitions() -> None:
    assert metrics.recalled(["the", "the", "fox"], ["the", "dog", "fox", "fox"]) == 2


def test_wilson_interval_of_the_books() -> None:
    low, high = metrics.wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    low, high = metrics.wilson(10, 10)
    assert (round(low, 3), high) == (0.722, 1.0)
    assert metrics.wilson(0, 10)[0] == 0.0


def test_bootstrap_surrounds_the_mean_and_is_repeatable() -> None:
    values = [0.0] * 5 + [1.0] * 5
    interval = metrics.bootstrap(values, lambda sample: sum(sample) / len(sample))
    assert interval is not None
    assert 0.1 <= interval[0] < 0.5 < interval[1] <= 0.9
    assert interval == metrics.bootstrap(values, lambda sample: sum(sample) / len(sample))
    assert metrics.bootstrap([1.0, 2.0], max) is None


def test_counts() -> None:
    counts = metrics.set_counts({"a", "b", "c"}, {"b", "c", "d", "e"})
    assert counts == Counts(hits=2, extra=2, missed=1)
    assert counts.precision == 0.5 and counts.recall == 2 / 3 and counts.f1 == 4 / 7
    nothing = metrics.set_counts(set(), set())
    assert nothing.precision is None and nothing.recall is None and nothing.f1 is None
    assert counts + counts == Counts(4, 4, 2)


def test_each_event_is_met_once() -> None:
    assert metrics.event_counts([50, 90], [50, 51, 93], tolerance=1) == Counts(hits=1, extra=2, missed=1)
    assert metrics.event_counts([10, 12], [11, 13], tolerance=1) == Counts(2, 0, 0)
    assert metrics.event_counts([], [5], tolerance=1) == Counts(0, 1, 0)


def test_verification_rates() -> None:
    same, different = [0.9, 0.8, 0.4, 0.7], [0.1, 0.5, 0.3, 0.2]
    assert metrics.true_accept_rate(same, 0.5) == 0.75
    assert metrics.false_accept_rate(different, 0.5) == 0.25
    assert metrics.tar_at_far_zero(same, different) == (0.75, 0.5)
    # At 0.5 a quarter of each is judged wrong.
    assert metrics.equal_error_rate(same, different) == (0.25, 0.5)


def test_equal_error_is_zero_when_separated_and_half_when_alike() -> None:
    assert metrics.equal_error_rate([0.8, 0.9], [0.1, 0.2])[0] == 0
    assert metrics.equal_error_rate([0.1, 0.9], [0.1, 0.9])[0] == pytest.approx(0.5)


def test_pairs_of_clusters() -> None:
    truth = {"a1": "A", "a2": "A", "a3": "A", "b1": "B"}
    clusters = {"a1": "1", "a2": "1", "a3": None, "b1": "1"}
    assert metrics.pair_counts(truth, clusters) == PairCounts(same=3, together=1, different=3, merged=2)
    assert metrics.pair_counts({"a1": "A", "a2": "A"}, {}) == PairCounts(1, 0, 0, 0)


def test_span_error() -> None:
    overlap, wrong = metrics.span_error([(0.0, 1.0)], [(0.5, 1.5)], duration_s=2.0)
    assert overlap == pytest.approx(1 / 3) and wrong == pytest.approx(0.5)
    assert metrics.span_error([], [], 1.0) == (1.0, 0.0)
    assert metrics.span_error([(0.0, 1.0)], [], 2.0) == (0.0, 0.5)


def test_diarization_error_by_hand() -> None:
    truth = [(0.0, 4.0, "anna"), (4.0, 8.0, "ben")]
    assert metrics.diarization_error(truth, [(0.0, 4.0, "S1"), (4.0, 8.0, "S2")]).total == 0  # names do not matter
    assert metrics.diarization_error(truth, [(0.0, 8.0, "S1")]) == DiarizationError(0.0, 0.0, 0.5)  # all one voice
    assert metrics.diarization_error(truth, []) == DiarizationError(1.0, 0.0, 0.0)  # nobody heard
    # One second confused, one missed, one invented, of eight.
    error = metrics.diarization_error(truth, [(0.0, 5.0, "S2"), (5.0, 7.0, "S1"), (8.0, 9.0, "S1")])
    assert error == DiarizationError(1 / 8, 1 / 8, 1 / 8) and error.total == 3 / 8


def test_diarization_error_counts_a_split_voice_as_confusion() -> None:
    found = [(0.0, 3.0, "S1"), (3.0, 4.0, "S2")]
    assert metrics.diarization_error([(0.0, 4.0, "anna")], found) == DiarizationError(0.0, 0.0, 0.25)


def test_diarization_error_of_two_who_speak_at_once() -> None:
    both = [(0.0, 2.0, "anna"), (1.0, 2.0, "ben")]
    assert metrics.diarization_error(both, [(0.0, 2.0, "S1")]) == DiarizationError(1 / 3, 0.0, 0.0)


def test_diarization_error_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="0 true"):
        metrics.diarization_error([], [(0.0, 1.0, "S1")])
    crowd = [(float(n), n + 1.0, f"S{n}") for n in range(9)]
    with pytest.raises(ValueError, match="9 found"):
        metrics.diarization_error([(0.0, 9.0, "anna")], crowd)
