from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from media_pipeline.errors import ContractViolation, StorageConflict, UsageError
from media_pipeline.storage import tables as tables_module
from media_pipeline.storage._files import MERGE_COUNT
from media_pipeline.storage.tables import Tables

REPOSITORY = Path(__file__).resolve().parents[1]
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("line", pa.int32()),
        ("text", pa.string()),
    ]
)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tables", tmp_path / "locks")


def rows(media_ids: Sequence[str], text: str = "a", lines: int = 2) -> pa.Table:
    found = [{"media_id": m, "line": line, "text": text} for m in media_ids for line in range(lines)]
    return pa.Table.from_pylist(found, schema=SCHEMA)


def texts(tables: Tables, name: str = "ocr") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in tables.read(name).to_pylist():
        found.setdefault(row["media_id"], []).append(row["text"])
    return found


# ---------------------------------------------------------------------- shape


def test_a_table_is_created_once_and_empty(tables: Tables) -> None:
    assert not tables.exists("ocr")
    assert tables.files("ocr") == []
    tables.ensure("ocr", SCHEMA)
    tables.ensure("ocr", SCHEMA)
    assert tables.exists("ocr")
    assert tables.version("ocr") == 0
    assert tables.read("ocr").schema.equals(SCHEMA)
    assert tables.read("ocr").num_rows == 0


def test_a_grown_schema_adds_columns_that_old_rows_have_as_null(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows(["a"]), ["a"])
    tables.ensure("ocr", SCHEMA.append(pa.field("score", pa.float32())))
    assert tables.stored("ocr").columns == {"media_id", "line", "text"}
    assert tables.read("ocr", ["a"])["score"].to_pylist() == [None, None]
    # Code of yesterday, which does not know the column, goes on writing.
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows(["b"]), ["b"])
    assert tables.read("ocr")["score"].null_count == 4
    assert tables.stored("ocr").columns == {"media_id", "line", "text", "score"}


def test_a_column_never_changes_its_type(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    with pytest.raises(ContractViolation, match="line of table ocr is int32, not string"):
        tables.ensure("ocr", pa.schema([("media_id", pa.string()), ("line", pa.string())]))


@pytest.mark.parametrize("kind", [pa.uint8(), pa.float16(), pa.dictionary(pa.int32(), pa.string())])
def test_types_that_delta_would_change_are_refused(tables: Tables, kind: pa.DataType) -> None:
    with pytest.raises(ContractViolation, match="column x has type"):
        tables.ensure("ocr", SCHEMA.append(pa.field("x", kind)))


def test_every_type_comes_back_as_it_went_in(tables: Tables) -> None:
    word = pa.struct([("word", pa.string()), ("start_s", pa.float64())])
    schema = pa.schema(
        [
            pa.field("media_id", pa.string()),
            pa.field("embedding", pa.list_(pa.float32(), 3), metadata={b"unit": b"L2"}),
            pa.field("words", pa.list_(word)),
            pa.field("at", pa.timestamp("us", tz="UTC")),
            pa.field("flag", pa.bool_()),
            pa.field("thumb", pa.binary()),
        ]
    )
    row = {
        "media_id": "a",
        "embedding": [1.0, 0.0, -1.0],
        "words": [{"word": "Rechnung", "start_s": 1.25}],
        "at": datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC),
        "flag": True,
        "thumb": b"\x00\xff",
    }
    empty = dict.fromkeys(schema.names) | {"media_id": "b"}
    tables.ensure("t", schema)
    tables.replace("t", pa.Table.from_pylist([row, empty], schema=schema), ["a", "b"])
    back = tables.read("t")
    assert back.schema.equals(schema)
    assert back.to_pylist() == [row, empty]
    assert back.schema.field("embedding").metadata[b"unit"] == b"L2"


@pytest.mark.parametrize("name", ["plain", "with space", "ümläut", "a#b?c", "[x]*", "quote'"])
def test_the_home_may_have_any_name(tmp_path: Path, name: str) -> None:
    tables = Tables(tmp_path / name, tmp_path / "locks")
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows(["a"]), ["a"])
    assert tables.read("ocr", ["a"]).num_rows == 2
    assert all(Path(file).is_file() for file in tables.files("ocr"))


def test_a_percent_sign_in_the_home_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="percent sign"):
        Tables(tmp_path / "50%25", tmp_path / "locks")


# ---------------------------------------------------------------------- rows


