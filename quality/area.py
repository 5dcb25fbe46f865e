"""What an area of quality is: one class that says what it needs and yields measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from quality.collection import Collection
from quality.home import Home, Options
from quality.report import Measurement


@dataclass(slots=True)
class Bench:
    """What an area measures with."""

    collection: Collection
    home: Home  # the whole collection, analysed with everything as it comes
    scratch: Path  # an empty folder for media made by an area
    options: Options = field(default_factory=dict)  # of the analysis of `home`

    def extra_home(self, name: str, media: Path, env: Mapping[str, str] | None = None) -> Home:
        """Another home, for media or settings of an area's own; nothing of it reaches the first."""
        return Home(self.scratch / name, media, env)


class Area(Protocol):
    """One class per area; listed in `quality.run.AREAS`."""

    @property
    def name(self) -> str:
        """What `--only` takes."""

    @property
    def analyzers(self) -> tuple[str, ...]:
        """Whose results it reads; where one has none the area is not measured."""

    def measure(self, bench: Bench) -> Iterator[Measurement]: ...
