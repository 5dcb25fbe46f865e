"""`make bench`: the pipeline against a bare loop, measured side by side. Prints ratios, and what falls short.

python -m benchmarks.run [--files N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.decoding import decoding_ratio
from benchmarks.measure import Usage, measure, python
from benchmarks.mixed_set import make_mixed_set
from benchmarks.orchestration import orchestration_cpu_s_per_file
from benchmarks.ui import seconds_until_ui

GIB = 1024**3
ENV = {
    "MEDIA_PIPELINE_OFFLINE": "1",
    "MEDIA_PIPELINE_LANGUAGE": "en",
    "MEDIA_PIPELINE_TIER": "embedded",
    "MEDIA_PIPELINE_MIN_FREE_BYTES": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=128, help="media in the set: two batches of 64")
    parser.add_argument("--rounds", type=int, default=2, help="the pipeline and the loop in turn, so many times")
    arguments = parser.parse_args()
    console = Console()
    report = Report(console)
    with tempfile.TemporaryDirectory(prefix="media-pipeline-bench-") as name:
        scratch = Path(name)
        console.print(f"making {arguments.files} files; runs over half of them and over all give the cost per file …")
        truth = make_mixed_set(scratch / "whole", arguments.files)
        _link_half(scratch)
        _against_loops(report, console, scratch, truth, arguments.rounds)
        console.print("orchestration, decoding, user interface …")
        report.add("orchestration, CPU-s per file", orchestration_cpu_s_per_file(64), at_most=0.02)
        report.add("decode + sampling / bare PyAV decode", decoding_ratio(scratch / "whole"), at_most=1.2)
        report.add("seconds until the UI answers", seconds_until_ui(scratch / "ui"), at_most=30)
    report.print()


class Report:
    """Figures beside their goals."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[tuple[str, str, str, str]] = []

    def add(self, name: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
        goal, good = "", True
        if at_most is not None:
            goal, good = f"at most {at_most:g}", value <= at_most
        if at_least is not None:
            goal, good = f"at least {at_least:g}", value >= at_least
        verdict = "" if not goal else "[green]met[/]" if good else "[red]falls short[/]"
        self._rows.append((name, f"{value:.3f}", goal, verdict))
        self._console.print(f"  {name}: {value:.3f}", highlight=False)

    def print(self) -> None:
        table = Table("measured", "value", "goal", "")
        for row in self._rows:
            table.add_row(*row)
        self._console.print(table)


@dataclass
class Runs:
    """The same command over the first half of the files and over all of them, once per round."""

    half: list[Usage] = field(default_factory=list)
    whole: list[Usage] = field(default_factory=list)

    def per_file(self, count: int) -> list[float]:
        """CPU seconds per file of the second half: what starting the process costs is left out."""
        return [(w.cpu_s - h.cpu_s) / (count / 2) for h, w in zip(self.half, self.whole, strict=True)]

    def start(self, count: int) -> float:
        """CPU seconds that do not depend on the number of files."""
        return statistics.median(h.cpu_s for h in self.half) - statistics.median(self.per_file(count)) * count / 2


def _against_loops(
    report: Report, console: Console, scratch: Path, truth: Mapping[str, Sequence[str]], rounds: int
) -> None:
    """Pipeline and loops in turn, so that a drift of the machine's speed meets all alike."""
    pipeline, loop = Runs(), Runs()
    for number in range(rounds):
        console.print(f"round {number + 1} of {rounds} …")
        for part in ("half", "whole"):
            media, out = str(scratch / part), str(scratch / f"{part}.json")
            command = python("media_pipeline", "--home", str(scratch / f"home-{part}-{number}"), "analyze", media)
            getattr(pipeline, part).append(_checked(measure(command, ENV)))
            getattr(loop, part).append(_checked(measure(python("benchmarks.bare_loop", media, out), ENV)))
    console.print("the libraries' own defaults …")
    command = python("benchmarks.bare_loop", str(scratch / "half"), str(scratch / "plain.json"), "--library-defaults")
    plain = _checked(measure(command, ENV))
    count = len(truth)
    ours, bare = (statistics.median(runs.per_file(count)) for runs in (pipeline, loop))
    report.add("CPU-s per file, pipeline", ours)
    report.add("CPU-s per file, bare loop, same models", bare)
    report.add("CPU, pipeline / bare loop", ours / bare, at_most=1.05)
    report.add("CPU, library defaults / tuned, bare loops", plain.cpu_s / loop.half[-1].cpu_s, at_least=2.0)
    wholes = [p.cpu_s / b.cpu_s for p, b in zip(pipeline.whole, loop.whole, strict=True)]
    report.add("CPU, pipeline / bare loop, starts included", statistics.median(wholes))
    if min(pipeline.start(count), loop.start(count)) < 0:
        console.print("[yellow]the machine's speed drifted between the runs: raise --rounds before you believe this[/]")
    report.add("CPU-s once per process, pipeline", pipeline.start(count))
    report.add("CPU-s once per process, bare loop", loop.start(count))
    walls = [p.wall_s / b.wall_s for p, b in zip(pipeline.whole, loop.whole, strict=True)]
    report.add(f"wall time, pipeline on {os.cpu_count()} cores / bare loop", statistics.median(walls))
    report.add("peak memory, GiB", max(u.peak_bytes for u in pipeline.whole) / GIB, at_most=2.5)
    read = {name: json.loads((scratch / f"{name}.json").read_text()) for name in ("half", "plain")}
    untuned, tuned = (_recall({n: truth[n] for n in read["half"]}, read[name]) for name in ("plain", "half"))
    report.add("share of lines read, library defaults", untuned)
    report.add("share of lines read, tuned", tuned, at_least=untuned)


def _link_half(scratch: Path) -> None:
    """Every other file of each kind: `half` has the same mixture as `whole`."""
    (scratch / "half").mkdir()
    files = sorted((scratch / "whole").iterdir())
    for path in files[::2]:
        (scratch / "half" / path.name).hardlink_to(path)


def _checked(usage: Usage) -> Usage:
    if usage.exit_code:
        raise SystemExit(f"a measured command failed with {usage.exit_code}:\n{usage.output[-3000:]}")
    return usage


def _recall(truth: Mapping[str, Sequence[str]], read: Mapping[str, Sequence[str]]) -> float:
    """Share of the lines that can be read which were read, letter by letter; spaces do not count."""
    found = total = 0
    for name, lines in truth.items():
        text = "".join("".join(read[name]).split())
        total += len(lines)
        found += sum("".join(line.split()) in text for line in lines)
    return found / total


if __name__ == "__main__":
    main()
