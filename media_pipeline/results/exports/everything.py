"""JSON: everything that is known of a medium, in one document.

Rows are by view, in order of time, each on a line of its own; as newline-delimited JSON each medium is one line. What
the format promises is in `docs/exports.md`; its name changes with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa

from media_pipeline.execution.rows import by_medium
from media_pipeline.results.exports._document import Document
from media_pipeline.results.exports._library import Library, Portion, in_time
from media_pipeline.results.exports._values import row_as_json

FORMAT = "media-pipeline/1"
_ROW = "row_as_json"


class Everything:
    """One JSON document per medium.

    Args:
        lines: as newline-delimited JSON: a document is one line
    """

    suffix = ".json"

    def __init__(self, *, lines: bool = False) -> None:
        self._break = "" if lines else "\n"

    def documents(self, library: Library, portion: Portion) -> Iterator[Document]:
        """One per medium. The rows come out of DuckDB as JSON."""
        rows = {view: by_medium(_json_rows(library, view, portion)) for view in library.views}
        facts = rows.pop("media", {})
        for medium in portion.media:
            fact = facts[medium.media_id][_ROW][0].as_py() if medium.media_id in facts else None
            own = {view: found[medium.media_id][_ROW] for view, found in rows.items() if medium.media_id in found}
            yield Document(medium, self._pieces(medium.media_id, fact, list(rows), own))

    def _pieces(
        self, media_id: str, fact: str | None, views: list[str], rows: dict[str, pa.ChunkedArray]
    ) -> Iterator[str]:
        br = self._break
        yield f'{{"format": "{FORMAT}", "media_id": {json.dumps(media_id)},{br}'
        if fact is not None:
            yield f'"media": {fact},{br}'
        yield '"results": {'
        for number, view in enumerate(views):
            lines = rows[view].to_pylist() if view in rows else []
            yield f"{',' if number else ''}{br}{json.dumps(view)}: ["
            yield f"{br if lines else ''}{f',{br}'.join(lines)}]"
        yield f"{br}}}}}\n"


def _json_rows(library: Library, view: str, portion: Portion) -> pa.Table:
    """media_id and the row as a JSON object, media_id left out but of `media`."""
    schema = library.named_schema(view)
    kept = schema if view == "media" else pa.schema([field for field in schema if field.name != "media_id"])
    # Equal moments in the order of their text: the same home gives the same file, however many threads read it.
    return library.named(view, portion, f"media_id, {row_as_json(kept)} AS {_ROW}", f"{in_time(schema)}, {_ROW}")
