"""One synthetic home, built and measured in a process of its own, so that its memory is its own; figures as JSON.

python -m benchmarks._scale_one MEDIA HOME OUT
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks._scale_home import build, folder_bytes
from benchmarks._scale_measures import Figure, measured, peak_memory
from media_pipeline.config import load_settings
from media_pipeline.execution.pipeline import Pipeline


def figures(media: int, home: Path, console: Console) -> Iterator[Figure]:
    """Builds the home where there is none, then measures it."""
    pipeline = Pipeline(load_settings(home=home, offline=True, tier="embedded", min_free_bytes=1))
    memory: dict[str, int] = {}
    with peak_memory(memory):
        if not pipeline.layout.warehouse.exists():  # comes last; what was cut off is built over
            began = time.monotonic()
            spent = build(pipeline, media, lambda text: console.print(f"  {text}"))
            yield Figure("building it", time.monotonic() - began, "s")
            for name, seconds in spent.items():
                yield Figure(f"… {name}", seconds, "s")
            yield Figure("memory of the building process, peak", memory["all"] / 1e6, "MB")
        memory.clear()
        yield from measured(pipeline, media)
    yield Figure("memory of the asking process, mapped files counted, peak", memory["all"] / 1e6, "MB")
    yield Figure("tables on disk", folder_bytes(pipeline.layout.tables) / 1e6, "MB")
    yield Figure("indexes on disk", folder_bytes(pipeline.layout.indexes) / 1e6, "MB")
    pipeline.close()


def collected(found: Iterator[Figure], out: Path) -> None:
    """Says each figure as it is measured, and writes all that there are until then."""
    console = Console(stderr=True)
    written: list[dict[str, object]] = []
    for figure in found:
        verdict = "" if figure.ok else "  MISSED"
        console.print(f"  {figure.name}: {figure.value:.3g} {figure.unit}{verdict}", highlight=False)
        written.append(asdict(figure))
        out.write_text(json.dumps(written))


if __name__ == "__main__":
    collected(figures(int(sys.argv[1]), Path(sys.argv[2]), Console(stderr=True)), Path(sys.argv[3]))
