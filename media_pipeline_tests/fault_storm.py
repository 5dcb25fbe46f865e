"""Runs through rented machines while everything goes wrong: whatever happens, nothing is left, lost or doubled.

python -m media_pipeline_tests.fault_storm --runs 200 --seed 1 [--jobs 3]     one to three random faults per run
python -m media_pipeline_tests.fault_storm --each                              every fault once, as a table

Real workers over real sshd on 127.0.0.1; only the provider is a stand-in. Times that are minutes in life (boot,
silence, grace) are seconds here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo import samples
from media_pipeline.cloud import reaper
from media_pipeline.cloud.api import Vast
from media_pipeline.config import Settings
from media_pipeline.errors import BudgetReached, MediaPipelineError
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.execution.wish import Wish
from media_pipeline.media.intake import Intake
from media_pipeline_tests._rental_home import market, remember_quick_boot, settings_of
from media_pipeline_tests.vast_standin import StandIn

STAGES = ("media", "frames", "audio", "faces", "speakers", "poses")
MADE_THERE = ("faces", "speakers", "poses")
USD_PER_HOUR = 6.0  # so that seconds cost something
CAP_USD = 0.15
MINUTE_USD = USD_PER_HOUR * 1.1 / 60  # the offers' prices differ by some per cent

Fault = dict[str, Any]


def on(route: str, do: str, **more: Any) -> Fault:
    return {"route": route, "do": do, **more}


def machine(**plan: Any) -> Fault:
    return {"route": "create", "do": "instance", "plan": plan}


# By the numbers of the failure modes that the provider's API is known for, and what stands for each here.
FAULTS: dict[str, Fault] = {
    "1 offer gone (410)": on("create", "offer_gone", times=2),
    "1 offer gone (404)": on("create", "offer_404", times=2),
    "2 no offer fits": {"offers": "none"},
    "3 filters ignored": on("search", "ignore_filters"),
    "4 rate limit, search": on("search", "rate_limit", times=2),
    "4 rate limit, Retry-After": on("list", "rate_limit", retry_after=1, times=2),
    "5 search quota used up": on("search", "rate_limit", quota=True),
    "6 error 500, list": on("list", "status", code=500),
    "6 error 502, search": on("search", "status", code=502, times=2),
    "6 error 503, show": on("show", "status", code=503, times=3),
    "6 error 504, attach key": on("attach", "status", code=504, times=2),
    "7 answer hangs": on("show", "hang", seconds=2),
    "8 HTML for JSON": on("list", "html"),
    "8 empty answer": on("show", "empty", times=2),
    "8 truncated JSON": on("search", "malformed"),
    "8 wrong type": on("user", "wrong_type"),
    "9 endpoint retired": on("list", "deprecated"),
    "10 stale list": on("list", "stale_list"),
    "11 create: answer lost": on("create", "drop_after"),
    "11 create: 504, yet it exists": on("create", "fail_after"),
    "11 create: never arrived": on("create", "drop_before"),
    "15 destroy: 200 success:false": on(
        "destroy", "status", code=200, body={"success": False, "error": "busy"}, times=2
    ),
    "16 stuck provisioning": machine(stuck=None),
    "16 stuck created": machine(stuck="created"),
    "16 stuck loading": machine(stuck="loading"),
    "17 boot error": machine(boot_error="OCI runtime create failed: nvidia-container-cli"),
    "18 running, no ports": machine(no_ports=True),
    "19 ssh refused": machine(ssh="refuse"),
    "19 ssh hangs": machine(ssh="hang"),
    "19 ssh late": machine(ssh={"late": 2}),
    "19 key not accepted": machine(ssh="noauth"),
    "21 GPU broken": machine(gpu="broken"),
    "22 slow network": machine(ssh={"bps": 400_000}),
    "23 cut in transfer": machine(ssh={"cut_after_bytes": 600_000}),
    "24 host dies, says running": machine(die_after=8),
    "25 offline in the middle": machine(offline_after=8),
    "25 unknown in the middle": machine(unknown_after=8),
    "26 container exits": machine(exit_after=8),
    "27 outbid": machine(preempt_after=8),
    "28 rental expires": machine(expire_after=8),
    "29 credit ends": {"credit": 0.02},
    "30 no credit": on("create", "no_credit"),
    "30 spend limit": on("create", "spend_limit"),
    "31 our budget ends": {"cap": 0.125},
    "32 destroy lies": machine(destroy_lies=2),
    "33 destroy: gone already": on("destroy", "status", code=404, body={"success": False, "error": "no_such_instance"}),
    "34 destroy: rate limit": on("destroy", "rate_limit", times=3),
    "34 destroy: answer lost": on("destroy", "drop_after"),
    "37 price raised": {"raise": 1.5},
    "44 key revoked": on("*", "status", code=404, body={"success": False, "error": "auth_error"}, skip=3, times=4),
}


@dataclass
class Outcome:
    """What a run under faults came to."""

    faults: Sequence[str]
    placed: str = ""
    rented: int = 0  # machines
    computed_there: bool = False
    left_by_run: int = 0
    left: int = 0  # after the reaper
    spent_usd: float = 0.0
    cap_usd: float = CAP_USD
    over_usd: float = 0.0  # beyond the cap and a billing minute
    wrong: list[str] = field(default_factory=list)  # tables that differ from an undisturbed run
    error: str = ""
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.left or self.over_usd > 0 or self.wrong or self.error)


class Storm:
    """A home with a dozen media, analysed again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        media = folder / "media"
        media.mkdir(parents=True)
        samples.make_samples(media)
        with self._opened(settings_of(folder / "home", "http://127.0.0.1:9")) as pipeline:
            remember_quick_boot(pipeline.layout)
            report = Intake(pipeline.layout, pipeline.sources, pipeline.settings).take([media], wait=True)
            self._keys = [m.partition_key for m in report.new]
            self._run_stages(pipeline, "undisturbed")
            self.expected = self._contents(pipeline)

    def run(self, number: int, names: Sequence[str]) -> Outcome:
        faults = [FAULTS[name] for name in names]
        began = time.monotonic()
        extra = {key: value for fault in faults if "do" not in fault for key, value in fault.items()}
        cap = float(extra.get("cap", CAP_USD))
        found = Outcome(names, cap_usd=cap)
        with market(0 if "offers" in extra else 6, USD_PER_HOUR, ssh=True, credit=extra.get("credit", 1000)) as server:
            for offer in server.market.offers.values():  # else one that failed in a run before is not taken for an hour
                offer["machine_id"] += 1000 * number
            server.fault(*[dict(fault) for fault in faults if "do" in fault])
            if "raise" in extra:
                _raise_prices(server, extra["raise"])
            settings = settings_of(
                self._folder / "home",
                server.url,
                heartbeat_timeout_s=4,
                boot_timeout_s=8,
                setup_timeout_s=40,
                max_usd_per_day=1e6,
                max_usd_per_month=1e6,
                recheck_share=0.1,
            )
            with self._opened(settings) as pipeline:
                self._place_and_run(pipeline, server, f"storm-{number}", cap, found)
                found.left_by_run = len(server.live())
                found.rented = sum(event["kind"] == "created" for event in server.market.events)
                self._reap(pipeline, server)
                found.left = len(server.live())
                found.spent_usd = server.spent()
                found.over_usd = found.spent_usd - cap - MINUTE_USD
                now = self._contents(pipeline)
                found.wrong = [name for name in STAGES if now[name] != self.expected[name]]
        found.seconds = time.monotonic() - began
        return found

    def _place_and_run(self, pipeline: Pipeline, server: StandIn, run_id: str, cap: float, found: Outcome) -> None:
        known = list(pipeline.sources.by_partition(self._keys).values())
        try:
            decision = pipeline.placements.place(
                known, STAGES, Wish("gpu", cap), run_id=run_id, say=found.said.append, force=True, is_last=False
            )
            found.placed = decision.target
            self._run_stages(pipeline, run_id, force=MADE_THERE)
        except BudgetReached as error:
            found.said.append(str(error))
        except MediaPipelineError as error:
            found.error = str(error)
        finally:
            pipeline.give_back()
        machines = {row["machine"] for row in pipeline.costs.table().to_pylist()}
        found.computed_there = "RTX 3090" in machines

    def _run_stages(self, pipeline: Pipeline, run_id: str, force: Sequence[str] = ()) -> None:
        for name in STAGES:
            pipeline.run_stage(name, self._keys, run_id=run_id, redo=self._keys if name in force else ())

    def _reap(self, pipeline: Pipeline, server: StandIn) -> None:
        """As the sensor would: again and again, for a while."""
        vast = Vast(pipeline.settings.vast_key, server.url, timeout_s=5)
        try:
            for _ in range(12):
                done = reaper.reap(vast, pipeline.leases, pipeline.layout, pipeline.settings.gpu)
                if done.is_clean and not server.live() and not pipeline.leases.open():
                    return
                time.sleep(1.5)
        finally:
            vast.close()

    @staticmethod
    def _contents(pipeline: Pipeline) -> dict[str, list[str]]:
        """Rows but for embeddings, whose last digits depend on how many threads add them up."""
        tables = {name: pipeline.tables.read(name) for name in STAGES}
        kept = {n: t.select([c for c in t.column_names if c != "embedding"]) for n, t in tables.items()}
        return {name: sorted(map(repr, table.to_pylist())) for name, table in kept.items()}

    @staticmethod
    @contextmanager
    def _opened(settings: Settings) -> Iterator[Pipeline]:
        pipeline = Pipeline(settings)
        try:
            yield pipeline
        finally:
            pipeline.close()


