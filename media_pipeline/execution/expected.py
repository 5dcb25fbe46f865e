"""What a plan will cost, from what the analyzers have cost on this machine so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.analyzers._spec import AnalyzerSpec
from media_pipeline.config import Reprocess
from media_pipeline.execution._grid import Marks, Numbers, dictionary
from media_pipeline.execution.stages import AnalyzerStage
from media_pipeline.storage.costs import machine

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.execution.recompute import Plan

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Expected:
    """One analyzer's part of a plan."""

    analyzer: str
    pairs: int
    restorable: int  # of them: put back, at no cost
    cpu_minutes: float | None  # None: it never ran here, nobody knows
    basis: str
    on_gpu: bool  # a GPU could do it: an analyzer, not decoding


@dataclass(frozen=True, slots=True)
class GpuPrice:
    """What a rented GPU would take for the analyzers of a plan, by the user's own figures."""

    usd: float
    basis: str


@dataclass(frozen=True, slots=True)
class _Media:
    """What costs depend on, for each medium of the plan's dictionary."""

    frames: Numbers
    audio_s: Seconds  # 0: no sound
    kind: npt.NDArray[np.object_]


def expected(pipeline: Pipeline, plan: Plan) -> list[Expected]:
    """The cost of each analyzer's pairs, in the order of the stages."""
    analyzers = plan.pairs["analyzer"].cast(pa.string()).to_numpy(zero_copy_only=False)
    at, ids = dictionary(plan.pairs["media_id"])
    restorable = plan.pairs["restorable"].to_numpy()
    last = plan.pairs["seconds"].to_numpy()
    facts = _media(pipeline, plan, ids)
    measured = pipeline.costs.table().to_pylist()
    found = []
    for name, pairs in plan.counts.items():
        own = analyzers == name
        todo = own & ~restorable
        stage = pipeline.judge.stages[name]
        if isinstance(stage, AnalyzerStage):
            model = stage.choice.name if stage.choice else None
            seconds, basis = _analysis(stage.spec, _of_here(measured, name, model), facts, at[todo])
        else:
            seconds, basis = _decoding(last[todo])
        found.append(
            Expected(
                analyzer=name,
                pairs=pairs,
                restorable=int((own & restorable).sum()),
                cpu_minutes=None if seconds is None else seconds / 60,
                basis=basis if todo.any() else "kept from before",
                on_gpu=isinstance(stage, AnalyzerStage),
            )
        )
    return found


def gpu_price(parts: Sequence[Expected], settings: Reprocess) -> GpuPrice | None:
    """The price of the analyzers' part; None where no price per hour is set or nothing is known of the work."""
    minutes = [part.cpu_minutes for part in parts if part.on_gpu and part.cpu_minutes is not None]
    if settings.gpu_usd_per_hour is None or not minutes:
        return None
    hours = sum(minutes) / 60 / settings.gpu_speedup
    faster = "no faster than" if settings.gpu_speedup == 1 else f"{settings.gpu_speedup:g} times as fast as"
    return GpuPrice(
        usd=hours * settings.gpu_usd_per_hour,
        basis=f"{hours:.2f} hours at {settings.gpu_usd_per_hour:g} USD, if the GPU is {faster} one CPU core; "
        "start and transfer are not counted",
    )


def _of_here(measured: Sequence[Mapping[str, Any]], analyzer: str, model: str | None) -> tuple[Mapping[str, Any], str]:
    """The sums that come nearest: on this machine, of the present model or of another."""
    here = [m for m in measured if m["analyzer"] == analyzer and m["machine"] == machine() and m["device"] == "cpu"]
    same = [m for m in here if m["model"] == model]
    if same:
        return same[0], "measured here"
    latest = max(here, key=lambda m: m["updated_at"], default=None)
    return (latest, f"measured here with {latest['model']}") if latest else ({}, "never measured here")


def _analysis(
    spec: AnalyzerSpec, cost: tuple[Mapping[str, Any], str], media: _Media, at: Numbers
) -> tuple[float | None, str]:
    measured, basis = cost
    sees, hears = "frames" in spec.needs, "audio" in spec.needs
    is_new = media.kind[at] == ""  # never decoded: it costs what a medium costs on average
    has_input = (media.frames[at] > 0) & sees | (media.audio_s[at] > 0) & hears | (not sees and not hears)
    decoded = at[np.isin(media.kind[at], [*spec.kinds]) & has_input]
    if not len(decoded) and not is_new.any():
        return 0.0, basis
    if not measured or measured["cpu_s_per_medium"] is None:
        return None, "never measured here"
    if sees and not hears and measured["cpu_s_per_frame"] is not None:
        seconds, unit = media.frames[decoded].sum() * measured["cpu_s_per_frame"], "frame"
    elif hears and not sees and measured["cpu_s_per_audio_s"] is not None:
        seconds, unit = media.audio_s[decoded].sum() * measured["cpu_s_per_audio_s"], "second of sound"
    else:
        seconds, unit = len(decoded) * measured["cpu_s_per_medium"], "medium"
    return float(seconds + is_new.sum() * measured["cpu_s_per_medium"]), f"{basis}, per {unit}"


def _decoding(last: Seconds) -> tuple[float | None, str]:
    """Decoding is no analyzer and has no sums of its own; the ledger knows how long each medium took."""
    known = last[~np.isnan(last)]
    if len(last) and not len(known):
        return None, "never measured here"
    return float(known.mean() * len(last)) if len(last) else 0.0, "as long as it took last time"


def _media(pipeline: Pipeline, plan: Plan, ids: Sequence[str]) -> _Media:
    size = len(plan.frames)
    audio_s, kind = np.zeros(size), np.full(size, "", object)
    if size and pipeline.tables.exists("media"):
        rows = pipeline.tables.read("media", plan.media_ids, ["media_id", "kind", "duration_s", "has_audio"])
        at = pc.index_in(rows["media_id"], value_set=pa.array(ids, pa.string())).to_numpy()
        kind[at] = rows["kind"].to_numpy(zero_copy_only=False)
        heard: Marks = pc.fill_null(rows["has_audio"], False).to_numpy(zero_copy_only=False).astype(bool)
        audio_s[at] = np.where(heard, np.nan_to_num(rows["duration_s"].to_numpy()), 0.0)
    return _Media(plan.frames, audio_s, kind)
