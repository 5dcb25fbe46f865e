"""Messages between this program and a worker: one after the other over a pipe, in both directions.

    magic "MPW1" · kind (uint16) · 0 (uint16) · length (uint64)    16 bytes, little-endian
    length bytes: an Arrow IPC stream, uncompressed; the metadata of its schema hold the header, JSON

The header says what is asked or answered (`operation`) and small things with it; the table holds what is large. The
kind stands before it, so that the schema is known before a row of it is believed.

What comes from a rented machine is hostile: every size is checked before memory is taken for it; nothing is unpacked,
because a compressed buffer names its size itself; no dictionary, extension type or object is made; and values are
validated in full.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NoReturn, Protocol

import pyarrow as pa

from media_pipeline.errors import WorkerLost
from media_pipeline.media.frames import CACHED_FRAMES
from media_pipeline.media.scores import FRAME_SCORES

PROTOCOL = 1
MAGIC = b"MPW1"
MAX_BYTES = 256 * 1024**2  # of one message
MAX_HEADER_BYTES = 1024**2
MAX_RECORD_BATCHES = 10_000

_PREFIX = struct.Struct("<4sHHQ")
_HEADER = b"header"
_READ_BYTES = 1024**2  # at a time: a length that was made up costs no memory before its bytes come

Header = dict[str, Any]


class BadMessage(WorkerLost):
    """What came is not of this protocol or breaks its bounds: nothing that follows can be trusted."""


class Kind(IntEnum):
    """What the table of a message is."""

    NOTHING = 0  # neither columns nor rows: the header says it all
    FRAMES = 1
    SOUND = 2
    SCORES = 3
    ROWS = 4  # of an analyzer


NOTHING = pa.schema([])
SOUND = pa.schema(
    [
        ("is_side", pa.bool_()),  # of `audio-side.flac`, else of `audio.flac`
        ("data", pa.binary()),  # the next bytes of that file
    ]
)
_SCHEMAS = {Kind.NOTHING: NOTHING, Kind.FRAMES: CACHED_FRAMES, Kind.SOUND: SOUND, Kind.SCORES: FRAME_SCORES}

# From a header and the schema that came with it to the one that may; None where no rows may come with such a header.
SchemaOf = Callable[[Header, pa.Schema], pa.Schema | None]


@dataclass(frozen=True, slots=True)
class Message:
    operation: str
    header: Header = field(default_factory=dict)
    kind: Kind = Kind.NOTHING
    table: pa.Table = field(default_factory=NOTHING.empty_table)  # of the kind's schema


class Source(Protocol):
    """A binary stream whose `read` waits until it has that many bytes, or the stream has ended."""

    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    """A binary stream whose `write` takes everything."""

    def write(self, data: Any, /) -> object: ...
    def flush(self) -> None: ...


def write(sink: Sink, message: Message, max_bytes: int = MAX_BYTES) -> None:
    """
    Raises:
        BadMessage: it would be larger than is allowed; nothing was written.
        OSError: nobody reads any more.
    """
    header = json.dumps({**message.header, "operation": message.operation}, allow_nan=False).encode()
    body = pa.BufferOutputStream()
    table = message.table.replace_schema_metadata({_HEADER: header})
    with pa.ipc.new_stream(body, table.schema) as writer:
        writer.write_table(table)
    buffer = body.getvalue()
    if buffer.size > max_bytes or len(header) > MAX_HEADER_BYTES:
        _refuse(f"a message of {buffer.size:,} bytes, more than the {max_bytes:,} allowed")
    sink.write(_PREFIX.pack(MAGIC, message.kind, 0, buffer.size))
    sink.write(buffer)
    sink.flush()


def read(source: Source, rows: SchemaOf, max_bytes: int = MAX_BYTES) -> Message | None:
    """The next message; None where the stream ends between two.

    Args:
        rows: the schema of rows that may come

    Raises:
        BadMessage: anything else than a message within the bounds.
        WorkerLost: the stream ends within one.
    """
    prefix = source.read(_PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < _PREFIX.size:
        raise _broken_off()
    magic, number, zero, length = _PREFIX.unpack(prefix)
    if magic != MAGIC or zero or number not in Kind.__members__.values():
        _refuse(f"what is no message: {prefix!r}")
    if length > max_bytes:
        _refuse(f"a message of {length:,} bytes, more than the {max_bytes:,} allowed")
    return _message(Kind(number), pa.py_buffer(_exactly(source, length)), rows)


def _exactly(source: Source, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        part = source.read(min(_READ_BYTES, length - len(data)))
        if not part:
            raise _broken_off()
        data += part
    return data


def _message(kind: Kind, body: pa.Buffer, rows: SchemaOf) -> Message:
    try:
        schema = _looked_through(body)
        header = _header(schema)
        operation = header.pop("operation", None)
        if not isinstance(operation, str):
            _refuse("a message without an operation")
        expected = rows(header, schema) if kind is Kind.ROWS else _SCHEMAS[kind]
        if expected is None:
            _refuse(f"rows that nobody asked for, with {operation!r}")
        # Names, types, and whether they may be null; of what is written beside them nothing is believed.
        if not schema.equals(expected, check_metadata=False):
            _refuse(f"columns {_named(schema)} in place of {_named(expected)}, with {operation!r}")
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)
        return Message(operation, header, kind, _as(table, expected))
    except (pa.ArrowException, struct.error, ValueError, TypeError, OverflowError, OSError, RecursionError) as error:
        _refuse(f"a message that cannot be read ({type(error).__name__}: {str(error)[:200]})")


def _looked_through(body: pa.Buffer) -> pa.Schema:
    """The schema, of a stream that holds nothing else but a bounded number of plain record batches."""
    parts = pa.ipc.MessageReader.open_stream(body)
    schema = None
    for number, part in enumerate(parts):
        if number > MAX_RECORD_BATCHES:
            _refuse(f"a message of more than {MAX_RECORD_BATCHES:,} pieces")
        if number == 0:
            if part.type != "schema" or part.metadata.size > MAX_HEADER_BYTES + 2**16:
                _refuse(f"a {part.type} of {part.metadata.size:,} bytes in place of a schema")
            schema = pa.ipc.read_schema(part)
        elif part.type != "record batch" or _is_compressed(part.metadata):
            _refuse(f"a compressed {part.type}" if part.type == "record batch" else f"a {part.type}")
    if schema is None:
        _refuse("an empty message")
    return schema


def _header(schema: pa.Schema) -> Header:
    header = json.loads((schema.metadata or {}).get(_HEADER, b"null"), parse_constant=_no_number)
    if not isinstance(header, dict):
        _refuse("a message without a header")
    return header


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same values under our own schema, with its metadata."""
    return pa.Table.from_arrays(table.columns, schema=schema) if schema.names else schema.empty_table()


