"""Which vectors are of one identity: average linkage under constraints, in bounded memory.

Average linkage (UPGMA, Sokal and Michener 1958): two clusters are as near as their members are on average, so one
lucky pair never joins two people. Between unit vectors that average is the inner product of the clusters' means, which
is why a cluster of any size is two numbers and a sum to us (`Nodes`), and why going on from clusters found earlier is
the same computation as starting from single vectors.

Up to `MAX_NODES` the result is exact, found by the nearest-neighbour chain (Murtagh 1983) in quadratic time. Beyond
that the nodes are first parted into connected components of their nearest-neighbour graph, and what is still too
large into blocks; the clusters found are the nodes of the next round, until a round joins nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media_pipeline.storage.neighbours import nearest_pairs

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_NODES = 2000  # compared all with all at once: 16 MB of similarities
NEIGHBOURS = 32

# What may be joined with what: see `Nodes.ranks`.
FREE, STANDING, FIXED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Nodes:
    """Vectors, or clusters of them, that are to be joined.

    Attributes:
        sums: shape (n, dimension): sum of the unit vectors of each node
        counts: shape (n,): how many vectors these are
        ranks: shape (n,): FREE joins anything; STANDING joins all but FIXED; FIXED joins FREE only
    """

    sums: Floats
    counts: Ints
    ranks: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def means(self) -> Floats:
        """Not normalised: their inner products are the average similarities."""
        return (self.sums / self.counts[:, None]).astype(np.float32)


def cluster(nodes: Nodes, apart: Ints, threshold: float, *, max_nodes: int = MAX_NODES) -> Ints:
    """Joins nodes as long as two clusters have an average similarity of at least `threshold`.

    Args:
        nodes: n of them; the result does not depend on their order but for ties
        apart: shape (m, 2): pairs of nodes that must never be in one cluster
        threshold: cosine
        max_nodes: how many may be compared all with all

    Returns:
        shape (n,): number of the cluster of each node, from 0.
    """
    labels = np.arange(len(nodes))
    apart = np.asarray(apart, np.int64).reshape(-1, 2)
    idle, shift = 0, 0
    while idle < 2:  # blocks begin elsewhere in every other round: what one border cuts, the next does not
        current = _merged(nodes, labels)
        found = _round(current, _renumbered(apart, labels), threshold, max_nodes, shift)
        joined = len(current) - (int(found.max()) + 1 if len(found) else 0)
        labels = found[labels]
        if len(current) <= max_nodes:
            break
        idle = 0 if joined else idle + 1
        shift = max_nodes // 2 - shift
    return labels


def poles(vectors: Floats, threshold: float) -> list[Ints]:
    """The clusters that the vectors (n, dimension) of one identity fall into, each as positions, the largest first.

    Someone the user joined from a child's pictures and an adult's is like neither on average.
    """
    nodes = Nodes(vectors, np.ones(len(vectors), np.int64), np.zeros(len(vectors), np.int8))
    labels = cluster(nodes, np.empty((0, 2), np.int64), threshold)
    found = [np.flatnonzero(labels == label) for label in range(int(labels.max(initial=-1)) + 1)]
    return sorted(found, key=lambda members: (-len(members), int(members[0])))


def agglomerate(similarity: npt.NDArray[np.float64], counts: Ints, threshold: float) -> Ints:
    """Average linkage of n nodes by the nearest-neighbour chain, cut at `threshold`.

    Constraints keep the linkage reducible (a cluster is never nearer to a third than the nearer of its halves), so the
    chain finds what joining the nearest pair over and over would find.

    Args:
        similarity: shape (n, n), symmetric, -inf where two nodes must not be joined; is overwritten
        counts: shape (n,): vectors of each node

    Returns:
        shape (n,): the lowest node of each node's cluster.
    """
    s, sizes = similarity, counts.astype(np.float64)
    np.fill_diagonal(s, -np.inf)
    parent = np.arange(len(sizes))
    active = np.ones(len(sizes), bool)
    chain: list[int] = []
    start = 0
    while True:
        if not chain:
            while start < len(sizes) and not active[start]:
                start += 1
            if start == len(sizes):
                break
            chain = [start]
        last = chain[-1]
        nearest = int(np.argmax(s[last]))
        if s[last, nearest] < threshold:
            active[last] = False  # nothing is near enough, nor will be
            s[last] = s[:, last] = -np.inf
            chain.pop()
        elif len(chain) > 1 and s[last, chain[-2]] >= s[last, nearest]:
            keep, gone = sorted((last, chain[-2]))
            row = (sizes[keep] * s[keep] + sizes[gone] * s[gone]) / (sizes[keep] + sizes[gone])
            s[gone] = s[:, gone] = -np.inf
            row[[keep, gone]] = -np.inf
            s[keep] = s[:, keep] = row
            sizes[keep] += sizes[gone]
            parent[gone], active[gone] = keep, False
            del chain[-2:]
        else:
            chain.append(nearest)
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above


def components(count: int, left: Ints, right: Ints) -> Ints:
    """The lowest node of each node's connected component, shape (count,), of the graph with these edges."""
    label = np.arange(count)
    while True:
        low = label.copy()
        np.minimum.at(low, left, label[right])
        np.minimum.at(low, right, label[left])
        low = np.minimum(low, low[low])
        if np.array_equal(low, label):
            return label
        label = low


