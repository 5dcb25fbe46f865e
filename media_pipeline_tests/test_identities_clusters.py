"""Average linkage under constraints, against the plain algorithm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from media_pipeline.results._identity_clusters import FIXED, FREE, STANDING, Nodes, agglomerate, cluster, poles
from media_pipeline.storage.neighbours import nearest_pairs
from media_pipeline_tests._identity_home import look

NONE = np.empty((0, 2), np.int64)


def nodes_of(vectors: npt.NDArray[np.float32], ranks: list[int] | None = None) -> Nodes:
    count = len(vectors)
    return Nodes(vectors, np.ones(count, np.int64), np.array(ranks or [FREE] * count, np.int8))


def looks(people: int, each: int, noise: float = 0.6) -> npt.NDArray[np.float32]:
    return np.stack([look(f"{p}", f"{n}", noise=noise) for p in range(people) for n in range(each)])


def partition(labels: npt.NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def plain(similarity: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], threshold: float) -> set[frozenset[int]]:
    """Join the nearest pair again and again, averages computed from scratch."""
    groups = [[i] for i in range(len(counts))]

    def linkage(left: list[int], right: list[int]) -> float:
        weights = np.outer(counts[left], counts[right])
        block = similarity[np.ix_(left, right)]
        return -np.inf if np.isinf(block).any() else float((weights * block).sum() / weights.sum())

    while len(groups) > 1:
        pairs = [(linkage(a, b), i, j) for i, a in enumerate(groups) for j, b in enumerate(groups) if i < j]
        best, i, j = max(pairs)
        if best < threshold:
            break
        groups[i] += groups.pop(j)
    return {frozenset(group) for group in groups}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_the_chain_finds_what_joining_the_nearest_pair_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(0, 1, (24, 24))
    similarity = (similarity + similarity.T) / 2
    for left, right in rng.integers(0, 24, (6, 2)):
        if left != right:
            similarity[left, right] = similarity[right, left] = -np.inf
    counts = rng.integers(1, 5, 24)
    expected = plain(similarity, counts, 0.5)
    assert partition(agglomerate(similarity.copy(), counts, 0.5)) == expected
    assert 1 < len(expected) < 24


def test_one_alike_pair_does_not_join_two_people() -> None:
    a, b = looks(1, 10), looks(2, 10)[10:]
    between = (a[0] + b[0]) / np.linalg.norm(a[0] + b[0])
    vectors = np.concatenate([a, b, [between]]).astype(np.float32)
    assert (vectors[:-1] @ between >= 0.5).any()
    found = partition(cluster(nodes_of(vectors), NONE, 0.5))
    assert len(found) == 2 or frozenset({20}) in found
    assert not any({0, 10} <= group for group in found)


def test_pairs_apart_stay_apart_and_drag_nobody_along() -> None:
    vectors = looks(1, 8)
    found = partition(cluster(nodes_of(vectors), np.array([[0, 1]]), 0.5))
    assert len(found) == 2
    assert not any({0, 1} <= group for group in found)


def test_ranks_say_what_may_be_joined() -> None:
    same = np.repeat(look("a", "1")[None], 4, axis=0)
    assert len(partition(cluster(nodes_of(same, [FREE, STANDING, STANDING, FREE]), NONE, 0.5))) == 1
    assert len(partition(cluster(nodes_of(same, [FREE, FIXED, FREE, FREE]), NONE, 0.5))) == 1
    assert len(partition(cluster(nodes_of(same[:2], [FIXED, FIXED]), NONE, 0.5))) == 2
    assert len(partition(cluster(nodes_of(same[:2], [FIXED, STANDING]), NONE, 0.5))) == 2


@pytest.mark.parametrize("max_nodes", [7, 40, 2000])
def test_bounded_blocks_find_the_same(max_nodes: int) -> None:
    vectors = looks(12, 15)
    expected = {frozenset(range(15 * p, 15 * p + 15)) for p in range(12)}
    assert partition(cluster(nodes_of(vectors), NONE, 0.5, max_nodes=max_nodes)) == expected


def test_no_nodes_and_one_node() -> None:
    assert cluster(nodes_of(np.empty((0, 4), np.float32)), NONE, 0.5).tolist() == []
    assert cluster(nodes_of(looks(1, 1)), NONE, 0.5).tolist() == [0]


def test_poles_of_someone_who_looks_two_ways() -> None:
    vectors = np.concatenate([looks(1, 3), looks(2, 5)[5:]])
    assert [pole.tolist() for pole in poles(vectors, 0.5)] == [[3, 4, 5, 6, 7], [0, 1, 2]]


@pytest.mark.parametrize("exact_up_to", [10, 10_000])
def test_nearest_pairs_are_near(exact_up_to: int) -> None:
    vectors = looks(40, 20)
    left, right = nearest_pairs(vectors, 0.5, 30, exact_up_to=exact_up_to)
    assert (vectors[left] * vectors[right]).sum(axis=1).min() >= 0.5
    assert np.array_equal(left // 20, right // 20)
    assert len(left) >= 0.95 * 40 * 20 * 19
