"""What an analyzer is.

One analyzer is one module of this package with a constant ``ANALYZER``; its name is also the name of its asset, its
table and its view. Third parties publish theirs under the entry-point group ``media_pipeline.analyzers``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, SecretStr

from media_pipeline.errors import ContractViolation

Image = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]


class Options(BaseModel):
    """Base of every analyzer's options; units are part of the names (``max_gap_s``, ``min_score``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model an analyzer will use here and now, decided before anything heavy is loaded."""

    name: str  # e.g. "PP-OCRv6 small", shown to users and stored in `analyses`
    tier: str  # "embedded" | "standard" | "gpu"
    digest: str  # sha256 over the weights: part of the fingerprint
    path: Path | None = None  # folder or file of the weights, where there is one
    warning: str | None = None  # said once per run, e.g. why a lower tier was taken
    secret: SecretStr | None = None  # opens the door of a model behind an address; never stored, never in the digest


class Frame(Protocol):
    """One sampled frame. Lazy: the picture is decoded when asked for, and never kept."""

    @property
    def frame_index(self) -> int: ...
    @property
    def pts_s(self) -> float: ...
    @property
    def scene_index(self) -> int: ...
    @property
    def width(self) -> int:
        """Displayed width in pixels: the coordinate system of every box, even where `image()` is smaller."""

    @property
    def height(self) -> int: ...
    def image(self) -> Image:
        """RGB uint8, shape (h, w, 3) with h <= height and w <= width (large frames are cached reduced)."""


class Audio(Protocol):
    """The sound of one medium: 16 kHz, mono, float32 in [-1, 1]."""

    @property
    def sample_rate(self) -> int:
        """Hz, always 16000."""

    @property
    def duration_s(self) -> float: ...
    @property
    def channels(self) -> int:
        """2 where left (0) and right (1) carry one voice each, as in a recorded call; else 1."""

    def blocks(self, seconds: float, channel: int | None = None) -> Iterator[Samples]:
        """The whole sound in order, in blocks of that length (the last one shorter): bounded memory.

        Without ``channel`` the mean of all channels.
        """

    def read(self, start_s: float, end_s: float, channel: int | None = None) -> Samples:
        """The span [start_s, end_s), clipped to the sound's length; without ``channel`` the mean of all channels."""


@dataclass(frozen=True, slots=True)
class Medium:
    """The inputs of one medium. What its analyzer did not name in ``needs`` is empty."""

    media_id: str
    kind: str  # "image" | "video" | "audio"
    frames: Iterable[Frame] = ()  # may be iterated any number of times
    audio: Audio | None = None  # None: the medium has no sound
    # Of every decoded video frame: pts_s float64, score float32 (PySceneDetect's content value). Empty for images, None
    # where the analyzer does not say that it `reads_scores`.
    frame_scores: pa.Table | None = None
    duration_s: float | None = None
    # Rows of the analyzers named in `needs`, and of the table `frames` where the analyzer `reads_frame_times`.
    rows: Mapping[str, pa.Table] = field(default_factory=dict)

    @property
    def frame_count(self) -> int:
        """0 where that is not known without looking."""
        return len(self.frames) if isinstance(self.frames, Sized) else 0

    @property
    def audio_s(self) -> float:
        return self.audio.duration_s if self.audio is not None else 0.0


Batch = tuple[Medium, ...]

_PSEUDO_INPUTS = ("frames", "audio")


@dataclass(frozen=True, slots=True)
class AnalyzerSpec:
    """The contract of an analyzer.

    ``choose`` decides on a model without loading it and raises ``ModelUnavailable`` with the remedy; ``load`` is the
    only impure part, runs once per worker and raises the same where the model cannot be opened; ``run`` is pure and
    returns exactly ``schema``. ``run`` may be called from several threads at once with one model. A batch that fails is
    run again medium by medium, so that only the guilty one fails.
    """

    name: str
    version: str  # bump when the output may change
    needs: tuple[str, ...]  # "frames" | "audio" | names of other analyzers
    schema: pa.Schema  # exactly what run() returns; first column media_id; units in field metadata
    options: type[Options]
    choose: Callable[[Any, Any], ModelChoice]  # (options, ModelStore)
    load: Callable[[ModelChoice, str, Any], Any]  # (choice, "cpu" | "cuda", options) -> model
    run: Callable[[Any, Batch, Any], pa.Table]  # (model, batch, options)
    description: str
    kinds: frozenset[str] = frozenset({"image", "video", "audio"})  # media it says anything about
    batch_media: int = 1  # media per call of run()
    # A few words on one medium's rows for people: first lines, counts. Markdown, at most a few hundred characters.
    preview: Callable[[pa.Table], str] | None = None
    compute_kind: str = "python"  # shown as the asset's kind
    # Why one medium's rows are good but not all that was asked for (a server did not answer); None: nothing is
    # missing. Such a result stands, with the reason in `analyses`, and `--retry-failed` makes it again.
    incomplete: Callable[[pa.Table], str | None] | None = None
    # Whether, with this model, what `load` opens for the device "cuda" computes on the GPU; None: it never does.
    uses_gpu: Callable[[ModelChoice], bool] | None = None
    reads_scores: bool = False  # whether run() reads `Medium.frame_scores`, which never leave this machine
    # Whether run() gets the rows of the table `frames`: when frames were sampled, with nothing decoded for it.
    reads_frame_times: bool = False
    gpu_batch_media: int | None = None  # media per call of run() on a GPU, where more is quicker; None: as everywhere

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise ContractViolation(f"analyzer name {self.name!r} is not a lower-case identifier")
        if not self.schema.names or self.schema.names[0] != "media_id":
            raise ContractViolation(f"{self.name}: the first column is {self.schema.names[:1]}, not media_id")

    @property
    def upstream_analyzers(self) -> tuple[str, ...]:
        return tuple(n for n in self.needs if n not in _PSEUDO_INPUTS)

    def fingerprint(self, choice: ModelChoice, options: Options) -> str:
        """16 hex digits that change when the output may: name, version, weights, options."""
        parts = [self.name, self.version, choice.name, choice.digest, options.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def check(self, table: pa.Table, media_ids: set[str]) -> None:
        """The declared schema is the returned schema, for the media that were asked for.

        Raises:
            ContractViolation: says what came and what was promised.
        """
        if not table.schema.equals(self.schema, check_metadata=False):
            raise ContractViolation(f"{self.name} returned {table.schema.names}, declared {self.schema.names}")
        foreign = set(table.column("media_id").unique().to_pylist()) - media_ids
        if foreign:
            raise ContractViolation(f"{self.name} returned rows of media nobody asked for: {sorted(foreign)[:3]}")