def _round(nodes: Nodes, apart: Ints, threshold: float, max_nodes: int, shift: int) -> Ints:
    """Clusters within each block, numbered from 0."""
    found = np.arange(len(nodes))
    means = nodes.means
    blocks = list(_blocks(means, threshold, max_nodes, shift))
    block_of, place = np.full(len(nodes), -1), np.empty(len(nodes), np.int64)
    for number, block in enumerate(blocks):
        block_of[block], place[block] = number, np.arange(len(block))
    pairs = apart[(block_of[apart[:, 0]] == block_of[apart[:, 1]]) & (block_of[apart[:, 0]] >= 0)]
    pairs = pairs[np.argsort(block_of[pairs[:, 0]], kind="stable")]
    borders = np.searchsorted(block_of[pairs[:, 0]], np.arange(len(blocks) + 1))
    for number, block in enumerate(blocks):
        similarity = (means[block] @ means[block].T).astype(np.float64)
        _forbid(similarity, nodes.ranks[block])
        left, right = place[pairs[borders[number] : borders[number + 1]]].T
        similarity[left, right] = similarity[right, left] = -np.inf
        found[block] = block[agglomerate(similarity, nodes.counts[block], threshold)]
    return np.asarray(np.unique(found, return_inverse=True)[1], np.int64)


def _blocks(means: Floats, threshold: float, max_nodes: int, shift: int) -> Iterator[Ints]:
    """Nodes that may have to do with each other, at most `max_nodes` at a time; lone ones are left out."""
    if len(means) <= max_nodes:
        yield np.arange(len(means))
        return
    left, right = nearest_pairs(means, threshold, NEIGHBOURS)
    group = components(len(means), left, right)
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members) > max_nodes:
            # Alike next to each other: sorted along the direction in which they differ most.
            members = members[np.argsort(_principal(means[members]), kind="stable")]
            cuts = range(shift or max_nodes, len(members), max_nodes)
            yield from (np.sort(part) for part in np.split(members, list(cuts)))
        elif len(members) > 1:
            yield members


def _principal(vectors: Floats) -> Floats:
    """Position of each vector along the direction in which they differ most, found by power iteration."""
    centred = vectors - vectors.mean(axis=0)
    direction = centred[int(np.argmax(np.einsum("ij,ij->i", centred, centred)))]
    for _ in range(5):
        direction = centred.T @ (centred @ direction)
        direction = direction / max(float(np.linalg.norm(direction)), 1e-12)
    return np.asarray(centred @ direction, np.float32)


def _forbid(similarity: npt.NDArray[np.float64], ranks: npt.NDArray[np.int8]) -> None:
    fixed, bound = ranks == FIXED, ranks != FREE
    similarity[np.ix_(fixed, bound)] = -np.inf
    similarity[np.ix_(bound, fixed)] = -np.inf


def _merged(nodes: Nodes, labels: Ints) -> Nodes:
    count = int(labels.max()) + 1 if len(labels) else 0
    ranks = np.zeros(count, np.int8)
    np.maximum.at(ranks, labels, nodes.ranks)
    counts = np.bincount(labels, nodes.counts, count).astype(np.int64)
    return Nodes(summed(nodes.sums, labels), counts, ranks)


def summed(values: Floats, labels: Ints) -> Floats:
    """Sums of the rows with each label, shape (labels, dimension); every label from 0 to the highest is there."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return np.add.reduceat(values[order], starts, axis=0) if len(labels) else values


def _renumbered(apart: Ints, labels: Ints) -> Ints:
    pairs = labels[apart].reshape(-1, 2)
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]], np.int64)
