"""The product without Dagster: what is to be done, doing it, and keeping the results."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._registry import registry
from media_pipeline.config import Settings
from media_pipeline.errors import BudgetReached, DiskFull, MediaPipelineError, ModelUnavailable, WorkerLost
from media_pipeline.execution.committing import Results
from media_pipeline.execution.decoded import DecodedMedia
from media_pipeline.execution.executor import Relay
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.judging import Judge, Todo
from media_pipeline.execution.kept import Kept
from media_pipeline.execution.outcome import Outcome
from media_pipeline.execution.results_of_all import update_results
from media_pipeline.execution.run_clock import RunClock
from media_pipeline.execution.second_chance import second_chance
from media_pipeline.execution.stages import (
    AnalyzerStage,
    AudioStage,
    FramesStage,
    MediaStage,
    Result,
    Stage,
    refuse_unknown_options,
    stage_infos,
)
from media_pipeline.execution.worker_process import WorkerExecutor, local_place
from media_pipeline.media.cache import Cache
from media_pipeline.results.identities import identity_table
from media_pipeline.results.moderation import Moderation, decision_table
from media_pipeline.storage import schemas
from media_pipeline.storage.catalog import Catalog
from media_pipeline.storage.costs import Cost, Costs
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Leases
from media_pipeline.storage.ledger import Ledger
from media_pipeline.storage.sources import HELD_UP, Sources
from media_pipeline.storage.tables import Tables

if TYPE_CHECKING:
    from media_pipeline.execution.placement import Decision
    from media_pipeline.execution.placing import Placements
    from media_pipeline.execution.wish import Wish

# A run that is killed repeats at most this much work per stage, at the price of one small commit.
COMMIT_EVERY_S = 5.0
COMMIT_EVERY_MEDIA = 64
_LOOK_BEHIND = 640  # media that wait behind a run: ten more batches
OnOutcome = Callable[[Outcome], None]


class Pipeline:
    """Everything one home can do with its media. Opening is cheap: no model is loaded before it is needed."""

    def __init__(self, settings: Settings, *, results_at: Path | None = None) -> None:
        """`results_at`: a folder for tables and ledger beside those of the home, which stay as they are."""
        self.settings = settings
        self.layout = Layout(settings.home)
        self.layout.create()
        self.sources = Sources(self.layout.sources)
        self._is_trial = results_at is not None
        self.tables = Tables(results_at or self.layout.tables, (results_at or self.layout.home) / "locks")
        self.ledger = Ledger(self.tables)
        self.kept = Kept(self.layout)
        self.costs = Costs(self.layout.costs)
        self._clock = RunClock()
        self.cache = Cache(self.layout.cache, settings.cache_max_bytes)
        self.models = ModelStore.of(settings)

    def close(self) -> None:
        self.give_back()
        if "_executor" in self.__dict__:
            self._executor.close()
        if "_decoded" in self.__dict__:
            self._decoded.close()
        if "moderation" in self.__dict__:
            self.moderation.close()

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(
            self.layout,
            self.tables,
            table_schemas(),
            extra={
                "sources": self.sources.table,
                "analyzer_costs": self.costs.table,
                "identities": lambda: identity_table(self.layout),
                "moderation_decisions": lambda: decision_table(self.layout),
                "gpu_leases": self.leases.lease_table,
                "gpu_costs": self.leases.cost_table,
            },
        )

    @cached_property
    def moderation(self) -> Moderation:
        stages = [info.name for info in stage_infos()]
        return Moderation(self.catalog, self.tables, self.layout, self.settings, stages)

    # --- what is to be done -------------------------------------------------------------------------------------

    def pending(
        self, media_ids: Collection[str], stages: Collection[str] | None = None, *, retry_failed: bool = False
    ) -> list[str]:
        """Those of the media for which some stage has no current result, in the given order.

        A stage that failed on the same content with the same fingerprint counts as finished: trying again is for the
        user to ask. So does one whose model is unavailable as long as it stays so. A medium whose run was cut off or
        held up is among them whatever its stages say: what is made from all media may not have heard of it.
        """
        names = [info.name for info in stage_infos() if stages is None or info.name in stages]
        known = self.sources.by_id(media_ids)
        entries = self.ledger.entries(media_ids)
        own = {name: self.judge.own_fingerprint(name) for name in names}
        cut_off = {medium.media_id for medium in self.sources.interrupted()}

        def is_pending(media_id: str) -> bool:
            return (
                media_id in cut_off
                or not known[media_id].announced
                or self.judge.is_pending(known[media_id], own, entries, retry_failed=retry_failed)
            )

        return [media_id for media_id in media_ids if media_id in known and is_pending(media_id)]

    def durations_s(self, media_ids: Collection[str]) -> dict[str, float | None]:
        """Length of the media that were decoded before; None for pictures."""
        if not self.tables.exists("media"):
            return {}
        rows = self.tables.read("media", media_ids, ["media_id", "duration_s"])
        return dict(zip(rows["media_id"].to_pylist(), rows["duration_s"].to_pylist(), strict=True))

    # --- doing it -----------------------------------------------------------------------------------------------

    def run_stage(
        self,
        name: str,
        partition_keys: Sequence[str],
        *,
        run_id: str,
        redo: Collection[str] = (),
        retry_failed: bool = False,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Bring one stage of these media up to date; one outcome per medium, in the order of the keys.

        Args:
            redo: keys whose result is made anew although it stands, or could be put back.

        Raises:
            DiskFull: nothing can be written; what was committed before stays.
        """
        self._clock.begin_stage()
        stage = self._stages[name]
        known = self.sources.by_partition(partition_keys)
        entries = self.ledger.entries([m.media_id for m in known.values()])
        own = self.judge.own_fingerprint(name)
        outcomes: dict[str, Outcome] = {}
        todo: list[Todo] = []
        for medium in known.values():
            verdict = self.judge.verdict(name, medium, own, entries, retry_failed=retry_failed)
            can_be_made = isinstance(own, str) and self.judge.unreadable(name, medium) is None
            again = medium.partition_key in redo and can_be_made
            if again and isinstance(verdict, Outcome) and verdict.current:
                verdict = Todo(medium, verdict.fingerprint, entries.get((medium.media_id, name)))
            if isinstance(verdict, Todo):
                todo.append(verdict)
            else:
                outcomes[medium.partition_key] = verdict
                if on_outcome:
                    on_outcome(verdict)
        self._results.record_unavailable(stage, outcomes.values(), entries, run_id)
        if todo:
            self.require_disk()
            anew = {item.known.media_id for item in todo if item.known.partition_key in redo}
            if name == "media":
                for media_id in anew:
                    self.cache.discard(media_id)
            for outcome in self._make(stage, todo, run_id, anew):
                outcomes[outcome.partition_key] = outcome
                if on_outcome:
                    on_outcome(outcome)
        if name == "media":
            made = (outcome.seconds for outcome in outcomes.values() if not outcome.current)
            self._clock.account(sum(made) / self.settings.thread_count)
        if "placements" in self.__dict__:
            if self.placements.has_rented_for(name):
                self._clock.stage_was_elsewhere()
            self.placements.stage_is_through(name)
        return [outcomes[key] for key in partition_keys if key in outcomes]

    def _make(self, stage: Stage, todo: Sequence[Todo], run_id: str, anew: Collection[str]) -> Iterator[Outcome]:
        """Put back what was kept, compute and commit the rest in portions; reported only once the rows are safe."""
        may_stand = [t for t in todo if t.known.media_id not in anew]
        restored = self._results.restore(stage, may_stand, run_id) if may_stand else []
        yield from restored
        there = {outcome.media_id for outcome in restored}
        by_id = {t.known.media_id: t for t in todo if t.known.media_id not in there}
        if not by_id:
            return
        portion: list[Result] = []
        waiting: list[Result] = []
        committed = time.monotonic()
        try:
            for result in second_chance(stage, [t.known for t in by_id.values()]):
                if isinstance(result.error, BudgetReached | ModelUnavailable):
                    waiting.append(result)
                    continue
                if result.error is not None and result.error.retryable and not isinstance(result.error, WorkerLost):
                    raise result.error
                portion.append(result)
                if len(portion) >= COMMIT_EVERY_MEDIA or time.monotonic() - committed >= COMMIT_EVERY_S:
                    yield from self._results.commit(stage, portion, by_id, run_id)
                    portion, committed = [], time.monotonic()
        except MediaPipelineError:
            if portion:  # what others have finished is kept, whatever ends the stage
                yield from self._results.commit(stage, portion, by_id, run_id)
            raise
        if portion:
            yield from self._results.commit(stage, portion, by_id, run_id)
        if waiting:
            yield from self._results.leave(stage, waiting, by_id, run_id)

    def require_disk(self) -> None:
        """Nothing new is begun on a disk that is nearly full.

        Raises:
            DiskFull: less than `min_free_bytes` are free.
        """
        free = shutil.disk_usage(self.layout.home).free
        if free < self.settings.min_free_bytes:
            raise DiskFull(
                f"only {free / 1e9:.1f} GB are free below {self.layout.home}",
                f"make room: {self.settings.min_free_bytes / 1e9:.1f} GB are needed (MEDIA_PIPELINE_MIN_FREE_BYTES)",
            )

    # --- where it is done ---------------------------------------------------------------------------------------

    def place(
        self,
        partition_keys: Sequence[str],
        stages: Collection[str],
        wish: Wish,
        *,
        run_id: str,
        force: bool,
        say: Callable[[str], None],
    ) -> Decision | None:
        """Decide where a run over these media computes, and begin to rent where that is not here.

        None where only this machine was asked for: then nothing is looked at.
        """
        if wish.target == "cpu":
            return None
        known = list(self.sources.by_partition(partition_keys).values())
        waiting = len(self.sources.unannounced(_LOOK_BEHIND))
        return self.placements.place(
            known,
            stages,
            wish,
            run_id=run_id,
            say=say,
            behind=waiting / max(1, len(known)),
            keep_idle=True,
            force=force,
        )

    def give_back(self) -> dict[str, Any] | None:
        """What was rented is not needed any more; what it came to, if there was anything."""
        if "placements" not in self.__dict__:
            return None
        self.placements.give_back()
        return self.placements.rented

    @cached_property
    def leases(self) -> Leases:
        return Leases.of(self.layout)

    @cached_property
    def placements(self) -> Placements:
        from media_pipeline.execution.placing import Placements

        return Placements(self, self._executor)

    # --- around a run -------------------------------------------------------------------------------------------

    def begin(self, partition_keys: Sequence[str]) -> None:
        """Count an attempt for each medium, so that one that kills its run every time is noticed.

        From here on its partition is known to be in the hands of a run: no sensor needs to ask for it.
        """
        self._clock.begin()
        ids = self._ids(partition_keys)
        self.sources.start_attempt(ids)
        self.sources.mark_announced(ids)

    def end(self, partition_keys: Sequence[str]) -> None:
        self.sources.end_attempt(self._ids(partition_keys))

    def release(self, partition_keys: Sequence[str], *, because: str | None = None) -> None:
        """The run on these media was stopped before it was through: the sensor may ask for them again.

        Args:
            because: what held it up, for `status`; None: somebody stopped it
        """
        self.sources.release(self._ids(partition_keys))
        if because is not None:
            self.sources.set_note(HELD_UP, because)

    def finish(self, partition_keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Bring what is made from all media up to date after a batch; metadata by result."""
        self.ensure_tables()
        found = update_results(self, self._ids(partition_keys))
        if (overhead_s := self._clock.end()) is not None:
            self.costs.record_overhead("run", 1, overhead_s)
        self.sources.set_note(HELD_UP, None)
        return found

    def _ids(self, partition_keys: Sequence[str]) -> list[str]:
        return [medium.media_id for medium in self.sources.by_partition(partition_keys).values()]

    def maintain(self) -> dict[str, dict[str, Any]]:
        """Compact and vacuum every table, bring the cache under its limit. For a quiet hour."""
        if not self.settings.reprocess.keep_superseded:
            self.kept.clear()
        removed = self.catalog.maintain() + self.kept.maintain()
        return {"tables": {"files_removed": len(removed)}, "cache": {"bytes_freed": self.cache.evict(keep=())}}

    def ensure_tables(self) -> None:
        for name, schema in table_schemas().items():
            self.tables.ensure(name, schema)

    @cached_property
    def _decoded(self) -> DecodedMedia:
        return DecodedMedia(self.cache, self.settings)

    @cached_property
    def _executor(self) -> Relay:
        s, on_cost = self.settings, self._computed_here
        if not s.worker_process:
            return Relay(InProcessExecutor(s.thread_count, low_memory=s.low_memory, on_cost=on_cost))
        silence_s = s.gpu.heartbeat_timeout_s
        return Relay(
            WorkerExecutor(
                local_place(s), s.thread_count, heartbeat_timeout_s=silence_s, on_cost=on_cost, low_memory=s.low_memory
            )
        )

    def _computed_here(self, cost: Cost) -> None:
        self.costs.record(cost)
        self._clock.computed(cost)

    @cached_property
    def _stages(self) -> dict[str, Stage]:
        refuse_unknown_options(self.settings)
        decoded = self._decoded
        stages: list[Stage] = [MediaStage(decoded), FramesStage(decoded), AudioStage(decoded)]
        stages.extend(
            AnalyzerStage(spec, self.settings, self.models, decoded, self.tables, self._executor)
            for spec in registry().values()
        )
        return {stage.name: stage for stage in stages}

    @cached_property
    def _results(self) -> Results:
        keeps = self.settings.reprocess.keep_superseded and not self._is_trial
        return Results(self.tables, self.ledger, self.kept if keeps else None)

    @cached_property
    def judge(self) -> Judge:
        """What is to be done, asked of the ledger."""
        return Judge(self._stages)


def table_schemas() -> dict[str, pa.Schema]:
    """Every table there is, by name, which is also that of its view."""
    core = {
        "media": schemas.MEDIA,
        "frames": schemas.FRAMES,
        "audio": schemas.AUDIO,
        "analyses": schemas.ANALYSES,
        "duplicate_pairs": schemas.DUPLICATE_PAIRS,
        "face_persons": schemas.FACE_PERSONS,
        "speaker_voices": schemas.SPEAKER_VOICES,
        "moderation": schemas.MODERATION,
    }
    return core | {spec.name: spec.schema for spec in registry().values()}
