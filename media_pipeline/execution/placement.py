"""This machine or a rented GPU: what each would take and cost, and which one a run should have.

Nothing here rents. `options` says what could be done, `decide` which of it is right for what the user asked for and
allows to spend; both are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from media_pipeline.analyzers._registry import registry
from media_pipeline.cloud.offers import SETUP_GB, usd
from media_pipeline.cloud.records import Offer
from media_pipeline.config_gpu import Gpu, Target
from media_pipeline.execution.rates import AROUND, STARTING, Rates, Took
from media_pipeline.execution.wish import Wish
from media_pipeline.execution.workload import Workload

# A machine that cannot do a minute's work before its budget is used up is not worth renting.
_LEAST_WORK_S = 60.0
_AROUND_BEFORE = 0.5  # of what is around the stages of a run, before its machine is given back: a guess
_BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True)
class Expectations:
    """What renting has taken so far, or what is assumed until it was done once."""

    loading_s: float = 60.0  # from the order to a machine that runs: only its disk costs
    setup_s: float = 180.0  # from there to a worker that answers
    upload_bytes_per_s: float = 2_500_000.0  # from here to there
    is_measured: bool = False

    @property
    def boot_s(self) -> float:
        return self.loading_s + self.setup_s


@dataclass(frozen=True, slots=True)
class Option:
    """One way to do the work."""

    target: Target  # cpu or gpu
    name: str  # "this machine", "RTX 4090 in SE"
    seconds: float  # from now until everything is done
    usd: float
    offer: Offer | None = None
    machines: int = 1
    share: float = 1.0  # of the work that the budget lets the GPU do; the rest is done here
    parts: tuple[Took, ...] = ()
    is_measured: bool = True

    @property
    def minutes(self) -> float:
        return self.seconds / 60


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a run computes, and why."""

    requested: Target
    chosen: Option
    alternatives: tuple[Option, ...]
    reason: str

    @property
    def target(self) -> Target:
        return self.chosen.target

    def tags(self) -> dict[str, str]:
        """For the run: short, and without anything of media."""
        return {
            "media_pipeline/placed": self.chosen.name,
            "media_pipeline/expected_minutes": f"{self.chosen.minutes:.1f}",
            "media_pipeline/expected_usd": f"{self.chosen.usd:.4f}",
            "media_pipeline/placed_because": self.reason,
        }

    def facts(self, eur_per_usd: float | None = None) -> dict[str, Any]:
        """Plain values for JSON, tags and metadata."""
        return {
            "requested": self.requested,
            "target": self.target,
            "where": self.chosen.name,
            "expected_minutes": round(self.chosen.minutes, 2),
            "expected_usd": round(self.chosen.usd, 4),
            **({"expected_eur": round(self.chosen.usd * eur_per_usd, 4)} if eur_per_usd else {}),
            "reason": self.reason,
            "alternatives": [
                {
                    "target": option.target,
                    "where": option.name,
                    "minutes": round(option.minutes, 2),
                    "usd": round(option.usd, 4),
                    **({"eur": round(option.usd * eur_per_usd, 4)} if eur_per_usd else {}),
                    "machines": option.machines,
                    "measured": option.is_measured,
                }
                for option in self.alternatives
            ],
        }


def here(work: Workload, rates: Rates) -> Option:
    """Everything on this machine, one stage after the other."""
    parts = tuple(rates.here(work))
    return Option(
        "cpu", "this machine", sum(p.seconds for p in parts), 0.0, parts=parts, is_measured=_all_measured(parts)
    )


