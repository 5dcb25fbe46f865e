"""The measures, as plain functions of plain values. No model, no file, no table is known here."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
import numpy.typing as npt

Span = tuple[float, float]  # [start, end) in seconds
Turn = tuple[float, float, str]  # start, end in seconds, speaker
Edits = tuple[int, int]  # edits, symbols of the truth
Interval = tuple[float, float]  # lower and upper end of a 95 % interval

Z_95 = 1.959964
GRID_S = 0.01  # spans are compared on a grid of 10 ms, the frame of speech research
MAX_SPEAKERS = 8  # 8! assignments are tried at most


# ---------------------------------------------------------------------- text


def words(text: str) -> list[str]:
    """Words without case and punctuation; the apostrophe inside a word stays."""
    return re.sub(r"[^\w\s']", " ", text).casefold().split()


def edit_distance(truth: Sequence[Hashable], found: Sequence[Hashable]) -> int:
    """Levenshtein: the fewest insertions, deletions and replacements that make one of the other."""
    codes: dict[Hashable, int] = {}
    a, b = (np.array([codes.setdefault(x, len(codes)) for x in text], dtype=np.int64) for text in (truth, found))
    place = np.arange(len(b) + 1)
    row = place.copy()
    for number, symbol in enumerate(a, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (b != symbol))
        # An insertion costs one more than the cell to its left: a running minimum after the slope is taken off.
        row = np.minimum.accumulate(np.concatenate(([number], best)) - place) + place
    return int(row[-1])


def edits(truth: Sequence[Hashable], found: Sequence[Hashable]) -> Edits:
    """Edits, and the symbols of the truth they are to be divided by."""
    return edit_distance(truth, found), len(truth)


def pooled_error(texts: Sequence[Edits]) -> float:
    """Edits of all texts per symbol of all: of characters the CER, of words the WER. Above 1 where much was invented.

    Raises:
        ValueError: the truth has no symbol.
    """
    total = sum(length for _, length in texts)
    if not total:
        raise ValueError("an error rate needs a text that is not empty")
    return sum(wrong for wrong, _ in texts) / total


def recalled(truth: Sequence[Hashable], found: Sequence[Hashable]) -> int:
    """How many of the truth were found, each as often as it stands there."""
    return (Counter(truth) & Counter(found)).total()


# ---------------------------------------------------------------------- how sure one may be


def wilson(successes: int, n: int, z: float = Z_95) -> Interval:
    """Confidence interval of a share (Wilson 1927): honest for few trials and for shares of 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    share, square = successes / n, z * z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # Rounding must not make a share of 0 or 1 lie outside its own interval.
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def bootstrap(
    samples: Sequence[Any], statistic: Callable[[Sequence[Any]], float], rounds: int = 2000, seed: int = 0
) -> Interval | None:
    """Percentile interval of a statistic under drawing the samples again (Efron 1979); none below five samples."""
    if len(samples) < 5:
        return None
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(samples), size=(rounds, len(samples)))
    low, high = np.percentile([statistic([samples[i] for i in draw]) for draw in draws], [2.5, 97.5])
    return float(low), float(high)


# ---------------------------------------------------------------------- found or not


@dataclass(frozen=True, slots=True)
class Counts:
    """True positives, false positives, false negatives."""

    hits: int
    extra: int
    missed: int

    @property
    def precision(self) -> float | None:
        """Null where nothing was found."""
        return self.hits / (self.hits + self.extra) if self.hits + self.extra else None

    @property
    def recall(self) -> float | None:
        """Null where there was nothing to find."""
        return self.hits / (self.hits + self.missed) if self.hits + self.missed else None

    @property
    def f1(self) -> float | None:
        """Null where there was nothing to find and nothing found."""
        total = 2 * self.hits + self.extra + self.missed
        return 2 * self.hits / total if total else None

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.hits + other.hits, self.extra + other.extra, self.missed + other.missed)


def set_counts(truth: Collection[Hashable], found: Collection[Hashable]) -> Counts:
    """Of two sets of the same kind of thing."""
    wanted, got = set(truth), set(found)
    return Counts(len(wanted & got), len(got - wanted), len(wanted - got))


def event_counts(truth: Iterable[float], found: Iterable[float], tolerance: float) -> Counts:
    """Of moments; each of the truth is met by at most one found moment at most `tolerance` away."""
    left = sorted(found)
    hits = missed = 0
    for moment in sorted(truth):
        at = bisect_left(left, moment - tolerance)
        if at < len(left) and left[at] <= moment + tolerance:
            del left[at]
            hits += 1
        else:
            missed += 1
    return Counts(hits, len(left), missed)


# ---------------------------------------------------------------------- same or different, by a score