def test_replace_leaves_exactly_the_given_rows_in_one_commit(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows(["a", "b", "c"], "old"), ["a", "b", "c"])
    before = tables.version("ocr")
    tables.replace("ocr", rows(["a", "d"], "new"), ["a", "b", "d"])
    assert texts(tables) == {"a": ["new"] * 2, "c": ["old"] * 2, "d": ["new"] * 2}
    assert tables.version("ocr") == before + 1
    tables.replace("ocr", rows(["a", "d"], "new"), ["a", "b", "d"])
    assert texts(tables) == {"a": ["new"] * 2, "c": ["old"] * 2, "d": ["new"] * 2}


def test_nothing_to_change_is_no_commit(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows([]), ["a"])
    tables.delete("ocr", ["a"])
    tables.delete("no_such_table", ["a"])
    assert tables.version("ocr") == 0


def test_delete_removes_only_these_media(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows(["a", "b"]), ["a", "b"])
    tables.delete("ocr", ["b", "never seen"])
    assert texts(tables).keys() == {"a"}


def test_rows_come_back_by_medium_in_the_order_they_were_written(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    given = [{"media_id": m, "line": line, "text": "x"} for m, line in [("b", 3), ("a", 9), ("b", 1), ("a", 2)]]
    tables.replace("ocr", pa.Table.from_pylist(given, schema=SCHEMA), ["a", "b"])
    assert tables.read("ocr", columns=["line"])["line"].to_pylist() == [9, 2, 3, 1]
    assert tables.read("ocr", ["b"], ["line", "media_id"]).to_pylist() == [
        {"line": 3, "media_id": "b"},
        {"line": 1, "media_id": "b"},
    ]


def test_update_sees_the_present_rows_and_only_those_of_the_media(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows(["a", "b"]), ["a", "b"])
    tables.update("ocr", ["a"], lambda old: old.slice(0, old.num_rows - 1))
    assert texts(tables) == {"a": ["a"], "b": ["a", "a"]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (rows(["z"]), "rows of media that are not replaced in ocr"),
        (rows(["a"]).append_column("extra", pa.array([1, 2])), "table ocr has no column extra"),
    ],
)
def test_rows_that_do_not_belong_are_refused(tables: Tables, given: pa.Table, message: str) -> None:
    tables.ensure("ocr", SCHEMA)
    with pytest.raises(ContractViolation, match=message):
        tables.replace("ocr", given, ["a"])
    assert tables.version("ocr") == 0


def test_what_is_not_there_is_named(tables: Tables) -> None:
    with pytest.raises(ContractViolation, match="no table ocr"):
        tables.read("ocr")
    tables.ensure("ocr", SCHEMA)
    with pytest.raises(ContractViolation, match="no column nonsense"):
        tables.read("ocr", columns=["nonsense"])


# ---------------------------------------------------------------------- files


def test_new_media_touch_no_file_and_known_ones_only_theirs(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    for batch in (["a", "b"], ["c", "d"], ["e", "f"]):
        tables.replace("ocr", rows(batch), batch)
    first, second, third = tables.files("ocr")
    tables.replace("ocr", rows(["c"], "new"), ["c"])
    files = tables.files("ocr")
    assert first in files
    assert third in files
    assert second not in files
    assert len(files) == 4


def test_what_another_process_wrote_is_replaced_too(tmp_path: Path, tables: Tables) -> None:
    """Which media have rows is asked of the table, not of what this object has seen."""
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows(["a"]), ["a"])
    Tables(tmp_path / "tables", tmp_path / "locks").replace("ocr", rows(["b"], "theirs"), ["b"])
    tables.replace("ocr", rows(["b"], "ours"), ["b"])
    assert texts(tables) == {"a": ["a", "a"], "b": ["ours", "ours"]}


