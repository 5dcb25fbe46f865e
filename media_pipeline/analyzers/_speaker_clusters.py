"""How many people speak, and how each of them sounds: clusters of unit vectors.

Bisecting spherical k-means (Steinbach et al. 2000, "A Comparison of Document Clustering Techniques"), each split begun
along the first principal direction (Boley 1998). A split stands where the two halves sound less alike than two halves
of one person's speech do. Unlike agglomerative or spectral clustering it needs no matrix of all pairs: an hour of
speech has 9000 windows and takes 0.14 s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._voice_encoder import Vectors, normalised

# Windows of a speaker who is believed, 0.4 s apart: about 3 s of speech. Fewer are a laugh, a cough or two at once.
MIN_WINDOWS = 4
_ROUNDS = 20  # k-means usually needs five

Labels = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class _Leaf:
    """Vectors that are one cluster so far, and the two it would fall into."""

    members: Labels
    parts: tuple[Labels, Labels] | None = None
    likeness: float = np.inf  # cosine of the parts' centroids

    @classmethod
    def of(cls, vectors: Vectors, members: Labels) -> _Leaf:
        if len(members) < 2 * MIN_WINDOWS:
            return cls(members)
        labels, centroids = _bisect(vectors[members])
        parts = members[labels == 0], members[labels == 1]
        if min(map(len, parts)) < MIN_WINDOWS:
            return cls(members)
        return cls(members, parts, float(centroids[0] @ centroids[1]))


def centroids_of(vectors: Vectors, same: float, at_least: int, at_most: int) -> Vectors:
    """One L2-normalised vector per speaker, shape (speakers, dimension).

    Args:
        vectors: L2-normalised rows, at least one
        same: cosine of centroids from which on two clusters are one speaker
        at_least: speakers, as far as there are windows enough for them
        at_most: speakers
    """
    leaves = [_Leaf.of(vectors, np.arange(len(vectors)))]
    # Twice as many as wanted: what a hasty split tore apart is put together again below.
    while len(leaves) < max(at_least, 2 * at_most):
        loosest = min(leaves, key=lambda leaf: leaf.likeness)
        if loosest.parts is None or (loosest.likeness >= same and len(leaves) >= at_least):
            break
        leaves.remove(loosest)
        leaves += [_Leaf.of(vectors, part) for part in loosest.parts]
    return _settle(vectors, np.stack([vectors[leaf.members].mean(axis=0) for leaf in leaves]), same, at_least, at_most)


def _settle(vectors: Vectors, centroids: Vectors, same: float, at_least: int, at_most: int) -> Vectors:
    """k-means over all, then the two most alike become one, until none are too alike, too small or too many."""
    while True:
        labels, centroids = _k_means(vectors, normalised(centroids))
        sizes = np.bincount(labels, minlength=len(centroids))
        if len(centroids) <= max(1, at_least):
            return centroids
        if sizes.min() < MIN_WINDOWS:
            centroids = np.delete(centroids, int(sizes.argmin()), axis=0)
            continue
        likeness = centroids @ centroids.T - 2 * np.eye(len(centroids), dtype=np.float32)
        first, second = sorted(divmod(int(likeness.argmax()), len(centroids)))
        if likeness[first, second] < same and len(centroids) <= at_most:
            return centroids
        centroids[first] = sizes[first] * centroids[first] + sizes[second] * centroids[second]
        centroids = np.delete(centroids, second, axis=0)


def _bisect(vectors: Vectors) -> tuple[Labels, Vectors]:
    centred = vectors - vectors.mean(axis=0)
    direction = centred[np.argmax(np.linalg.norm(centred, axis=1))]
    for _ in range(_ROUNDS):  # power iteration: close to the principal direction is close enough
        direction = normalised(centred.T @ (centred @ direction))
    above = centred @ direction > 0
    if above.all() or not above.any():  # all the same
        above = np.arange(len(vectors)) % 2 == 0
    return _k_means(vectors, normalised(np.stack([vectors[above].mean(axis=0), vectors[~above].mean(axis=0)])))


def _k_means(vectors: Vectors, centroids: Vectors) -> tuple[Labels, Vectors]:
    labels = np.argmax(vectors @ centroids.T, axis=1)
    for _ in range(_ROUNDS):
        means = [vectors[labels == k].mean(axis=0) if (labels == k).any() else c for k, c in enumerate(centroids)]
        centroids = normalised(np.stack(means))
        before, labels = labels, np.argmax(vectors @ centroids.T, axis=1)
        if np.array_equal(before, labels):
            break
    return labels, centroids
