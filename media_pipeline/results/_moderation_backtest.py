"""What other rules would say: two sets of rules over the same media, and the verdicts that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from media_pipeline.config import Moderation, SqlLimits
from media_pipeline.results._moderation_judge import Judgement, Reason, judge
from media_pipeline.results._moderation_rules import RuleSet
from media_pipeline.storage.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Flip:
    """A medium on which the two sets do not agree."""

    media_id: str
    before: str  # verdicts: allow, review, block
    after: str
    why: tuple[Reason, ...]  # what only one of the two says


@dataclass(slots=True)
class Backtest:
    """Counts over all media, and a few media per kind of flip."""

    before: str  # rules_version
    after: str
    media: int = 0
    verdicts_before: Counter[str] = field(default_factory=Counter)
    verdicts_after: Counter[str] = field(default_factory=Counter)
    flips: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[Flip]] = field(default_factory=dict)
    rules: dict[str, list[int]] = field(default_factory=dict)  # rule -> media it objects to, before and after


def backtest(
    catalog: Catalog,
    before: RuleSet,
    after: RuleSet,
    media_ids: Sequence[str],
    settings: Moderation,
    limits: SqlLimits,
    *,
    max_examples: int,
    on_portion: Callable[[int, int], None] | None = None,
) -> Backtest:
    """Judges the media by both sets; nothing is written. People's decisions are left out of account."""
    result = Backtest(before.version, after.version)
    portions = (judge(catalog, rules, media_ids, settings, limits) for rules in (before, after))
    for olds, news in zip(*portions, strict=True):
        for old, new in zip(olds, news, strict=True):
            _compare(result, old, new, max_examples)
        if on_portion is not None:
            on_portion(result.media, len(media_ids))
    return result


def _compare(result: Backtest, old: Judgement, new: Judgement, max_examples: int) -> None:
    result.media += 1
    result.verdicts_before[old.verdict] += 1
    result.verdicts_after[new.verdict] += 1
    for at, judgement in enumerate((old, new)):
        for name in {reason["rule"] for reason in judgement.reasons}:
            result.rules.setdefault(name, [0, 0])[at] += 1
    if old.verdict == new.verdict:
        return
    kind = (old.verdict, new.verdict)
    result.flips[kind] += 1
    examples = result.examples.setdefault(kind, [])
    if len(examples) < max_examples:
        examples.append(Flip(old.media_id, old.verdict, new.verdict, _differing(old, new)))


def _differing(old: Judgement, new: Judgement) -> tuple[Reason, ...]:
    """What is said by one of the two only."""
    said = [{_told(reason) for reason in judgement.reasons} for judgement in (old, new)]
    one_sided = said[0] ^ said[1]
    return tuple(reason for reason in (*new.reasons, *old.reasons) if _told(reason) in one_sided)


def _told(reason: Reason) -> tuple[tuple[str, Any], ...]:
    return tuple(reason.items())
