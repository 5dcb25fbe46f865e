"""How the product behaves in a large library: synthetic homes, built through the storage code and measured.

python -m benchmarks.scale [--media 10000 100000] [--home DIR] [--keep] [--quick] [--docs docs/scale.md]
python -m benchmarks.scale --vectors 1000000 10000000 [--home DIR] [--docs docs/scale.md]

100,000 media take some ten minutes on two cores and 12 GB of disk, ten million vectors about as much. See
`_scale_data.py` for what the library is like, `_scale_vectors.py` for the vectors alone. A run replaces in the
documentation the part that it has measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks._scale_document import LIBRARY, VECTORS, Part, document
from benchmarks._scale_measures import Figure

SIZES = (10_000, 100_000)
QUICK = (1_000,)
# Beyond proportion, or for what should not grow at all: twice is noise, most of all in milliseconds.
TOLERANCE = 1.5
CONSTANT = 2.0
_NEGLIGIBLE_S = 0.1  # what should not grow and is below that
_COSTS = ("ms", "s")

Figures = Mapping[str, Figure]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=int, nargs="+", default=list(SIZES), help="sizes of the libraries, ascending")
    parser.add_argument("--vectors", type=int, nargs="+", help="instead of libraries: so many vectors alone, ascending")
    parser.add_argument("--home", type=Path, help="folder for the homes; a temporary one if not given")
    parser.add_argument("--keep", action="store_true", help="leave the homes there; the next run measures them again")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} media only")
    parser.add_argument("--docs", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    sizes = sorted(arguments.vectors or (QUICK if arguments.quick else arguments.media))
    part = VECTORS if arguments.vectors else LIBRARY
    root = arguments.home or Path(tempfile.mkdtemp(prefix="media-pipeline-scale-"))
    root.mkdir(parents=True, exist_ok=True)
    try:
        found = [measure(part, size, root, keep=arguments.keep) for size in sizes]
    finally:
        if not arguments.home:
            shutil.rmtree(root, ignore_errors=True)
    rows = table_rows(sizes, found)
    Console().print(_shown(part, sizes, rows))
    if arguments.docs:
        before = arguments.docs.read_text() if arguments.docs.exists() else ""
        arguments.docs.write_text(document(before, part, sizes, rows))
    sys.exit(any("MISSED" in row for row in rows))


def measure(part: Part, size: int, root: Path, *, keep: bool) -> Figures:
    """The figures of a library of this size, by name without the numbers in it."""
    home, out = root / f"home-{part.unit}-{size}", root / f"figures-{part.unit}-{size}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", part.module, str(size), str(home), str(out)]
    try:
        subprocess.run(command, check=True)
        figures = [Figure(**figure) for figure in json.loads(out.read_text())]
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
    return {_key(figure.name): figure for figure in figures}


def _key(name: str) -> str:
    return name.partition(":")[0] if not name.startswith("SQL") and any(c.isdigit() for c in name) else name


def table_rows(sizes: Sequence[int], found: Sequence[Figures]) -> list[list[str]]:
    """One row per figure: name, goal, values, growth, verdict."""
    rows = []
    for key in dict.fromkeys(key for figures in found for key in figures):
        present = [figures.get(key) for figures in found]
        figure = next(f for f in reversed(present) if f is not None)
        growth, grown_too_much = _growth(sizes, present)
        missed = grown_too_much or not all(f.ok for f in present if f is not None)
        verdict = "MISSED" if missed else "ok" if figure.at_most is not None or figure.at_least is not None else ""
        rows.append([figure.name, _goal(figure), *(_value(f) for f in present), growth, verdict])
    return rows


def _growth(sizes: Sequence[int], present: Sequence[Figure | None]) -> tuple[str, bool]:
    """How many times as much the largest library costs as the smallest, and whether that is too much."""
    first, last = present[0], present[-1]
    if len(sizes) < 2 or first is None or last is None or last.unit not in _COSTS or first.value <= 0:
        return "", False
    factor = last.value / first.value
    if last.constant:
        seconds = last.value / (1000 if last.unit == "ms" else 1)
        return f"x {factor:.1f}", factor > CONSTANT and seconds > _NEGLIGIBLE_S
    return f"x {factor:.1f}", factor > TOLERANCE * sizes[-1] / sizes[0]


def _goal(figure: Figure) -> str:
    if figure.at_most is not None:
        return f"≤ {figure.at_most:g} {figure.unit}".strip()
    return f"≥ {figure.at_least:g}" if figure.at_least is not None else ""


def _value(figure: Figure | None) -> str:
    if figure is None:
        return ""
    number = f"{figure.value:.3g}" if figure.value < 1000 else f"{figure.value:,.0f}"
    return f"{number} {figure.unit}".strip()


def _shown(part: Part, sizes: Sequence[int], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=f"Synthetic {part.unit}")
    for number, name in enumerate(part.header(sizes)):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row, style="red" if row[-1] == "MISSED" else None)
    return table


if __name__ == "__main__":
    main()
