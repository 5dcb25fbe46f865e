"""How long a workload takes: here, and on a GPU; from what the analyzers took so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from media_pipeline.analyzers._registry import registry
from media_pipeline.config import Batching
from media_pipeline.execution.workload import Habits, Load, Workload
from media_pipeline.storage.costs import machine

# CPU seconds of one core per frame, second of sound or medium, for what was never measured in this home: two cores of a
# rented server, the models of docs/quality.md, and for CLIP ViT-B-32 and Whisper small what the peers publish.
_REFERENCE = {
    "faces": 0.045,
    "image_embeddings": 0.11,
    "logos": 0.15,
    "nsfw": 0.024,
    "ocr": 0.36,
    "poses": 0.05,
    "speakers": 0.011,
    "transcript": 0.6,
}
_REFERENCE_PER_MEDIUM = 0.02  # the others read rows
STARTING, AROUND = "starting", "around the stages"  # beside the stages of a run
_STARTING_S = 3.0  # Python, Dagster and a look at the files, once
# Until it was measured, what a run takes whatever its size: going from stage to stage, keeping results, bringing
# indexes and views up to date.
_AROUND_A_RUN_S = 4.0
_REFERENCE_DECODE = (0.15, 0.06)  # per still picture and per second of video or sound


@dataclass(frozen=True, slots=True)
class Took:
    """Wall seconds of one stage."""

    stage: str
    seconds: float
    where: str  # "here", or the name of a GPU
    basis: str  # "measured", "estimated", "usual"
    load_s: float = 0.0  # of them until it can begin


class Rates:
    """What a stage takes, by machine.

    Args:
        measured: rows of the view `analyzer_costs`
        models: the model that each analyzer will use
        habits: what decoding took
        cores: that work here
        per_run: how much one run takes
        around_a_run_s: what a run took beside its analyzers; None: not measured yet
        speedup: how many times as fast as this machine a GPU is taken for until it was measured
    """

    def __init__(
        self,
        measured: Sequence[Mapping[str, Any]],
        models: Mapping[str, str],
        habits: Habits,
        *,
        cores: int,
        speedup: float,
        per_run: Batching | None = None,
        around_a_run_s: float | None = None,
    ) -> None:
        self._measured, self._models, self._habits = measured, models, habits
        self._cores, self._speedup = cores, speedup
        self._per_run, self._around_a_run_s = per_run or Batching(), around_a_run_s

    def here(self, work: Workload) -> list[Took]:
        """Each stage with work, on this machine, and what a run takes around them."""
        if not work.stages:
            return []
        measured_s = self._around_a_run_s
        each_s, basis = (_AROUND_A_RUN_S, "usual") if measured_s is None else (measured_s, "measured")
        return [
            Took(STARTING, _STARTING_S, "here", "usual"),
            *(self._stage(name, load) for name, load in work.stages.items()),
            Took(AROUND, each_s * self.runs(work), "here", basis),
        ]

    def runs(self, work: Workload) -> int:
        """How many it takes, one after another."""
        by_count = work.total.media / self._per_run.max_media
        by_length = work.total.duration_s / self._per_run.max_duration_s
        return max(1, math.ceil(max(by_count, by_length)))

    def on_gpu(self, work: Workload, gpu: str, names: Iterable[str]) -> list[Took]:
        """These stages on a machine with this GPU."""
        found = []
        for name in names:
            load = work.stages.get(name)
            if load is None:
                continue
            row = self._row(name, gpu)
            if row is None:
                here = self._stage(name, load)
                found.append(Took(name, here.seconds / self._speedup, gpu, "estimated"))
            else:
                found.append(Took(name, _measured(name, load, row), gpu, "measured", row["load_s"] or 0.0))
        return found

    def _stage(self, name: str, load: Load) -> Took:
        if name == "media":
            return self._decode(load)
        if name not in registry():
            return Took(name, 0.0, "here", "nothing to compute")
        row = self._row(name, machine())
        if row is not None:
            return Took(name, _measured(name, load, row), "here", "measured")
        per_unit = _REFERENCE.get(name, _REFERENCE_PER_MEDIUM)
        reference = dict.fromkeys(("frames", "audio_s", "media"), 1.0) | {"cpu_s": per_unit / self._cores}
        return Took(name, _seconds(name, load, reference, "cpu_s"), "here", "estimated")

    def _decode(self, load: Load) -> Took:
        known = (self._habits.decode_still_s, self._habits.decode_second_s)
        still_s, second_s = (
            reference / self._cores if found is None else found
            for found, reference in zip(known, _REFERENCE_DECODE, strict=True)
        )
        seconds = load.stills * still_s + load.duration_s * second_s
        is_measured = (known[0] is not None or not load.stills) and (known[1] is not None or not load.duration_s)
        return Took("media", seconds, "here", "measured" if is_measured else "estimated")

    def _row(self, name: str, where: str) -> Mapping[str, Any] | None:
        """What was measured there with the present model."""
        rows = [r for r in self._measured if r["analyzer"] == name and r["machine"] == where and r["media"] >= 1]
        return next((r for r in rows if r["model"] == self._models.get(name)), None)


def _measured(name: str, load: Load, row: Mapping[str, Any]) -> float:
    """The model is loaded once, whatever the load."""
    return _seconds(name, load, row, "wall_s") + (row["load_s"] or 0.0)


def _seconds(name: str, load: Load, row: Mapping[str, Any], total: str) -> float:
    """By what drives the cost: frames where it only sees, seconds where it only hears, else media."""
    needs = registry()[name].needs
    sees, hears = "frames" in needs, "audio" in needs
    if sees and not hears and row["frames"]:
        return float(row[total] / row["frames"] * load.frames)
    if hears and not sees and row["audio_s"]:
        return float(row[total] / row["audio_s"] * load.audio_s)
    return float(row[total] / row["media"] * load.media)