@pytest.mark.slow
def test_many_small_commits_leave_few_files(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    expected = {}
    for number in range(2 * MERGE_COUNT + 3):
        batch = [f"{number}-{k}" for k in range(2)]
        tables.replace("ocr", rows(batch, str(number)), batch)
        expected |= dict.fromkeys(batch, [str(number)] * 2)
        assert len(tables.files("ocr")) < MERGE_COUNT
    assert texts(tables) == expected


def test_compaction_keeps_rows_and_their_order(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    for batch in (["d", "b"], ["a"], ["c"]):
        tables.replace("ocr", rows(batch, lines=3), batch)
    before = tables.read("ocr")
    tables.compact("ocr")
    assert len(tables.files("ocr")) == 1
    assert tables.read("ocr").equals(before)
    version = tables.version("ocr")
    tables.compact("ocr")
    assert tables.version("ocr") == version


def test_vacuum_keeps_what_is_current_named_or_recent(tables: Tables) -> None:
    tables.ensure("ocr", SCHEMA)
    for number in range(3):
        tables.replace("ocr", rows(["a"], str(number)), ["a"])
    current = tables.files("ocr")
    folder = Path(current[0]).parent
    old = sorted(str(f) for f in folder.glob("*.parquet") if str(f) not in current)
    orphan = folder / "000000000009-left-behind.parquet"
    shutil.copy(current[0], orphan)

    assert tables.vacuum("ocr") == []
    removed = tables.vacuum("ocr", keep=[old[0]], retention_hours=0)
    assert sorted(removed) == sorted([old[1], str(orphan)])
    assert sorted(map(str, folder.glob("*.parquet"))) == sorted([old[0], *current])
    assert texts(tables) == {"a": ["2", "2"]}


def test_other_readers_of_delta_see_the_same(tables: Tables, tmp_path: Path) -> None:
    """delta-rs' own engine, which trusts the statistics we write, skips no file it should not."""
    from deltalake import DeltaTable

    tables.ensure("ocr", SCHEMA)
    for batch in (["a", "m"], ["k", "z"]):
        tables.replace("ocr", rows(batch), batch)
    table = DeltaTable(tmp_path / "tables" / "ocr")
    assert table.count() == 8
    assert pa.table(table.scan(predicate="media_id = 'm'").read_all()).num_rows == 2
    assert len(table.file_uris(file_pruning_predicate="media_id = 'b'")) == 1


# ---------------------------------------------------------------------- concurrency and crashes


def in_threads(work: Callable[[int], None], number: int) -> None:
    failures: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


@pytest.mark.slow
@pytest.mark.parametrize("shared_lock", [True, False])
def test_writers_of_the_same_media_leave_one_copy(tmp_path: Path, shared_lock: bool) -> None:
    """Also without a common lock: two appends of a medium that has no rows yet do not pass each other unseen."""

    def mine(index: int) -> Tables:
        return Tables(tmp_path / "tables", tmp_path / ("locks" if shared_lock else f"locks-{index}"))

    mine(0).ensure("ocr", SCHEMA)
    ready = threading.Barrier(3)

    def work(index: int) -> None:
        writer = mine(index)
        ready.wait()
        for step in range(3):
            batch = ["shared", f"step-{step}", f"own-{index}"]
            writer.replace("ocr", rows(batch, f"{index}.{step}"), batch)

    in_threads(work, 3)
    found = texts(mine(9))
    assert found.keys() == {"shared", "step-0", "step-1", "step-2", "own-0", "own-1", "own-2"}
    assert all(len(set(lines)) == 1 and len(lines) == 2 for lines in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(6))
def test_ensure_at_the_same_instant(tmp_path: Path, round_: int) -> None:
    ready = threading.Barrier(4)

    def work(index: int) -> None:
        tables = Tables(tmp_path / "tables", tmp_path / f"locks-{index % 2}")
        ready.wait()
        tables.ensure("ocr", SCHEMA.append(pa.field(f"column_{index}", pa.int64())))

    in_threads(work, 4)
    grown = Tables(tmp_path / "tables", tmp_path / "locks").schema("ocr").names
    assert sorted(grown) == sorted([*SCHEMA.names, *(f"column_{k}" for k in range(4))])


def test_a_writer_that_always_loses_gives_up(tables: Tables, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables.ensure("ocr", SCHEMA)
    rival = Tables(tmp_path / "tables", tmp_path / "other-locks")
    monkeypatch.setattr(tables_module, "BACKOFF_S", (0.0, 0.0, 0.0))
    attempts = []

    def beaten(old: pa.Table) -> pa.Table:
        attempts.append(1)
        rival.replace("ocr", rows(["x"], str(len(attempts))), ["x"])
        return rows(["a"])

    with pytest.raises(StorageConflict, match="faster 3 times"):
        tables.update("ocr", ["a"], beaten)
    assert texts(tables) == {"x": ["3", "3"]}
    # One file for each time the rival won; nothing is left of the lost attempts.
    assert len(list((tmp_path / "tables" / "ocr").glob("*.parquet"))) == 3


def test_a_full_disk_in_compaction_does_not_fail_the_write(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tables_module, "MERGE_COUNT", 2)
    tables.ensure("ocr", SCHEMA)
    tables.replace("ocr", rows(["a"]), ["a"])
    real = pq.write_table

    def no_room_for_merged(table: pa.Table, sink: object, **options: object) -> None:
        if table.num_rows > 2:
            raise OSError(28, "No space left on device")
        real(table, sink, **options)

    monkeypatch.setattr(pq, "write_table", no_room_for_merged)
    tables.replace("ocr", rows(["b"]), ["b"])
    assert texts(tables).keys() == {"a", "b"}
    assert "left in many small files" in caplog.text


def child(code: str, *args: str | Path, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, **options)  # type: ignore[call-overload]


# Writes generation after generation of the same three media and one new medium each, merges files all the time, and
# says so after each.
WRITER = """
import sys
from pathlib import Path
from media_pipeline.storage import tables as module
from media_pipeline_tests.test_tables import SCHEMA, rows
module.MERGE_COUNT = 3
home, tag = Path(sys.argv[1]), sys.argv[2]
tables = module.Tables(home / "tables", home / "locks")
tables.ensure("ocr", SCHEMA)
for generation in range(int(sys.argv[3])):
    media = ["a", "b", "c", f"{tag}.{generation}"]
    tables.replace("ocr", rows(media, f"{tag}.{generation}", lines=50), media)
    print(generation, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_instant_the_table_is_before_or_after(tmp_path: Path) -> None:
    chance = random.Random(7)
    tables = Tables(tmp_path / "tables", tmp_path / "locks")
    written = set()
    for attempt in range(8):
        writer = child(WRITER, tmp_path, attempt, 10_000, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        time.sleep(chance.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        acknowledged = [0, *map(int, writer.stdout.read().splitlines())][-1]
        writer.stdout.close()
        writer.wait(10)
        found = texts(tables)
        # All three media are of one generation: the last that was acknowledged, or the one that was being written.
        (text,) = {line for media_id in "abc" for line in found[media_id]}
        last = int(text.partition(".")[2])
        assert text.startswith(f"{attempt}.")
        assert last in (acknowledged, acknowledged + 1)
        # Nothing that ever was acknowledged is lost or there twice.
        written |= {f"{attempt}.{generation}" for generation in range(last + 1)}
        assert found.keys() == {"a", "b", "c", *written}
        assert set(map(len, found.values())) == {50}
        # The lock died with its holder, or this would wait for minutes.
        tables.replace("ocr", rows(["d"]), ["d"])
        tables.delete("ocr", ["d"])
    tables.vacuum("ocr", retention_hours=0)
    files = tables.files("ocr")
    assert sorted(str(f) for f in (tmp_path / "tables" / "ocr").glob("*.parquet")) == files


@pytest.mark.slow
def test_processes_that_write_the_same_media(tmp_path: Path) -> None:
    writers = [child(WRITER, tmp_path, tag, 25, stdout=subprocess.DEVNULL) for tag in "xyz"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    found = texts(Tables(tmp_path / "tables", tmp_path / "locks"))
    assert found.keys() == {"a", "b", "c", *(f"{tag}.{generation}" for tag in "xyz" for generation in range(25))}
    assert set(map(len, found.values())) == {50}
    (text,) = {line for media_id in "abc" for line in found[media_id]}
    assert text.endswith(".24")


FULL_DISK = """
import os, sys
from pathlib import Path
from media_pipeline.errors import DiskFull
from media_pipeline.storage.tables import Tables
from media_pipeline_tests.test_tables import SCHEMA, rows, texts
home = Path(sys.argv[1])
tables = Tables(home / "tables", home / "locks")
tables.ensure("ocr", SCHEMA)
tables.replace("ocr", rows(["a"], "kept"), ["a"])
ballast = home / "ballast"
failures = 0
# Less and less room: the data file fails, then the log entry, then even the smallest file.
for room in (20_000, 8192, 4096, 0):
    with ballast.open("wb") as sink:
        free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
        os.posix_fallocate(sink.fileno(), 0, max(free - room, 1))
    for number in range(40):
        try:
            tables.replace("ocr", rows(["a"], f"{room}.{number}" + os.urandom(100).hex(), lines=20), ["a"])
        except DiskFull as error:
            failures += 1
            assert "no room left" in error.cause and error.remedy, error
            (lines,) = texts(tables).values()
            assert len(set(lines)) == 1, lines
            break
    ballast.unlink()
assert failures == 4, failures
tables.replace("ocr", rows(["a"], "goes on"), ["a"])
assert texts(tables) == {"a": ["goes on"] * 2}
print("passed")
"""


@pytest.mark.slow
def test_a_full_disk_is_said_and_survived(tmp_path: Path) -> None:
    """On a real file system of 1 MB, mounted for this child alone."""
    code = tmp_path / "full_disk.py"
    code.write_text(FULL_DISK)
    mount = tmp_path / "mount"
    mount.mkdir()
    script = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" "$3" "$1"'
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", str(mount), sys.executable, str(code)]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("no unprivileged mount namespaces here, so no small disk to fill")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY, env=environment)
    assert done.stdout == "passed\n", done.stderr[-3000:]
