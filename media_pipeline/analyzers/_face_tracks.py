"""Which faces of one medium are one person's.

First along the time: a face that goes on in the next frame, in the same shot and place, belongs to the same run. Then
runs are joined by what the faces look like: agglomerative clustering with average linkage (Sokal and Michener 1958),
never two that are seen in one frame. Runs of which no face could be identified stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._boxes import Box, iou

Vector = npt.NDArray[np.float32]

# Frames are up to seconds apart: who sways still overlaps, who walks does not and is known by the face.
_SAME_PLACE_IOU = 0.3
# A face may be missed in one frame.
_MAX_STEP = 2
# Joining is quadratic in the runs: the longest are joined, the rest stay alone.
_MAX_JOINED_RUNS = 1000


@dataclass(frozen=True, slots=True)
class Sighting:
    """One face in one sampled frame."""

    position: int  # of the frame among the sampled ones, from 0
    scene_index: int
    box: Box
    embedding: Vector | None  # L2-normalised, shape (dimension,)


@dataclass(slots=True)
class _Run:
    members: list[int]  # places in the list of sightings
    last: Sighting
    known_by: Vector | None  # the latest embedding


def tracks(sightings: Sequence[Sighting], *, same_person: float, same_place: float) -> list[int]:
    """The track of each sighting; tracks are numbered from 0 in order of first appearance.

    Args:
        sightings: in order of time
        same_person: mean cosine from which two runs are one person's
        same_place: cosine from which a face continues a run where the place says so too
    """
    groups = _joined([run.members for run in _runs(sightings, same_place)], sightings, same_person)
    number = {index: track for track, group in enumerate(sorted(map(sorted, groups))) for index in group}
    return [number[index] for index in range(len(sightings))]


def _runs(sightings: Sequence[Sighting], same_place: float) -> list[_Run]:
    runs: list[_Run] = []
    going_on: list[_Run] = []
    for position, group in groupby(range(len(sightings)), key=lambda index: sightings[index].position):
        indices = list(group)
        going_on = [run for run in going_on if position - run.last.position <= _MAX_STEP]
        found = _continued(going_on, [sightings[index] for index in indices], same_place)
        for place, index in enumerate(indices):
            run = found.get(place)
            if run is None:
                run = _Run([], sightings[index], None)
                runs.append(run)
                going_on.append(run)
            run.members.append(index)
            run.last = sightings[index]
            if run.last.embedding is not None:
                run.known_by = run.last.embedding
    return runs


def _continued(runs: list[_Run], faces: list[Sighting], same_place: float) -> dict[int, _Run]:
    """Which run goes on in which face, the best overlap first."""
    pairs = sorted(
        (
            (overlap, r, f)
            for r, run in enumerate(runs)
            for f, face in enumerate(faces)
            if (overlap := iou(run.last.box, face.box)) >= _SAME_PLACE_IOU and _may_go_on(run, face, same_place)
        ),
        reverse=True,
    )
    found: dict[int, _Run] = {}
    taken: set[int] = set()
    for _, r, f in pairs:
        if r not in taken and f not in found:
            found[f] = runs[r]
            taken.add(r)
    return found


def _may_go_on(run: _Run, face: Sighting, same_place: float) -> bool:
    if run.last.scene_index != face.scene_index:
        return False
    return run.known_by is None or face.embedding is None or float(run.known_by @ face.embedding) >= same_place


def _joined(runs: list[list[int]], sightings: Sequence[Sighting], same_person: float) -> list[list[int]]:
    """Runs of one person put together."""
    known = [[s.embedding for index in run if (s := sightings[index]).embedding is not None] for run in runs]
    order = sorted((r for r, vectors in enumerate(known) if vectors), key=lambda r: -len(known[r]))[:_MAX_JOINED_RUNS]
    if len(order) < 2:
        return runs
    totals = np.stack([np.sum(known[r], axis=0) for r in order])
    counts = np.asarray([len(known[r]) for r in order], np.float32)
    seen = np.zeros((len(order), sightings[-1].position + 1), bool)
    for row, r in enumerate(order):
        seen[row, [sightings[index].position for index in runs[r]]] = True
    groups = [list(run) for run in runs]
    for one, other in _merges(totals, counts, seen, same_person):
        groups[order[one]] += groups[order[other]]
        groups[order[other]] = []
    return [group for group in groups if group]


def _merges(
    totals: npt.NDArray[np.float32], counts: npt.NDArray[np.float32], seen: npt.NDArray[np.bool_], least: float
) -> list[tuple[int, int]]:
    """Pairs of rows in the order in which the second is put to the first.

    The mean cosine between two groups is the inner product of their sums of vectors over the product of their sizes.

    Args:
        totals: sums of vectors, shape (n, dimension)
        counts: how many vectors, shape (n,)
        seen: in which frames, shape (n, frames); two rows with a frame in common are never put together
    """

    def towards(row: int) -> npt.NDArray[np.float32]:
        cosines = totals @ totals[row] / (counts * counts[row])
        cosines[(seen & seen[row]).any(axis=1) | gone] = -np.inf
        return np.asarray(cosines, np.float32)

    gone = np.zeros(len(totals), bool)
    cosines = np.stack([towards(row) for row in range(len(totals))])
    merges: list[tuple[int, int]] = []
    while True:
        one, other = divmod(int(cosines.argmax()), len(cosines))
        if not cosines[one, other] >= least:
            return merges
        merges.append((one, other))
        totals[one] += totals[other]
        counts[one] += counts[other]
        seen[one] |= seen[other]
        gone[other] = True
        cosines[other] = cosines[:, other] = -np.inf
        cosines[one] = cosines[:, one] = towards(one)
