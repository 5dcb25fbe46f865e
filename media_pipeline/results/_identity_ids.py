"""Ids that last: a cluster keeps the id most of its tracks had; a new one gets it from its first track."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from media_pipeline.results._identity_kinds import Key, Kind

_DIGITS = 8  # 32 bits; longer where two meet, which among a million ids a hundred do
_FAR = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Claim:
    """What speaks for a cluster having an id: `weight` of its tracks had it."""

    cluster: int
    identity: str
    weight: int = 1
    fixed: bool = False  # the user decided about this id, and where it is


def named(
    kind: Kind,
    claims: Sequence[Claim],
    first: Mapping[int, tuple[str, Key]],
    ages: Mapping[str, datetime | None],
    taken: Callable[[Collection[str]], set[str]],
) -> dict[int, str]:
    """The id of every cluster in `first`: the one it inherits, else a new one.

    Args:
        taken: asks which of some ids are in use
    """
    ids = inherited(claims, first, ages)
    nameless = sorted((name, cluster) for cluster, name in first.items() if cluster not in ids)
    used = taken([candidate for name, _ in nameless for candidate in _candidates(kind, name)]) | set(ids.values())
    for name, cluster in nameless:
        ids[cluster] = next(candidate for candidate in _candidates(kind, name) if candidate not in used)
        used.add(ids[cluster])
    return ids


def inherited(
    claims: Sequence[Claim], first: Mapping[int, tuple[str, Key]], ages: Mapping[str, datetime | None]
) -> dict[int, str]:
    """Which cluster goes on under which id; the others are left out.

    What the user decided about stays what it is, be it several clusters. Of the clusters into which another identity
    fell apart, the one with most of its tracks keeps the id; of the identities that a cluster was joined from, the
    oldest gives it.

    Args:
        first: the first track of each cluster, by which ties are broken
        ages: since when there has been each identity
    """
    fixed = {claim.cluster: claim.identity for claim in claims if claim.fixed}
    decided = set(fixed.values())
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for claim in claims:
        if claim.identity not in decided:
            votes[claim.identity][claim.cluster] += claim.weight
    owned: dict[int, list[str]] = defaultdict(list)
    for identity, counted in votes.items():
        most = max(counted.values())
        owned[min((c for c in counted if counted[c] == most), key=lambda c: first[c])].append(identity)
    return {cluster: min(ids, key=lambda i: (ages.get(i) or _FAR, i)) for cluster, ids in owned.items()} | fixed


def fresh_id(kind: Kind, track: tuple[str, Key], taken: Callable[[Collection[str]], set[str]]) -> str:
    """The id of a new identity whose first track this is."""
    return named(kind, [], {0: track}, {}, taken)[0]


def _candidates(kind: Kind, track: tuple[str, Key]) -> list[str]:
    """Ids for an identity whose first track this is, the shortest first."""
    digits = hashlib.sha256(f"{track[0]}/{track[1]}".encode()).hexdigest()
    return [f"{kind.prefix}-{digits[:length]}" for length in (_DIGITS, 2 * _DIGITS, len(digits))]
