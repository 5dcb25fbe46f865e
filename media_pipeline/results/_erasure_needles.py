"""What to look for after an erasure, collected before it: pieces of what is erased that belong to nothing else.

The proof would be worthless if it found what others rightly hold: two copies of one photograph share text, vectors and
perceptual hash. So every piece is looked for in the rows of all that stays, and is left out where it occurs there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from media_pipeline.results._byte_scan import MIN_BYTES, Finder, Needle
from media_pipeline.results._erasure_journal import Identity, Medium
from media_pipeline.results._erasure_tables import track_columns
from media_pipeline.storage.contents import arrow_bytes
from media_pipeline.storage.tables import Tables

PIECES = 16  # texts, and vectors, looked for per medium and table
ID_DIGITS = 12  # part of every partition key: what finds them finds the ids and the keys
_ID_BYTES = 16
_TEXT_COLUMNS = ("text",)
_HASH_COLUMNS = ("phash",)
_MIN_TEXT_CHARS = 12
_MAX_TEXT_CHARS = 64
_MIN_DISTINCT_BYTES = 6  # "aaaaaaaa" and a vector of zeros belong to everybody
_VECTOR_VALUES = 8  # 32 bytes of float32, 16 of float16
_PICTURE_BYTES = 36  # of a thumbnail, 48 characters of base64
_MIN_DISTINCT_PICTURE_BYTES = 20  # some 34 in a picture of something; in a flat area a few repeat in every picture


def of_media(media: Sequence[Medium], thumbnails: Mapping[str, bytes]) -> Iterator[Needle]:
    """What names media: ids as text and bytes, keys, file names, thumbnails by media_id."""
    for medium in media:
        yield Needle("id", medium.media_id[:ID_DIGITS].encode())
        yield Needle("id", bytes.fromhex(medium.media_id)[:_ID_BYTES])
        yield Needle("partition", medium.partition_key.encode())
        for name in medium.names:
            yield from _texts("name", name)
        piece = _most_distinct(thumbnails.get(medium.media_id, b""))
        if len(set(piece)) >= _MIN_DISTINCT_PICTURE_BYTES:
            yield Needle("thumbnail", base64.b64encode(piece))
            yield Needle("thumbnail", piece)


def _most_distinct(picture: bytes) -> bytes:
    """A piece of a JPEG's coded data, on a boundary of base64; tables and headers are alike in many pictures."""
    scan = picture.rfind(b"\xff\xda") + 1  # the marker: not in coded data, in which a zero follows each 0xff
    begin = -(-max(scan, len(picture) // 2) // 3) * 3
    places = range(begin, len(picture) - _PICTURE_BYTES + 1, 3)
    pieces = (picture[at : at + _PICTURE_BYTES] for at in places)
    return max(pieces, key=lambda piece: len(set(piece)), default=b"")


def of_identities(identities: Iterable[Identity]) -> Iterator[Needle]:
    """What names persons and voices."""
    for identity in identities:
        yield Needle("identity", identity.identity_id.encode())
        if identity.name:
            yield from _texts("name", identity.name)


def of_rows(rows: pa.Table) -> Iterator[Needle]:
    """Texts, vectors and perceptual hashes of the rows of one medium or identity in one table."""
    for field in rows.schema:
        values = rows[field.name]
        if field.name in _TEXT_COLUMNS and pa.types.is_string(field.type):
            texts = sorted({text for text in values.to_pylist() if text}, key=lambda text: (-len(text), text))
            for text in texts[:PIECES]:
                yield from _texts("text", text)
        elif field.name in _HASH_COLUMNS:
            for text in sorted(set(values.drop_null().to_pylist()))[:PIECES]:
                yield Needle("hash", text.encode())
        elif _is_vector(field.type):
            yield from of_vectors(_spread(values.drop_null()))


def of_vectors(vectors: Iterable[Any]) -> Iterator[Needle]:
    """The beginnings of vectors, as float32 and as float16."""
    for vector in vectors:
        for kind in (np.float32, np.float16):
            piece = np.asarray(vector[:_VECTOR_VALUES], kind).tobytes()
            if _is_distinct(piece):
                yield Needle("embedding", piece)


def exclusive(
    needles: Iterable[Needle],
    stores: Sequence[Tables],
    media_ids: Collection[str],
    identities: Sequence[Identity],
    others: Iterable[pa.Table],
) -> list[Needle]:
    """Those needles that nothing holds but what is erased.

    Args:
        stores: all tables there are
        others: rows beside the tables that stay
    """
    wanted = list(dict.fromkeys(needles))
    finder = Finder(wanted)
    shared: set[Needle] = set()
    for table in (*(rows for store in stores for rows in _staying(store, media_ids, identities)), *others):
        for block in arrow_bytes(table):
            shared |= finder.find(block).keys()
    return [needle for needle in wanted if needle not in shared]


def _staying(store: Tables, media_ids: Collection[str], identities: Sequence[Identity]) -> Iterator[pa.Table]:
    """The rows that stay, of columns that can hold a needle, some thousand at a time."""
    gone = pa.array(sorted(media_ids), pa.string())
    for name in store.names():
        tracks = track_columns(name, identities)
        for path in store.files(name):
            with pq.ParquetFile(path) as file:
                columns = [f.name for f in file.schema_arrow if not pa.types.is_primitive(f.type)]
                columns += [column for column in tracks if column not in columns]
                for batch in file.iter_batches(columns=columns):
                    rows = pa.Table.from_batches([batch])
                    if len(gone):
                        rows = rows.filter(pc.invert(pc.is_in(rows["media_id"], gone)))
                    for column, keys in tracks.items():
                        names = zip(rows["media_id"].to_pylist(), rows[column].to_pylist(), strict=True)
                        rows = rows.filter(pa.array([one not in keys for one in names], pa.bool_()))
                    yield _compacted(rows)


def _compacted(rows: pa.Table) -> pa.Table:
    """The same rows in buffers of their own: those of a slice still hold what was filtered out."""
    return rows.combine_chunks().take(pa.array(range(rows.num_rows), pa.int64())) if rows.num_rows else rows


def _texts(kind: str, text: str) -> Iterator[Needle]:
    """The longest line, or several where all are short; as it is and as JSON spells it."""
    enough = MIN_BYTES if kind == "name" else _MIN_TEXT_CHARS
    line = max(text.splitlines(), key=len, default="")
    piece = (line if len(line) >= enough else text)[:_MAX_TEXT_CHARS]
    for form in dict.fromkeys((piece, json.dumps(piece)[1:-1])):
        value = form.encode(errors="surrogateescape")
        if len(piece) >= enough and _is_distinct(value):
            yield Needle(kind, value)


def _is_distinct(piece: bytes) -> bool:
    return len(piece) >= MIN_BYTES and len(set(piece)) >= _MIN_DISTINCT_BYTES


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_float32(kind.value_type))


def _spread(values: pa.ChunkedArray) -> Iterator[Any]:
    """Some vectors from the beginning to the end."""
    step = max(1, len(values) // PIECES)
    for at in range(0, len(values), step):
        yield values[at].as_py()
