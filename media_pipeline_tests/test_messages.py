"""Messages between this program and a worker; whoever is at the other end may be hostile."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable

import pyarrow as pa
import pytest

from media_pipeline.errors import WorkerLost
from media_pipeline.execution import messages
from media_pipeline.execution.messages import MAGIC, BadMessage, Header, Kind, Message

ROWS = pa.schema(
    [("media_id", pa.string()), ("score", pa.float32()), ("embedding", pa.list_(pa.float32())), ("n", pa.int64())]
)
TABLE = pa.table({"media_id": ["a", "b"], "score": [0.5, None], "embedding": [[1.0], None], "n": [1, 2]}, schema=ROWS)


def asked(_header: Header, _schema: pa.Schema) -> pa.Schema:
    return ROWS


def written(*sent: Message) -> io.BytesIO:
    pipe = io.BytesIO()
    for message in sent:
        messages.write(pipe, message)
    pipe.seek(0)
    return pipe


def framed(body: bytes, kind: int = Kind.ROWS, length: int | None = None, magic: bytes = MAGIC) -> io.BytesIO:
    return io.BytesIO(struct.pack("<4sHHQ", magic, kind, 0, len(body) if length is None else length) + body)


def stream(table: pa.Table, header: object = {"operation": "result"}, **options: object) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    table = table.replace_schema_metadata({b"header": raw})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_what_is_written_is_read() -> None:
    pipe = written(Message("hello", {"cores": 2}), Message("result", {"medium": "a"}, Kind.ROWS, TABLE))
    first, second = messages.read(pipe, asked), messages.read(pipe, asked)
    assert first == Message("hello", {"cores": 2})
    assert second is not None
    assert (second.operation, second.header) == ("result", {"medium": "a"})
    assert second.table.equals(TABLE)
    assert messages.read(pipe, asked) is None


def test_schemas_are_ours_with_their_metadata() -> None:
    schema = pa.schema([pa.field("media_id", pa.string(), metadata={"unit": "ours"})])
    theirs = pa.table({"media_id": ["a"]}, schema=pa.schema([pa.field("media_id", pa.string(), metadata={"x": "y"})]))
    found = messages.read(framed(stream(theirs)), lambda _h, _s: schema)
    assert found is not None
    assert found.table.schema.equals(schema, check_metadata=True)


@pytest.mark.parametrize(
    ("pipe", "complaint"),
    [
        (io.BytesIO(b"Last login: Mon Nov 30"), "no message"),
        (framed(b"", magic=b"MPW2"), "no message"),
        (framed(b"", kind=9), "no message"),
        (framed(b"", length=2**63), "more than"),
        (framed(b"", length=messages.MAX_BYTES + 1), "more than"),
        (framed(b""), "message"),
        (framed(b"\xff" * 200), "cannot be read"),
        (framed(stream(TABLE, b"not json")), "cannot be read"),
        (framed(stream(TABLE, b"[" * 100_000)), "cannot be read"),
        (framed(stream(TABLE, b'{"operation": "result", "seconds": NaN}')), "NaN"),
        (framed(stream(TABLE, [1])), "without a header"),
        (framed(stream(TABLE, {"x": 1})), "without an operation"),
        (framed(stream(TABLE.select(["media_id"]))), "columns"),
        (framed(stream(TABLE.append_column("path", pa.array(["/etc", "/"])))), "columns"),
        (framed(stream(TABLE.set_column(3, "n", pa.array([1.0, 2.0])))), "columns"),
        (framed(stream(TABLE), kind=Kind.FRAMES), "columns"),
        (framed(stream(TABLE), kind=Kind.NOTHING), "columns"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(pipe: io.BytesIO, complaint: str) -> None:
    pipe.seek(0)
    with pytest.raises(BadMessage, match=complaint):
        messages.read(pipe, asked)


def test_rows_nobody_asked_for_are_refused() -> None:
    with pytest.raises(BadMessage, match="nobody asked"):
        messages.read(framed(stream(TABLE)), lambda _h, _s: None)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_what_would_have_to_be_unpacked_is_refused(compression: str) -> None:
    """A packed buffer names its size itself: a few bytes could ask for all memory there is."""
    with pytest.raises(BadMessage, match="compressed"):
        messages.read(framed(stream(TABLE, compression=compression)), asked)


def test_dictionaries_are_refused() -> None:
    coded = pa.table({"media_id": pa.array(["a", "b"]).dictionary_encode()})
    with pytest.raises(BadMessage, match="dictionary"):
        messages.read(framed(stream(coded)), lambda _h, schema: schema)


def test_text_that_is_no_text_is_refused() -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(struct.pack("<3i", 0, 1, 2)), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(BadMessage, match="UTF"):
        messages.read(framed(stream(TABLE.set_column(0, "media_id", bad))), asked)


def test_offsets_beyond_the_message_are_refused() -> None:
    far = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(struct.pack("<3i", 0, 1, 2)), pa.py_buffer(b"ab")])
    body = bytearray(stream(pa.table({"media_id": far})))
    at = body.index(struct.pack("<3i", 0, 1, 2))
    body[at : at + 12] = struct.pack("<3i", 0, 1, 2**30)
    with pytest.raises(BadMessage, match="cannot be read"):
        messages.read(framed(bytes(body)), lambda _h, schema: schema)


class _Endless:
    """Sends for ever, and remembers how much was asked of it at once."""

    def __init__(self, start: bytes) -> None:
        self._start, self.largest, self.given = start, 0, 0

    def read(self, size: int, /) -> bytes:
        self.largest = max(self.largest, size)
        part, self._start = self._start[:size], self._start[size:]
        self.given += size
        return part + b"x" * (size - len(part))


def test_a_length_costs_memory_only_as_its_bytes_come() -> None:
    source = _Endless(framed(b"", length=50 * 1024**2).getvalue())
    with pytest.raises(BadMessage, match="cannot be read"):
        messages.read(source, asked)
    assert source.largest <= 1024**2
    assert source.given < 51 * 1024**2
    beyond = _Endless(framed(b"", length=2**40).getvalue())
    with pytest.raises(BadMessage, match="more than"):
        messages.read(beyond, asked)
    assert beyond.given == 16, "nothing was read of it"


def test_a_message_too_large_is_not_begun() -> None:
    pipe = io.BytesIO()
    with pytest.raises(BadMessage, match="more than"):
        messages.write(pipe, Message("result", {}, Kind.ROWS, TABLE), max_bytes=100)
    assert not pipe.getvalue()


def test_a_line_that_breaks_is_no_lie() -> None:
    whole = written(Message("result", {}, Kind.ROWS, TABLE)).getvalue()
    for length in range(1, len(whole)):
        with pytest.raises(WorkerLost) as caught:
            messages.read(io.BytesIO(whole[:length]), asked)
        assert not isinstance(caught.value, BadMessage)


Damage = Callable[[random.Random, bytearray], None]


def _change(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.randint(1, 6)):
        data[chance.randrange(len(data))] = chance.randrange(256)


def _cut(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randint(1, 40)]


def _grow(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    data[start:start] = chance.randbytes(chance.randint(1, 40))


def _numbers(chance: random.Random, data: bytearray) -> None:
    """Lengths and offsets are four or eight bytes: extreme ones in their places."""
    for _ in range(chance.randint(1, 3)):
        width, code = chance.choice([(4, "<I"), (8, "<Q")])
        at = chance.randrange(0, len(data) - width, 4)
        value = chance.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]) % 2 ** (8 * width)
        data[at : at + width] = struct.pack(code, value)


@pytest.mark.parametrize("damage", [_change, _cut, _grow, _numbers])
def test_damaged_messages_are_read_or_refused_and_nothing_else(damage: Damage) -> None:
    good = written(
        Message("hello", {"cores": 2}), Message("result", {"medium": "a"}, Kind.ROWS, TABLE), Message("done")
    ).getvalue()
    chance = random.Random(f"seed {damage.__name__}")
    refused = 0
    for _ in range(1500):
        data = bytearray(good)
        damage(chance, data)
        pipe = io.BytesIO(bytes(data))
        try:
            while (found := messages.read(pipe, asked, max_bytes=1 << 20)) is not None:
                found.table.to_pylist()  # whatever passed can be used
        except WorkerLost:
            refused += 1
    assert refused > 1000
