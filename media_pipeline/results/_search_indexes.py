"""The vector indexes of a home, kept open: a process that asks often maps each into memory once."""

from __future__ import annotations

from functools import lru_cache

from media_pipeline.config import IndexLimits
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables
from media_pipeline.storage.vectors import Space, VectorIndex, dimension_of

_SPACES = 4  # text, image, face, voice


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
