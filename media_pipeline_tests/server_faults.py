"""A server is hurt while it works: what it takes to be well again, and whether anything is lost or doubled.

python -m media_pipeline_tests.server_faults [--files 200] [--only postgres] [--seed 1]

Each fault meets a fresh share of the files while they are uploaded or analysed. What the server holds afterwards is
compared, row by row, with what one undisturbed `analyze` makes of the same files. Needs Docker; a full disk can be had
by root only (a small file system for the volumes), a jumping clock where there is a C compiler.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from media_pipeline_tests._server import until
from media_pipeline_tests._server_files import make_files
from media_pipeline_tests._server_hurt import MATERIALIZED, Stack, installed
from media_pipeline_tests._server_judge import Reference, Verdict, media_id, undisturbed

SETTINGS = {
    "MEDIA_PIPELINE_LANGUAGE": "en",
    "MEDIA_PIPELINE_TIER": "embedded",
    "MEDIA_PIPELINE_SETTLE_S": "1",
    "MEDIA_PIPELINE_MIN_FREE_BYTES": str(256 * 1024**2),
}
PROJECT = "media-pipeline-faulty"
WELL_S, DONE_S, BEGUN_S = 420.0, 1500.0, 420.0


# --- the faults -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """
    Args:
        strike: returns when the outside has done its part: the disk has room again. Or says when that was
        victims: services that must have been started anew
        at: while files are uploaded, while they are analysed, or before they come
        within: circumstances that this fault needs
        lacks: why it cannot be had here; empty where it can
    """

    strike: Callable[[Stack], float | None]
    victims: Sequence[str] = ()
    at: str = "work"
    within: Callable[[Stack], Any] = lambda _: nullcontext()
    lacks: Callable[[Stack], str] = lambda _: ""


def crash(*services: str, at: str = "work") -> Fault:
    def strike(stack: Stack) -> None:
        for service in services:
            stack.crash(service)

    return Fault(
        strike, services, at, lacks=lambda stack: "" if {*services} <= {*stack.services} else "no such service"
    )


def _kill_run(stack: Stack) -> None:
    runs = stack.server.runs()
    assert runs, "no container of a run is there"
    stack.server.docker("kill", *runs)


def _everything_crashes(stack: Stack) -> None:
    """At the same instant, as near as can be; started again by Docker, in whatever order."""
    ids = [*(stack.server.container(service) for service in stack.services), *stack.server.runs()]
    with ThreadPoolExecutor(len(ids)) as pool:
        list(pool.map(lambda i: stack.server.docker("exec", i, "sh", "-c", "kill -9 -1", check=False), ids))


def _power_loss(stack: Stack) -> float:
    ids = [*(stack.server.container(service) for service in stack.services), *stack.server.runs()]
    stack.server.docker("kill", *ids)
    back = time.monotonic()
    stack.server.up()
    return back


def _full_disk(stack: Stack) -> None:
    """Nobody can write a byte: neither the run nor PostgreSQL, whose volume is on the same disk."""
    stack.resize_disk(0)
    time.sleep(45)
    stack.resize_disk(None)


def _nearly_full_disk(stack: Stack) -> None:
    """Files come while there is less room than what the product keeps free: they wait."""
    known, _ = stack.media()
    stack.resize_disk(int(SETTINGS["MEDIA_PIPELINE_MIN_FREE_BYTES"]) // 2)
    time.sleep(30)
    assert stack.media()[0] == known, "media were taken in spite of the disk"
    stack.resize_disk(None)


def jump(hours: int) -> Callable[[Stack], None]:
    """The clock of the whole server shows another time, and after a while the right one again."""

    def strike(stack: Stack) -> None:
        offset = stack.server.folder / "clock" / "offset"
        _set(offset, hours * 3600)
        time.sleep(60)
        _set(offset, 0)

    return strike


def _set(offset: Path, seconds: int) -> None:
    """In place: the programs have it mapped into their memory."""
    with offset.open("r+b" if offset.exists() else "wb") as file:
        file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


@contextmanager
def _own_clock(stack: Stack) -> Iterator[None]:
    """Every program of the server asks a library of ours for the time of day. Containers have no clock of their own."""
    folder = stack.server.folder / "clock"
    folder.mkdir(exist_ok=True)
    source = Path(__file__).with_name("_server_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(folder / "clock.so"), str(source), "-ldl"], check=True)
    _set(folder / "offset", 0)
    # Runs get their environment from the launcher; what they begin with, and all volumes, from `code`.
    enter = (stack.server.folder / "deploy" / "enter").read_text()
    preload = "LD_PRELOAD=/clock/clock.so"
    (folder / "enter").write_text(enter.replace('\nexec "$@"', f'\nexport {preload}\nexec "$@"'))
    (folder / "enter").chmod(0o755)
    volume = f"{folder}:/clock:ro"
    parts: dict[str, Any] = {
        service: {"environment": [preload], "volumes": [volume]}
        for service in ("postgres", "daemon", "webserver", "viewer", "metrics", "backup")
        if service in stack.services
    }
    parts["code"] = {"volumes": [volume, f"{folder / 'enter'}:/opt/media-pipeline/deploy/enter:ro"]}
    stack.override("services", parts)
    stack.server.up()
    try:
        yield
    finally:
        stack.override("services", None)
        stack.server.up()


def _no_disk(stack: Stack) -> str:
    return "" if stack.disk else "needs root, for a small file system"


def _no_clock(_: Stack) -> str:
    return "" if shutil.which("cc") else "there is no C compiler, for the library that shows another time"


FAULTS: dict[str, Fault] = {
    "none": Fault(lambda _: None),
    "postgres killed": crash("postgres"),
    "daemon killed": crash("daemon"),
    "code location killed": crash("code"),
    "webserver and viewer killed": crash("webserver", "viewer"),
    "engine gate killed": crash("engine-gate"),
    "gateway killed during uploads": crash("gateway", at="upload"),
    "container of the run killed": Fault(_kill_run),
    "all processes killed at once": Fault(_everything_crashes),
    "power loss, then `make up`": Fault(_power_loss),
    "disk below what is kept free": Fault(_nearly_full_disk, at="after upload", lacks=_no_disk),
    "disk full for 45 s": Fault(_full_disk, lacks=_no_disk),
    "clock 3 h ahead for a minute": Fault(jump(3), within=_own_clock, lacks=_no_clock),
    "clock 3 h behind for a minute": Fault(jump(-3), within=_own_clock, lacks=_no_clock),
}


# --- one after the other --------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of one share of the files."""

    name: str
    files: int
    well_s: float | None = None  # from the end of the fault until all health checks are good
    done_s: float | None = None  # from its end until everything is analysed
    verdict: Verdict = field(default_factory=Verdict)
    stuck: int | None = 0  # runs that never end
    error: str = ""
    lacks: str = ""

    @property
    def is_good(self) -> bool:
        return bool(self.lacks) or (self.verdict.is_good and not self.stuck and not self.error)


