"""Whether two computations of one medium agree, one of them here, one on a rented GPU.

Floats differ between a CPU and a GPU in their last digits, and networks carry that on: a box moves by a part of a
pixel of the reduced picture the detector sees, a face at the threshold appears or not, a recogniser that searches among
hypotheses takes another word for a mumbled one, an int8 network on a CPU hears a little less than a float16 one. So
what is stable is compared, within bounds that honest differences stay in and made-up results do not:

    boxes       matched within each frame, by their words and within a hundredth of the picture's longer side: what a
                pixel of a reduced picture is
    scores      within 0.05
    vectors     cosine at least 0.999; of sound 0.98, where the spans that are averaged may differ by a frame
    rows        one without a partner is excused where its score is just above the threshold (option `min_score`), by
                0.05 or a fifth of what is above it; beyond that one in ten
    spans       both cover the same time, to four fifths; so does each of their values (language, speaker)
    words       of a transcript: at most one in five differs, or two altogether
    else        equal, numbers to a hundredth
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, Options

SCORE = 0.05
COSINE, COSINE_OF_SOUND = 0.999, 0.98
UNMATCHED = 0.1  # share of rows
COVERED = 0.8
SMALL_S = 1.0  # of time that both need not share: half a word at each end
WORDS = 0.2  # share that may differ
FEW_WORDS = 2
CHARACTERS = 0.8  # likeness of a line of text
SIDE = 0.01
NUMBER = 0.01
BORDER = 0.2

_BOX = ("x1", "y1", "x2", "y2")
Row = dict[str, Any]


def disagreement(spec: AnalyzerSpec, options: Options, medium: Medium, here: pa.Table, there: pa.Table) -> str | None:
    """What is too different, in a few words; None: they agree.

    Args:
        here, there: rows of the analyzer for this medium
    """
    names = spec.schema.names
    if "frame_index" in names:
        return _of_frames(spec, options, medium, here, there)
    if "start_s" in names and "end_s" in names:
        return _of_spans(spec, here, there)
    return _of_rows(here, there)


# --- what is seen: rows of frames ---------------------------------------------------------------------------------


def _of_frames(spec: AnalyzerSpec, options: Options, medium: Medium, here: pa.Table, there: pa.Table) -> str | None:
    words = _words(spec)
    sizes = {frame.frame_index: float(max(frame.width, frame.height)) for frame in medium.frames}
    frames: dict[Any, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for which, rows in enumerate((here, there)):
        for row in rows.to_pylist():
            frames[row["frame_index"], *(row[name] for name in words)][which].append(row)
    alone, wrong = 0, Counter[str]()
    for (frame_index, *_), (ours, theirs) in frames.items():
        reach = max(1.0, SIDE * sizes.get(frame_index, 0.0))
        pairs, rest = _paired(ours, theirs, reach)
        alone += sum(not _is_borderline(row, options) for row in rest)
        for one, other in pairs:
            wrong.update(_differences(one, other, reach, COSINE))
    total = max(here.num_rows, there.num_rows)
    if alone > UNMATCHED * total:
        return f"{alone} of {total} rows have no partner"
    return _too_many(wrong, total)


def _paired(ours: Sequence[Row], theirs: Sequence[Row], reach: float) -> tuple[list[tuple[Row, Row]], list[Row]]:
    """Rows of one frame with the same words that lie in the same place, and those without such a partner."""
    left = list(theirs)
    pairs, rest = [], []
    for one in ours:
        best = min(left, key=lambda other: _distance(one, other), default=None)
        if best is None or _distance(one, best) > reach:
            rest.append(one)
        else:
            left.remove(best)
            pairs.append((one, best))
    return pairs, rest + left


def _distance(one: Row, other: Row) -> float:
    """Of their boxes, in pixels; of rows without one 0."""
    if any(one.get(name) is None or other.get(name) is None for name in _BOX):
        return 0.0 if one.get("x1") is None and other.get("x1") is None else float("inf")
    return max(abs(float(one[name]) - float(other[name])) for name in _BOX)


def _is_borderline(row: Row, options: Options) -> bool:
    """Near the threshold, for the range of scores above it: some begin at 0.95."""
    least, score = getattr(options, "min_score", None), row.get("score")
    if not isinstance(least, float) or not isinstance(score, float):
        return False
    return score - least <= min(SCORE, BORDER * (1 - least))


def _differences(one: Row, other: Row, reach: float, cosine: float) -> list[str]:
    """Columns of a pair that are too far apart."""
    found = []
    for name, value in one.items():
        rival = other[name]
        if name == "text":
            is_far = difflib.SequenceMatcher(None, value or "", rival or "").ratio() < CHARACTERS
        elif name in ("score", "quality"):
            is_far = value is not None and rival is not None and abs(value - rival) > SCORE
        elif name == "embedding":
            # Where one is too blurred for one of the two is a matter of a threshold.
            is_far = value is not None and rival is not None and _cosine(value, rival) < cosine
        else:
            is_far = isinstance(value, list) and _are_apart(value, rival or [], reach)
        if is_far:
            found.append(name)
    return found


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.dot(one, other)) if len(one) == len(other) else -1.0


def _are_apart(ours: list[Any], theirs: list[Any], reach: float) -> bool:
    """Points of a body, corners: most of them, because single ones are hidden and guessed."""
    if len(ours) != len(theirs):
        return True
    points = [(a, b) for a, b in zip(ours, theirs, strict=True) if _is_point(a)]
    distances = [max(abs(a["x"] - b["x"]), abs(a["y"] - b["y"])) if _is_point(b) else float("inf") for a, b in points]
    return bool(distances) and float(np.median(distances)) > reach


def _is_point(item: Any) -> bool:
    return isinstance(item, dict) and item.get("x") is not None and item.get("y") is not None


# --- what is heard: spans of time ---------------------------------------------------------------------------------


def _of_spans(spec: AnalyzerSpec, here: pa.Table, there: pa.Table) -> str | None:
    ours, theirs = ([r for r in t.to_pylist() if r["start_s"] is not None] for t in (here, there))
    if _uncovered(ours, theirs):
        return "it is said at other times"
    for name in _words(spec):
        for value in {row[name] for row in (*ours, *theirs)}:
            if _uncovered(*([row for row in rows if row[name] == value] for rows in (ours, theirs))):
                return f"{name} {value!r} at other times"
    if "text" in spec.schema.names:
        said, heard = (" ".join(row["text"] or "" for row in rows).split() for rows in (ours, theirs))
        matcher = difflib.SequenceMatcher(None, said, heard)
        different = max(len(said), len(heard)) - sum(block.size for block in matcher.get_matching_blocks())
        if different > max(FEW_WORDS, WORDS * max(len(said), len(heard))):
            return f"{different} of {max(len(said), len(heard))} words differ"
    wrong = Counter[str]()
    starts, ends = (np.array([row[name] for row in theirs], np.float64) for name in ("start_s", "end_s"))
    for one in ours:
        shared_s = np.minimum(ends, one["end_s"]) - np.maximum(starts, one["start_s"])
        rivals = np.flatnonzero(shared_s >= COVERED * (one["end_s"] - one["start_s"]))
        # Two voices on two channels may speak at once.
        rest = {name: one[name] for name in one if name not in ("text", "words")}
        found = sorted((_differences(rest, theirs[number], 0.0, COSINE_OF_SOUND) for number in rivals), key=len)
        wrong.update(found[0] if found else [])
    return _too_many(wrong, len(ours))


def _uncovered(ours: Sequence[Row], theirs: Sequence[Row]) -> bool:
    """Whether too much of the time that one of them names is not named by the other."""
    edges = np.unique([row[name] for row in (*ours, *theirs) for name in ("start_s", "end_s")])
    one, other = _inside(ours, edges), _inside(theirs, edges)
    either_s, both_s = (float(np.diff(edges)[where].sum()) for where in (one | other, one & other))
    return either_s - both_s > max(SMALL_S, (1 - COVERED) * either_s)


def _inside(rows: Sequence[Row], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Of each stretch between two edges whether a span covers it."""
    steps = np.zeros(len(edges), np.int64)
    np.add.at(steps, np.searchsorted(edges, [row["start_s"] for row in rows]), 1)
    np.add.at(steps, np.searchsorted(edges, [row["end_s"] for row in rows]), -1)
    return np.cumsum(steps)[:-1] > 0


# --- what else there is -------------------------------------------------------------------------------------------


def _of_rows(here: pa.Table, there: pa.Table) -> str | None:
    if here.num_rows != there.num_rows:
        return f"{there.num_rows} rows, not {here.num_rows}"
    for one, other in zip(here.to_pylist(), there.to_pylist(), strict=True):
        for name in one:
            if not _are_alike(one[name], other[name]):
                return f"{name} is {str(other[name])[:50]}, not {str(one[name])[:50]}"
    return None


def _are_alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= NUMBER * max(1.0, abs(one))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_are_alike(one[name], other[name]) for name in one)
    return bool(one == other)


def _words(spec: AnalyzerSpec) -> list[str]:
    """Columns that say what a row is: labels, names, models; not what was read or said."""
    kinds = {field.name: field.type for field in spec.schema}
    return [n for n, kind in kinds.items() if pa.types.is_string(kind) and n not in ("media_id", "text")]


def _too_many(wrong: Counter[str], total: int) -> str | None:
    for name, count in wrong.most_common(1):
        if count > UNMATCHED * total:
            return f"{name} differs in {count} of {total} rows"
    return None
