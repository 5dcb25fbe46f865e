"""Where a run is to compute and what it may spend, as somebody asked for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from media_pipeline.config_gpu import TARGETS, Gpu, Target
from media_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, for one run: by a flag, a tag or the run's configuration, else by the settings."""

    target: Target
    max_usd: float  # that this run may spend
    deadline_s: float | None = None  # from its beginning

    @classmethod
    def of(
        cls,
        gpu: Gpu,
        *,
        target: str | None = None,
        max_usd: float | str | None = None,
        deadline_minutes: float | str | None = None,
    ) -> Wish:
        """What the settings say, with what was said for this run in front.

        Raises:
            UsageError: a target that there is not, or no amount.
        """
        if target is not None and target not in TARGETS:
            raise UsageError(f"there is no target {target!r}", f"say one of {', '.join(TARGETS)}")
        minutes = _amount("minutes", deadline_minutes, gpu.deadline_minutes)
        return cls(
            target=cast(Target, target or gpu.target),
            max_usd=_amount("USD", max_usd, gpu.max_usd_per_run) or 0.0,
            deadline_s=None if minutes is None else minutes * 60,
        )


def _amount(unit: str, said: float | str | None, default: float | None) -> float | None:
    if said is None or said == "":
        return default
    try:
        amount = float(said)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise UsageError(f"{said!r} is no amount of {unit}", "say a number, 0 or more")
    return amount
