"""What a stage says about each medium of a batch. Dagster turns it into events, the ledger into rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["done", "failed", "unavailable", "blocked"]


@dataclass(frozen=True, slots=True)
class StageInfo:
    """One asset of the graph."""

    name: str
    needs: tuple[str, ...]  # names of stages
    code_version: str
    description: str
    group: str  # intake | analysis
    kinds: tuple[str, ...] = ()  # shown on the asset: "onnx", "pyav" …


@dataclass(frozen=True, slots=True)
class Outcome:
    """One medium in one stage.

    `blocked`: something it needs failed, so it was not tried; the cause is with that other stage.
    `current`: the ledger already had this very result, nothing was computed.
    `restored`: it was made before, superseded, kept, and now put back; nothing was computed either.
    """

    media_id: str
    partition_key: str
    status: Status
    fingerprint: str
    reason: str | None = None  # null when done
    rows: int = 0
    seconds: float = 0.0
    device: str = "cpu"
    model: str | None = None
    tier: str | None = None
    warning: str | None = None  # of the model: why a lower tier was taken
    current: bool = False
    restored: bool = False
    preview: str | None = None  # Markdown for people, a few hundred characters
    thumbnail_jpeg: bytes | None = None  # a few KB, never more
    details: dict[str, Any] = field(default_factory=dict)  # small scalars worth showing
