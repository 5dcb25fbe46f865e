"""PostgreSQL in the backup of an installation, and the drill that restores both and compares."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import yaml

from media_pipeline.config import load_settings
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import PARTITIONS_NAME
from media_pipeline.errors import DamagedBackup, TransientError, UsageError
from media_pipeline.server import backup_drill, backup_postgres
from media_pipeline.server.backup_drill import Drill, drill
from media_pipeline.server.backup_restic import Restic
from media_pipeline.server.backup_state import STATUS
from media_pipeline.storage.layout import STAGE
from media_pipeline_tests import _cli
from media_pipeline_tests._backup_home import content
from media_pipeline_tests._installation import Installation, make, needs_restic, record_arguments
from media_pipeline_tests._postgres import postgres

pytestmark = [pytest.mark.slow, needs_restic]
PASSWORD = "password-of-dagster-that-nobody-may-see"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The folder of the server's socket; its user `dagster` may make databases, and is no superuser."""
    for program in ("pg_dump", "pg_restore"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    with postgres(password="of-the-test") as address:
        _, _, folder = address.partition("?host=")
        with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(f"CREATE ROLE dagster LOGIN CREATEDB PASSWORD '{PASSWORD}'")
        yield folder


def execute(folder: str, query: str, database: str = "dagster") -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(host=folder, user="dagster", password=PASSWORD, dbname=database)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall()) if cursor.description else []


def databases(folder: str) -> list[str]:
    found = execute(folder, "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1", "postgres")
    return [name for (name,) in found]


