"""When the backup of an installation is killed, has no room or key, or is damaged; when its store is away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from media_pipeline.errors import DamagedBackup, DiskFull, MediaPipelineError, TransientError, UsageError
from media_pipeline.server import backup
from media_pipeline.server.backup_restic import Restic
from media_pipeline.server.backup_state import STATUS, State, Status
from media_pipeline_tests._installation import KEY, PATIENCE_S, Installation, make, needs_restic, start, wait_for
from media_pipeline_tests.test_several_servers_live import free_port


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return make(tmp_path)


# --- killed ---------------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def sending(installation: Installation, process: subprocess.Popen[str]) -> int:
    """The process of restic, once it has begun to send."""

    def look() -> int | None:
        assert process.poll() is None, process.communicate()
        begun = [path for path in (installation.repository / "data").rglob("*") if path.is_file()]
        return next(iter(children(process.pid)), None) if begun and installation.stage.exists() else None

    return int(wait_for(look, "restic"))


@pytest.mark.slow
@needs_restic
@pytest.mark.parametrize("whom", ["both", "ours", "ours, asked to end"])
def test_a_killed_backup_leaves_whole_snapshots_and_the_next_goes_on(
    installation: Installation, tmp_path: Path, whom: str
) -> None:
    first = installation.back_up_and_note()
    rows = installation.home.rows()
    installation.add(media=8, size=4_000_000)
    before = installation.stored_bytes()
    shutil.copytree(installation.repository / "data", tmp_path / "data-before")
    # Slow enough to be met while it sends, on a busy machine too: it would take twenty seconds.
    process = start(installation, "backup", backup_upload_kib_s=1500)
    try:
        wait_for(lambda: process.poll() is not None or installation.stored_bytes() > before + 2_000_000, "sending")
        restic = sending(installation, process)
        if whom == "both":
            os.kill(restic, signal.SIGKILL)  # leaves its lock
        process.send_signal(signal.SIGTERM if whom == "ours, asked to end" else signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)
        wait_for(lambda: not Path(f"/proc/{restic}").exists() or is_zombie(restic), "the end of restic")
    finally:
        process.kill()
        process.communicate()
    assert installation.status.snapshot_id == first.snapshot_id
    assert [s.id[:8] for s in installation.restic().snapshots()] == [first.snapshot_id]
    installation.restore(tmp_path / "first")
    assert installation.home.rows(tmp_path / "first") == rows
    sent = installation.stored_bytes() - before
    again = installation.back_up_and_note()  # prunes, which needs the repository for itself
    assert (again.error, again.prune_error) == (None, None)
    assert not installation.stage.exists()
    assert sent > 1_000_000
    installation.restic().check("100%")
    assert installation.restore(tmp_path / "second").wrong == ()


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# --- keys, damage, room ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_restic
def test_another_key_is_refused_and_changes_nothing(installation: Installation) -> None:
    good = installation.back_up_and_note()
    (installation.keys / "restic_password").write_text("another")
    bad = installation.back_up_and_note()
    assert bad.error is not None
    assert "restic_password does not open" in bad.error
    assert "put the key there that this repository was made with" in bad.error
    # What is said of a snapshot goes on being true of the last good one.
    assert (bad.ok, bad.snapshot_id, bad.last_success_at) == (False, good.snapshot_id, good.last_success_at)
    assert bad.started_at is not None
    assert (bad.bytes_added, good.bytes_added > 0) == (good.bytes_added, True)
    (installation.keys / "restic_password").write_text(KEY)
    assert installation.back_up_and_note().ok


@pytest.mark.slow
@needs_restic
def test_a_flipped_byte_is_found_and_said_until_it_is_mended(installation: Installation, tmp_path: Path) -> None:
    installation.add(media=4)
    assert installation.back_up_and_note().ok
    backup.check(installation.settings(), None)
    assert installation.status.checked_at is not None
    packs = (path for path in (installation.repository / "data").rglob("*") if path.is_file())
    pack = max(packs, key=lambda path: path.stat().st_size)
    whole = pack.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 3] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(damaged)
    with pytest.raises(DamagedBackup, match="the repository is damaged"):
        backup.check(installation.settings(), "100%")
    told = installation.cli("check", "--read-data")
    assert told.returncode == 1
    assert pack.name[:8] in told.stderr
    status = json.loads((tmp_path / "state" / STATUS).read_text())
    assert (status["ok"], status["check_error"]) == (False, status["error"])
    # A snapshot on top of it is no success.
    assert not installation.back_up_and_note().ok
    with pytest.raises(DamagedBackup):
        installation.restore(tmp_path / "new")
    pack.write_bytes(whole)
    backup.check(installation.settings(), "100%")
    assert (installation.status.ok, installation.status.error) == (True, None)


@pytest.mark.slow
@needs_restic
def test_a_damaged_repository_is_mended_as_the_documentation_says(installation: Installation, tmp_path: Path) -> None:
    installation.add(media=4)
    installation.back_up()
    packs = (path for path in (installation.repository / "data").rglob("*") if path.is_file())
    pack = max(packs, key=lambda path: path.stat().st_size)
    pack.rename(tmp_path / pack.name)
    with pytest.raises(DamagedBackup):
        backup.check(installation.settings(), None)
    installation.run_restic("rebuild-index")
    assert "stored anew" in str(installation.back_up_and_note().error)
    assert "repository is damaged" in str(installation.back_up_and_note().error)  # nobody has looked again
    backup.check(installation.settings(), "100%")
    assert installation.status.ok
    assert installation.restore(tmp_path / "new").wrong == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk takes a right that this user lacks")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@needs_restic
def test_no_room_for_the_backups(small_disk: Path, tmp_path: Path) -> None:
    installation = make(tmp_path, backup_repository=str(small_disk / "repository"))
    assert installation.back_up_and_note().ok
    rows = installation.home.rows()
    large = [*installation.add(media=4, size=3_000_000)]
    with pytest.raises(DiskFull, match=r"no room left at .*; make room, or keep fewer backups"):
        installation.back_up()
    status = installation.back_up_and_note()
    assert not status.ok
    assert status.error is not None
    assert "no room left" in status.error
    assert large
    done = installation.restore(tmp_path / "new")
    assert done.wrong == ()
    assert installation.home.rows(tmp_path / "new") == rows


@pytest.mark.slow
@needs_restic
def test_no_room_for_the_restored(small_disk: Path, tmp_path: Path) -> None:
    installation = make(tmp_path)
    installation.add(media=4, size=3_000_000)
    installation.back_up()
    with pytest.raises(DiskFull, match="are to be written and"):
        installation.restore(small_disk / "home")


@pytest.mark.slow
@needs_restic
def test_a_file_that_cannot_be_read_is_said_and_the_rest_is_stored(installation: Installation, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    [damaged, *_] = [path for path in (installation.path / "originals").rglob("*") if path.is_file()]
    damaged.chmod(0)
    status = installation.back_up_and_note()
    assert status.error is not None
    assert damaged.name in status.error
    assert status.snapshot_id is not None
    assert installation.restore(tmp_path / "new").wrong == ()


# --- S3 -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    program = shutil.which("moto_server") or shutil.which("moto_server", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("moto_server, which plays an S3 store, is not installed")
    port = free_port()
    server = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:

        def answers() -> bool:
            assert server.poll() is None
            try:
                return httpx.get(f"http://127.0.0.1:{port}/").status_code < 500
            except httpx.TransportError:
                return False

        wait_for(answers, "the store")
        yield f"s3:http://127.0.0.1:{port}/backups"
    finally:
        server.kill()
        server.wait()


def s3_keys(installation: Installation) -> None:
    (installation.keys / "s3_access_key").write_text("the-access-key\n")
    (installation.keys / "s3_secret_key").write_text("the-secret-key\n")


@pytest.mark.slow
@needs_restic
def test_to_an_s3_store_and_back(s3: str, tmp_path: Path) -> None:
    installation = make(tmp_path, backup_repository=f"{s3}/one", backup_s3_region="eu-central-1")
    with pytest.raises(UsageError, match=r"key of the S3 store cannot be read from .*s3_access_key"):
        installation.back_up()
    s3_keys(installation)
    first = installation.back_up_and_note()
    assert (first.error, first.ok) == (None, True)
    installation.add(media=1)
    second = installation.back_up_and_note()
    assert second.ok
    assert second.files_unmodified > 6
    assert second.bytes_added < 400_000
    backup.check(installation.settings(), "1/1")
    assert len(json.loads(installation.cli("list", "--format", "json").stdout)) == 1  # of one day the last one
    shutil.rmtree(tmp_path / "state")  # on another server there is no cache
    assert installation.restore(tmp_path / "new").wrong == ()
    assert installation.home.rows(tmp_path / "new") == installation.home.rows()


@pytest.mark.slow
@needs_restic
def test_a_store_that_is_away(tmp_path: Path) -> None:
    installation = make(tmp_path, backup_repository=f"s3:http://127.0.0.1:{free_port()}/backups/one")
    s3_keys(installation)
    with pytest.raises(TransientError, match="cannot be reached"):
        installation.back_up()
    status = installation.back_up_and_note()
    assert (status.ok, status.last_success_at) == (False, None)
    told = installation.cli("backup")
    assert told.returncode == 1
    assert "cannot be reached" in told.stderr
    assert "the-secret-key" not in told.stderr + (tmp_path / "state" / STATUS).read_text()


# --- notes and programs ---------------------------------------------------------------------------------------------


def test_a_note_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    state = State(Installation(tmp_path).settings())
    for text in ("", "[]", "{", '{"ok": true, "of": "a later version"}'):
        (tmp_path / "state" / STATUS).write_text(text)
        assert state.status().last_success_at is None
    assert state.status().ok
    state.write(Status(ok=True))
    assert [path.name for path in (tmp_path / "state").iterdir()] == [STATUS]


def test_restic_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MediaPipelineError, match="restic is not installed; apt-get install restic"):
        Restic(Installation(tmp_path).settings()).look()
