"""The words of all media: a full-text index in SQLite (FTS5), ranked by BM25 (Robertson and Zaragoza 2009).

Two indexes over the same passages: one of words, asked by their beginnings, so that "Rechnung" finds
"Rechnungsnummer"; and one of trigrams, so that "Nummer" does too, which German needs. Both hold a text without accents
and, where it has umlauts, once more with them spelt out: "Müller", "Muller" and "Mueller" are one word to a searcher.

The index follows the tables' files: these never change, so only media in files that came or went can have changed. It
is a cache: missing or damaged, it is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa
from filelock import FileLock

from media_pipeline.storage._files import media_in
from media_pipeline.storage._folding import (
    INSIDE,
    MIN_INSIDE_CHARS,
    MIN_PREFIX_CHARS,
    Term,
    Word,
    answer,
    parse_query,
    words,
)
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sqlite import Database, chunks, marks
from media_pipeline.storage.tables import Tables

log = logging.getLogger(__name__)

T = TypeVar("T")

CANDIDATES = 300  # passages per index that are looked at closely
_VERSION = 1  # also when folding or the cutting of passages changes: deleting from FTS5 needs the text as it went in

_DDL = """
CREATE TABLE IF NOT EXISTS file(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);  -- "<table>/<Parquet file>"
CREATE TABLE IF NOT EXISTS medium(id INTEGER PRIMARY KEY, media_id TEXT UNIQUE NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS lies_in(
    file INTEGER NOT NULL, medium INTEGER NOT NULL, PRIMARY KEY (file, medium)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passage(
    id INTEGER PRIMARY KEY, medium INTEGER NOT NULL, source TEXT NOT NULL, row_index INTEGER NOT NULL, pts_s REAL,
    text TEXT NOT NULL, marks TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS passage_medium ON passage(medium);
CREATE VIRTUAL TABLE IF NOT EXISTS whole USING fts5(plain, spelt, content='', tokenize='unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE IF NOT EXISTS inside USING fts5(plain, spelt, content='', tokenize='trigram');
"""


class Document(Protocol):
    """A passage of a medium's text."""

    @property
    def source(self) -> str: ...
    @property
    def row_index(self) -> int: ...
    @property
    def pts_s(self) -> float | None: ...
    @property
    def text(self) -> str: ...
    @property
    def marks(self) -> Sequence[tuple[int, float | None]]:
        """(offset in text, pts_s), ascending, where parts of the text have moments of their own."""


@dataclass(frozen=True, slots=True)
class WordHit:
    media_id: str
    source: str
    row_index: int
    pts_s: float | None  # seconds, of the part in which the first word was found
    text: str
    spans: tuple[tuple[int, int], ...]  # of the words in `text`, half-open, ascending
    score: float  # share of the query's words that were found, [0, 1]; parts of words count for less


class WordIndex:
    """The word index of one home. Threads and processes may refresh and search at once.

    Args:
        sources: the columns to read of each table
        documents: passages of one medium from its rows of these tables, deterministic
    """

    def __init__(
        self,
        tables: Tables,
        layout: Layout,
        sources: Mapping[str, Sequence[str]],
        documents: Callable[[Mapping[str, pa.Table]], Iterable[Document]],
    ) -> None:
        self._tables = tables
        self._sources = sources
        self._documents = documents
        self._path = layout.indexes / f"words-{_VERSION}.sqlite"
        self._lock_path = layout.locks / "index-words.lock"
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._lock_path, fallback_to_soft=False, poll_interval=0.01)
        self._opened: Database | None = None

    def search(self, query: str, k: int) -> list[WordHit]:
        """The passages with most of the query's words, best first. The index is brought up to date first.

        Words in quotes must stand in the text as they are. Nothing else in the query has a meaning of its own.
        """
        terms = parse_query(query)
        if not terms:
            return []
        self.refresh()
        return self._mending(lambda: self._search(terms, k))

    def refresh(self) -> int:
        """Brings the index up to date with the tables; the number of media that changed.

        Raises:
            DiskFull, StorageConflict: the index is as it was.
        """
        if self._mending(lambda: self._differences() == (set(), set())):
            return 0
        with self._lock:
            return self._mending(self._update)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    # ------------------------------------------------------------------ keeping up

    def _differences(self) -> tuple[set[str], set[str]]:
        """Files that came and files that went since the index was written."""
        current = {f"{t}/{Path(path).name}" for t in self._sources for path in self._tables.files(t)}
        known = {name for (name,) in self._db().query("SELECT name FROM file")}
        return current - known, known - current

    def _update(self) -> int:
        came, went = self._differences()
        paths = {f"{t}/{Path(path).name}": path for t in self._sources for path in self._tables.files(t)}
        holds = {name: sorted(media_in(Path(paths[name]))) for name in sorted(came & paths.keys())}
        changed = 0
        with self._db().write() as db:
            gone = _ids(db, "file", "name", sorted(went))
            touched = {media_id for held in holds.values() for media_id in held} | _media_of(db, list(gone.values()))
            for chunk in chunks(sorted(touched)):
                changed += self._replace(db, chunk)
            for number in gone.values():
                db.execute("DELETE FROM lies_in WHERE file = ?", (number,))
                db.execute("DELETE FROM file WHERE id = ?", (number,))
            for name, held in holds.items():
                file = db.execute("INSERT INTO file(name) VALUES (?)", (name,)).lastrowid
                known = _ids(db, "medium", "media_id", held)
                db.executemany("INSERT INTO lies_in VALUES (?, ?)", [(file, medium) for medium in known.values()])
            db.execute("DELETE FROM medium WHERE id NOT IN (SELECT medium FROM lies_in)")
        return changed

    def _replace(self, db: sqlite3.Connection, media_ids: Sequence[str]) -> int:
        """Writes the passages of these media anew where they differ."""
        rows = {name: _per_medium(self._read(name, media_ids)) for name in self._sources if self._tables.exists(name)}
        known = {
            media_id: (number, digest)
            for number, media_id, digest in db.execute(
                f"SELECT id, media_id, digest FROM medium WHERE media_id IN ({marks(media_ids)})",  # noqa: S608
                media_ids,
            )
        }
        changed = 0
        for media_id in media_ids:
            mine = {name: tables[media_id] for name, tables in rows.items() if media_id in tables}
            records = [(d.source, d.row_index, d.pts_s, d.text, json.dumps(d.marks)) for d in self._documents(mine)]
            digest = hashlib.blake2b(repr(records).encode(), digest_size=16).digest()
            number, before = known.get(media_id, (None, None))
            if digest != before:
                _write(db, media_id, number, digest, records)
                changed += 1
        return changed

    def _read(self, name: str, media_ids: Sequence[str]) -> pa.Table:
        there = self._tables.schema(name).names
        return self._tables.read(name, media_ids, [c for c in ("media_id", *self._sources[name]) if c in there])

    # ------------------------------------------------------------------ asking

    def _search(self, terms: Sequence[Term], k: int) -> list[WordHit]:
        order: dict[int, int] = {}
        for index, expression in (("whole", _whole(terms)), ("inside", _inside(terms))):
            for number in self._candidates(index, expression):
                order.setdefault(number, len(order))
        found = []
        for numbers in chunks([str(number) for number in order]):
            rows = self._db().query(
                "SELECT passage.id, media_id, source, row_index, pts_s, text, marks FROM passage"  # noqa: S608
                f" JOIN medium ON medium.id = passage.medium WHERE passage.id IN ({marks(numbers)})",
                numbers,
            )
            found += [(hit, order[number]) for number, *row in rows if (hit := _hit(terms, *row)) is not None]
        found.sort(key=lambda pair: (-pair[0].score, pair[1]))
        return [hit for hit, _ in found[:k]]

    def _candidates(self, index: str, expression: str) -> list[int]:
        if not expression:
            return []
        sql = f"SELECT rowid FROM {index} WHERE {index} MATCH ? ORDER BY rank LIMIT {CANDIDATES}"  # noqa: S608
        return [number for (number,) in self._db().query(sql, (expression,))]

    # ------------------------------------------------------------------ the file

    def _db(self) -> Database:
        if self._opened is None:
            self._opened = Database(self._path, _DDL, version=_VERSION)
        return self._opened

    def _mending(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:  # malformed, or no database at all
            log.warning("the index %s is damaged and is made again: %s", self._path.name, error)
        with self._lock:
            self._discard()
            self._update()
        return work()

    def _discard(self) -> None:
        self.close()
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink(missing_ok=True)


def _whole(terms: Sequence[Term]) -> str:
    """The FTS5 expression over words. Words are letters and digits only and stand in quotes: no syntax gets through."""
    phrases = [_either(_phrase(t.words, "plain"), _phrase(t.words, "spelt")) for t in terms if t.quoted]
    if phrases:
        return " AND ".join(phrases)
    return " OR ".join(_either(_beginning(t.words[0].plain), _beginning(t.words[0].spelt)) for t in terms)


def _inside(terms: Sequence[Term]) -> str:
    if any(term.quoted for term in terms):
        return ""
    asked = [term.words[0] for term in terms if len(term.words[0].plain) >= MIN_INSIDE_CHARS]
    return " OR ".join(_either(f'"{word.plain}"', f'"{word.spelt}"') for word in asked)


def _phrase(asked: Sequence[Word], form: str) -> str:
    return '"' + " ".join(getattr(word, form) for word in asked) + '"'


def _beginning(word: str) -> str:
    return f'"{word}" *' if len(word) >= MIN_PREFIX_CHARS else f'"{word}"'


def _either(a: str, b: str) -> str:
    return a if a == b else f"({a} OR {b})"


def _hit(
    terms: Sequence[Term], media_id: str, source: str, row_index: int, pts_s: float | None, text: str, places: str
) -> WordHit | None:
    """The passage as a hit, if it has all quoted phrases and at least half of the query's words.

    A word that stands only inside another one is half a word: "sign" in "Assignee" answers no question of two words.
    """
    here = words(text)
    answers = [(term, *answer(term, here)) for term in terms]
    if any(term.quoted and not grade for term, grade, _ in answers):
        return None
    if sum(2 if grade > INSIDE else 1 for _, grade, _ in answers if grade) < len(terms):
        return None
    spans = tuple(sorted({(word.start, word.end) for _, _, found in answers for word in found}))
    for offset, moment in json.loads(places):
        if offset <= spans[0][0]:
            pts_s = moment
    score = sum(grade for _, grade, _ in answers) / len(terms)
    return WordHit(media_id, source, row_index, pts_s, text, spans, score)


def _write(
    db: sqlite3.Connection, media_id: str, number: int | None, digest: bytes, records: Sequence[tuple[object, ...]]
) -> None:
    if number is None:
        number = db.execute("INSERT INTO medium(media_id, digest) VALUES (?, ?)", (media_id, digest)).lastrowid
    else:
        for passage, text in db.execute("SELECT id, text FROM passage WHERE medium = ?", (number,)).fetchall():
            for index in ("whole", "inside"):
                sql = f"INSERT INTO {index}({index}, rowid, plain, spelt) VALUES ('delete', ?, ?, ?)"  # noqa: S608
                db.execute(sql, (passage, *_forms(text)))
        db.execute("DELETE FROM passage WHERE medium = ?", (number,))
        db.execute("UPDATE medium SET digest = ? WHERE id = ?", (digest, number))
    for source, row_index, pts_s, text, places in records:
        sql = "INSERT INTO passage(medium, source, row_index, pts_s, text, marks) VALUES (?, ?, ?, ?, ?, ?)"
        passage = db.execute(sql, (number, source, row_index, pts_s, text, places)).lastrowid
        for index in ("whole", "inside"):
            sql = f"INSERT INTO {index}(rowid, plain, spelt) VALUES (?, ?, ?)"  # noqa: S608
            db.execute(sql, (passage, *_forms(str(text))))


def _forms(text: str) -> tuple[str, str]:
    """The text's words without accents and, where that differs, with umlauts spelt out."""
    here = words(text)
    plain, spelt = " ".join(w.plain for w in here), " ".join(w.spelt for w in here)
    return plain, spelt if spelt != plain else ""


def _ids(db: sqlite3.Connection, table: str, column: str, values: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for chunk in chunks(values):
        sql = f"SELECT {column}, id FROM {table} WHERE {column} IN ({marks(chunk)})"  # noqa: S608
        found.update(db.execute(sql, chunk).fetchall())
    return found


def _media_of(db: sqlite3.Connection, files: Sequence[int]) -> set[str]:
    sql = "SELECT media_id FROM lies_in JOIN medium ON medium.id = lies_in.medium WHERE file = ?"
    return {media_id for file in files for (media_id,) in db.execute(sql, (file,))}


def _per_medium(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each medium, from a table sorted by media_id."""
    found, start = {}, 0
    for media_id, rows in groupby(_values(table["media_id"])):
        length = sum(1 for _ in rows)
        found[media_id] = table.slice(start, length)
        start += length
    return found


def _values(column: pa.ChunkedArray) -> Iterator[str]:
    for chunk in column.chunks:
        yield from chunk.to_pylist()
