"""`make quality`: every analyzer on media with known answers; prints tables and writes docs/quality.md.

python -m quality.run [--media DIR] [--models DIR] [--only AREA,…] [--home DIR] [--output FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from media_pipeline.analyzers._registry import registry
from quality import gates, whole
from quality.area import Area, Bench
from quality.collection import Collection, CollectionMissing
from quality.duplicates import Duplicates
from quality.faces import Faces, Persons
from quality.gates import Gate, all_off, gates_of, measure_gates
from quality.home import Home, Options
from quality.logos import Logos, make_gallery
from quality.models import given_models
from quality.nsfw import Nsfw
from quality.ocr import Ocr
from quality.pictures import Pictures
from quality.poses import Poses
from quality.report import LEGEND, Grid, Measurement, absent, document, measurements_grid
from quality.search import Search
from quality.speech import Draft, Speech, VoiceActivity
from quality.talk import write_talk
from quality.titles import Titles
from quality.unjudged import unjudged
from quality.video import Scenes
from quality.voices import Speakers, Voices

AREAS: tuple[Area, ...] = (
    *(Ocr(), Search(), Speech(), Draft(), VoiceActivity(), Speakers(), Voices()),
    *(Faces(), Persons(), Poses(), Nsfw(), Logos(), Titles(), Pictures(), Scenes(), Duplicates()),
)
OTHERS, GATES, WHOLE = "others", "gates", "whole"
MIN_WIDTH = 160  # characters; eight columns do not fit into fewer, a long line is easier to read than a narrow column
DEFAULT_MEDIA = Path("../shared/media")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "quality.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: measured, whatever came out. 1: an area broke. 2: there is nothing to measure with."""
    parser = _parser()
    options = parser.parse_args(arguments)
    wanted = _names() if not options.only else [name.strip() for name in options.only.split(",")]
    if unknown := sorted(set(wanted) - set(_names())):
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(_names())}")
    console = Console(width=max(Console().width, MIN_WIDTH))
    try:
        collection = Collection(options.media)
    except CollectionMissing as error:
        Console(stderr=True).print(str(error), highlight=False, soft_wrap=True)
        return 2
    with _scratch(options.home) as scratch:
        bench = Bench(collection, Home(scratch / "home", collection.root), scratch)
        with _progress(console) as progress:
            session = _Session(bench, wanted, progress)
            grids = session.measure(options.models)
    for grid in grids:
        grid.print(console)
    if options.output and not options.only:
        options.output.write_text(document(_introduction(len(collection)), grids), encoding="utf-8")
        console.print(f"written: {options.output}", highlight=False, soft_wrap=True)
    return 1 if session.broken else 0


