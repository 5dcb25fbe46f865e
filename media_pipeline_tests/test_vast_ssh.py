"""Ssh to a rented machine: what is refused, what goes on after a cut, and what nobody else can use."""

from __future__ import annotations

import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from media_pipeline.cloud.ssh import Connection, HostKeyChanged, Key, RemoteFailed, connect
from media_pipeline.errors import UsageError, WorkerLost
from media_pipeline_tests._rented import Rented, needs_sshd, rented
from media_pipeline_tests.vast_standin import free_port


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rented]:
    with rented(tmp_path_factory.mktemp("lease of a%h")) as running:
        yield running


@pytest.fixture(scope="module")
def connection(machine: Rented) -> Connection:
    return machine.connect()


def a_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


# ---- keys and options


def test_a_key_is_for_its_owner_and_names_nobody(tmp_path: Path) -> None:
    key = Key.make(tmp_path / "lease")
    assert key.private.stat().st_mode & 0o777 == 0o600
    assert key.private.parent.stat().st_mode & 0o777 == 0o700
    kind, _, comment = key.public.partition(" ")[0], *key.public.split(" ")[1:], ""
    assert (kind, comment) == ("ssh-ed25519", "")
    assert Key.make(tmp_path / "lease") == key  # a later run comes in with it
    assert Key.make(tmp_path / "other").public != key.public
    assert [p.name for p in (tmp_path / "lease").iterdir()] == [key.private.name]


@needs_sshd
def test_nothing_of_the_users_own_ssh_is_used(tmp_path: Path) -> None:
    argv = Connection("192.0.2.1", 2222, Key.make(tmp_path), tmp_path / "known hosts %h").command("true")
    asked = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=True)
    said = dict(line.split(" ", 1) for line in asked.stdout.splitlines() if " " in line)
    assert (said["host"], said["port"], said["user"]) == ("192.0.2.1", "2222", "root")
    off = ("forwardagent", "forwardx11", "permitlocalcommand", "controlmaster", "tunnel", "updatehostkeys")
    assert {said.get(name) for name in off} == {"no"} or {said.get(name) for name in off} == {"no", "false"}
    assert said["identitiesonly"] == said["batchmode"] == said["clearallforwardings"] == "yes"
    assert said["identityagent"] == "none"
    assert said["stricthostkeychecking"] == "accept-new"
    assert said["globalknownhostsfile"] == "none"
    assert "known hosts" in said["userknownhostsfile"]
    assert "controlpersist" not in said or said["controlpersist"] == "no"
    assert "sendenv" not in said
    assert "-F" in argv and argv[argv.index("-F") + 1] == "none"


def test_a_missing_client_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UsageError, match="openssh-client"):
        Connection("192.0.2.1", 22, Key.make(tmp_path), tmp_path / "k").command("true")


# ---- commands


@needs_sshd
@pytest.mark.slow
def test_commands_there(machine: Rented, connection: Connection) -> None:
    assert connection.run("echo $((6 * 7)); cat", timeout_s=20, stdin=b"and \x00 more") == "42\nand \x00 more"
    assert connection.run("cat", timeout_s=20, stdin=a_file(machine.folder / "in", 10).with_name("key")).startswith(
        "---"
    )
    with pytest.raises(RemoteFailed, match=r"line 2 / line 3$") as failed:
        connection.run("echo line 2 >&2; printf 'line\\0333\\n' >&2; exit 3", timeout_s=20)
    assert pickle.loads(pickle.dumps(failed.value)).status == 3
    with pytest.raises(WorkerLost, match="did not finish in 2 s"):
        connection.run("sleep 20", timeout_s=2)
    with pytest.raises(WorkerLost, match="no end of words"):
        connection.run("yes", timeout_s=60)


@needs_sshd
@pytest.mark.slow
def test_the_command_of_a_place_has_three_pipes(connection: Connection) -> None:
    argv = connection.command(shlex.join(["sh", "-c", 'echo "$HOME" >&2; cat; exit 7']))
    done = subprocess.run(argv, input=b"in", capture_output=True, timeout=30)
    assert (done.stdout, done.returncode) == (b"in", 7)
    assert done.stderr


@needs_sshd
@pytest.mark.slow
def test_no_connection_outlives_this_process(machine: Rented, connection: Connection) -> None:
    code = f"""
from pathlib import Path
from media_pipeline.cloud.ssh import Connection, Key
folder = Path({str(machine.folder)!r})
there = Connection({connection.host!r}, {connection.port}, Key.make(folder), folder / "known_hosts")
there.run("sleep 45", timeout_s=45)
"""
    process = psutil.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 30
    while not (children := process.children(recursive=True)) and time.monotonic() < until:
        time.sleep(0.05)
    while any("sleep 45" not in " ".join(c.cmdline()) for c in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert children
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert psutil.wait_procs(children, timeout=20)[1] == []


# ---- getting in


@needs_sshd
@pytest.mark.slow
def test_direct_is_tried_before_the_proxy(machine: Rented, tmp_path: Path) -> None:
    closed = ("127.0.0.1", free_port())
    assert machine.connect().port == machine.endpoints[0][1]
    found = connect([closed, *machine.endpoints], machine.key, tmp_path, deadline=time.monotonic() + 20)
    assert (found.host, found.port) == machine.endpoints[0]


@needs_sshd
@pytest.mark.slow
def test_a_machine_without_open_ports_is_reached_by_the_proxy(tmp_path: Path) -> None:
    with rented(tmp_path, plan={"no_ports": True}) as machine:
        found = machine.vast.instance(machine.instance_id)
        assert found is not None and found.ssh_direct is None and found.ssh == (found.ssh_proxy,)
        assert machine.connect().run("echo in", timeout_s=20) == "in\n"


@needs_sshd
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [("refuse", "refused the connection"), ("noauth", "did not accept the key"), ("hang", "did not answer|not finish")],
)
def test_why_there_is_no_way_in(tmp_path: Path, how: str, words: str) -> None:
    with rented(tmp_path, plan={"ssh": how}) as machine, pytest.raises(WorkerLost, match=words):
        machine.connect(3)


