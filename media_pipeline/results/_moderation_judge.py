"""Judging media: each rule is one query over the views of all media of a portion, never one per medium.

A rule that fails (a value it cannot compute with, too slow, too large) is asked again over halves of the portion, until
the media that it fails on are alone or it has failed often enough. Those it could not judge are for a person to look
at: a medium is never allowed because a rule broke.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from media_pipeline.config import Moderation, SqlLimits
from media_pipeline.errors import QueryRejected
from media_pipeline.results._moderation_rules import NUMBERS, ActiveRule, RuleSet, bound
from media_pipeline.storage.catalog import Catalog, Scope
from media_pipeline.storage.query import Asker, asking

MEDIA_AT_ONCE = 2048
RANK = {"allow": 0, "review": 1, "block": 2}
NOT_READ, NOT_CHECKED, RULES_WRONG = "unreadable", "unchecked", "rules"  # reasons that are no rule's
_MAX_FAILURES = 16  # of one rule in one portion: enough to find one medium among MEDIA_AT_ONCE
_MAX_FOUND_CHARS = 200
_TYPES = {"frame_index": "BIGINT", "pts_s": "DOUBLE"}  # the others are FLOAT

Reason = dict[str, Any]  # as `schemas.REASON`


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of one medium."""

    media_id: str
    verdict: str  # allow, review, block
    reasons: tuple[Reason, ...]  # the gravest rule first, of each the strongest evidence first
    unchecked: tuple[str, ...]  # names of rules, ascending


@dataclass(slots=True)
class _Found:
    """What one rule says of a portion."""

    evidence: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)  # media_id -> why
    failures: int = 0


def judge(
    catalog: Catalog, rules: RuleSet, media_ids: Collection[str], settings: Moderation, limits: SqlLimits
) -> Iterator[list[Judgement]]:
    """Judgements portion by portion, in the order given."""
    ids = list(media_ids)
    bounds = limits.model_copy(
        update={"max_seconds": settings.max_seconds, "max_rows": MEDIA_AT_ONCE * settings.max_evidence}
    )
    for start in range(0, len(ids), MEDIA_AT_ONCE):
        yield _Portion(catalog, rules, ids[start : start + MEDIA_AT_ONCE], settings, bounds).judgements()