def rented(
    work: Workload,
    rates: Rates,
    offers: Sequence[Offer],
    eligible: Collection[str],
    gpu: Gpu,
    expected: Expectations,
    *,
    usd_left: float,
) -> list[Option]:
    """The work with one of these machines, the best value first.

    A machine is ordered at once and boots while the media of the first run are decoded here. Stages run one after
    another, and so do runs: while others than the eligible ones run here the machine waits, and costs, until the last
    eligible one of the last run is through.

    Args:
        eligible: stages that a rented machine may and can do
        usd_left: what may still be spent
    """
    full = here(work, rates)
    local = [took for took in full.parts if took.stage not in eligible]
    order = list(work.stages)
    last = max((place for place, name in enumerate(order) if name in eligible), default=0)

    def seconds_of(names: Collection[str]) -> float:
        return sum(took.seconds for took in local if took.stage in names)

    starting_s, decoding_s = seconds_of([STARTING]), seconds_of(["media"])
    between_s = seconds_of(order[:last]) - decoding_s + _AROUND_BEFORE * seconds_of([AROUND])
    behind_s = seconds_of([took.stage for took in local]) - starting_s - decoding_s - between_s
    first = 1 / rates.runs(work)
    waiting_s = max(expected.boot_s, first * decoding_s) + between_s + (1 - first) * (decoding_s + behind_s)
    sees, hears = (any(need in registry()[name].needs for name in eligible) for need in ("frames", "audio"))
    sent_bytes = sees * work.frame_bytes + hears * work.sound_bytes
    found = []
    for offer in offers:
        there = rates.on_gpu(work, offer.gpu, [name for name in work.stages if name in eligible])
        machines = _machines(gpu, sum(took.seconds for took in there), expected)
        bytes_per_s = min(expected.upload_bytes_per_s, offer.inet_down_mbps * 125_000)
        there = list(_fed(there, work, bytes_per_s, machines))
        working_s = sum(took.seconds for took in there)
        existing_s = waiting_s + working_s
        cost = machines * usd(
            offer,
            running_s=existing_s - expected.loading_s,
            existing_s=existing_s,
            gb_in=SETUP_GB + sent_bytes / _BYTES_PER_GB / machines,
            gb_out=0.0,
            disk_gb=gpu.disk_gb,
        )
        share = min(1.0, usd_left / cost) if cost > 0 else 1.0
        if share * working_s < min(_LEAST_WORK_S, working_s):
            continue
        seconds = starting_s + existing_s + first * behind_s
        found.append(
            Option(
                "gpu",
                f"{offer.gpu} in {offer.country or 'an unknown country'}" + (f", {machines} of them" * (machines > 1)),
                share * seconds + (1 - share) * full.seconds,
                share * cost,
                offer,
                machines,
                share,
                (*local, *there),
                _all_measured([*local, *there]) and expected.is_measured,
            )
        )
    return sorted(found, key=lambda option: _value(option, gpu))


def decide(wish: Wish, cpu: Option, gpus: Sequence[Option], gpu: Gpu, *, no_gpu: str | None = None) -> Decision:
    """Which of the options it is.

    Args:
        gpus: the best value first
        no_gpu: why there are none
    """
    requested, deadline_s = wish.target, wish.deadline_s
    alternatives = (cpu, *gpus)

    def on(option: Option, reason: str) -> Decision:
        return Decision(requested, option, tuple(o for o in alternatives if o is not option), reason)

    if requested == "cpu":
        return on(cpu, "the CPU was asked for")
    if not gpus:
        return on(cpu, no_gpu or "no machine on offer fits the limits")
    best = gpus[0]
    if requested == "gpu":
        return on(best, "a GPU was asked for" + _partly(best))
    in_time = [option for option in gpus if deadline_s is not None and option.seconds <= deadline_s]
    if deadline_s is not None and cpu.seconds > deadline_s and in_time:
        return on(in_time[0], f"only so it is done in {deadline_s / 60:.0f} minutes; here it takes {cpu.minutes:.0f}")
    if cpu.minutes < gpu.min_cpu_minutes:
        return on(cpu, f"it takes {cpu.minutes:.1f} minutes here; nothing is rented below {gpu.min_cpu_minutes:g}")
    saved_h = (cpu.seconds - best.seconds) / 3600
    if saved_h <= 0:
        return on(cpu, f"a GPU would not be faster: {best.minutes:.0f} minutes against {cpu.minutes:.0f} here")
    if best.usd > saved_h * gpu.usd_per_hour_saved:
        worth = f"{gpu.usd_per_hour_saved:g} USD an hour"
        return on(cpu, f"{best.usd:.2f} USD to be {saved_h * 60:.0f} minutes faster is more than {worth}")
    return on(best, f"{saved_h * 60:.0f} minutes faster for {best.usd:.2f} USD{_partly(best)}")


def _fed(there: Sequence[Took], work: Workload, bytes_per_s: float, machines: int) -> Iterator[Took]:
    """What one machine takes as so many share the work and the line.

    The first stage that sees has the frames sent, the first that hears the sound; what has arrived is computed while
    the next is on its way. Each machine loads every model.
    """
    unsent = {"frames": work.frame_bytes, "audio": work.sound_bytes}
    for took in there:
        upload_s = sum(unsent.pop(need, 0.0) for need in registry()[took.stage].needs) / bytes_per_s
        computing_s = (took.seconds - took.load_s) / machines
        yield replace(took, seconds=took.load_s + max(computing_s, upload_s))


def _machines(gpu: Gpu, working_s: float, expected: Expectations) -> int:
    """More than one where each still works for longer than it took to boot."""
    return max(1, min(gpu.max_machines, int(working_s // max(expected.boot_s, 1.0))))


def _value(option: Option, gpu: Gpu) -> float:
    """USD, time counted at what it is worth."""
    return option.usd + option.seconds / 3600 * gpu.usd_per_hour_saved


def _partly(option: Option) -> str:
    return "" if option.share >= 1 else f"; the budget covers {option.share:.0%} of it, the rest is done here"


def _all_measured(parts: Sequence[Took]) -> bool:
    return all(not took.basis.startswith("estimated") for took in parts)