@needs_sshd
@pytest.mark.slow
def test_a_machine_that_lets_in_late(tmp_path: Path) -> None:
    with rented(tmp_path, plan={"ssh": {"late": 3}}) as machine:
        assert machine.connect(60).run("echo in", timeout_s=20) == "in\n"


def test_no_address_is_said(tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match="no address"):
        connect([], Key.make(tmp_path), tmp_path, deadline=0)


@needs_sshd
@pytest.mark.slow
def test_another_host_key_ends_it(tmp_path: Path) -> None:
    with rented(tmp_path) as machine:
        connection = machine.connect()
        known = tmp_path / "known_hosts"
        host, kind, _ = known.read_text().split()[:3]
        other = Key.make(tmp_path / "other").public.split()[1]
        known.write_text(f"{host} {kind} {other}\n")
        for attempt in (lambda: connection.run("true", timeout_s=20), lambda: machine.connect(60)):
            with pytest.raises(HostKeyChanged, match="another host key"):
                attempt()
        assert other in known.read_text()  # it is not learnt anew


@needs_sshd
@pytest.mark.slow
def test_a_machine_that_dies_is_lost(tmp_path: Path) -> None:
    with rented(tmp_path) as machine:
        connection = machine.connect()
        with machine.standin.market.lock:
            machine.standin.market.unplug(machine.standin.market.instances[machine.instance_id])
        with pytest.raises(WorkerLost):
            connection.run("true", timeout_s=20)


# ---- transfers


@needs_sshd
@pytest.mark.slow
def test_a_file_arrives_and_is_not_sent_again(machine: Rented, connection: Connection, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", 3_000_000)
    connection.upload(source, "to/a place/file", timeout_s=60, staging="parts")
    assert (machine.root / "to/a place/file").read_bytes() == source.read_bytes()
    assert list((machine.root / "parts").iterdir()) == []
    assert connection.upload_bytes_per_s
    before = machine.gate.rx
    connection.upload(source, "to/a place/file", timeout_s=60)
    assert machine.gate.rx - before < 100_000
    empty = a_file(tmp_path / "empty", 0)
    connection.upload(empty, "empty", timeout_s=60)
    assert (machine.root / "empty").read_bytes() == b""


@needs_sshd
@pytest.mark.slow
def test_a_transfer_goes_on_after_a_cut(machine: Rented, connection: Connection, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", 12_000_000)
    before = machine.gate.rx
    machine.gate.cut_after = machine.gate.rx + machine.gate.tx + 8_000_000
    healed = threading.Event()

    def heal() -> None:
        while machine.gate.rx - before < 8_000_000 and not healed.wait(0.05):
            pass
        time.sleep(0.5)
        machine.gate.cut_after = None

    thread = threading.Thread(target=heal)
    thread.start()
    connection.upload(source, "resumed", timeout_s=90)
    healed.set()
    thread.join()
    assert (machine.root / "resumed").read_bytes() == source.read_bytes()
    assert machine.gate.rx - before < 17_000_000  # not all of it twice


@needs_sshd
@pytest.mark.slow
def test_other_bytes_are_noticed(machine: Rented, connection: Connection, tmp_path: Path) -> None:
    """What is left of an earlier attempt may have been tampered with: it is sent anew, and never put in its place."""
    source = a_file(tmp_path / "source", 3_000_000)
    digest = subprocess.run(["sha256sum", source], capture_output=True, text=True, check=True).stdout[:64]
    part = machine.root / "parts" / f"{digest[:24]}.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(bytes(2_500_000))
    connection.upload(source, "honest", timeout_s=60, staging="parts")
    assert (machine.root / "honest").read_bytes() == source.read_bytes()
    # The source is not what it is said to be: nothing arrives.
    with pytest.raises(WorkerLost, match="does not store"):
        connection.upload(source, "lie", timeout_s=60, sha256="0" * 64)
    assert not (machine.root / "lie").exists()


@needs_sshd
@pytest.mark.slow
def test_a_full_disk_is_said(connection: Connection, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", 100_000)
    digest = subprocess.run(["sha256sum", source], capture_output=True, text=True, check=True).stdout[:64]
    connection.run(f"mkdir -p full && ln -s /dev/full full/{digest[:24]}.part", timeout_s=20)
    with pytest.raises(WorkerLost, match="No space left"):
        connection.upload(source, "never", timeout_s=60, staging="full")


@needs_sshd
@pytest.mark.slow
def test_a_transfer_ends_in_time(machine: Rented, connection: Connection, tmp_path: Path) -> None:
    source = a_file(tmp_path / "source", 2_000_000)
    machine.gate.bps = 100_000
    try:
        with pytest.raises(WorkerLost):
            connection.upload(source, "late", timeout_s=4)
    finally:
        machine.gate.bps = None
    assert not (machine.root / "late").exists()
    connection.upload(source, "late", timeout_s=60)  # goes on
    assert (machine.root / "late").read_bytes() == source.read_bytes()


@needs_sshd
@pytest.mark.slow
def test_the_rate_of_uploads_is_measured(machine: Rented, connection: Connection) -> None:
    machine.gate.bps = 1_000_000
    try:
        rate = connection.measure_upload()
    finally:
        machine.gate.bps = None
    # The gate takes at least that long; greeting and load may have taken more.
    assert 50_000 < rate < 2_000_000
    assert connection.upload_bytes_per_s == rate