def renew(folder: str, name: str = "dagster") -> None:
    execute(folder, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", "postgres")
    execute(folder, f"CREATE DATABASE {name}", "postgres")


@pytest.fixture
def installation(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """One whose Dagster has runs and partitions in PostgreSQL."""
    renew(server)
    monkeypatch.setenv("DAGSTER_POSTGRES_HOST", server)
    monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", PASSWORD)
    made = make(tmp_path)
    url = f"postgresql://dagster:{PASSWORD}@/dagster?host={server}"
    own = yaml.safe_dump({"storage": {"postgres": {"postgres_url": url}}, "telemetry": {"enabled": False}})
    content(made.path / "dagster" / "dagster.yaml", own.encode(), mode=0o600)
    with open_instance(load_settings(home=made.path)) as instance:
        instance.add_dynamic_partitions(PARTITIONS_NAME, ["one.jpg~1", "two.jpg~2", "three.jpg~3"])
        for _ in range(2):

            @dg.job
            def nothing() -> None:
                pass

            assert nothing.execute_in_process(instance=instance).success
    yield made


def line(done: Drill, what: str, name: str) -> tuple[str, str, str, str]:
    [found] = [found for found in done.lines if (found.what, found.name) == (what, name)]
    return found.live, found.snapshot, found.restored, found.verdict


def test_a_drill_restores_all_of_it_and_leaves_nothing(installation: Installation, server: str) -> None:
    done_before = installation.back_up_and_note()
    assert (done_before.error, done_before.ok) == (None, True)
    before = databases(server)
    done = drill(installation.settings())
    assert done.differences == ()
    assert line(done, "dagster", "runs") == ("2", "2", "2", "same")
    assert line(done, "dagster", "partitions") == ("3", "3", "3", "same")
    assert line(done, "table", "tables/ocr")[1:] == ("9 rows (v1)", "9 rows (v1)", "same")
    assert line(done, "originals", "originals") == ("3 files", "3 files", "3 files", "same")
    assert {found.name for found in done.lines if found.what == "postgres"} >= {
        "event_logs",
        "runs",
        "daemon_heartbeats",
    }
    assert databases(server) == before
    assert list((installation.folder / "state" / "drill").iterdir()) == []
    assert execute(server, "SELECT count(*) FROM runs") == [(2,)]


def test_a_drill_means_something_when_the_installation_has_gone_on(installation: Installation, server: str) -> None:
    installation.back_up()
    installation.add(media=2)
    installation.home.tables.compact("ocr")
    execute(server, "DELETE FROM dynamic_partitions WHERE partition = 'one.jpg~1'")
    done = drill(installation.settings())
    assert done.differences == ()
    live, snapshot, restored, _ = line(done, "table", "tables/ocr")
    assert snapshot == restored != live
    assert line(done, "dagster", "partitions") == ("2", "3", "3", "same")
    without = drill(installation.settings(), originals=False)
    assert without.differences == ()
    assert not [found for found in without.lines if found.what == "originals"]


def parquet(arrived: Path) -> Path:
    return next((arrived / STAGE / "home" / "tables" / "ocr").glob("*.parquet"))


def lose_a_file(arrived: Path) -> None:
    parquet(arrived).unlink()


def swap_rows(arrived: Path) -> None:
    """As many rows as before, of another content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = parquet(arrived)
    table = pq.read_table(file)
    at = table.column_names.index("text")
    other = pa.array(["forged"] * table.num_rows, table.schema.field("text").type)
    pq.write_table(table.set_column(at, table.schema.field("text"), other), file)


def lose_a_row_of_a_database(arrived: Path) -> None:
    import sqlite3

    with closing(sqlite3.connect(arrived / STAGE / "home" / "sources.sqlite")) as database:
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute("DELETE FROM files WHERE path = (SELECT min(path) FROM files)")
        database.commit()


def flip_a_bit(arrived: Path) -> None:
    original = next(path for path in (arrived / "originals").rglob("*") if path.is_file())
    original.chmod(0o600)
    data = bytearray(original.read_bytes())
    data[100] ^= 1
    original.write_bytes(data)


def lose_an_original(arrived: Path) -> None:
    next(path for path in (arrived / "originals").rglob("*") if path.is_file()).unlink()


def tear_the_dump(arrived: Path) -> None:
    dump = arrived / STAGE / "postgres" / "dagster.dump"
    dump.write_bytes(dump.read_bytes()[: dump.stat().st_size // 2])


@pytest.mark.parametrize(
    ("manipulate", "what", "says"),
    [
        (lose_a_file, "table", ""),
        (swap_rows, "table", "other content"),
        (lose_a_row_of_a_database, "database", "other rows"),
        (flip_a_bit, "originals", "1 damaged"),
        (lose_an_original, "originals", "1 missing"),
        (tear_the_dump, "postgres", "pg_restore cannot restore"),
    ],
)
def test_a_drill_finds_what_was_manipulated(
    installation: Installation,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    manipulate: Callable[[Path], None],
    what: str,
    says: str,
) -> None:
    installation.back_up()
    restore = Restic.restore

    def then(self: Restic, snapshot_id: str, target: Path, **options: Any) -> None:
        restore(self, snapshot_id, target, **options)
        manipulate(target)

    monkeypatch.setattr(Restic, "restore", then)
    done = drill(installation.settings())
    found = [found for found in done.differences if found.what == what]
    assert len(found) == 1
    assert says in found[0].verdict
    assert not [name for name in databases(server) if name.startswith("restore_drill")]


def test_a_drill_finds_other_rows_in_postgres(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    installation.back_up()
    load = backup_postgres.load

    def then(settings: Any, source: Path, database: str, tick: Any) -> None:
        load(settings, source, database, tick)
        folder = os.environ["DAGSTER_POSTGRES_HOST"]
        execute(folder, "UPDATE dynamic_partitions SET partition = 'forged' WHERE partition = 'one.jpg~1'", database)
        execute(folder, "DELETE FROM event_logs WHERE id = (SELECT min(id) FROM event_logs)", database)

    monkeypatch.setattr(backup_drill.postgres, "load", then)
    done = drill(installation.settings())
    assert {(found.name, found.verdict) for found in done.differences} == {
        ("dynamic_partitions", "other content"),
        ("event_logs", "other rows"),
    }


def test_a_drill_finds_what_rots_in_the_installation(installation: Installation) -> None:
    installation.back_up()
    file = next((installation.path / "tables" / "titles").glob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    told = installation.cli("drill")
    assert told.returncode == 1
    assert "the installation has other content at this version" in told.stdout
    assert "1 DIFFERENCES" in told.stdout


def test_move_to_another_server(installation: Installation, server: str, tmp_path: Path) -> None:
    """Home, configuration and database from the snapshot alone, on a server with an empty database."""
    installation.back_up()
    rows = installation.home.rows()
    told = installation.cli("restore", "--home", tmp_path / "new")
    assert told.returncode == 2
    assert "the database dagster is not empty" in told.stderr
    assert not (tmp_path / "new").exists()
    renew(server)
    moved = installation.cli("restore", "--home", tmp_path / "new", "--configuration", tmp_path / "conf")
    assert moved.returncode == 0, moved.stderr
    assert "and the database dagster of snapshot" in moved.stderr
    assert installation.home.rows(tmp_path / "new") == rows
    assert (tmp_path / "conf" / ".env").read_bytes() == (installation.configuration / ".env").read_bytes()
    with open_instance(load_settings(home=tmp_path / "new")) as instance:
        assert instance.get_runs_count() == 2
        assert len(instance.get_dynamic_partitions(PARTITIONS_NAME)) == 3
    status = _cli.run(tmp_path / "new", "status")
    assert status.returncode == 0, status.stderr
    again = installation.cli("restore", "--home", tmp_path / "new", "--no-postgres")
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_a_dump_is_stored_incrementally(installation: Installation, server: str) -> None:
    execute(
        server,
        "CREATE TABLE bulk AS SELECT i, md5(i::text) || md5((i + 1)::text) || md5((i * 7)::text) AS text "
        "FROM generate_series(1, 200000) i",
    )
    first = installation.back_up()
    execute(server, "INSERT INTO bulk VALUES (0, 'one more')")
    second = installation.back_up()
    assert first.manifest.postgres is not None
    assert second.manifest.postgres is not None
    assert second.manifest.postgres.tables["bulk"].rows == first.manifest.postgres.tables["bulk"].rows + 1 == 200_001
    assert first.copied_bytes < 1_000_000  # the dump is not among what was copied of the home
    assert second.stored.bytes_added < first.stored.bytes_added / 3


def test_dagsters_database_knows_whatever_the_home_speaks_of(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition announced while the home is laid out is in the dump, never the other way round."""
    from media_pipeline.server import backup

    lay_out = backup.lay_out

    def then(*args: Any) -> Any:
        view = lay_out(*args)
        with open_instance(load_settings(home=installation.path)) as instance:
            instance.add_dynamic_partitions(PARTITIONS_NAME, ["later.jpg~4"])
        return view

    monkeypatch.setattr(backup, "lay_out", then)
    report = installation.back_up()
    assert report.manifest.postgres is not None
    assert report.manifest.postgres.partitions == 4
    assert report.manifest.dumped_at is not None
    assert report.manifest.created_at <= report.manifest.dumped_at
    assert drill(installation.settings()).differences == ()


def test_the_password_is_said_nowhere(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = record_arguments(monkeypatch, tmp_path, "restic", "pg_dump", "pg_restore")
    told = [installation.cli("backup"), installation.cli("drill")]
    assert [done.returncode for done in told] == [0, 0], told
    said = "".join(done.stdout + done.stderr for done in told) + log.read_text()
    said += (tmp_path / "state" / STATUS).read_text()
    assert "pg_dump --format=custom" in said
    assert "pg_restore" in said
    assert PASSWORD not in said
    stored = b"".join(path.read_bytes() for path in installation.repository.rglob("*") if path.is_file())
    assert b"dynamic_partitions" not in stored


def test_what_postgres_refuses_is_explained(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installation.back_up()
    with monkeypatch.context() as patched:
        patched.setenv("DAGSTER_POSTGRES_PASSWORD", "another")
        with pytest.raises(UsageError, match="password authentication failed"):
            installation.back_up()
        patched.setenv("DAGSTER_POSTGRES_HOST", str(tmp_path))
        with pytest.raises(TransientError, match="cannot be reached"):
            installation.back_up()
    assert not installation.stage.exists()
    dump = tmp_path / "no.dump"
    dump.write_bytes(b"no dump")
    with backup_postgres.scratch_database() as scratch, pytest.raises(DamagedBackup):
        backup_postgres.load(installation.settings(), dump, scratch, lambda: None)


def test_a_user_who_may_make_no_database_is_told_how(installation: Installation, server: str) -> None:
    installation.back_up()
    superuser = {"host": server, "user": "test", "password": "of-the-test", "dbname": "postgres"}
    with closing(psycopg2.connect(**superuser)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("ALTER ROLE dagster NOCREATEDB")
        try:
            done = drill(installation.settings())
        finally:
            cursor.execute("ALTER ROLE dagster CREATEDB")
    [found] = done.differences
    assert "ALTER ROLE dagster CREATEDB" in found.verdict


def test_a_drill_speaks_json(installation: Installation) -> None:
    installation.back_up()
    told = json.loads(installation.cli("drill", "--format", "json").stdout)
    assert told["differences"] == 0
    assert {found["what"] for found in told["lines"]} == {
        *("table", "database", "originals", "postgres", "dagster", "views")
    }