def _raise_prices(server: StandIn, factor: float) -> None:
    """A machine costs more once it is rented than what was offered."""
    create = server.market.instance_row

    def row(instance: Any) -> Any:
        found = create(instance)
        found["dph_total"] *= factor
        return found

    server.market.instance_row = row


def hurry() -> None:
    """Minutes of waiting for a provider become seconds; no model hub is asked."""
    os.environ["MEDIA_PIPELINE_OFFLINE"] = "1"
    reaper._ASKED_FOR_S = reaper._DEAD_AFTER_S = 3.0


def drawn(seed: int, runs: int) -> list[list[str]]:
    """The faults of each run; the same for the same seed."""
    chance = random.Random(seed)
    return [chance.sample(list(FAULTS), chance.choice([1, 2, 2, 3])) for _ in range(runs)]


def storm(runs: Sequence[tuple[int, Sequence[str]]]) -> Iterator[Outcome]:
    """One home, one run after the other."""
    hurry()
    folder = Path(tempfile.mkdtemp(prefix="fault-storm-"))
    try:
        home = Storm(folder)
        for number, names in runs:
            yield home.run(number, names)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _share(runs: Sequence[tuple[int, Sequence[str]]], results: Any) -> None:
    for outcome in storm(runs):
        results.put(outcome)
    results.put(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=3, help="homes side by side; they mostly wait")
    parser.add_argument("--each", action="store_true", help="every fault once")
    parser.add_argument("--only", help="faults whose name holds this")
    arguments = parser.parse_args()
    chosen = [[name] for name in FAULTS if not arguments.only or arguments.only in name]
    todo = list(enumerate(chosen if arguments.each or arguments.only else drawn(arguments.seed, arguments.runs)))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    shares = [todo[n :: arguments.jobs] for n in range(arguments.jobs)]
    workers = [context.Process(target=_share, args=(share, results)) for share in shares if share]
    for worker in workers:
        worker.start()
    found: list[Outcome] = []
    working = len(workers)
    _row("injected", "what the run did", "machines", "left by the run / the reaper", "USD of the cap", "wrong", "s")
    _row(*["---"] * 7)
    while working:
        outcome = results.get()
        if outcome is None:
            working -= 1
            continue
        found.append(outcome)
        _print(outcome)
    counts = {
        "machines rented": sum(o.rented for o in found),
        "left": sum(o.left for o in found),
        "over the cap by more than a minute": sum(o.over_usd > 0 for o in found),
        "with rows lost or doubled": sum(bool(o.wrong) for o in found),
        "broken off": sum(bool(o.error) for o in found),
    }
    print(f"\n{len(found)} runs: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    sys.exit(not all(outcome.is_good for outcome in found))


def _print(outcome: Outcome) -> None:
    usual = ("renting RTX", "rented a", "the machine has no key")
    told = [line for line in outcome.said if not line.startswith(usual)]
    _row(
        " + ".join(outcome.faults),
        outcome.error or "; ".join(line[:110] for line in told[:4]),
        outcome.rented,
        f"{outcome.left_by_run} / {outcome.left}",
        f"{outcome.spent_usd:.3f} / {outcome.cap_usd:.2f}",
        ", ".join(outcome.wrong) or 0,
        f"{outcome.seconds:.0f}",
    )


def _row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
