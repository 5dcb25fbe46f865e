"""Clustering all tracks anew, whatever they were: only the user's decisions stand, and ids follow their tracks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.results._identity_clusters import FIXED, FREE, Nodes, cluster, poles, summed
from media_pipeline.results._identity_ids import Claim, named
from media_pipeline.results._identity_kinds import Kind, Thresholds
from media_pipeline.results._identity_known import matrix, present
from media_pipeline.results._identity_place import Name, pairs_apart, score
from media_pipeline.results._identity_update import Changes, Moved, commit
from media_pipeline.storage.identities import Decisions, Sample
from media_pipeline.storage.tables import Tables

Ints = npt.NDArray[np.int64]


def recluster(kind: Kind, tables: Tables, decisions: Decisions, threshold: Thresholds) -> Changes:
    """Identities as they would be if everything had come at once. Takes 0.5 KB of memory per track."""
    tracks = 0
    moved: dict[Name, Moved] = {}
    used: set[str] = set()
    everything = tables.read(kind.table)
    for model in sorted(everything["model"].unique().to_pylist()):
        rows = everything.filter(pc.equal(everything["model"], model))
        tracks += rows.num_rows
        found = _Clustering(kind, rows, decisions, decisions.samples(kind.name, model), threshold(kind, model))
        moved |= found.moved(tables, decisions, used)
    commit(kind, tables, kind.schema.empty_table(), (), moved)
    return Changes(tracks, len(moved))


class _Clustering:
    """The tracks of one model, clustered."""

    def __init__(
        self, kind: Kind, rows: pa.Table, decisions: Decisions, samples: Sequence[Sample], threshold: float
    ) -> None:
        self._kind, self._rows = kind, rows
        self._names: list[Name] = list(zip(rows["media_id"].to_pylist(), rows[kind.track].to_pylist(), strict=True))
        self._had: list[str] = rows[kind.identity].to_pylist()
        self._vectors = matrix(rows["embedding"], len(rows["embedding"][0].as_py()))
        pinned = self._pinned(decisions.decided(kind.name))
        self._nodes, self._node_of, self._fixed = self._start(pinned, samples, threshold)
        self._labels = cluster(self._nodes, self._pairs_apart(), threshold)

    def _pinned(self, decided: Collection[str]) -> dict[int, str]:
        """Tracks (row numbers) that stay with their identity: those the user pinned; where an identity with a decision
        has lost them, its clearest one."""
        pinned = {row: self._had[row] for row, by in enumerate(self._rows["decided_by"].to_pylist()) if by == "user"}
        bare = set(decided) - set(pinned.values())
        best: dict[str, tuple[float, int]] = {}
        for row, (identity, fit) in enumerate(zip(self._had, self._rows["score"].to_pylist(), strict=True)):
            if identity in bare:
                best[identity] = max(best.get(identity, (-1.0, 0)), (fit or 0.0, row))
        return pinned | {row: identity for identity, (_, row) in best.items()}

    def _start(
        self, pinned: dict[int, str], samples: Sequence[Sample], threshold: float
    ) -> tuple[Nodes, Ints, dict[int, str]]:
        """Nodes, the node of each track, and the identities of nodes that are fixed: what is pinned to one identity,
        its samples included, and alike."""
        vectors = np.concatenate([self._vectors, *(sample.vector[None] for sample in samples)])
        node_of, leaders = np.arange(len(vectors)), {}
        for identity, rows in self._anchors(pinned, samples).items():
            for pole in poles(vectors[rows], threshold):
                node_of[rows[pole]] = rows[pole[0]]
                leaders[int(rows[pole[0]])] = identity
        kept, labels = np.unique(node_of, return_inverse=True)
        fixed = {int(np.searchsorted(kept, leader)): identity for leader, identity in leaders.items()}
        ranks = np.full(len(kept), FREE, np.int8)
        ranks[list(fixed)] = FIXED
        return Nodes(summed(vectors, labels), np.bincount(labels), ranks), labels[: len(self._names)], fixed

    def _anchors(self, pinned: dict[int, str], samples: Sequence[Sample]) -> dict[str, Ints]:
        """Vectors (those of the samples behind those of the tracks) that are for certain of an identity."""
        found: dict[str, list[int]] = defaultdict(list)
        for row, identity in sorted(pinned.items()):
            found[identity].append(row)
        for number, sample in enumerate(samples):
            found[sample.identity_id].append(len(self._names) + number)
        return {identity: np.array(rows, np.int64) for identity, rows in sorted(found.items())}

    def _pairs_apart(self) -> Ints:
        node_of = dict(zip(self._names, self._node_of.tolist(), strict=True))
        lists = zip(self._names, self._rows["apart"].to_pylist(), strict=True)
        of_identity: dict[str, list[int]] = defaultdict(list)
        for node, identity in self._fixed.items():
            of_identity[identity].append(node)
        together = {node: tuple(of_identity[identity]) for node, identity in self._fixed.items()}
        return pairs_apart(node_of, {name: keys for name, keys in lists if keys}, together)

    def moved(self, tables: Tables, decisions: Decisions, used: set[str]) -> dict[Name, Moved]:
        """Tracks that have another identity now. `used` are ids given before, and get those given here."""
        labels = self._labels[self._node_of]
        ids = self._ids(labels, tables, decisions, used)
        totals = summed(self._nodes.sums, self._labels)
        sizes = np.bincount(self._labels, self._nodes.counts)
        return {
            name: (ids[int(label)], score(self._vectors[row], totals[label], int(sizes[label])))
            for row, (name, label) in enumerate(zip(self._names, labels, strict=True))
            if ids[int(label)] != self._had[row]
        }

    def _ids(self, labels: Ints, tables: Tables, decisions: Decisions, used: set[str]) -> dict[int, str]:
        first: dict[int, Name] = {}
        ages: dict[str, datetime | None] = {}
        for name, label, had, since in zip(
            self._names, labels.tolist(), self._had, self._rows["added_at"].to_pylist(), strict=True
        ):
            first[label] = min(first.get(label, name), name)
            ages[had] = min(filter(None, (ages.get(had), since)), default=None)
        claims = [Claim(int(self._labels[node]), identity, fixed=True) for node, identity in self._fixed.items()]
        claims += [Claim(label, had) for label, had in zip(labels.tolist(), self._had, strict=True)]
        for node, identity in self._fixed.items():
            first.setdefault(int(self._labels[node]), ("", identity))

        def taken(wanted: Collection[str]) -> set[str]:
            return present(tables, self._kind, wanted) | decisions.known(self._kind.name, list(wanted)) | used

        ids = named(self._kind, claims, first, ages, taken)
        used.update(ids.values())
        return ids
