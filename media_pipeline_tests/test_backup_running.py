"""Backups of a home that others write to, and backups that are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from media_pipeline_tests import _cli
from media_pipeline_tests._backup_home import ANALYZERS, BackupHome, content

pytestmark = pytest.mark.slow

WRITER = """
    import random, sys
    from pathlib import Path
    from media_pipeline_tests._backup_home import BackupHome
    home = BackupHome(Path(sys.argv[1]), Path(sys.argv[2]))
    dice = random.Random(int(sys.argv[3]))
    print("ready", flush=True)
    for number in range(10_000):
        media = [f"{sys.argv[3]}-{n}" for n in dice.sample(range(30), dice.randint(1, 6))]
        home.add(*media, rows=dice.randint(0, 9), run=f"{sys.argv[3]}-{number}")
        if dice.random() < 0.3:
            home.take_in(f"{number}.jpg", f"{sys.argv[3]} {number}".encode())
        if dice.random() < 0.05:
            home.tables.compact(dice.choice(["ocr", "titles", "analyses"]))
            home.tables.vacuum("ocr", retention_hours=0)  # as an erasure does
"""
# Waits at a random object, as if the disk were slow, so that it can be killed there.
TAKER = """
    import sys, time
    from pathlib import Path
    from media_pipeline_tests._backup_home import BackupHome
    home = BackupHome(Path(sys.argv[1]), Path(sys.argv[2]))
    at, publish = int(sys.argv[3]), home.repository._publish
    def slowly(*args):
        global at
        at -= 1
        if at == 0:
            print("here", flush=True)
            time.sleep(60)
        return publish(*args)
    home.repository._publish = slowly
    home.take()
"""


def start(code: str, *args: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(
        command, cwd=_cli.REPOSITORY, env=_cli.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def writers(home: BackupHome, count: int) -> Iterator[None]:
    """Processes that replace results and take media in without a pause."""
    running = [start(WRITER, home.layout.home, home.root, number) for number in range(count)]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield
        assert [process.poll() for process in running] == [None] * count, running[0].communicate()[1]
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_every_entry_of_the_ledger_has_exactly_its_rows(tmp_path: Path) -> None:
    """Results of 60 media are replaced all the time, with other numbers of rows, while snapshots are taken."""
    home = BackupHome(tmp_path / "home", tmp_path / "backups")
    states = set()
    with writers(home, 2):
        for number in range(12):
            assert home.take().problems == {}
            time.sleep(0.1)
            new = home.restore(tmp_path / f"new-{number}")
            states.add(require_whole(home, new))
    assert len(states) > 6  # it really was written to meanwhile
    assert min(max(states)) > 0


def require_whole(home: BackupHome, restored: Path) -> tuple[int, int]:
    """The ledger and the tables of one instant agree, row for row; the number of entries and of media taken in."""
    tables = home.rows(restored)
    entries = tables.get("analyses", [])
    for analyzer in ANALYZERS:
        rows = Counter((row["media_id"], row["text"].split()[0]) for row in tables.get(analyzer, []))
        said = {(e["media_id"], e["run_id"]): e["rows"] for e in entries if e["analyzer"] == analyzer and e["rows"]}
        known = {e["media_id"] for e in entries if e["analyzer"] == analyzer}
        # Rows without an entry are those of a result that is being written; it is made again.
        assert {key: count for key, count in rows.items() if key[0] in known} == said
    other = BackupHome(restored, restored.parent / f"{restored.name}-backups")
    for medium in other.sources.all_media():
        assert medium.stored.read_bytes() == (restored / "inbox" / medium.name).read_bytes()
    return len(entries), other.sources.count()


@pytest.mark.parametrize("at", [1, 3, 8])
def test_a_killed_backup_leaves_whole_snapshots_and_the_next_goes_on(tmp_path: Path, at: int) -> None:
    home = BackupHome(tmp_path / "home", tmp_path / "backups")
    home.add("a")
    home.take()
    before = home.rows()
    home.add("b", "c")
    content(home.layout.originals / "aa" / "big", b"x" * 1_000_000)
    process = start(TAKER, home.layout.home, home.root, at)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n", process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(home.repository.snapshots()) == 1
    assert home.rows(home.restore(tmp_path / "old")) == before
    home.take()
    assert list((home.root / "incoming").iterdir()) == []
    assert home.rows(home.restore(tmp_path / "new")) == home.rows()


def test_the_commands_on_a_home_that_is_written_to(tmp_path: Path) -> None:
    home = BackupHome(tmp_path / "home", tmp_path / "backups")
    with writers(home, 1):
        taken = _cli.run(home.layout.home, "backup", home.root)
        assert taken.returncode == 0, taken.stderr
        tested = _cli.run(home.layout.home, "backup", "test", home.root)
        assert (tested.returncode, "views answer" in tested.stderr) == (0, True), tested.stderr
    home.take()
    new = tmp_path / "new"
    restored = _cli.run(home.layout.home, "restore", home.root, "--home", new)
    assert restored.returncode == 0, restored.stderr
    assert (new / "warehouse.duckdb").exists()
    query = "SELECT * FROM analyses ORDER BY media_id, analyzer"
    answers = [_cli.run(where, "sql", query, "--format", "json") for where in (home.layout.home, new)]
    assert answers[0].returncode == 0, answers[0].stderr
    assert answers[0].stdout == answers[1].stdout
    assert '"analyzer"' in answers[0].stdout
