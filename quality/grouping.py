"""How well items were gathered into identities: persons of pictures, voices of recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from quality import metrics
from quality.report import Maker, Measurement


def grouping(
    merged: str, together: str, truth: Mapping[str, str], clusters: Mapping[str, str | None], maker: Maker
) -> Iterator[Measurement]:
    """Pairs of two people in one identity (goal: none), and share of one person's pairs that are together.

    Args:
        merged, together: what the two are called in the table
        truth: item -> who it is
        clusters: item -> the identity it was given
    """
    pairs = metrics.pair_counts(truth, clusters)
    yield Measurement(
        merged,
        float(pairs.merged),
        "count",
        n=pairs.different,
        of=f"pairs of {len(set(truth.values()))} people",
        at_most=0,
        maker=maker,
    )
    yield Measurement(
        together,
        pairs.together / pairs.same if pairs.same else None,
        n=pairs.same,
        of="pairs",
        interval=metrics.wilson(pairs.together, pairs.same),
        at_least=0.9,
        maker=maker,
    )