def _named(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name}: {f.type}" for f in schema)[:300] or "(none)"


def _broken_off() -> WorkerLost:
    return WorkerLost("the line to a worker broke in the middle of a message", "its work is done elsewhere")


def _refuse(what: str) -> NoReturn:
    raise BadMessage(f"the line to a worker carried {what}", "it is given up, and its work done elsewhere")


# ---- Arrow does not say whether a record batch is compressed, so it is read from the flatbuffer around it:
# Message {version, header_type, header, bodyLength, …}, RecordBatch {length, nodes, buffers, compression, …}.
_MESSAGE_HEADER, _RECORD_BATCH_COMPRESSION = 2, 3


def _is_compressed(metadata: pa.Buffer) -> bool:
    """
    Raises:
        struct.error: offsets point nowhere; Arrow has verified them all, so this does not happen.
    """
    data = metadata.to_pybytes()
    message = struct.unpack_from("<I", data)[0]
    reference = _field(data, message, _MESSAGE_HEADER)
    batch = reference + struct.unpack_from("<I", data, reference)[0]
    return _field(data, batch, _RECORD_BATCH_COMPRESSION) != 0


def _field(data: bytes, table: int, number: int) -> int:
    """Where that field of a table lies; 0: it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = int(struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0])
    return table + offset if offset else 0
