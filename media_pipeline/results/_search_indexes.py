"""The vector indexes of a home, kept open: a process that asks often maps each into memory once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from media_pipeline.config import IndexLimits
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Neighbour, Space, VectorIndex, dimension_of

_SPACES = 4  # text, image, face, voice


@dataclass(frozen=True, slots=True)
class Look:
    """How far a list is read, and in which media."""

    depth: int  # moments at most
    within: Collection[str] | None = None  # only these media; None for all
    without: frozenset[str] = frozenset()  # not these


@dataclass(frozen=True, slots=True)
class Near:
    """What one look finds."""

    hits: list[Neighbour]  # nearest first
    is_cut: bool  # whether there may be more of them


Reading = Callable[[Look], Near]


def nothing(_: Look) -> Near:
    return Near([], is_cut=False)


def nearest(
    index: VectorIndex,
    vectors: npt.NDArray[np.float32],
    look: Look,
    columns: Sequence[str],
    floors: Sequence[float] | None = None,
) -> Near:
    """The rows near to any of these vectors, shape (n, dimension), with a score of the vector's floor at least."""
    found = [
        index.search(vector, look.depth, columns, look.within, without=look.without, at_least=floor)
        for vector, floor in zip(vectors, floors or [-math.inf] * len(vectors), strict=True)
    ]
    hits = sorted((hit for near in found for hit in near), key=lambda hit: -hit.score)
    return Near(hits, any(len(near) >= look.depth for near in found))


@lru_cache(maxsize=_SPACES)
def index_of(tables: Tables, layout: Layout, space: Space, limits: IndexLimits) -> VectorIndex:
    """The index of one space; it keeps up with its table by itself."""
    return VectorIndex(tables, layout, space, limits)


def discard_index(tables: Tables, layout: Layout, name: str, table: str) -> None:
    """Removes the index of a space that has no vectors any more, or erased ones would live on in it."""
    VectorIndex(tables, layout, Space(name, table, "", 1)).discard()


@lru_cache(maxsize=_SPACES)
def dimension_in(tables: Tables, table: str, model: str) -> int:
    """How many numbers the vectors of a model have that the table has rows of.

    Raises:
        LookupError: it has none that are not null.
    """
    dimension = dimension_of(tables, table, model)
    if dimension is None:
        raise LookupError(f"no vectors of {model} in {table}")
    return dimension
