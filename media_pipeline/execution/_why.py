"""Why a result is to be made anew, in words for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageNow:
    """What a stage would make results with now."""

    name: str
    needs: tuple[str, ...]
    own: str | None  # fingerprint of everything but the inputs; None: its model is missing
    version: str
    options: str  # digest
    model: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ledger says of a result; all None where there is none, some where it is older than the column."""

    status: str | None = None
    version: str | None = None
    model: str | None = None
    options: str | None = None


@dataclass(frozen=True, slots=True)
class Why:
    """All that one result's reason is told from."""

    facts: Facts
    has_input: bool  # there is something to analyse: version, model and options matter
    cause: str | None  # what became of the stages it needs


def reasons(stage: StageNow, why: Why) -> str:
    """All that has changed, separated by commas: "version 1 -> 2, ocr is computed anew"."""
    if why.facts.status is None:
        return "never done"
    if why.facts.status == "unavailable" and why.has_input:
        return "was unavailable, its model is here now"
    told = [*(_own_changes(stage, why.facts) if why.has_input else ()), *([why.cause] if why.cause else ())]
    if told:
        return ", ".join(told)
    if why.facts.version is None:
        return "made by an older version or with other options"
    return "made from other inputs or by another model"


def _own_changes(stage: StageNow, facts: Facts) -> list[str]:
    changes = []
    if facts.version not in (None, stage.version):
        changes.append(f"version {facts.version} -> {stage.version}")
    if facts.model is not None and stage.model is not None and facts.model != stage.model:
        changes.append(f"model changed: {facts.model} -> {stage.model}")
    # A new version may well have other options: they are worth a word only where it stayed.
    if facts.options not in (None, stage.options) and not changes:
        changes.append("options changed")
    return changes
