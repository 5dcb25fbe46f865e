"""File systems that several machines may share, and what SQLite does on them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from media_pipeline.storage import file_system
from media_pipeline.storage._backup_cut import copy_database, take_cut
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sqlite import Database

ROOT = Path(__file__).resolve().parent.parent

MOUNTS = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:40 / /srv/media\\040home rw,relatime shared:2 - nfs4 nas:/media rw,vers=4.2
31 30 254:1 / /srv/media\\040home/indexes rw - xfs /dev/vdb rw
32 21 0:41 / /mnt/gluster rw - fuse.glusterfs nas:/media rw
33 21 254:2 / /mnt/usb rw - fuseblk /dev/sdb1 rw
34 21 0:42 / /mnt/twice rw - ext4 /dev/vdc rw
35 34 0:43 / /mnt/twice rw - cifs //nas/media rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/home/media", "ext4", False),
        ("/srv/media home/sources.sqlite", "nfs4", True),
        ("/srv/media home", "nfs4", True),
        ("/srv/media homes", "ext4", False),
        ("/srv/media home/indexes/words.sqlite", "xfs", False),
        ("/mnt/gluster/a/b", "fuse.glusterfs", True),
        ("/mnt/usb/a", "fuseblk", False),
        ("/mnt/twice/a", "cifs", True),
    ],
)
def test_file_systems_are_told_apart(
    path: str, kind: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(file_system, "_MOUNTS", tmp_path / "mountinfo")
    assert file_system.file_system(Path(path)) == kind
    assert file_system.is_shared(Path(path)) is shared


def test_this_systems_own_mounts_can_be_read() -> None:
    assert file_system.file_system(Path("/proc")) == "proc"
    assert file_system.file_system(Path("/proc/self/no such file")) == "proc"


COUNTER = (
    "CREATE TABLE IF NOT EXISTS counter(value); CREATE TABLE IF NOT EXISTS written(who, number);"
    " INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM counter);"
)
COUNTING = f"""
import sys
from pathlib import Path
import media_pipeline.storage.sqlite as sqlite
sqlite.is_shared = lambda path: True
database = sqlite.Database(Path(sys.argv[1]), {COUNTER!r}, version=1)
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    with database.write() as db:
        value = db.execute("SELECT value FROM counter").fetchone()[0]
        db.execute("UPDATE counter SET value = ?", (value + 1,))
        db.execute("INSERT INTO written VALUES (?, ?)", (sys.argv[2], number))
"""


@pytest.mark.slow
def test_several_processes_write_without_a_write_ahead_log(tmp_path: Path) -> None:
    file = tmp_path / "counter.sqlite"
    # As it lay on a disk before the home was moved.
    database = Database(file, COUNTER, version=1)
    database.close()
    assert file.read_bytes()[18:20] == b"\x02\x02"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTING, str(file), str(who)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in range(4)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    assert file.read_bytes()[18:20] == b"\x01\x01"
    assert not list(tmp_path.glob("*-wal")) and not list(tmp_path.glob("*-shm"))
    for writer in writers:
        writer.communicate("\n", timeout=120)
    assert [writer.returncode for writer in writers] == [0] * 4
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT value FROM counter").fetchone() == (100,)
        assert Counter(db.execute("SELECT who FROM written").fetchall()) == {(str(who),): 25 for who in range(4)}


def test_on_a_shared_disk_no_commit_is_lost_to_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shared, expected in ((False, ("wal", 1)), (True, ("truncate", 2))):
        monkeypatch.setattr("media_pipeline.storage.sqlite.is_shared", lambda _, shared=shared: shared)
        database = Database(tmp_path / "same.sqlite", COUNTER, version=1)
        found = [database.query(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")]
        database.close()
        assert tuple(found) == expected


def test_a_backup_does_not_hold_up_writers_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_pipeline.storage.sqlite.is_shared", lambda _: True)
    monkeypatch.setattr("media_pipeline.storage._backup_cut.is_shared", lambda _: True)
    monkeypatch.setattr("media_pipeline.storage.sqlite.BUSY_TIMEOUT_S", 0.1)
    layout = Layout(tmp_path)
    layout.create()
    database = Database(layout.sources, COUNTER, version=1)
    with ExitStack() as stack:
        cut = take_cut(layout, stack)
        with database.write() as db:
            db.execute("UPDATE counter SET value = 1")
        copy_database(cut.databases[layout.sources], tmp_path / "copy.sqlite")
    database.close()
    for file, expected in ((tmp_path / "copy.sqlite", 0), (layout.sources, 1)):
        with closing(sqlite3.connect(file)) as db:
            assert db.execute("SELECT value FROM counter").fetchone() == (expected,)