class Storm:
    """All faults on one server.

    Args:
        reference: what should come out; of all files that will be delivered
    """

    def __init__(self, stack: Stack, reference: Reference) -> None:
        self._stack, self._reference = stack, reference
        self._delivered: set[str] = set()
        self._before = Verdict()

    def run(self, name: str, files: Sequence[Path]) -> Outcome:
        fault, stack = FAULTS[name], self._stack
        found = Outcome(name, len(files))
        if reason := fault.lacks(stack):
            found.lacks = reason
            return found
        try:
            with fault.within(stack):
                self._suffer(fault, files, found)
        except (AssertionError, subprocess.SubprocessError) as error:
            found.error = (str(error).strip() or repr(error)).splitlines()[-1][:200]
            print(error, file=sys.stderr)
            found.stuck = stack.open_runs()
        return found

    def _suffer(self, fault: Fault, files: Sequence[Path], found: Outcome) -> None:
        stack = self._stack
        before, event, over = stack.started(), stack.last_event(), None
        self._delivered |= {media_id(path) for path in files}
        if fault.at == "upload":
            stack.deliver(files, at_half=lambda: fault.strike(stack))
        elif fault.at == "after upload":
            with ThreadPoolExecutor(1) as pool:  # at once: nothing of it may be taken before
                struck = pool.submit(fault.strike, stack)
                time.sleep(1)
                stack.deliver(files)
                struck.result()
        else:
            late = len(files) // 4  # they come afterwards: it not only ends what it had begun
            stack.deliver(files[: len(files) - late])
            until(lambda: stack.has_begun_since(event), BEGUN_S, "the analysis has begun")
            time.sleep(stack.chance.uniform(0, 3))
            over = fault.strike(stack) or time.monotonic()
            stack.deliver(files[len(files) - late :])
        over = over or time.monotonic()
        until(lambda: self._is_well_again(fault.victims, before), WELL_S, "all services are well")
        found.well_s = time.monotonic() - over
        expected = self._reference.expected(self._delivered)
        until(lambda: stack.is_through(len(self._delivered), expected), DONE_S, "everything is analysed")
        found.done_s = time.monotonic() - over
        found.stuck = stack.open_runs()
        verdict = self._judge()
        found.verdict, self._before = verdict - self._before, verdict

    def _is_well_again(self, victims: Sequence[str], before: dict[str, str]) -> bool:
        try:
            now = self._stack.started()
            return all(now[name] != before[name] for name in victims) and self._stack.server.is_well()
        except (AssertionError, subprocess.SubprocessError, ValueError):  # a container is just being replaced
            return False

    def _judge(self) -> Verdict:
        stack = self._stack
        query = f"SELECT DISTINCT asset_key || ' ' || partition FROM event_logs WHERE {MATERIALIZED}"
        seen = stack.rows(f"{query} AND partition IS NOT NULL")
        home = Path(tempfile.mkdtemp(prefix="server-faults-home-"))
        try:
            stack.server.docker("cp", f"{stack.server.container('code')}:/data/tables", str(home / "tables"))
            return self._reference.judge(home, self._delivered, seen or [])
        finally:
            shutil.rmtree(home)


