"""Runs that are cut off at the worst instant, and machines with a real sshd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.cloud import reaper
from media_pipeline.cloud.fleet import RentedFleet
from media_pipeline.cloud.reaper import reap
from media_pipeline.execution.places import Place
from media_pipeline_tests._cli import REPOSITORY, environment
from media_pipeline_tests._rental_home import (
    USD_PER_HOUR,
    Home,
    creates,
    dear_home,
    market,
    quick,
    ready,
    until,
)

pytestmark = pytest.mark.slow  # machines boot, run and end in real time


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with dear_home(tmp_path, monkeypatch) as opened:
        yield opened


def test_closed_while_a_machine_is_being_asked_for(home: Home) -> None:
    home.server.fault({"route": "create", "do": "hang", "seconds": 1.0})
    rented = home.fleet()
    rented.start()
    until(lambda: home.leases.open())
    time.sleep(0.3)
    rented.close()
    home.assert_clean()


def test_closed_while_machines_boot(home: Home) -> None:
    home.server.fault({"route": "create", "do": "instance", "plan": {"stuck": "loading"}, "times": 3})
    rented = home.fleet(machines=3)
    rented.start()
    until(lambda: len(home.ours()) == 3)
    rented.close()
    home.assert_clean()


def test_interrupted_while_closing_it_is_closed_at_the_end_of_the_process(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    rented = home.fleet()
    ready(rented)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rented, "_join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rented.close()
    rented.close()  # what `atexit` does
    home.assert_clean()


def start_process(home: Home) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "media_pipeline_tests._rental_home", str(home.layout.home), home.server.url],
        cwd=REPOSITORY,
        env=environment(),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("when", ["between request and record", "during boot", "at work", "during destruction"])
def test_killed(home: Home, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_DEAD_AFTER_S", 0.5)
    monkeypatch.setattr(reaper, "_ASKED_FOR_S", 1.0)
    if when == "between request and record":
        home.server.fault({"route": "create", "do": "hang", "seconds": 1.5})
    elif when == "during boot":
        home.server.fault({"route": "create", "do": "instance", "plan": {"stuck": "created"}})
    elif when == "during destruction":
        home.server.fault({"route": "destroy", "do": "hang", "seconds": 1.5})
    process = start_process(home)
    try:
        if when == "between request and record":
            until(lambda: home.leases.open(), 60)
            time.sleep(0.3)  # the request is on its way, and the server takes its time
        elif when == "during boot":
            until(lambda: home.ours() and home.leases.open()[0].instance_id, 60)
        else:
            until(lambda: home.leases.open() and home.leases.open()[0].state == "busy", 60)
        if when == "during destruction":
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            until(lambda: any(f["kind"] == "fault" and f["route"] == "destroy" for f in home.server.market.events))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if when == "between request and record":
        until(lambda: home.ours())
        assert home.leases.open()[0].instance_id is None
    time.sleep(0.6)
    done = reap(home.vast, home.leases, home.layout, home.settings.gpu)
    assert done.is_clean, done.lines
    home.assert_clean()
    home.assert_paid(5, USD_PER_HOUR)
    assert not home.leases.get(home.all_leases()[0].lease_id).is_open


def test_ended_by_the_interpreter_without_a_close(home: Home) -> None:
    process = start_process(home)
    until(lambda: home.leases.open() and home.leases.open()[0].state == "busy", 60)
    process.send_signal(signal.SIGINT)  # KeyboardInterrupt in the main thread, which closes nothing
    process.communicate(timeout=60)
    home.assert_clean()


# -- with a real machine ----------------------------------------------------------------------------------------------

needs_sshd = pytest.mark.skipif(not os.path.exists("/usr/sbin/sshd") or not shutil.which("ssh"), reason="no sshd")


@needs_sshd
@pytest.mark.parametrize("plan", [{}, {"ssh": {"late": 1.5}}], ids=str)
def test_a_machine_with_a_real_sshd_becomes_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any]
) -> None:
    quick(monkeypatch)
    with market(usd=USD_PER_HOUR, ssh=True) as server, Home(tmp_path, server, max_usd=50, max_usd_per_day=90) as home:
        server.fault({"route": "create", "do": "instance", "plan": plan})
        first = home.fleet("first", keep_idle=True)
        (place,) = ready_for_real(first)
        check = subprocess.run([*place.command[:-1], "echo $CONTAINER_ID"], capture_output=True, text=True, timeout=30)
        assert check.stdout.strip() == str(home.leases.open()[0].instance_id), check.stderr
        first.close()
        second = home.fleet("second")
        (again,) = ready_for_real(second)
        assert again.name == place.name, home.said
        assert creates(server) == 1
        second.close()
        home.assert_clean()


@needs_sshd
@pytest.mark.parametrize("plan", [{"ssh": "refuse"}, {"ssh": "noauth"}, {"ssh": "hang"}, {"gpu": "broken"}], ids=str)
def test_a_machine_without_a_way_in_or_a_gpu_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any]
) -> None:
    quick(monkeypatch)
    with (
        market(usd=USD_PER_HOUR, ssh=True) as server,
        Home(tmp_path, server, max_usd=50, max_usd_per_day=90, boot_timeout_s=5) as home,
    ):
        server.fault({"route": "create", "do": "instance", "plan": plan})
        rented = home.fleet()
        ready_for_real(rented)
        assert creates(server) == 2
        rented.close()
        home.assert_clean()
        bad = [lease for lease in home.all_leases() if lease.is_bad]
        assert len(bad) == 1


def ready_for_real(rented: RentedFleet) -> tuple[Place, ...]:
    rented.start()
    until(lambda: rented.state().places or not rented.state().is_starting, 180)
    assert rented.state().places, rented.history
    return rented.state().places
