"""The words of all media: a full-text index in SQLite (FTS5), ranked by BM25 (Robertson and Zaragoza 2009).

Passages are found by their words, asked by their beginnings, so that "Rechnung" finds "Rechnungsnummer". That "Nummer"
does too, which German needs, takes a second index, of the trigrams of all different words: it says in which of them
"nummer" stands, and passages are asked for these. A text is held without accents and, where it has umlauts, once more
with them spelt out: "Müller", "Muller" and "Mueller" are one word to a searcher.

The index follows the tables' files: these never change, so only media in files that came or went can have changed. A
file at a time is one transaction: what is cut off goes on where it stopped. The index is a cache: missing or damaged,
it is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa
from filelock import FileLock

from media_pipeline.storage._folding import INSIDE, MIN_INSIDE_CHARS, PREFIX, Term, parse_query, words
from media_pipeline.storage._media_index import media_in
from media_pipeline.storage._word_query import WordHit, hit_of, inside, whole
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sqlite import Database, chunks, compact, marks
from media_pipeline.storage.tables import Tables

log = logging.getLogger(__name__)

T = TypeVar("T")

CANDIDATES = 300  # passages that are looked at closely, of each way to ask; more where more are wanted
_RANKED = 10_000  # passages that are ranked
_FORMS = 200  # words in which a part of a word is looked for
_VERSION = 3  # also when folding or the cutting of passages changes: deleting from FTS5 needs the text as it went in

_DDL = """
CREATE TABLE IF NOT EXISTS file(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);  -- "<table>/<Parquet file>"
CREATE TABLE IF NOT EXISTS medium(id INTEGER PRIMARY KEY, media_id TEXT UNIQUE NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS lies_in(
    file INTEGER NOT NULL, medium INTEGER NOT NULL, PRIMARY KEY (file, medium)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lies_in_medium ON lies_in(medium);
CREATE TABLE IF NOT EXISTS passage(
    id INTEGER PRIMARY KEY, medium INTEGER NOT NULL, source TEXT NOT NULL, row_index INTEGER NOT NULL, pts_s REAL,
    text TEXT NOT NULL, marks TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS passage_medium ON passage(medium);
CREATE VIRTUAL TABLE IF NOT EXISTS whole USING fts5(plain, spelt, content='', tokenize='unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE IF NOT EXISTS vocabulary USING fts5vocab(whole, row);
CREATE TABLE IF NOT EXISTS term(id INTEGER PRIMARY KEY, word TEXT UNIQUE NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS inside USING fts5(word, content='term', content_rowid='id', tokenize='trigram');
"""


# One parameter, however many media.
_PASSAGES_OF = """
SELECT passage.id FROM passage JOIN medium ON medium.id = passage.medium
WHERE media_id IN (SELECT value FROM json_each(?))
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
class _Chosen:
    media_ids: Collection[str] | None  # None for all
    without: Collection[str]


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

    def search(
        self, query: str, k: int, media_ids: Collection[str] | None = None, *, without: Collection[str] = ()
    ) -> list[WordHit]:
        """The passages with most of the query's words, best first. The index is brought up to date first.

        Words in quotes must stand in the text as they are. Nothing else in the query has a meaning of its own.

        Args:
            media_ids: only passages of these media; None for all
            without: no passages of these media
        """
        terms = parse_query(query)
        if not terms:
            return []
        self.refresh()
        return self._mending(lambda: self._search(terms, k, _Chosen(media_ids, without)))

    def refresh(self) -> int:
        """Brings the index up to date with the tables; the number of media that changed.

        Raises:
            DiskFull, StorageConflict: the index is as it was.
        """
        if self._mending(lambda: self._differences() == (set(), set())):
            return 0
        with self._lock:
            return self._mending(self._update)

    def purge(self) -> None:
        """Brings the index up to date and clears what deleted passages left in it and in its file."""
        for path in self._path.parent.glob("words-*.sqlite*"):
            if not path.name.startswith(self._path.name):  # of another version of this program: nobody keeps it up
                path.unlink(missing_ok=True)
        if not self._path.exists():
            return
        self.refresh()
        with self._lock:
            with self._db().write() as db:
                # Deleting from FTS5 only adds a mark; merging everything removes what it stands for.
                db.execute("INSERT INTO whole(whole) VALUES ('optimize')")
                unused = "FROM term WHERE word NOT IN (SELECT term FROM vocabulary)"
                db.execute(f"INSERT INTO inside(inside, rowid, word) SELECT 'delete', id, word {unused}")
                db.execute(f"DELETE {unused}")
                db.execute("INSERT INTO inside(inside) VALUES ('optimize')")
            compact(self._path)

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
        done: set[str] = set()
        changed = 0
        for name in sorted(came & paths.keys()):
            changed += self._take(name, sorted(media_in(Path(paths[name]))), done)
        if went:
            changed += self._drop(sorted(went), done)
        return changed

    def _take(self, name: str, held: Sequence[str], done: set[str]) -> int:
        """A file that came. Its media are read together: in the other tables they mostly lie together too."""
        changed = 0
        with self._db().write() as db:
            for chunk in chunks([media_id for media_id in held if media_id not in done]):
                changed += self._replace(db, chunk)
            file = db.execute("INSERT INTO file(name) VALUES (?)", (name,)).lastrowid
            known = _ids(db, "medium", "media_id", held)
            db.executemany("INSERT INTO lies_in VALUES (?, ?)", [(file, medium) for medium in known.values()])
        done.update(held)
        return changed

    def _drop(self, names: Sequence[str], done: set[str]) -> int:
        """Files that went, and with them media that lie in no other."""
        changed = 0
        with self._db().write() as db:
            gone = _ids(db, "file", "name", names)
            touched = _media_of(db, list(gone.values()))
            for chunk in chunks(sorted(touched - done)):
                changed += self._replace(db, chunk)
            for number in gone.values():
                db.execute("DELETE FROM lies_in WHERE file = ?", (number,))
                db.execute("DELETE FROM file WHERE id = ?", (number,))
            for chunk in chunks(sorted(touched)):
                db.execute(
                    f"DELETE FROM medium WHERE media_id IN ({marks(chunk)})"  # noqa: S608
                    " AND NOT EXISTS (SELECT 1 FROM lies_in WHERE lies_in.medium = medium.id)",
                    chunk,
                )
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
        changed, seen = 0, set[str]()
        for media_id in media_ids:
            mine = {name: tables[media_id] for name, tables in rows.items() if media_id in tables}
            records = [(d.source, d.row_index, d.pts_s, d.text, json.dumps(d.marks)) for d in self._documents(mine)]
            digest = hashlib.blake2b(repr(records).encode(), digest_size=16).digest()
            number, before = known.get(media_id, (None, None))
            if digest != before:
                seen |= _write(db, media_id, number, digest, records)
                changed += 1
        _learn(db, sorted(seen))
        return changed

    def _read(self, name: str, media_ids: Sequence[str]) -> pa.Table:
        there = self._tables.schema(name).names
        return self._tables.read(name, media_ids, [c for c in ("media_id", *self._sources[name]) if c in there])

    # ------------------------------------------------------------------ asking

    def _search(self, terms: Sequence[Term], k: int, chosen: _Chosen) -> list[WordHit]:
        looked_at: set[int] = set()
        found: list[tuple[float, int, WordHit]] = []
        # The next look finds nothing that scores higher than this: with k hits as good it is not worth its time.
        looks: tuple[tuple[Callable[[], str], float], ...] = (
            (lambda: whole(terms, " AND "), 1.0),
            (lambda: whole(terms, " OR ") if len(terms) > 1 else "", PREFIX),
            (lambda: inside(terms, self._words_with), INSIDE),
        )
        for expression, best in looks:
            if len(found) >= k and found[k - 1][0] <= -best:
                break
            numbers = [n for n in self._candidates(expression(), max(CANDIDATES, k), chosen) if n not in looked_at]
            hits = self._hits(terms, numbers)
            found += [(-hits[n].score, len(looked_at) + at, hits[n]) for at, n in enumerate(numbers) if n in hits]
            looked_at.update(numbers)
            found.sort(key=lambda entry: entry[:2])
        return [hit for *_, hit in found[:k]]

    def _hits(self, terms: Sequence[Term], numbers: Sequence[int]) -> dict[int, WordHit]:
        """These passages looked at closely, those that are none left out."""
        found = {}
        for chunk in chunks([str(number) for number in numbers]):
            rows = self._db().query(
                "SELECT passage.id, media_id, source, row_index, pts_s, text, marks FROM passage"  # noqa: S608
                f" JOIN medium ON medium.id = passage.medium WHERE passage.id IN ({marks(chunk)})",
                chunk,
            )
            found.update({number: hit for number, *row in rows if (hit := hit_of(terms, *row)) is not None})
        return found

    def _words_with(self, part: str) -> list[str]:
        """Words of the library with this inside, the shortest first: of many these are the nearest to it."""
        sql = f"SELECT word FROM inside WHERE inside MATCH ? ORDER BY length(word), word LIMIT {_FORMS}"  # noqa: S608
        return [word for (word,) in self._db().query(sql, (f'"{part}"',))]

    def _candidates(self, expression: str, count: int, chosen: _Chosen) -> list[int]:
        if not expression:
            return []
        where, values = "whole MATCH ?", [expression]
        for among, media_ids in (("IN", chosen.media_ids), ("NOT IN", chosen.without or None)):
            if media_ids is not None:
                where += f" AND rowid {among} ({_PASSAGES_OF})"
                values.append(json.dumps(list(media_ids)))
        # Ranking reads every passage that matches. Of a word that stands in most of them the latest are enough.
        latest = f"SELECT rowid, rank FROM whole WHERE {where} ORDER BY rowid DESC LIMIT {_RANKED}"  # noqa: S608
        sql = f"SELECT rowid FROM ({latest}) ORDER BY rank LIMIT {count}"  # noqa: S608
        return [number for (number,) in self._db().query(sql, values)]

    # ------------------------------------------------------------------ the file

    def _db(self) -> Database:
        if self._opened is None:
            for old in set(self._path.parent.glob("words-*")) - set(self._path.parent.glob(f"{self._path.name}*")):
                old.unlink(missing_ok=True)  # of other versions: nobody would erase from them any more
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


def _write(
    db: sqlite3.Connection, media_id: str, number: int | None, digest: bytes, records: Sequence[tuple[object, ...]]
) -> set[str]:
    """Replaces the passages of a medium; returns their words."""
    if number is None:
        number = db.execute("INSERT INTO medium(media_id, digest) VALUES (?, ?)", (media_id, digest)).lastrowid
    else:
        for passage, text in db.execute("SELECT id, text FROM passage WHERE medium = ?", (number,)).fetchall():
            sql = "INSERT INTO whole(whole, rowid, plain, spelt) VALUES ('delete', ?, ?, ?)"
            db.execute(sql, (passage, *_forms(text)))
        db.execute("DELETE FROM passage WHERE medium = ?", (number,))
        db.execute("UPDATE medium SET digest = ? WHERE id = ?", (digest, number))
    seen: set[str] = set()
    for source, row_index, pts_s, text, places in records:
        sql = "INSERT INTO passage(medium, source, row_index, pts_s, text, marks) VALUES (?, ?, ?, ?, ?, ?)"
        passage = db.execute(sql, (number, source, row_index, pts_s, text, places)).lastrowid
        plain, spelt = _forms(str(text))
        db.execute("INSERT INTO whole(rowid, plain, spelt) VALUES (?, ?, ?)", (passage, plain, spelt))
        seen.update(plain.split(), spelt.split())
    return seen


def _learn(db: sqlite3.Connection, seen: Sequence[str]) -> None:
    """Words that are new, and long enough to have another one inside."""
    for chunk in chunks([word for word in seen if len(word) > MIN_INSIDE_CHARS]):
        known = {word for (word,) in db.execute(f"SELECT word FROM term WHERE word IN ({marks(chunk)})", chunk)}  # noqa: S608
        for word in chunk:
            if word not in known:
                number = db.execute("INSERT INTO term(word) VALUES (?)", (word,)).lastrowid
                db.execute("INSERT INTO inside(rowid, word) VALUES (?, ?)", (number, word))


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


__all__ = ["CANDIDATES", "WordHit", "WordIndex"]