def storm(names: Sequence[str], files: int, seed: int, say: Callable[[str], None] = print) -> Iterator[Outcome]:
    """Every fault on its share of the files."""
    folder = Path(tempfile.mkdtemp(prefix="server-faults-", dir="/var/tmp"))
    try:
        made = make_files(folder / "files", files, seed)
        began = time.monotonic()
        with installed(folder, PROJECT, SETTINGS) as stack:
            stack.chance = random.Random(seed)
            say(f"all well after {time.monotonic() - began:.0f} s; the undisturbed run")
            began = time.monotonic()
            yield from suffer(stack, names, made, folder / "reference", say, began)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def suffer(
    stack: Stack,
    names: Sequence[str],
    files: Sequence[Path],
    folder: Path,
    say: Callable[[str], None] = print,
    began: float | None = None,
) -> Iterator[Outcome]:
    folder.mkdir()
    reference = undisturbed(stack.server, files, folder)
    if began is not None:
        say(f"took {time.monotonic() - began:.0f} s and made {sum(map(len, reference.rows.values()))} rows\n")
    possible = [name for name in names if not FAULTS[name].lacks(stack)]
    shares = dict(zip(possible, _shares(files, len(possible)), strict=True))
    trial = Storm(stack, reference)
    for name in names:
        yield trial.run(name, shares.get(name, ()))


def _shares(files: Sequence[Path], count: int) -> list[Sequence[Path]]:
    """Adjacent ones, which are of all kinds; each share as large as the next, give or take one."""
    ends = [len(files) * number // count for number in range(count + 1)]
    return [files[begin:end] for begin, end in pairwise(ends)]


# --- the table ------------------------------------------------------------------------------------------------------

_HEADER = ("fault", "files", "well again after", "all done after", "lost", "doubled", "different", "unseen", "stuck")


def row(outcome: Outcome) -> str:
    if outcome.lacks:
        return f"| {outcome.name} | not tried: {outcome.lacks} |" + " |" * (len(_HEADER) - 2)
    seconds = [f"{s:.0f} s" if s is not None else "never" for s in (outcome.well_s, outcome.done_s)]
    verdict = outcome.verdict
    counts = [len(rows) for rows in (verdict.lost, verdict.doubled, verdict.foreign, verdict.unseen)]
    cells = [outcome.name, outcome.files, *seconds, *counts, outcome.stuck if outcome.stuck is not None else "?"]
    return f"| {' | '.join(map(str, cells))} |" + (f" {outcome.error}" if outcome.error else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200, help="shared out among the faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="faults whose name holds one of these; they share all files"
    )
    parser.add_argument("--details", action="store_true", help="print the rows that are not as they should be")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("MEDIA_PIPELINE_", "DAGSTER_"))]:
        del os.environ[name]
    names = [name for name in FAULTS if any(part in name for part in arguments.only)]
    print(f"| {' | '.join(_HEADER)} |\n|{' --- |' * len(_HEADER)}", flush=True)
    found = []
    for outcome in storm(names, arguments.files, arguments.seed, lambda line: print(line, file=sys.stderr, flush=True)):
        found.append(outcome)
        print(row(outcome), flush=True)
        if arguments.details:
            for kind in ("lost", "doubled", "foreign", "unseen"):
                for line in sorted(getattr(outcome.verdict, kind))[:20]:
                    print(f"  {kind}: {line[:400]}", file=sys.stderr, flush=True)
    bad = [outcome.name for outcome in found if not outcome.is_good]
    print(f"\n{len(found)} faults" + (f", not survived: {', '.join(bad)}" if bad else ", all survived"))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
