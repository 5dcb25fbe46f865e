"""docs/scale.md: a part for libraries and one for vectors alone, each as it was measured last."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_TITLE = "# Scale\n\nWhat a large library costs."


@dataclass(frozen=True, slots=True)
class Part:
    """What is measured at several sizes."""

    title: str
    unit: str  # what the sizes count
    module: str  # measures one size in a process of its own
    command: str
    text: str

    def header(self, sizes: Sequence[int]) -> list[str]:
        return ["", "goal", *(f"{size:,} {self.unit}" for size in sizes), "growth", ""]


LIBRARY = Part(
    "A library",
    "media",
    "benchmarks._scale_one",
    "python -m benchmarks.scale",
    """\
The library is synthetic but written through the product's own storage code: per medium about 50 lines of text, 45
labels, 5 faces and 10 embedded passages, so 100,000 media are 10 million rows and 1.5 million vectors. Searched are a
million passages of 384 numbers, and of faces one vector of 128 per person and medium. Texts are drawn from a
vocabulary with German compounds by Zipf's law, vectors from mixtures. `growth` is the largest library against the
smallest: in proportion to the media at most, and for what should not grow (64 new media) at most twice, or a
tenth of a second. Recall is measured against comparing all vectors. "Warm" is a connection that has been asked before.

`python -m benchmarks.scale --quick` takes a minute; `--keep --home DIR` leaves the homes, to be measured again.""",
)
VECTORS = Part(
    "Vectors alone",
    "vectors",
    "benchmarks._scale_vectors",
    "python -m benchmarks.scale --vectors 1000000 10000000",
    """\
Vectors of 128 numbers, as those of faces: twenty sightings of each person, four in a medium, written into a table by
20,000 and then indexed at once, under the limit of memory that an index has where nothing else is set. Beyond what fits
into it in codes of one byte per number (SQ8) they are kept in half of that (SQ4). "Resident" counts what was looked at
of the mapped files, which the system takes back when memory is short.""",
)
PARTS = (LIBRARY, VECTORS)


def document(before: str, part: Part, sizes: Sequence[int], rows: Sequence[Sequence[str]]) -> str:
    """The text with this part measured anew; what it said of the other stays."""
    sections = dict(section.split("\n", 1) for section in before.split("\n## ")[1:])
    cells = [part.header(sizes), ["---", *["---:"] * (len(sizes) + 3)], *rows]
    lines = "\n".join("| " + " | ".join(row) + " |" for row in cells)
    sections[part.title] = f"""
Made by `{part.command} --docs docs/scale.md` on {datetime.now(UTC):%Y-%m-%d}, {platform.machine()},
{os.cpu_count()} cores, load over the last five minutes {os.getloadavg()[1]:.1f}.

{lines}

{part.text}
"""
    known = [f"## {p.title}\n\n{sections[p.title].strip()}" for p in PARTS if p.title in sections]
    return "\n\n".join([_TITLE, *known]) + "\n"
