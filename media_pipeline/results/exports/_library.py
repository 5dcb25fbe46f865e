"""The rows of some media or of all, in portions, from one state of the tables.

A portion is a range of media_ids: rows of one medium are together in it, views join within it, and files of which it
needs nothing are skipped by their statistics. What lies in memory is one portion, whatever the size of the home.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa

from media_pipeline.errors import LimitExceeded, StorageConflict, UsageError
from media_pipeline.results.exports._values import is_embedding, literal, quoted
from media_pipeline.storage.catalog import Catalog

PORTION_ROWS = 50_000  # of all tables together, unless one medium has more
PORTION_ROWS_WITH_VECTORS = 20_000
PORTION_MEDIA = 1_000
# Views of identities, not of media, and where the media name them.
_WHO: Mapping[str, tuple[str, str]] = {
    "persons": ("library.face_persons", "person_id"),
    "voices": ("library.speaker_voices", "voice_id"),
}
_NAMES = {"person_id": ("person", "person_name"), "voice_id": ("voice", "voice_name")}


@dataclass(frozen=True, slots=True)
class Medium:
    """One medium of an export."""

    media_id: str
    partition_key: str


@dataclass(frozen=True, slots=True)
class Portion:
    """Media that are exported together, in order of their ids."""

    media: tuple[Medium, ...]
    where: str  # the condition for their rows, in SQL


class Library:
    """Views of a home, restricted to the media that are exported.

    Args:
        media_ids: all media if None
        tables: views to export; every view that speaks of media if None
        embeddings: with the vectors, which make an export several times as large
        max_memory_bytes: what DuckDB may use

    Raises:
        UsageError: there is no such view, or it does not speak of media.
        StorageConflict, LimitExceeded (from every method): files were removed meanwhile; too little memory.
    """

    def __init__(
        self,
        catalog: Catalog,
        media_ids: Collection[str] | None = None,
        *,
        tables: Collection[str] | None = None,
        embeddings: bool = False,
        max_memory_bytes: int = 1024**3,
    ) -> None:
        self._connection = catalog.connect()
        self._connection.execute(f"SET memory_limit = '{max_memory_bytes // 1024} KiB'")
        # Rows of people never lie about in the temporary folder of whoever exports.
        self._connection.execute("SET temp_directory = ''")
        self._connection.execute("SET parquet_metadata_cache = true")
        self._chosen = None if media_ids is None else sorted(set(media_ids))
        self._embeddings = embeddings
        self.schemas = self._shown(catalog.names, tables)
        self._counts = self._count()

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def media(self) -> int:
        """How many media are exported."""
        return int(self._counts.num_rows)

    @property
    def selection(self) -> list[str] | None:
        """The ids of the media that were chosen; None: all."""
        return self._chosen

    @property
    def state(self) -> str:
        """What changes when the tables do, or what is kept beside them."""
        files = "SELECT md5(string_agg(sql, '' ORDER BY view_name)) FROM duckdb_views() WHERE schema_name = 'library'"
        tables = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'library' ORDER BY 1"
        parts = self._connection.execute(files).fetchall()
        for (name,) in self._connection.execute(tables).fetchall():
            contents = f"SELECT '{name}', bit_xor(hash(r)) FROM library.{quoted(name)} AS r"  # noqa: S608 - quoted
            parts += self._connection.execute(contents).fetchall()
        return str(parts)

    @property
    def views(self) -> list[str]:
        """The exported views with a row's medium in a column `media_id`, sorted."""
        return [name for name, schema in self.schemas.items() if "media_id" in schema.names]

    def portions(self, after: str = "") -> Iterator[Portion]:
        """The media in order of their ids; only those beyond `after`."""
        ids, keys, rows = (self._counts[name].to_pylist() for name in ("media_id", "partition_key", "rows"))
        limit = PORTION_ROWS_WITH_VECTORS if self._embeddings else PORTION_ROWS
        start = bisect_right(ids, after)
        while start < len(ids):
            end, total = start + 1, rows[start]
            while end < len(ids) and end - start < PORTION_MEDIA and total + rows[end] <= limit:
                total += rows[end]
                end += 1
            media = tuple(Medium(ids[i], keys[i] or ids[i]) for i in range(start, end))
            yield Portion(media, self._condition(ids, start, end))
            start = end

    def portions_of(self, view: str) -> Iterator[Portion]:
        """Portions in which a view is read: views of persons and voices are small and not cut by media."""
        return self.portions() if view in self.views else iter((Portion((), "true"),))

    def read(self, view: str, portion: Portion, select: str = "*", order: str = "") -> pa.Table:
        """Rows of a portion's media, in the order asked for."""
        sql = f"SELECT {select} FROM {self._source(view)} WHERE {self._restriction(view, portion)}"  # noqa: S608 - quoted
        return self._ask(f"{sql} ORDER BY {order}" if order else sql)

    def named(self, view: str, portion: Portion, select: str, order: str) -> pa.Table:
        """`read`, with the names of persons and voices beside their ids (`named_schema`)."""
        columns, joins = ["r.*"], []
        for number, (column, kind, shown) in enumerate(self._nameable(view)):
            columns.append(f"who{number}.name AS {shown}")
            joins.append(
                f"LEFT JOIN named AS who{number} ON who{number}.kind = '{kind}' AND who{number}.id = r.{column}"
            )
        inner = f"SELECT * FROM {self._source(view)} WHERE {portion.where}"  # noqa: S608 - quoted
        rows = f"SELECT {', '.join(columns)} FROM ({inner}) AS r {' '.join(joins)}"  # noqa: S608 - our own names
        return self._ask(f"SELECT {select} FROM ({rows}) ORDER BY {order}")  # noqa: S608 - quoted

    def named_schema(self, view: str) -> pa.Schema:
        """The columns of `named`."""
        fields = list(self.schemas[view])
        return pa.schema([*fields, *(pa.field(shown, pa.string()) for _, _, shown in self._nameable(view))])

    def distinct(self, view: str, column: str, condition: str = "true") -> list[str]:
        """The values of a column in the exported media, sorted."""
        if column not in self.schemas.get(view, pa.schema([])).names:
            return []
        chosen = "true" if self._chosen is None else _among(self._chosen)
        found = self._connection.execute(
            f"SELECT DISTINCT {column} FROM {quoted(view)} WHERE {condition} AND {chosen} ORDER BY 1"  # noqa: S608
        )
        return [str(value) for (value,) in found.fetchall() if value is not None]

    def names_of(self, kind: str) -> dict[str, str]:
        """The names given to persons or voices, by id."""
        found = self._connection.execute("SELECT id, name FROM named WHERE kind = ?", [kind]).fetchall()
        return dict(found)

    # ------------------------------------------------------------------ inner workings

    def _ask(self, sql: str) -> pa.Table:
        with _explained():
            return self._connection.sql(sql).to_arrow_table()

    def _shown(self, names: list[str], tables: Collection[str] | None) -> dict[str, pa.Schema]:
        """The exported views and their columns."""
        self._connection.execute("CREATE TEMP TABLE named (kind VARCHAR, id VARCHAR, name VARCHAR)")
        if "identities" in names:
            self._connection.execute(
                "INSERT INTO named SELECT kind, identity_id, name FROM identities WHERE name IS NOT NULL"
            )
        wanted = names if tables is None else sorted(set(tables))
        schemas = {name: self._schema(name) for name in wanted if name in names}
        shown = {name: schema for name, schema in schemas.items() if "media_id" in schema.names or name in _WHO}
        unknown = sorted(set(tables or ()) - set(shown))
        if unknown:
            raise UsageError(f"{', '.join(unknown)} cannot be exported", f"there are the views {', '.join(names)}")
        return shown

    def _schema(self, view: str) -> pa.Schema:
        schema = self._ask(f"SELECT * FROM {quoted(view)} LIMIT 0").schema  # noqa: S608 - quoted
        return pa.schema([field for field in schema if self._embeddings or not is_embedding(field)])

    def _count(self) -> pa.Table:
        """media_id, partition_key and number of rows of the exported media, sorted."""
        chosen = "" if self._chosen is None else f"WHERE {_among(self._chosen)}"
        return self._ask(
            f"""
            WITH counted AS (SELECT media_id, sum("rows")::BIGINT AS n FROM analyses {chosen} GROUP BY media_id)
            SELECT media_id, any_value(partition_key) AS partition_key, coalesce(any_value(n), 0) AS rows
            FROM (SELECT media_id, partition_key FROM media {chosen}) LEFT JOIN counted USING (media_id)
            GROUP BY media_id ORDER BY media_id
            """  # noqa: S608 - ids are quoted
        )

    def _condition(self, ids: list[str], start: int, end: int) -> str:
        if self._chosen is not None:
            return _among(ids[start:end])
        # Without gaps: rows of media that could not be decoded, and so are not in `media`, are in some portion too.
        bounds = [f"media_id >= {literal(ids[start])}"] if start else []
        bounds += [f"media_id < {literal(ids[end])}"] if end < len(ids) else []
        return " AND ".join(bounds) or "true"

    def _restriction(self, view: str, portion: Portion) -> str:
        if view not in _WHO:
            return portion.where
        if self._chosen is None:
            return "true"
        table, column = _WHO[view]
        return f"{column} IN (SELECT {column} FROM {table} WHERE {_among(self._chosen)})"  # noqa: S608 - quoted

    def _source(self, view: str) -> str:
        columns = ", ".join(quoted(name) for name in self.schemas[view].names)
        return f"(SELECT {columns} FROM {quoted(view)})"  # noqa: S608 - quoted

    def _nameable(self, view: str) -> list[tuple[str, str, str]]:
        """(column, kind of identity, name of the added column)."""
        names = self.schemas[view].names
        return [
            (column, kind, shown) for column, (kind, shown) in _NAMES.items() if column in names and shown not in names
        ]


def _among(media_ids: Collection[str]) -> str:
    return f"media_id IN ({', '.join(map(literal, media_ids))})" if media_ids else "false"


@contextmanager
def _explained() -> Iterator[None]:
    """DuckDB's errors that are the world's doing, told by their text: some come through Arrow."""
    try:
        yield
    except Exception as error:
        if "No files found" in str(error) or "Cannot open file" in str(error):
            raise StorageConflict(
                "the tables were cleaned up while they were exported", "run it again; it reads them as they are now"
            ) from error
        if "Out of Memory" in str(error):
            raise LimitExceeded(
                "a portion of the export needs more memory than it may use",
                "raise MEDIA_PIPELINE_SQL__MAX_MEMORY_BYTES",
            ) from error
        raise


def in_time(schema: pa.Schema) -> str:
    """The natural order of a view's rows within a medium: by time, frame and running number."""
    first = [name for name in ("start_s", "pts_s", "frame_index") if name in schema.names]
    return ", ".join(quoted(n) for n in ["media_id", *first, *(n for n in schema.names if _counts_rows(n, first))])


def _counts_rows(name: str, others: Collection[str]) -> bool:
    return name.endswith("_index") and name not in others
