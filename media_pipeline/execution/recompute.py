"""The plan: which results of the whole library are not what the stages would make now, and why.

It says just what `judging.Judge` would say of every medium and stage if all stages ran one after the other, but works
on columns instead of single entries: media that agree in what a stage was made from are judged once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.errors import ModelUnavailable
from media_pipeline.execution._grid import ABSENT, Grid, Marks, Names, Numbers, grouped, looked_up, meaning
from media_pipeline.execution._why import Facts, StageNow, Why, reasons
from media_pipeline.execution.committing import model_name
from media_pipeline.execution.judging import NO_INPUT, NO_RESULT, decodes
from media_pipeline.execution.stages import effective_fingerprint, stage_infos, with_needs

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

PAIRS = pa.schema(
    [
        ("media_id", pa.dictionary(pa.int32(), pa.string())),
        ("analyzer", pa.dictionary(pa.int32(), pa.string())),
        ("reason", pa.dictionary(pa.int32(), pa.string())),
        ("restorable", pa.bool_()),  # kept from before: it is put back, not computed
        pa.field(
            "seconds", pa.float64(), metadata={"unit": "s", "comment": "that it took last time; null: never done"}
        ),
    ]
)

# What a stage hands on to those that need it, where it is not a fingerprint (0 and above).
_NONE = -1  # its model is missing: they go on without it
_BROKEN = -2  # it failed or has not run: they cannot go on

_COLUMNS = ("media_id", "analyzer", "fingerprint", "status", "rows", "seconds", "model", "at", "version", "options")


@dataclass(frozen=True, slots=True)
class Plan:
    """Pairs that are to be made anew, the newest media first, and of each medium what others need first."""

    pairs: pa.Table  # schema PAIRS; the dictionary of media_id is that of `frames`
    counts: Mapping[str, int]  # pairs by analyzer, in the order of the stages
    reasons: Mapping[tuple[str, str], int]  # pairs by (analyzer, reason), likewise
    media: int  # how many have such a pair
    examined: int  # media with any result
    frames: Numbers  # sampled frames of each medium of the dictionary; 0 where unknown

    @property
    def media_ids(self) -> list[str]:
        """Of the media with such a pair, the newest first."""
        found: list[str] = self.pairs["media_id"].unique().to_pylist()
        return found

    def newest(self, media: int | None) -> Plan:
        """The same for so many of the newest media; all if None."""
        if media is None or media >= self.media:
            return self
        wanted = pa.array(self.media_ids[:media], pa.string())
        pairs = self.pairs.filter(pc.is_in(self.pairs["media_id"].cast(pa.string()), value_set=wanted))
        reasons = Counter(zip(pairs["analyzer"].to_pylist(), pairs["reason"].to_pylist(), strict=True))
        counts = {name: sum(n for (a, _), n in reasons.items() if a == name) for name in self.counts}
        return replace(
            self, pairs=pairs, counts={name: n for name, n in counts.items() if n}, reasons=reasons, media=media
        )

    def by_medium(self) -> dict[str, list[str]]:
        """Stages that are stale by media_id, in the order of the pairs."""
        found: dict[str, list[str]] = {}
        for media_id, name in zip(self.pairs["media_id"].to_pylist(), self.pairs["analyzer"].to_pylist(), strict=True):
            found.setdefault(media_id, []).append(name)
        return found


def plan(pipeline: Pipeline, analyzers: Collection[str] | None = None, media_ids: Sequence[str] | None = None) -> Plan:
    """What of this home is stale now. Fresh uploads, of which nothing is recorded, are no part of it.

    Args:
        analyzers: only these and what they need; None means all
        media_ids: only these media, in this order; None means all, the newest first

    A result that failed on the same content with the same fingerprint is final, as is one without a model.
    """
    infos = stage_infos()
    names = [info.name for info in infos] if analyzers is None else with_needs(infos, analyzers)
    stages = [_now(pipeline, name) for name in names]
    kept = pipeline.kept.ledger.scan(("media_id", "analyzer", "fingerprint"), media_ids)
    gone = pipeline.sources.without_original()
    known = pipeline.sources.newest_ids() if media_ids is None else media_ids
    return plan_ledger(pipeline.ledger.scan(_COLUMNS, media_ids), known, stages, kept, gone)


def plan_ledger(
    ledger: pa.Table, media_ids: Sequence[str], stages: Sequence[StageNow], kept: pa.Table, gone: Collection[str] = ()
) -> Plan:
    """The same from its parts.

    Args:
        ledger: columns of `analyses`, strings as dictionaries (`Ledger.scan`)
        media_ids: that exist, in the order of the plan
        stages: those that others need first
        kept: media_id, analyzer and fingerprint of superseded results
        gone: media whose original is gone: what was found in them stands for good
    """
    names = Names()
    present = Grid(ledger, media_ids, [stage.name for stage in stages], names)
    former = Grid(kept, media_ids, [stage.name for stage in stages], names)
    known = np.any([present.row(stage.name) >= 0 for stage in stages], axis=0) if stages else np.zeros(0, bool)
    walk = _Walk(present, former, names, known, _those(media_ids, gone))
    found = [walk.stage(stage) for stage in stages]
    return _assembled(found, [s.name for s in stages], media_ids, int(known.sum()), present.frames())


def _those(media_ids: Sequence[str], wanted: Collection[str]) -> Marks:
    found = pc.is_in(pa.array(media_ids, pa.string()), value_set=pa.array(list(wanted), pa.string()))
    marks: Marks = found.to_numpy(zero_copy_only=False)
    return marks


def _now(pipeline: Pipeline, name: str) -> StageNow:
    stage = pipeline.judge.stages[name]
    own = pipeline.judge.own_fingerprint(name)
    return StageNow(
        name=name,
        needs=stage.needs,
        own=None if isinstance(own, ModelUnavailable) else own,
        version=stage.version,
        options=stage.options_digest,
        model=model_name(stage.choice) if stage.choice else None,
    )


@dataclass(frozen=True, slots=True)
class _State:
    """What one stage will have left behind, by medium."""

    result: Numbers  # a fingerprint's number, _NONE or _BROKEN
    is_empty: Marks  # it has no rows
    is_todo: Marks
    at: Numbers  # when its present result was recorded; 0: never


@dataclass(frozen=True, slots=True)
class _Found:
    """Pairs of one stage."""

    media: Numbers  # positions
    why: Numbers  # which of `texts`
    texts: list[str]
    restorable: Marks
    seconds: npt.NDArray[np.float64]


class _Walk:
    """Goes through the stages in their order and hands on what each will have made."""

    def __init__(self, present: Grid, former: Grid, names: Names, known: Marks, gone: Marks) -> None:
        self._present, self._former, self._names, self._known = present, former, names, known
        self._gone = gone
        self._states: dict[str, _State] = {}
        self._facts = {name: present.texts(name) for name in ("status", "version", "model", "options")}
        codes, texts = self._facts["status"]
        by_name = {text: code for code, text in enumerate(texts)}
        self._is = {name: (codes == by_name.get(name, -2)).astype(np.int64) for name in ("done", "unavailable")}
        self._count, self._at = np.nan_to_num(present.column("rows")).astype(np.int64), present.column("at")
        self._seconds = present.column("seconds").astype(np.float64)

    def stage(self, stage: StageNow) -> _Found:
        """The pairs of one stage; those it needs must have been asked for before."""
        row = self._present.row(stage.name)
        needs = [self._states[need] for need in stage.needs]
        decoded = [self._states[need] for need in stage.needs if need in ("frames", "audio")]
        nobody = np.zeros(len(row), bool)
        broken = np.any([need.result == _BROKEN for need in needs], axis=0) if needs else nobody
        no_input = np.all([need.is_empty for need in decoded], axis=0) if decoded else nobody
        off = ~broken & ~no_input if stage.own is None else nobody
        if decodes(stage.name, stage.needs):
            off = off | (self._gone & ~broken)
        want = self._wanted(stage, needs, no_input, ~broken & ~off)
        have = self._present.fingerprint(stage.name)
        stale = (want >= 0) & ((row < 0) | (have != want) | self._of(row, "unavailable"))
        todo = stale & self._known
        self._states[stage.name] = self._left_behind(row, have, want, todo, off)
        at = np.flatnonzero(todo)
        why, texts = self._reasons(stage, at, no_input)
        seconds = (
            np.where(row[at] >= 0, self._seconds[row[at]], np.nan) if len(self._seconds) else np.full(len(at), np.nan)
        )
        return _Found(at, why, texts, self._former.fingerprint(stage.name)[at] == want[at], seconds)

    def _wanted(self, stage: StageNow, needs: Sequence[_State], no_input: Marks, possible: Marks) -> Numbers:
        """The fingerprint's number that each medium's result should have; -1 where it can have none now."""
        wanted = np.full(len(possible), ABSENT, np.int64)
        at = np.flatnonzero(possible)
        columns = [no_input[at].astype(np.int64), *(need.result[at] for need in needs)]
        group, first = grouped(columns)
        numbers = []
        for example in at[first]:
            inputs = {name: self._text(need.result[example]) for name, need in zip(stage.needs, needs, strict=True)}
            own = NO_INPUT if no_input[example] else stage.own
            assert own is not None  # `possible` leaves out media without input and model
            numbers.append(self._names.number(effective_fingerprint(own, inputs)))
        wanted[at] = np.array(numbers, np.int64)[group] if numbers else 0
        return wanted

    def _text(self, number: int) -> str:
        return self._names.texts[number] if number >= 0 else NO_RESULT

    def _left_behind(self, row: Numbers, have: Numbers, want: Numbers, todo: Marks, off: Marks) -> _State:
        done = self._of(row, "done")
        result = np.where(done, have, np.where(self._of(row, "unavailable") | off, _NONE, _BROKEN))
        # What is made anew will most likely be empty again if it was; what was never made is taken for full.
        empty = (looked_up(self._count, row) == 0) & (done | ~todo) | (off & ~done)
        at = np.where(row >= 0, looked_up(self._at, row), 0)
        return _State(np.where(todo, want, result), empty, todo, at)

    def _of(self, row: Numbers, status: str) -> Marks:
        found: Marks = looked_up(self._is[status], row) == 1
        return found

    def _reasons(self, stage: StageNow, at: Numbers, no_input: Marks) -> tuple[Numbers, list[str]]:
        row = self._present.row(stage.name)[at]
        own_at = looked_up(self._at, row)
        # The first that is computed anew says more than one that merely was, since the pair was made.
        cause = np.full(len(at), len(stage.needs) * 2, np.int64)
        for number, need in reversed(list(enumerate(stage.needs))):
            cause[self._states[need].at[at] > own_at] = len(stage.needs) + number
        for number, need in reversed(list(enumerate(stage.needs))):
            cause[self._states[need].is_todo[at]] = number
        codes = {name: looked_up(column, row) for name, (column, _) in self._facts.items()}
        group, first = grouped([cause, no_input[at].astype(np.int64), *codes.values()])
        causes = [f"{need} {is_or_was} computed anew" for is_or_was in ("is", "was") for need in stage.needs]
        texts = []
        for example in first:
            known = {name: meaning(self._facts[name][1], int(code[example])) for name, code in codes.items()}
            told = causes[cause[example]] if cause[example] < len(causes) else None
            texts.append(reasons(stage, Why(Facts(**known), has_input=not no_input[at[example]], cause=told)))
        return group, texts


def _assembled(
    found: Sequence[_Found], stages: Sequence[str], media_ids: Sequence[str], examined: int, frames: Numbers
) -> Plan:
    media = np.concatenate([f.media for f in found] or [np.zeros(0, np.int64)])
    stage = np.repeat(np.arange(len(found)), [len(f.media) for f in found])
    offsets = np.cumsum([0, *(len(f.texts) for f in found)])
    why = np.concatenate([f.why + offset for f, offset in zip(found, offsets, strict=False)] or [media])
    texts = [text for f in found for text in f.texts]
    order = np.lexsort((stage, media))
    seconds = np.concatenate([f.seconds for f in found] or [np.zeros(0)])[order]
    columns = [
        _coded(media[order], media_ids),
        _coded(stage[order], stages),
        _coded(why[order], texts),
        pa.array(np.concatenate([f.restorable for f in found] or [np.zeros(0, bool)])[order]),
        pa.array(seconds, mask=np.isnan(seconds)),
    ]
    by_reason: Counter[tuple[str, str]] = Counter()
    for name, f in zip(stages, found, strict=True):
        for text, count in zip(f.texts, np.bincount(f.why, minlength=len(f.texts)).tolist(), strict=True):
            by_reason[name, text] += count
    return Plan(
        pairs=pa.table(columns, schema=PAIRS),
        counts={name: len(f.media) for name, f in zip(stages, found, strict=True) if len(f.media)},
        reasons=dict(by_reason),
        media=len(np.unique(media)),
        examined=examined,
        frames=frames,
    )


def _coded(codes: Numbers, texts: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(texts, pa.string()))
