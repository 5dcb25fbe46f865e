from __future__ import annotations

import multiprocessing
import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from media_pipeline.errors import UsageError
from media_pipeline.storage.schemas import SOURCES
from media_pipeline.storage.sources import KnownMedium, Sources, shown


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources.sqlite")


def media_id(number: int) -> str:
    return f"{number:064x}"


def add(sources: Sources, path: Path, number: int, *, key: str | None = None) -> tuple[KnownMedium, bool]:
    if not path.exists():
        path.write_bytes(b"content %d" % number)
    return sources.add(
        path,
        path.stat(),
        media_id=media_id(number),
        partition_key=key or f"k~{number}",
        stored=path.parent / "originals" / str(number),
    )


def test_a_new_content_becomes_a_medium(sources: Sources, tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    medium, created = add(sources, tmp_path / "Köln.jpg", 1)
    assert created
    assert (medium.media_id, medium.partition_key, medium.name) == (media_id(1), "k~1", "Köln.jpg")
    assert (medium.path, medium.bytes) == (str(tmp_path / "Köln.jpg"), 9)
    assert medium.stored == tmp_path / "originals" / "1"
    assert before <= medium.added_at <= datetime.now(UTC)
    assert (medium.announced, medium.attempts, medium.names) == (False, 0, ("Köln.jpg",))
    assert sources.by_id([media_id(1)]) == {media_id(1): medium}
    assert sources.by_partition(["k~1", "unknown"]) == {"k~1": medium}


def test_known_content_under_a_second_name_is_one_medium_with_both_names(sources: Sources, tmp_path: Path) -> None:
    add(sources, tmp_path / "b.jpg", 1)
    medium, created = add(sources, tmp_path / "a.jpg", 1)
    assert not created
    assert (medium.name, medium.names) == ("b.jpg", ("b.jpg", "a.jpg"))
    assert sources.count() == 1


def test_unchanged_knows_a_file_until_anything_of_it_changes(sources: Sources, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    add(sources, file, 1)
    assert sources.unchanged(file, file.stat()) == media_id(1)
    stat = file.stat()
    file.write_bytes(b"CONTENT 1")  # same length, and the old time restored
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sources.unchanged(file, file.stat()) is None
    assert sources.unchanged(tmp_path / "b.jpg", stat) is None


def test_undecodable_names_are_kept_as_bytes_and_shown_escaped(sources: Sources, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9\n.jpg")
    medium, _ = add(sources, file, 1)
    assert medium.name == "caf\\xe9\n.jpg"
    medium.path.encode()  # would raise on a surrogate
    assert sources.unchanged(file, file.stat()) == media_id(1)
    assert sources.table()["name"].to_pylist() == ["caf\\xe9\n.jpg"]
    assert shown(file).endswith("caf\\xe9\n.jpg")


def test_refused_files_and_their_reasons(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "pipe").write_bytes(b"")
    sources.refuse(tmp_path / "pipe", (tmp_path / "pipe").stat(), "a pipe")
    sources.refuse(tmp_path / "nowhere", None, "cannot be asked")
    assert sources.refused() == [(str(tmp_path / "nowhere"), "cannot be asked"), (str(tmp_path / "pipe"), "a pipe")]


def test_waiting_keeps_the_time_of_the_last_change_across_processes(sources: Sources, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"1")
    sources.observe([(str(file), file.stat())])
    first = sources.look_up([str(file)])[str(file)]
    again = Sources(tmp_path / "sources.sqlite")
    again.observe([(str(file), file.stat())])
    assert again.look_up([str(file)])[str(file)].since == first.since
    file.write_bytes(b"22")
    again.observe([(str(file), file.stat())])
    changed = again.look_up([str(file)])[str(file)]
    assert (changed.state, changed.media_id) == ("waiting", None)
    assert changed.since > first.since


def test_what_was_waited_for_and_vanished_is_dropped(sources: Sources, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    add(sources, tmp_path / "taken.jpg", 1)
    file.write_bytes(b"1")
    sources.observe([(str(file), file.stat())])
    sources.drop_vanished()
    assert sources.look_up([str(file)])
    sources.drop_vanished(older_than_s=-1)
    assert [Path(p).name for p in sources.table()["path"].to_pylist()] == ["taken.jpg"]


def test_announcing_goes_in_order_of_arrival(sources: Sources, tmp_path: Path) -> None:
    for number in (5, 3, 9, 1):
        add(sources, tmp_path / f"{number}.jpg", number)
    assert [m.media_id for m in sources.unannounced(3)] == [media_id(5), media_id(3), media_id(9)]
    sources.mark_announced([media_id(5), media_id(9)])
    assert [m.media_id for m in sources.unannounced(10)] == [media_id(3), media_id(1)]
    assert sources.by_id([media_id(9)])[media_id(9)].announced


def test_attempts_count_runs_that_never_ended(sources: Sources, tmp_path: Path) -> None:
    medium = add(sources, tmp_path / "a.jpg", 1)[0].media_id
    sources.start_attempt([medium])
    sources.start_attempt([medium])
    assert sources.by_id([medium])[medium].attempts == 2
    sources.end_attempt([medium])
    assert sources.by_id([medium])[medium].attempts == 0


def test_in_lists_longer_than_sqlite_allows(sources: Sources, tmp_path: Path) -> None:
    add(sources, tmp_path / "a.jpg", 1999)
    ids = [media_id(number) for number in range(40_000)]
    assert list(sources.by_id(ids)) == [media_id(1999)]
    sources.mark_announced(ids)
    assert sources.unannounced(1) == []


def test_all_media_pages_through_everything_in_order(sources: Sources, tmp_path: Path) -> None:
    for number in range(7):
        add(sources, tmp_path / f"{number}.jpg", 10 - number)
    assert [m.name for m in sources.all_media(page=3)] == [f"{n}.jpg" for n in range(7)]


def test_forget_leaves_no_trace(sources: Sources, tmp_path: Path) -> None:
    add(sources, tmp_path / "secret.jpg", 1)
    add(sources, tmp_path / "secret copy.jpg", 1)
    add(sources, tmp_path / "other.jpg", 2)
    assert sources.paths(media_id(1)) == (str(tmp_path / "secret copy.jpg"), str(tmp_path / "secret.jpg"))
    sources.set_note("intake.cursor", str(tmp_path / "secret.jpg"))
    sources.forget(media_id(1))
    assert [m.name for m in sources.all_media()] == ["other.jpg"]
    assert sources.table().num_rows == 1
    assert sources.paths(media_id(1)) == ()
    assert sources.note("intake.cursor") is None


def test_a_forged_key_collision_gets_a_longer_key(sources: Sources, tmp_path: Path) -> None:
    add(sources, tmp_path / "a.jpg", 1, key="a~000000000000")
    second, _ = add(sources, tmp_path / "b.jpg", 2, key="a~000000000000")
    again, _ = add(sources, tmp_path / "b.jpg", 2, key="a~000000000000")
    assert second.partition_key == again.partition_key == f"a~{media_id(2)}"


def test_table_has_the_declared_schema_full_and_empty(sources: Sources, tmp_path: Path) -> None:
    assert sources.table().schema == SOURCES
    add(sources, tmp_path / "a.jpg", 1)
    sources.refuse(tmp_path / "b.jpg", None, "why not")
    table = sources.table()
    assert table.schema == SOURCES
    assert table.select(["name", "state", "reason", "bytes"]).to_pylist() == [
        {"name": "a.jpg", "state": "taken", "reason": None, "bytes": 9},
        {"name": "b.jpg", "state": "refused", "reason": "why not", "bytes": 0},
    ]


def test_originals_move_with_their_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    sources = Sources(home / "sources.sqlite")
    add(sources, home / "a.jpg", 1)
    sources.close()
    home.rename(tmp_path / "moved")
    moved = Sources(tmp_path / "moved" / "sources.sqlite")
    assert next(moved.all_media()).stored == tmp_path / "moved" / "originals" / "1"


def test_a_failed_transaction_leaves_nothing(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), sources._db.write() as db:
        db.execute("INSERT INTO notes VALUES ('half', x'00')")
        raise RuntimeError
    assert sources.note("half") is None
    sources.set_note("whole", "a\udce9")
    assert sources.note("whole") == "a\udce9"


def test_a_file_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(UsageError, match="newer version"):
        Sources(tmp_path / "s.sqlite")


def _add_many(folder: Path, worker: int) -> None:
    sources = Sources(folder / "home" / "sources.sqlite")
    for number in range(40):
        add(sources, folder / f"{worker}-{number}.jpg", number)


def test_processes_that_open_a_new_home_at_once_and_write_the_same_media(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_many, args=(tmp_path, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    sources = Sources(tmp_path / "home" / "sources.sqlite")
    assert sources.count() == 40
    assert all(len(medium.names) == 4 for medium in sources.all_media())


def test_a_forked_child_uses_a_connection_of_its_own(sources: Sources, tmp_path: Path) -> None:
    add(sources, tmp_path / "a.jpg", 1)
    child = multiprocessing.get_context("fork").Process(target=add, args=(sources, tmp_path / "b.jpg", 2))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    add(sources, tmp_path / "c.jpg", 3)
    assert [m.name for m in sources.all_media()] == ["a.jpg", "b.jpg", "c.jpg"]
