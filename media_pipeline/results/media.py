"""Which medium is meant: what people type is a media_id, the beginning of one, or a partition key."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.errors import UsageError
from media_pipeline.storage.tables import Tables

SHORTEST = 8  # digits of a media_id; fewer are a slip of the finger rather than a name


def resolve(tables: Tables, given: str) -> str:
    """The media_id of what a person typed.

    Args:
        given: media_id, the first 8 digits of it or more, or partition key

    Raises:
        UsageError: there is no such medium, or several.
    """
    return resolve_all(tables, [given])[0]


def resolve_all(tables: Tables, given: Sequence[str]) -> list[str]:
    """`resolve` of each, in the order given; the table is read once, and no medium of it becomes a Python object."""
    known = _known(tables)
    wanted = pa.array(given, pa.string())
    found: list[str | None] = [None] * len(given)
    for column in ("partition_key", "media_id"):
        at = pc.index_in(wanted, value_set=known[column], skip_nulls=True)
        for number, media_id in enumerate(known["media_id"].take(at).to_pylist()):
            found[number] = media_id or found[number]
    return [media_id or _beginning_with(known, text) for media_id, text in zip(found, given, strict=True)]


def _known(tables: Tables) -> pa.Table:
    columns = {"media_id": pa.string(), "partition_key": pa.string()}
    if not tables.exists("media"):
        return pa.schema(columns).empty_table()
    return tables.read("media", columns=list(columns)).combine_chunks()


def _beginning_with(known: pa.Table, given: str) -> str:
    if len(given) >= SHORTEST:
        fits = pc.starts_with(known["media_id"], given.lower())
        ids = known["media_id"].filter(fits)
        if len(ids) == 1:
            return str(ids[0].as_py())
        if len(ids):
            raise UsageError(f"{len(ids)} media begin with {given}", "give more digits")
    raise UsageError(
        f"no medium is called {given!r}", "give a media_id, eight digits of it at least, or a partition key"
    )
