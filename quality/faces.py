"""Faces: how many, whose, and whether persons across media are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from media_pipeline.results._identity_kinds import PERSONS
from media_pipeline.results.identities import threshold_of
from quality import metrics
from quality.area import Bench
from quality.collection import Collection
from quality.grouping import grouping
from quality.report import Maker, Measurement, absent

Face = Mapping[str, Any]

# One of the pictures that are copies of each other stands for all.
_COPIES = "formats/hopper"
_ONE_COPY = "formats/hopper.jpg"


class Faces:
    """Detection and verification."""

    name = "faces"
    analyzers = ("faces",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        rows = bench.home.rows("faces", "score, x1, y1, x2, y2, embedding, model", order="media_id, frame_index")
        maker = bench.home.maker("faces")
        yield from _counts(bench.collection, rows, maker)
        known = {file: face for file, face in _portraits(bench.collection, rows).items() if face is not None}
        usable = {file: face for file, face in known.items() if face["embedding"] is not None}
        same, different = _scores(bench.collection, usable)
        if not same or not different:
            yield absent("faces: verification", "fewer than two embeddings of one person, or of two")
            return
        threshold = threshold_of(PERSONS, next(iter(usable.values()))["model"])
        yield from _verification(
            same, different, threshold, maker, f"{len(known) - len(usable)} faces have no embedding"
        )


class Persons:
    """What the clustering across media makes of the same faces."""

    name = "persons"
    analyzers = ("faces",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        rows = bench.home.rows("faces", "x1, y1, x2, y2, person_id", order="media_id, frame_index")
        portraits = _portraits(bench.collection, rows)
        clusters = {file: face["person_id"] if face else None for file, face in portraits.items()}
        truth = {file: bench.collection[file].truth["identity"] for file in portraits}
        yield from grouping(
            "persons: pairs of two people in one person",
            "persons: pairs of one person that are together",
            truth,
            clusters,
            bench.home.maker("faces"),
        )


def _counts(collection: Collection, rows: Mapping[str, Sequence[Face]], maker: Maker) -> Iterator[Measurement]:
    counted = {i.file: i.truth["faces"] for i in collection.knowing("faces") if _stands_for_itself(i.file)}
    exact = sum(len(rows[file]) == number for file, number in counted.items())
    missed = sum(max(0, number - len(rows[file])) for file, number in counted.items())
    extra = sum(max(0, len(rows[file]) - number) for file, number in counted.items())
    yield Measurement(
        "faces: pictures with exactly the right number",
        exact / len(counted) if counted else None,
        n=len(counted),
        of="pictures",
        interval=metrics.wilson(exact, len(counted)),
        maker=maker,
        remark=f"of {sum(counted.values())} faces {missed} missed, {extra} extra",
    )
    portraits = [item.file for item in collection.of_kind("face_reid")]
    found = sum(bool(rows[file]) for file in portraits)
    yield Measurement(
        "faces: portraits in which a face was found",
        found / len(portraits) if portraits else None,
        n=len(portraits),
        of="pictures",
        interval=metrics.wilson(found, len(portraits)),
        maker=maker,
    )
    empty = [item.file for item in collection.of_kind("image_content")]
    wrong = sum(bool(rows[file]) for file in empty)
    yield Measurement(
        "faces: pictures without people in which one was found",
        wrong / len(empty) if empty else None,
        n=len(empty),
        of="pictures of animals, food and streets",
        interval=metrics.wilson(wrong, len(empty)),
        maker=maker,
    )


def _verification(
    same: Sequence[float], different: Sequence[float], threshold: float, maker: Maker, remark: str
) -> Iterator[Measurement]:
    hits, wrong = (sum(score >= threshold for score in scores) for scores in (same, different))
    yield Measurement(
        f"faces: true accept rate at the threshold of {threshold:g}",
        hits / len(same),
        n=len(same),
        of="pairs of one person",
        interval=metrics.wilson(hits, len(same)),
        maker=maker,
        remark=remark,
    )
    yield Measurement(
        f"faces: false accept rate at the threshold of {threshold:g}",
        wrong / len(different),
        n=len(different),
        of="pairs of two people",
        interval=metrics.wilson(wrong, len(different)),
        at_most=0.0,
        maker=maker,
    )
    rate, highest = metrics.tar_at_far_zero(same, different)
    yield Measurement(
        "faces: true accept rate above every wrong pair (FAR 0)",
        rate,
        n=len(same),
        of="pairs of one person",
        maker=maker,
        remark=f"the most alike wrong pair has {highest:.3f}, the least alike right one {min(same):.3f}",
    )
    error, at = metrics.equal_error_rate(same, different)
    yield Measurement(
        "faces: equal error rate", error, n=len(same) + len(different), of="pairs", maker=maker, remark=f"at {at:.3f}"
    )


def _portraits(collection: Collection, rows: Mapping[str, Sequence[Face]]) -> dict[str, Face | None]:
    """The largest face of each picture whose person is known; mirrored copies of a picture are no second picture."""
    files = [i.file for i in collection.knowing("identity") if not i.truth.get("near_duplicate_of")]
    return {file: max(rows[file], key=_area, default=None) for file in files}


def _scores(collection: Collection, faces: Mapping[str, Face]) -> tuple[list[float], list[float]]:
    """Cosines of all pairs: of one person, of two."""
    same: list[float] = []
    different: list[float] = []
    for left, right in combinations(sorted(faces), 2):
        cosine = float(np.dot(faces[left]["embedding"], faces[right]["embedding"]))
        one = collection[left].truth["identity"] == collection[right].truth["identity"]
        (same if one else different).append(cosine)
    return same, different


def _area(face: Face) -> float:
    return float((face["x2"] - face["x1"]) * (face["y2"] - face["y1"]))


def _stands_for_itself(file: str) -> bool:
    return not file.startswith(_COPIES) or file == _ONE_COPY