class _Session:
    """One run over the collection; `broken` says whether an area broke."""

    def __init__(self, bench: Bench, wanted: Sequence[str], progress: Progress) -> None:
        self._bench, self._wanted, self._progress = bench, wanted, progress
        self._areas = [area for area in AREAS if area.name in wanted]
        self.broken = False

    def measure(self, models: Path | None) -> list[Grid]:
        bench, wanted = self._bench, self._wanted
        make_gallery(bench.collection, bench.home)
        of_all = {OTHERS, GATES, WHOLE} & set(wanted)
        analyzers = None if of_all else sorted({name for area in self._areas for name in area.analyzers})
        runs = [self._analyse("gates on, as it comes", bench.home, _known(analyzers))]
        lines = [line for area in self._areas for line in self._lines(area, bench)]
        if OTHERS in wanted:
            judged = {name for area in AREAS for name in area.analyzers}
            lines += unjudged(bench, [name for name in registry() if name not in judged])
        grids = [measurements_grid("How good", lines, LEGEND)] if lines else []
        if models is not None:
            grids += self._with_models(models)
        if GATES in wanted:
            grids.append(self._gates())
        if WHOLE in wanted:
            off = all_off(gates_of(registry().values()))
            home = bench.extra_home("ungated", bench.collection.root)
            make_gallery(bench.collection, home)
            runs.append(self._analyse("all gates off", home, None, off))
            home.close()
            grids.append(whole.grid(runs))
        bench.home.close()
        return grids

    def _analyse(
        self, label: str, home: Home, analyzers: list[str] | None, options: Options | None = None
    ) -> tuple[str, ...]:
        collection = self._bench.collection
        with whole.shown(self._progress, f"analysing: {label}", home, len(collection)):
            usage = home.analyze([collection.root], analyzers, options)
        return whole.run_row(label, home, usage)

    def _lines(self, area: Area, bench: Bench) -> list[Measurement]:
        """What an area measures; one that breaks must not cost the whole page."""
        task = self._progress.add_task(f"measuring: {area.name}", total=None)
        missing = bench.home.missing(area.analyzers)
        try:
            return [absent(area.name, missing)] if missing else list(area.measure(bench))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            self.broken = True
            return [absent(area.name, f"{type(error).__name__}: {str(error)[:200]}")]
        finally:
            self._progress.remove_task(task)

    def _with_models(self, folder: Path) -> list[Grid]:
        """The areas whose analyzers can use weights of that folder, with these."""
        scratch = self._bench.scratch / "with-models"
        options = given_models(folder, scratch / "weights")
        areas = [area for area in self._areas if area.analyzers and set(area.analyzers) <= options.keys()]
        if not areas:
            return []
        bench = Bench(self._bench.collection, Home(scratch / "home", self._bench.collection.root), scratch, options)
        self._analyse("with given weights", bench.home, sorted({n for a in areas for n in a.analyzers}), options)
        lines = [line for area in areas for line in self._lines(area, bench)]
        bench.home.close()
        return [measurements_grid("The same with downloadable weights", lines)]

    def _gates(self) -> Grid:
        """Over the collection, and over a talk, where there is something to spare."""
        bench, gates_there = self._bench, gates_of(registry().values())
        gated = sorted({gate.analyzer for gate in gates_there})
        folder = (bench.scratch / "talk").resolve()
        folder.mkdir(exist_ok=True)
        write_talk(folder / "talk.mp4")
        talk = bench.extra_home("talk-home", folder)
        make_gallery(bench.collection, talk)
        talk.analyze([folder], gated)
        task = self._progress.add_task("gates", total=2 * len(gates_there))

        def show(gate: Gate) -> None:
            self._progress.update(task, advance=1, description=f"without {gate.analyzer}'s {gate.option}")

        rows = measure_gates("collection", bench.home, gated, show) + measure_gates("talk", talk, gated, show)
        talk.close()
        return gates.grid(rows)


def _known(analyzers: Sequence[str] | None) -> list[str] | None:
    """Those of them that exist; the graph's first stages where none does."""
    if analyzers is None:
        return None
    return [name for name in analyzers if name in registry()] or ["frames", "audio"]


def _names() -> list[str]:
    return [*(area.name for area in AREAS), OTHERS, GATES, WHOLE]


def _introduction(files: int) -> str:
    cores = len(os.sched_getaffinity(0))
    return (
        f"Written by `make quality`, not by hand. {files} files with known answers, analysed from an empty home on "
        f"{cores} core{'s' * (cores != 1)} ({platform.machine()}), without a GPU and without a network. Small "
        "collections show mistakes, they do not prove their absence: n is beside every value, and where it is small, "
        "that it is."
    )


@contextmanager
def _scratch(given: Path | None) -> Iterator[Path]:
    """An empty folder that goes away, or a given one that stays and is used again."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="media-pipeline-quality-") as name:
        yield Path(name)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m quality.run", description="How good each analyzer is.")
    parser.add_argument("--media", type=Path, default=DEFAULT_MEDIA, help="folder with media and their MANIFEST.json")
    parser.add_argument("--models", type=Path, help="folder with standard-tier weights to use where an analyzer can")
    parser.add_argument("--only", help=f"some of {', '.join(_names())}; nothing is written then")
    parser.add_argument("--home", type=Path, help="keep what was analysed in this folder, and use it again")
    parser.add_argument("--output", type=Path, default=PAGE, help="where the page is written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
