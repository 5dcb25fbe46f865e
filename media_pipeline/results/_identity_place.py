"""Whose are these new tracks? They are clustered together with the identities they come near to.

Identities the user has not touched, and that are small, are taken apart for it: what comes out is then what clustering
everything at once would have found, in whatever order the media came. One that is large goes in as a whole. One that
the user decided about keeps what it has, and new tracks may join it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from media_pipeline.results._identity_clusters import FIXED, FREE, STANDING, Nodes, cluster, poles, summed
from media_pipeline.results._identity_ids import Claim, named
from media_pipeline.results._identity_kinds import Key, Kind, Track
from media_pipeline.results._identity_known import Group, Known, Member

Name = tuple[str, Key]  # media_id, key: one track

DIVISIBLE = 200  # tracks up to which an identity is taken apart
_DISSOLVED = 10_000  # tracks of identities taken apart at once

Taken = Callable[[Collection[str]], set[str]]  # which of these ids are in use


@dataclass(frozen=True, slots=True)
class Placement:
    """What becomes of new tracks, and of old ones because of them."""

    new: dict[Name, tuple[str, float | None]]  # identity and score
    moved: dict[Name, tuple[str, float | None]]  # tracks that stood already and have another identity now


@dataclass(slots=True)
class _Board:
    """The nodes to be clustered, and which tracks each is made of."""

    sums: list[npt.NDArray[np.float32]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    node_of: dict[Name, int] = field(default_factory=dict)
    apart: dict[Name, Sequence[Key]] = field(default_factory=dict)
    had: dict[int, str] = field(default_factory=dict)  # node -> the identity it had
    poles: dict[int, tuple[int, ...]] = field(default_factory=dict)  # node -> all nodes of its identity

    def add(self, total: npt.NDArray[np.float32], count: int, rank: int, had: str | None = None) -> int:
        node = len(self.counts)
        self.sums.append(total)
        self.counts.append(count)
        self.ranks.append(rank)
        if had is not None:
            self.had[node] = had
        return node

    def put(self, name: Name, apart: Sequence[Key], node: int) -> None:
        self.node_of[name] = node
        self.apart[name] = apart

    def nodes(self) -> Nodes:
        return Nodes(np.stack(self.sums), np.array(self.counts, np.int64), np.array(self.ranks, np.int8))

    def pairs_apart(self) -> npt.NDArray[np.int64]:
        """Nodes with tracks that are different people, shape (m, 2)."""
        return pairs_apart(self.node_of, self.apart, self.poles)


def pairs_apart(
    node_of: Mapping[Name, int], apart: Mapping[Name, Sequence[Key]], poles: Mapping[int, tuple[int, ...]]
) -> npt.NDArray[np.int64]:
    """Nodes that must not be joined, shape (m, 2).

    Args:
        apart: other tracks of the medium that are other people than this one
        poles: all nodes of an identity that is several
    """
    pairs: set[tuple[int, int]] = set()
    for name, keys in apart.items():
        for key in keys:
            other = node_of.get((name[0], key))
            if other is not None and other != node_of[name]:
                ours, theirs = (poles.get(node, (node,)) for node in (node_of[name], other))
                pairs.update((min(a, b), max(a, b)) for a in ours for b in theirs)
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def place(
    kind: Kind,
    tracks: Sequence[Track],
    known: Known,
    *,
    had: Mapping[Name, str],
    decided: Collection[str],
    taken: Taken,
    threshold: float,
) -> Placement:
    """Identities for tracks of one model.

    Args:
        tracks: at least one, in no particular order
        known: all other tracks of the model
        had: identities that some of the tracks had before their medium was analysed anew, where these have no others
        decided: identities that may neither lose tracks nor be joined with others that stand
        taken: asks which of some ids are in use, by whatever model
        threshold: average cosine from which two clusters are one identity
    """
    tracks = sorted(tracks, key=lambda track: track.name)
    vectors = np.stack([track.vector for track in tracks])
    groups = known.groups(known.near(vectors, threshold), vectors.shape[1])
    board = _Board()
    for track in tracks:
        node = board.add(track.vector, 1, FREE, had.get(track.name))
        board.put(track.name, track.apart, node)
    _add_groups(board, groups, decided, threshold)
    nodes = board.nodes()
    labels = cluster(nodes, board.pairs_apart(), threshold)
    ids = _ids(kind, board, labels, groups, taken)
    totals, sizes = summed(nodes.sums, labels), np.bincount(labels, nodes.counts)

    def verdict(node: int) -> tuple[str, float | None]:
        label = int(labels[node])
        single = nodes.counts[node] == 1
        return ids[label], score(nodes.sums[node], totals[label], int(sizes[label])) if single else None

    new = {track.name: verdict(node) for node, track in enumerate(tracks)}
    moved = {
        name: verdict(node)
        for name, node in board.node_of.items()
        if name not in new and board.had[node] != ids[int(labels[node])]
    }
    return Placement(new, moved)


def score(vector: npt.NDArray[np.float32], total: npt.NDArray[np.float32], count: int) -> float | None:
    """Average similarity of a track to the others of its identity, in [0, 1]; None where there are none."""
    return float(np.clip((float(vector @ total) - 1) / (count - 1), 0, 1)) if count > 1 else None


def _add_groups(board: _Board, groups: Sequence[Group], decided: Collection[str], threshold: float) -> None:
    dissolved = 0
    for group in sorted(groups, key=lambda g: (g.count, g.identity)):
        if group.identity in decided:
            _add_poles(board, group, threshold)
        elif group.count <= DIVISIBLE and not group.settled and dissolved + group.count <= _DISSOLVED:
            dissolved += group.count
            for member in group.members:
                if member.vector is not None:
                    _put(board, member, board.add(member.vector, 1, STANDING, group.identity))
        else:
            whole = board.add(group.total, group.count, STANDING, group.identity)
            for member in group.members:
                _put(board, member, whole)


def _add_poles(board: _Board, group: Group, threshold: float) -> None:
    vectors = group.vectors
    nodes = [
        board.add(vectors[pole].sum(axis=0), len(pole), FIXED, group.identity) for pole in poles(vectors, threshold)
    ]
    board.poles.update(dict.fromkeys(nodes, tuple(nodes)))
    for member in group.members:
        _put(board, member, nodes[0])


def _put(board: _Board, member: Member, node: int) -> None:
    if member.media_id is not None and member.key is not None:
        board.put((member.media_id, member.key), member.apart, node)


def _ids(
    kind: Kind, board: _Board, labels: npt.NDArray[np.int64], groups: Sequence[Group], taken: Taken
) -> dict[int, str]:
    """The id of each cluster."""
    first: dict[int, Name] = {}
    for name, node in board.node_of.items():
        label = int(labels[node])
        first[label] = min(first.get(label, name), name)
    for node, identity in board.had.items():  # one that has samples only
        first.setdefault(int(labels[node]), ("", identity))
    claims = [
        Claim(int(labels[node]), identity, board.counts[node], board.ranks[node] == FIXED)
        for node, identity in board.had.items()
    ]
    return named(kind, claims, first, {group.identity: group.since for group in groups}, taken)
