"""Where analyzers run: what every such place gets and gives back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice, Options
from media_pipeline.errors import MediaPipelineError


@dataclass(frozen=True, slots=True)
class AnalyzerResult:
    """Rows or error of one medium, and its share of the time."""

    media_id: str
    rows: pa.Table | None
    error: MediaPipelineError | None
    seconds: float
    frames: int = 0  # that it was given
    audio_s: float = 0.0
    device: str = "cpu"  # that computed it: "cpu", or the name of a GPU


class Executor(Protocol):
    """Runs one analyzer over media. One call of `run` at a time."""

    def run(
        self, spec: AnalyzerSpec, choice: ModelChoice, options: Options, media: Iterable[Medium]
    ) -> Iterator[AnalyzerResult]:
        """Results as they complete, exactly one per medium, in any order. A medium that fails takes no other down.

        Memory is bounded, whatever the number of media: they are asked for as they can be taken.

        Raises:
            MediaPipelineError: nothing can be computed here, whatever the medium.
        """

    def unload(self) -> None:
        """Give the memory of all models back."""

    def close(self) -> None:
        """End what was started for it; may be called again."""


class Relay:
    """The executor that every analyzer holds: hands on to the one that is right at the moment.

    Args:
        here: this machine's, which is there whatever else is
    """

    def __init__(self, here: Executor) -> None:
        self.here = self.to = here

    def run(
        self, spec: AnalyzerSpec, choice: ModelChoice, options: Options, media: Iterable[Medium]
    ) -> Iterator[AnalyzerResult]:
        return self.to.run(spec, choice, options, media)

    def unload(self) -> None:
        self.to.unload()

    def close(self) -> None:
        self.here.close()