@dataclass(frozen=True, slots=True)
class _Portion:
    catalog: Catalog
    rules: RuleSet
    media_ids: Sequence[str]
    settings: Moderation
    limits: SqlLimits

    def judgements(self) -> list[Judgement]:
        reasons: dict[str, list[Reason]] = defaultdict(list)
        unchecked: dict[str, list[str]] = defaultdict(list)
        views = {view for active in self.rules.judging for view in active.views}
        with asking(self.catalog, self.limits, Scope(self.media_ids, {"analyses", *views})) as asker:
            done = self._analyzed(asker)
            answers = [(active, self._found(asker, active)) for active in self.rules.judging]
        for active, found in answers:
            for media_id, evidence in found.evidence.items():
                reasons[media_id].extend(_reason(active, row) for row in evidence)
            for media_id, why in found.unjudged.items():
                reasons[media_id].append(_plain(active.rule.name, f"The rule could not be judged: {why}."))
            for media_id in self.media_ids:
                if not active.needs <= done[media_id]:
                    unchecked[media_id].append(active.rule.name)
        return [self._judgement(m, reasons[m], sorted(unchecked[m]), done[m]) for m in self.media_ids]

    def _judgement(self, media_id: str, reasons: list[Reason], unchecked: list[str], done: set[str]) -> Judgement:
        if self.rules.problems:
            reasons.append(_plain(RULES_WRONG, f"A rule cannot be used: {self.rules.problems[0]}."))
        if "media" not in done:
            reasons.append(_plain(NOT_READ, "The medium could not be read, so no rule could look at it."))
        elif unchecked and (self.settings.unchecked == "review" or len(unchecked) == len(self.rules.judging)):
            reasons.append(_plain(NOT_CHECKED, f"Rules that had nothing to look at: {', '.join(unchecked)}."))
        reasons.sort(key=_by_weight)
        verdict = max((reason["severity"] for reason in reasons), key=RANK.__getitem__, default="allow")
        return Judgement(media_id, verdict, tuple(reasons), tuple(unchecked))

    def _analyzed(self, asker: Asker) -> dict[str, set[str]]:
        """Which analyzers have a result, by medium."""
        rows = asker.ask(
            "SELECT media_id, list(analyzer) AS names FROM analyses WHERE status = 'done' GROUP BY media_id"
        )
        done: dict[str, set[str]] = {media_id: set() for media_id in self.media_ids}
        done.update(zip(rows["media_id"].to_pylist(), map(set, rows["names"].to_pylist()), strict=True))
        return done

    def _found(self, asker: Asker, active: ActiveRule) -> _Found:
        found = _Found()
        if active.columns:  # else what it reads is not there
            try:
                self._ask(asker, active, found)
            except QueryRejected as error:
                self._halve(active, self.media_ids, error, found)
        return found

    def _halve(self, active: ActiveRule, media_ids: Sequence[str], error: QueryRejected, found: _Found) -> None:
        """The rule failed on these media. Each half is a scope of its own: no row of the other can break it."""
        found.failures += 1
        if len(media_ids) == 1 or found.failures >= _MAX_FAILURES:
            found.unjudged |= dict.fromkeys(media_ids, error.cause)
            return
        middle = len(media_ids) // 2
        for half in (media_ids[:middle], media_ids[middle:]):
            try:
                with asking(self.catalog, self.limits, Scope(half, active.views)) as asker:
                    self._ask(asker, active, found)
            except QueryRejected as again:
                self._halve(active, half, again, found)

    def _ask(self, asker: Asker, active: ActiveRule, found: _Found) -> None:
        rows = asker.ask(_evidence_sql(active, self.settings.max_evidence), bound(active.parameters))
        for row in rows.to_pylist():
            found.evidence.setdefault(row.pop("media_id"), []).append(row)


def _evidence_sql(active: ActiveRule, max_evidence: int) -> str:
    """The strongest rows of each medium. The query stands in parentheses that it cannot close: it was parsed alone."""
    columns = ["media_id"]
    for name in NUMBERS:
        kind = _TYPES.get(name, "FLOAT")
        value = f"CAST({name} AS {kind})" if name in active.columns else f"CAST(NULL AS {kind})"
        columns.append(f"{value} AS {name}" if kind == "BIGINT" else f"if(isfinite({value}), {value}, NULL) AS {name}")
    found = "CAST(found AS VARCHAR)" if "found" in active.columns else "CAST(NULL AS VARCHAR)"
    columns.append(f"left({found}, {_MAX_FOUND_CHARS}) AS found")
    return (
        f"WITH evidence AS (SELECT {', '.join(columns)} FROM ({active.rule.sql}\n)) "  # noqa: S608 - see above
        "FROM evidence SEMI JOIN library.scope USING (media_id) "
        "QUALIFY row_number() OVER "
        "(PARTITION BY media_id ORDER BY score DESC NULLS LAST, pts_s, frame_index, found, x1, y1) "
        f"<= {max_evidence} ORDER BY media_id, score DESC NULLS LAST, pts_s, frame_index, found, x1, y1"
    )


def _reason(active: ActiveRule, evidence: dict[str, Any]) -> Reason:
    return {"rule": active.rule.name, "severity": active.rule.severity, "text": active.rule.text, **evidence}


def _plain(rule: str, text: str) -> Reason:
    """For a person to look at, without evidence."""
    return {"rule": rule, "severity": "review", "text": text, **dict.fromkeys((*NUMBERS, "found"))}


def _by_weight(reason: Reason) -> tuple[int, str]:
    return -RANK[reason["severity"]], reason["rule"]
