"""Which sentences say most of what a text says.

Centrality: weighted degree in the graph of similarities (degree centrality of Erkan and Radev 2004, JAIR 22, with
embeddings in place of word counts). Their LexRank, PageRank over the same graph, was measured and is worse here: a few
greetings that are like nothing but each other pass their rank around in a circle.
Choice: maximal marginal relevance (Carbonell and Goldstein 1998), so that the second sentence does
not say the first one again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

# From where on two sentences are one, such as the same slide read a little differently.
_SAME_MEANING = 0.95  # cosine
_SAME_LETTERS = 0.85  # Dice
_RELEVANCE = 0.7  # against novelty: lambda of the paper
_NOTHING = 1e-6  # all sentences are as alike as any two


def distinct(texts: Sequence[str], vectors: Vectors) -> list[int]:
    """Positions of the sentences that no earlier one says in nearly the same words.

    Args:
        vectors: of the texts, L2-normalised, (n, d)
    """
    # Letters that were read wrong move an embedding far, and hardly change which letters stand beside each other.
    same = (vectors @ vectors.T >= _SAME_MEANING) | (_common_trigrams(texts) >= _SAME_LETTERS)
    kept: list[int] = []
    for position in range(len(texts)):
        if not same[position, kept].any():
            kept.append(position)
    return kept


def _common_trigrams(texts: Sequence[str]) -> Floats:
    """Dice's coefficient of the sets of three letters in a row, (n, n)."""
    trigrams = [{text[i : i + 3] for i in range(max(1, len(text) - 2))} for text in (t.casefold() for t in texts)]
    places = {trigram: i for i, trigram in enumerate(sorted(set().union(*trigrams)))}
    marks = np.zeros((len(texts), len(places)), np.float32)
    for row, known in zip(marks, trigrams, strict=True):
        row[[places[trigram] for trigram in known]] = 1
    sizes = marks.sum(1)
    return np.asarray(2 * (marks @ marks.T) / (sizes[:, None] + sizes), np.float64)


def centrality(vectors: Vectors) -> Floats:
    """How much each sentence is like the others, (n,), the most central one 1.

    Only what is above the average similarity counts: encoders differ in how alike they find unrelated texts (e5 seldom
    goes below 0.7), and without this all sentences would be equally central.
    """
    count = len(vectors)
    if count < 2:
        return np.ones(count)
    alike = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(alike, 0)
    links = np.maximum(alike - alike.sum() / (count * (count - 1)), 0)
    np.fill_diagonal(links, 0)
    degree = links.sum(1)
    most = degree.max()
    return np.asarray(degree / most) if most > _NOTHING else np.ones(count)


def choose_sentences(vectors: Vectors, central: Floats, count: int) -> list[int]:
    """Positions of at most `count` sentences, central and unlike each other, in order of position."""
    alike = vectors @ vectors.T
    chosen: list[int] = []
    while len(chosen) < min(count, len(vectors)):
        repeats = alike[:, chosen].max(1) if chosen else np.zeros(len(vectors))
        worth = _RELEVANCE * central - (1 - _RELEVANCE) * repeats
        worth[chosen] = -np.inf
        chosen.append(int(np.argmax(worth)))
    return sorted(chosen)