def true_accept_rate(same: Sequence[float], threshold: float) -> float:
    """Share of same pairs with a score of at least the threshold."""
    return sum(score >= threshold for score in same) / len(same)


def false_accept_rate(different: Sequence[float], threshold: float) -> float:
    """Share of different pairs with a score of at least the threshold."""
    return sum(score >= threshold for score in different) / len(different)


def tar_at_far_zero(same: Sequence[float], different: Sequence[float]) -> tuple[float, float]:
    """(share of same pairs above every different pair, the highest score of a different pair)."""
    highest = max(different)
    return sum(score > highest for score in same) / len(same), highest


def equal_error_rate(same: Sequence[float], different: Sequence[float]) -> tuple[float, float]:
    """(error, threshold) where as large a share of same pairs is refused as of different ones is accepted.

    The steps of the two curves seldom meet: the mean of both at the threshold where they are nearest.
    """
    thresholds = sorted({*same, *different})
    errors = [(1 - true_accept_rate(same, t), false_accept_rate(different, t), t) for t in thresholds]
    refused, accepted, threshold = min(errors, key=lambda e: (abs(e[0] - e[1]), e[0] + e[1]))
    return (refused + accepted) / 2, threshold


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Of all pairs of items whose true group is known."""

    same: int  # pairs of one identity
    together: int  # of these, in one cluster
    different: int
    merged: int  # of these, in one cluster


def pair_counts(truth: Mapping[str, str], clusters: Mapping[str, str | None]) -> PairCounts:
    """Items without a cluster are together with none."""
    same = together = different = merged = 0
    for left, right in combinations(sorted(truth), 2):
        in_one = clusters.get(left) is not None and clusters.get(left) == clusters.get(right)
        if truth[left] == truth[right]:
            same, together = same + 1, together + in_one
        else:
            different, merged = different + 1, merged + in_one
    return PairCounts(same, together, different, merged)


# ---------------------------------------------------------------------- time


def span_error(truth: Sequence[Span], found: Sequence[Span], duration_s: float) -> tuple[float, float]:
    """(intersection over union, share of the time that is judged wrong) on the grid."""
    a, b = _on_grid(truth, duration_s), _on_grid(found, duration_s)
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0, float((a != b).mean())


@dataclass(frozen=True, slots=True)
class DiarizationError:
    """Each per second of speech. The total can be above 1."""

    missed: float
    invented: float
    confused: float  # heard, and given to another speaker

    @property
    def total(self) -> float:
        return self.missed + self.invented + self.confused


def diarization_error(truth: Sequence[Turn], found: Sequence[Turn]) -> DiarizationError:
    """Under the best naming of the speakers.

    NIST's DER (RT-09 evaluation plan) on a grid, without a collar around the turns; overlaps count once per speaker.

    Raises:
        ValueError: nobody speaks in the truth, or there are too many speakers to try all namings.
    """
    duration_s = max((end for _, end, _ in (*truth, *found)), default=0.0)
    wanted, got = _by_speaker(truth, duration_s), _by_speaker(found, duration_s)
    if not wanted or max(len(wanted), len(got)) > MAX_SPEAKERS:
        raise ValueError(f"{len(wanted)} true and {len(got)} found speakers; 1 to {MAX_SPEAKERS} can be compared")
    speaking = np.sum(wanted, axis=0)
    heard = np.sum(got, axis=0) if got else np.zeros_like(speaking)
    missed, invented = np.maximum(speaking - heard, 0).sum(), np.maximum(heard - speaking, 0).sum()
    confused = np.minimum(speaking, heard).sum() - _best_overlap(wanted, got)
    return DiarizationError(*(float(cells / speaking.sum()) for cells in (missed, invented, confused)))


def _best_overlap(wanted: list[npt.NDArray[np.int64]], got: list[npt.NDArray[np.int64]]) -> int:
    """The most grid cells that are right, each true speaker given at most one found one and the reverse."""
    few, many = sorted((wanted, got), key=len)
    together = [[int((a * b).sum()) for b in many] for a in few]
    return max(
        sum(together[row][column] for row, column in enumerate(chosen))
        for chosen in permutations(range(len(many)), len(few))
    )


def _by_speaker(turns: Sequence[Turn], duration_s: float) -> list[npt.NDArray[np.int64]]:
    names = sorted({name for _, _, name in turns})
    spans = ([(start, end) for start, end, speaker in turns if speaker == name] for name in names)
    return [_on_grid(own, duration_s).astype(np.int64) for own in spans]


def _on_grid(spans: Sequence[Span], duration_s: float) -> npt.NDArray[np.bool_]:
    cells = np.zeros(max(1, round(duration_s / GRID_S)), dtype=bool)
    for start, end in spans:
        cells[max(0, round(start / GRID_S)) : max(0, round(end / GRID_S))] = True
    return cells
