from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from media_pipeline_tests._library import ADDED, EMBEDDINGS, VIEWS, Library

# The columns that users write in their SQL: binding names.
CONTRACT = {
    "media": "media_id, partition_key, name, path, kind, mime, bytes, width, height, duration_s, fps, rotation, "
    "has_audio, captured_at, added_at, phash, duplicate_of",
    "frames": "media_id, frame_index, pts_s, width, height, scene_index, phash",
    "analyses": "media_id, analyzer, fingerprint, status, reason, rows, seconds, device, model, run_id, at",
}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home")


def asked(library: Library, sql: str) -> list[tuple[object, ...]]:
    with library.catalog.connect() as connection:
        return connection.execute(sql).fetchall()


def published(library: Library, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(library.layout.warehouse, read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("view", CONTRACT)
def test_views_have_the_columns_of_the_contract(library: Library, view: str, filled: bool) -> None:
    if filled:
        library.put(view, [{"media_id": "a"}])
    columns = CONTRACT[view].split(", ")
    # Quoted, because `at` alone is a keyword of DuckDB 2.
    quoted = ", ".join(f'"{column}"' for column in columns)
    assert asked(library, f"SELECT {quoted} FROM {view}") == [("a", *[None] * (len(columns) - 1))] * filled
    assert asked(library, f"SELECT count(*) FROM {view}") == [(int(filled),)]


@pytest.mark.slow
def test_an_empty_view_has_the_types_of_a_filled_one(library: Library) -> None:
    empty = {view: asked(library, f"DESCRIBE {view}") for view in library.catalog.names}
    for view in VIEWS:
        library.put(view, [{"media_id": "a"}])
    assert {view: asked(library, f"DESCRIBE {view}") for view in library.catalog.names} == empty
    assert dict(row[:2] for row in empty["media"])["added_at"] == "TIMESTAMP WITH TIME ZONE"
    assert dict(row[:2] for row in empty["text_embeddings"])["embedding"] == "FLOAT[4]"


def test_embeddings_are_vectors_that_distances_take(library: Library) -> None:
    library.put(
        "text_embeddings", [{"media_id": m, "embedding": e} for m, e in {"a": [1, 0, 0, 0], "b": [0, 1, 0, 0]}.items()]
    )
    near = "SELECT media_id FROM text_embeddings ORDER BY array_distance(embedding, [0, 0.9, 0, 0]::FLOAT[4])"
    assert asked(library, near) == [("b",), ("a",)]


def test_a_dimension_in_the_metadata_is_enough(library: Library) -> None:
    schema = pa.schema(
        [pa.field("media_id", pa.string()), pa.field("v", pa.list_(pa.float32()), metadata={"dimension": "2"})]
    )
    library.tables.ensure("frames_v", schema)
    library.tables.replace("frames_v", pa.table([["a"], [[1.0, 2.0]]], names=["media_id", "v"]), ["a"])
    catalog = type(library.catalog)(library.layout, library.tables, {"frames_v": schema})
    with catalog.connect() as connection:
        assert connection.execute("SELECT typeof(v) FROM frames_v").fetchall() == [("FLOAT[2]",)]


def test_a_column_nobody_has_written_yet_is_null(library: Library) -> None:
    library.put("text_embeddings", [{"media_id": "a", "embedding": [1, 2, 3, 4]}])
    library.tables.ensure("text_embeddings", EMBEDDINGS.append(pa.field("language", pa.string())))
    assert asked(library, "SELECT media_id, language FROM text_embeddings") == [("a", None)]
    grown = pa.table({"media_id": ["b"], "language": ["de"]})
    library.tables.replace("text_embeddings", grown, ["b"])
    assert asked(library, "SELECT media_id, language FROM text_embeddings ORDER BY 1") == [("a", None), ("b", "de")]


def test_duplicate_of_is_the_earliest_partner_before_it(library: Library) -> None:
    library.put_media("c", "a", "d", "b", "lone")
    pairs = [("c", "a"), ("d", "a"), ("d", "c"), ("d", "b")]
    library.put("duplicate_pairs", [{"media_id": m, "other_id": o, "distance": 1.0} for m, o in pairs])
    assert asked(library, "SELECT media_id, duplicate_of FROM media ORDER BY added_at") == [
        ("c", None),  # the first of them all
        ("a", "c"),
        ("d", "c"),  # of c and a the earlier, though the pair with a comes first
        ("b", "d"),
        ("lone", None),
    ]
    library.tables.delete("media", ["c"])
    assert asked(library, "SELECT duplicate_of FROM media WHERE media_id = 'd'") == [("a",)]


def test_duplicate_of_does_not_care_who_comes_first_in_a_pair_or_is_gone(library: Library) -> None:
    days = {"a": 2, "b": 0, "c": 1, "d": 1}
    library.put("media", [{"media_id": m, "added_at": ADDED + timedelta(days=day)} for m, day in days.items()])
    pairs = [("b", "a"), ("c", "a"), ("c", "b"), ("d", "c"), ("z", "a")]
    library.put("duplicate_pairs", [{"media_id": m, "other_id": o} for m, o in pairs])
    found = asked(library, "SELECT media_id, duplicate_of FROM media WHERE duplicate_of IS NOT NULL ORDER BY 1")
    assert found == [("a", "b"), ("c", "b"), ("d", "c")]


def test_media_added_at_the_same_instant_are_ordered_by_id(library: Library) -> None:
    library.put("media", [{"media_id": m, "added_at": 0} for m in "ba"])
    library.put("duplicate_pairs", [{"media_id": "b", "other_id": "a"}])
    assert asked(library, "SELECT media_id, duplicate_of FROM media ORDER BY 1") == [("a", None), ("b", "a")]


def test_sources_come_from_their_provider(library: Library) -> None:
    assert asked(library, "SELECT path FROM sources ORDER BY path") == [("inbox/a.jpg",), ("inbox/copy.jpg",)]
    library.sources = library.sources.slice(0, 1)
    assert asked(library, "SELECT count(*) FROM sources") == [(1,)]


def test_times_are_utc_wherever_it_is_asked(library: Library) -> None:
    library.put_media("a")
    assert asked(library, "SELECT added_at::VARCHAR FROM media") == [("2026-01-01 00:00:00+00",)]


# ---------------------------------------------------------------------- warehouse.duckdb


@pytest.mark.slow
def test_an_outside_duckdb_reads_the_warehouse(library: Library) -> None:
    library.put_media("a", "b")
    library.put("duplicate_pairs", [{"media_id": "b", "other_id": "a"}])
    assert library.catalog.publish() == library.layout.warehouse
    code = (
        "import duckdb, sys\n"
        "con = duckdb.connect(sys.argv[1], read_only=True)\n"
        "print(con.execute('SELECT media_id, duplicate_of FROM media ORDER BY 1').fetchall())\n"
        "print(con.execute('SELECT count(*) FROM sources').fetchall(), con.execute('FROM frames').fetchall())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(library.layout.warehouse)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[('a', None), ('b', 'a')]\n[(2,)] []\n", done.stderr


def test_the_warehouse_can_be_attached_under_another_name(library: Library) -> None:
    library.put_media("a")
    library.catalog.publish()
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{library.layout.warehouse}' AS lib (READ_ONLY)")
        assert connection.execute("SELECT media_id FROM lib.media").fetchall() == [("a",)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["[x]* {y}", "it's", "ümläut #1"])
def test_homes_with_characters_that_sql_and_globs_know(tmp_path: Path, name: str) -> None:
    library = Library(tmp_path / name)
    library.put_media("a")
    library.catalog.publish()
    assert published(library, "SELECT media_id FROM media") == [("a",)]
    assert asked(library, "SELECT media_id FROM media") == [("a",)]


def test_a_reader_of_the_old_warehouse_goes_on(library: Library) -> None:
    library.put_media("a")
    library.catalog.publish()
    before = library.layout.warehouse.stat().st_ino
    with duckdb.connect(library.layout.warehouse, read_only=True) as reader:
        assert reader.execute("SELECT count(*) FROM media").fetchall() == [(1,)]
        library.put_media("a", "b")
        library.catalog.publish()
        assert library.layout.warehouse.stat().st_ino != before
        assert reader.execute("SELECT count(*) FROM media").fetchall() == [(1,)]
    assert published(library, "SELECT count(*) FROM media") == [(2,)]


def test_the_warehouse_survives_compaction_and_vacuum(library: Library) -> None:
    for media_id in "abc":
        library.put("media", [{"media_id": media_id}])
    library.catalog.publish()
    named = library.catalog.published_files()
    library.tables.compact("media")
    assert named.isdisjoint(library.tables.files("media"))
    removed = library.tables.vacuum("media", keep=named, retention_hours=0)
    assert named.isdisjoint(removed)
    assert published(library, "SELECT count(*) FROM media") == [(3,)]


@pytest.mark.slow
def test_maintenance_leaves_only_what_the_new_warehouse_names(library: Library) -> None:
    for media_id in "abc":
        library.put("media", [{"media_id": media_id}])
    library.catalog.publish()
    assert library.catalog.maintain() == []  # recent files stay for those who may be reading them
    assert len(library.catalog.maintain(retention_hours=0)) == 3
    assert library.catalog.published_files() == set(library.tables.files("media"))
    assert published(library, "SELECT count(*) FROM media") == [(3,)]


@pytest.mark.slow
def test_maintenance_while_a_user_has_the_warehouse_open_for_writing(library: Library) -> None:
    library.put_media("a")
    library.catalog.publish()
    code = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(library.layout.warehouse)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == b"open\n"
        assert library.catalog.published_files() == set(library.tables.files("media"))
        library.catalog.publish()
    finally:
        user.communicate(timeout=30)
    assert published(library, "SELECT count(*) FROM media") == [(1,)]


@pytest.mark.slow
def test_publishing_at_the_same_time(library: Library) -> None:
    library.put_media("a")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(2):
                Library(library.layout.home).catalog.publish()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert published(library, "SELECT count(*) FROM media") == [(1,)]
    assert list(library.layout.home.glob(".warehouse*")) == []


def test_what_a_killed_publisher_left_is_cleared_away(library: Library) -> None:
    (library.layout.home / ".warehouse.duckdb-0123").write_bytes(b"half")
    (library.layout.home / ".warehouse.duckdb-0123.wal").write_bytes(b"half")
    library.catalog.publish()
    assert [path.name for path in library.layout.home.glob("*warehouse*")] == ["warehouse.duckdb"]
    assert list(library.layout.home.glob(".warehouse*")) == []


def test_a_publisher_that_fails_leaves_the_old_one(library: Library) -> None:
    library.catalog.publish()

    def broken() -> pa.Table:
        raise RuntimeError("no sources")

    catalog = type(library.catalog)(library.layout, library.tables, VIEWS, {"sources": broken})
    with pytest.raises(RuntimeError, match="no sources"):
        catalog.publish()
    assert published(library, "SELECT count(*) FROM sources") == [(2,)]
    assert list(library.layout.home.glob(".warehouse*")) == []
