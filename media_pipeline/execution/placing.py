"""Putting placement to work: asking for offers, renting for a run, and giving back."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from media_pipeline.errors import MediaPipelineError, ProviderUnreachable, RentalRefused
from media_pipeline.execution import workload
from media_pipeline.execution.executor import Relay
from media_pipeline.execution.placement import Decision, Expectations, decide, here, rented
from media_pipeline.execution.pool import PooledExecutor, may_leave
from media_pipeline.execution.rates import Rates
from media_pipeline.execution.stages import AnalyzerStage
from media_pipeline.execution.wish import Wish
from media_pipeline.execution.workload import Workload

if TYPE_CHECKING:
    from media_pipeline.cloud.fleet import RentedFleet
    from media_pipeline.cloud.records import Offer
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.storage.costs import Costs
    from media_pipeline.storage.leases import Leases
    from media_pipeline.storage.sources import KnownMedium

log = logging.getLogger(__name__)

Say = Callable[[str], None]
_OFFERS = 5  # that are weighed; the ones behind them are worse in every way
_LATEST = 20  # leases that are learnt from
NO_KEY = "no key of Vast.ai is set (VAST_API_KEY)"


def expectations(leases: Leases, costs: Costs) -> Expectations:
    """What the last machines took until their worker answered, and how fast they took in what was sent."""
    assumed, sending_s = Expectations(), costs.overhead("sending")
    times = [(lease.opened_at, lease.running_at, lease.ready_at) for lease in leases.latest(_LATEST)]
    ready = [(opened, running, up) for opened, running, up in times if running is not None and up is not None]
    return Expectations(
        loading_s=statistics.median([running - opened for opened, running, _ in ready] or [assumed.loading_s]),
        setup_s=statistics.median([up - running for _, running, up in ready] or [assumed.setup_s]),
        upload_bytes_per_s=1 / sending_s if sending_s else assumed.upload_bytes_per_s,
        is_measured=bool(ready),
    )


class Placements:
    """Where the analyzers of one process compute: here, until a run is placed elsewhere."""

    def __init__(self, pipeline: Pipeline, relay: Relay) -> None:
        self._pipeline, self._relay = pipeline, relay
        self._fleet: RentedFleet | None = None
        self._pool: PooledExecutor | None = None
        self._began = 0.0
        self._last_eligible: str | None = None
        self._release_after: str | None = None
        self._suspects: dict[str, list[str]] = {}  # media by analyzer that a machine lied about
        self.rented: dict[str, Any] | None = None  # what the last renting came to

    # --- deciding ----------------------------------------------------------------------------------------------------

    def quote(self, work: Workload, wish: Wish, *, behind: float = 0.0, compare: bool = False) -> Decision:
        """What this work would take and cost here and on rented machines, and which it should be. Rents nothing.

        Args:
            behind: how many times as much of the same waits behind it, and would use the same machine
            compare: look at what is on offer also where it cannot change the decision
        """
        settings = self._pipeline.settings
        rates = self._rates()
        whole = work * (1 + behind)
        cpu = here(whole, rates)
        waits = wish.deadline_s is None or cpu.seconds <= wish.deadline_s
        is_small = wish.target == "auto" and waits and cpu.minutes < settings.gpu.min_cpu_minutes
        if not compare and (wish.target == "cpu" or is_small):
            return decide(wish, cpu, [], settings.gpu)
        eligible = self.eligible(whole.stages)
        if not eligible:
            why = "none of the analyzers with work can compute on a rented GPU"
            return decide(wish, cpu, [], settings.gpu, no_gpu=why)
        try:
            offers, usd_left = self._market(wish)
        except MediaPipelineError as error:
            return decide(wish, cpu, [], settings.gpu, no_gpu=str(error))
        expected = expectations(self._pipeline.leases, self._pipeline.costs)
        gpus = rented(whole, rates, offers, eligible, settings.gpu, expected, usd_left=usd_left)
        poor = f"the {max(0.0, usd_left):.2f} USD left of the budget do not pay for a machine's start"
        return decide(wish, cpu, gpus, settings.gpu, no_gpu=poor)

    def eligible(self, stages: Iterable[str]) -> set[str]:
        """Those that a rented machine may and can do."""
        found = set()
        for name in stages:
            stage = self._pipeline.judge.stages.get(name)
            if isinstance(stage, AnalyzerStage):
                if stage.choice is None:
                    self._pipeline.judge.own_fingerprint(name)
                if stage.choice and not may_leave(stage.spec, stage.choice, self._pipeline.settings, stage.options):
                    found.add(name)
        return found

    def _market(self, wish: Wish) -> tuple[list[Offer], float]:
        """Machines on offer and what may be spent.

        Raises:
            RentalRefused, ProviderUnreachable: nothing can be rented, and why.
        """
        from media_pipeline.cloud.api import Vast
        from media_pipeline.cloud.budget import caps
        from media_pipeline.cloud.offers import suitable

        settings = self._pipeline.settings
        key = settings.vast_key
        if key is None:
            raise RentalRefused(NO_KEY, "make one at Vast.ai, or set MEDIA_PIPELINE_GPU__TARGET=cpu")
        usd_left = caps(settings.gpu, wish.max_usd).room(self._pipeline.leases.used(run_id=""))
        vast = Vast(key, settings.vast_url)
        try:
            offers = suitable(vast.search(settings.gpu), settings.gpu)[:_OFFERS]
        finally:
            vast.close()
        if not offers:
            raise RentalRefused("no machine on offer fits the limits", "see MEDIA_PIPELINE_GPU__* in .env.example")
        return offers, usd_left

    def _rates(self) -> Rates:
        pipeline = self._pipeline
        stages = [s for s in pipeline.judge.stages.values() if isinstance(s, AnalyzerStage)]
        for stage in stages:
            pipeline.judge.own_fingerprint(stage.name)
        models = {s.name: s.choice.name for s in stages if s.choice is not None}
        return Rates(
            pipeline.costs.table().to_pylist(),
            models,
            workload.habits(pipeline),
            cores=pipeline.settings.thread_count,
            speedup=pipeline.settings.gpu.speedup,
            per_run=pipeline.settings.batch,
            around_a_run_s=pipeline.costs.overhead("run"),
        )

    # --- renting -----------------------------------------------------------------------------------------------------

    def place(
        self,
        media: Sequence[KnownMedium],
        stages: Collection[str],
        wish: Wish,
        *,
        run_id: str,
        say: Say,
        behind: float = 0.0,
        is_last: bool = True,
        keep_idle: bool = False,
        force: bool = False,
    ) -> Decision:
        """Decide for these media, and begin to rent where that is not here. `give_back` ends it.

        Args:
            is_last: no further run of this process follows; else `no_run_follows` says when
            keep_idle: a machine may wait for a next run of another process
        """
        work = workload.of_media(self._pipeline, media, stages, force=force)
        decision = self.quote(work, wish, behind=behind)
        if decision.target == "cpu":
            if wish.target == "gpu":
                say(f"no GPU: {decision.reason}; everything is computed here")
            return decision
        say(
            f"renting {decision.chosen.name}: {decision.reason}; about {decision.chosen.minutes:.0f} minutes and "
            f"{decision.chosen.usd:.2f} USD, at most {wish.max_usd:.2f}"
        )
        self._rent(decision, wish, run_id=run_id, say=say, keep_idle=keep_idle)
        eligible = self.eligible(work.stages)
        self._last_eligible = [name for name in self._pipeline.judge.stages if name in eligible][-1]
        if is_last:
            self.no_run_follows()
        return decision

    def no_run_follows(self) -> None:
        """From now on the machine goes as soon as nothing more can use it."""
        self._release_after = self._last_eligible

    def _rent(self, decision: Decision, wish: Wish, *, run_id: str, say: Say, keep_idle: bool) -> None:
        from media_pipeline.cloud.fleet import open_fleet

        settings = self._pipeline.settings
        self._began = time.monotonic()
        try:
            self._fleet = open_fleet(
                settings,
                self._pipeline.layout,
                run_id=run_id,
                max_usd=wish.max_usd,
                machines=decision.chosen.machines,
                keep_idle=keep_idle,
                say=say,
            )
        except (RentalRefused, ProviderUnreachable) as error:
            say(f"no GPU: {error}; everything is computed here")
            return
        self._pool = PooledExecutor(
            self._fleet, self._relay.here, settings=settings, say=say, on_cost=self._pipeline.costs.record
        )
        self._relay.to = self._pool
        self._fleet.start()

    def has_rented_for(self, name: str) -> bool:
        """Whether this stage is computed by what was rented."""
        return self._pool is not None and name in self.eligible([name])

    def stage_is_through(self, name: str) -> None:
        """Told after each stage of a run: a machine that nothing more can use costs money."""
        self._forget_suspects()
        if name == self._release_after:
            self.give_back()

    def give_back(self) -> None:
        """Ends the renting, if there is any; `rented` says what it came to."""
        fleet, pool, suspects = self._fleet, self._pool, self._suspects
        self._relay.to = self._relay.here
        try:
            if pool is not None:
                pool.close()
                self._forget_suspects()
        finally:
            self._fleet = self._pool = self._last_eligible = self._release_after = None
            self._suspects = {}
            if fleet is not None:
                fleet.close()
        if fleet is None:
            return
        minutes = (time.monotonic() - self._began) / 60
        self.rented = {
            "spent_usd": fleet.spent_usd,
            "minutes": round(minutes, 2),
            "summary": f"{fleet.spent_usd:.4f} USD in {minutes:.1f} minutes",
            "history": list(fleet.history),
            **({"not_to_be_relied_on": suspects} if suspects else {}),
        }

    def _forget_suspects(self) -> None:
        """What a machine was believed that then lied, and all that was made from it: unknown to the ledger, it is made
        again by the next run that looks at it."""
        if self._pool is None:
            return
        found, self._pool.suspects = self._pool.suspects, {}
        for name, media in found.items():
            self._suspects.setdefault(name, []).extend(media)
            concerned = self._pipeline.judge.made_from(name)
            self._pipeline.ledger.forget([(media_id, stage) for media_id in media for stage in concerned])
