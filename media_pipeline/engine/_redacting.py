"""Taking words out of the texts of Dagster's tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as db
from sqlalchemy.engine import Connection

from media_pipeline.results._byte_scan import MIN_BYTES, Finder, Needle

ERASED = "erased"  # stands where a medium was named
ROWS_AT_ONCE = 500


class Redactor:
    """Replaces words in the texts of tables, also where they stand in JSON within JSON.

    Args:
        spared: partition keys that stay as they are also where a word is a part of them: they are made from the names
            of other media, and runs and events find their partition by them
    """

    def __init__(self, words: Iterable[str], spared: Iterable[str] = ()) -> None:
        forms = {form: None for word in words for form in _forms(word) if len(form.encode()) >= MIN_BYTES}
        # The longer first: a path contains the file's name.
        self._words = sorted(forms, key=lambda form: (-len(form), form))
        self._finder = Finder([Needle("word", word.encode()) for word in self._words])
        self._spared = sorted((key for key in spared if self.names(key)), key=len, reverse=True)

    def names(self, text: str | None) -> bool:
        """Whether one of the words stands in a text."""
        return text is not None and bool(self._finder.find(text.encode(errors="replace")))

    def rows(
        self, connection: Connection, table: db.Table, columns: Sequence[Any], where: Any = None
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Rows, by id, in whose text columns one of the words stands."""
        query = db.select(table.c.id, *columns).order_by(table.c.id).limit(ROWS_AT_ONCE)
        last = -1
        while True:
            found = connection.execute(
                query.where(table.c.id > last) if where is None else query.where(table.c.id > last, where)
            ).fetchall()
            if not found:
                return
            texts = [" ".join(str(value) for value in row[1:] if value is not None) for row in found]
            if self.names("\n".join(texts)):  # one look at many rows, since most of them name nobody
                for row, text in zip(found, texts, strict=True):
                    if self.names(text):
                        yield row[0], {column.name: row[n] for n, column in enumerate(columns, start=1)}
            last = found[-1][0]

    def clean(
        self, connection: Connection, table: db.Table, where: Any = None, stand_ins: Mapping[str, str] | None = None
    ) -> None:
        """Replaces the words in all texts of these rows: by their stand-ins, else by `ERASED`."""
        columns = [c for c in table.columns if isinstance(c.type, db.String) and c.name not in ("run_id", "status")]
        for number, row in list(self.rows(connection, table, columns, where)):
            values = {name: self._replaced(text, stand_ins or {}) for name, text in row.items() if self.names(text)}
            if values:
                connection.execute(table.update().where(table.c.id == number).values(values))

    def _replaced(self, text: str, stand_ins: Mapping[str, str]) -> str:
        for word, stand_in in stand_ins.items():
            text = text.replace(word, stand_in)
        for number, key in enumerate(self._spared):
            text = text.replace(key, f"\0{number}\0")
        for word in self._words:
            text = text.replace(word, ERASED)
        for number, key in enumerate(self._spared):
            text = text.replace(f"\0{number}\0", key)
        return text


def _forms(word: str) -> Iterator[str]:
    """A word as it stands in plain text, in JSON, and in JSON within JSON."""
    form = word
    for _ in range(3):
        yield form
        form = json.dumps(form)[1:-1]
