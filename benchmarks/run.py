"""`make bench`: the pipeline against a bare loop, measured side by side. Prints ratios, and what falls short.

python -m benchmarks.run [--files N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
    parser.add_argument("--files", type=int, default=64, help="media in the set")
    parser.add_argument("--rounds", type=int, default=3, help="the pipeline and the loop in turn, so many times")
    arguments = parser.parse_args()
    console = Console()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="media-pipeline-bench-") as name:
        scratch = Path(name)
        console.print(f"making {arguments.files} files …")
        truth = make_mixed_set(scratch / "media", arguments.files)
        _against_loops(report, console, scratch, truth, arguments.rounds)
        console.print("orchestration, decoding, user interface …")
        report.add("orchestration, CPU-s per file", orchestration_cpu_s_per_file(arguments.files), at_most=0.02)
        report.add("decode + sampling / bare PyAV decode", decoding_ratio(scratch / "media"), at_most=1.2)
        report.add("seconds until the UI answers", seconds_until_ui(scratch / "ui"), at_most=30)
    report.print(console)


class Report:
    """Figures beside their goals."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, str]] = []

    def add(self, name: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
        goal, good = "", True
        if at_most is not None:
            goal, good = f"at most {at_most:g}", value <= at_most
        if at_least is not None:
            goal, good = f"at least {at_least:g}", value >= at_least
        verdict = "" if not goal else "[green]met[/]" if good else "[red]falls short[/]"
        self._rows.append((name, f"{value:.3f}", goal, verdict))

    def print(self, console: Console) -> None:
        table = Table("measured", "value", "goal", "")
        for row in self._rows:
            table.add_row(*row)
        console.print(table)


def _against_loops(
    report: Report, console: Console, scratch: Path, truth: Mapping[str, Sequence[str]], rounds: int
) -> None:
    """Pipeline and loops in turn, so that a drift of the machine's speed meets all alike."""
    media = str(scratch / "media")
    pipeline, loop, defaults = [], [], []
    for number in range(rounds):
        console.print(f"round {number + 1} of {rounds} …")
        home = str(scratch / f"home-{number}")
        pipeline.append(_checked(measure(python("media_pipeline", "--home", home, "analyze", media), ENV)))
        loop.append(_checked(measure(python("benchmarks.bare_loop", media, str(scratch / "loop.json")), ENV)))
        command = python("benchmarks.bare_loop", media, str(scratch / "defaults.json"), "--library-defaults")
        defaults.append(_checked(measure(command, ENV)))

    def median(usages: Sequence[Usage], figure: Callable[[Usage], float]) -> float:
        return statistics.median(map(figure, usages))

    count = len(truth)
    report.add("CPU-s per file, pipeline", median(pipeline, lambda u: u.cpu_s) / count)
    report.add("CPU-s per file, bare loop, same models", median(loop, lambda u: u.cpu_s) / count)
    report.add("CPU-s per file, bare loop, library defaults", median(defaults, lambda u: u.cpu_s) / count)
    pairs = [p.cpu_s / b.cpu_s for p, b in zip(pipeline, loop, strict=True)]
    report.add("CPU, pipeline / bare loop", statistics.median(pairs), at_most=1.05)
    pairs = [d.cpu_s / b.cpu_s for d, b in zip(defaults, loop, strict=True)]
    report.add("CPU, library defaults / tuned defaults", statistics.median(pairs), at_least=2.0)
    pairs = [p.wall_s / b.wall_s for p, b in zip(pipeline, loop, strict=True)]
    report.add(f"wall time, pipeline on {os.cpu_count()} cores / bare loop", statistics.median(pairs))
    report.add("peak memory, GiB", max(u.peak_bytes for u in pipeline) / GIB, at_most=2.5)
    tuned, plain = (_recall(truth, json.loads((scratch / f"{n}.json").read_text())) for n in ("loop", "defaults"))
    report.add("lines read, library defaults", plain)
    report.add("lines read, tuned", tuned, at_least=round(plain, 3))


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
