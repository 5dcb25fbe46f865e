"""`gpu status|costs|reap` and the sensor: what is on the screen at three in the morning."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from media_pipeline.cli import main
from media_pipeline.cloud import reaper
from media_pipeline.config import load_settings
from media_pipeline.storage import processes
from media_pipeline.storage.backup import Options, back_up, create
from media_pipeline.storage.leases import Caps, Lease, Leases
from media_pipeline.storage.sources import Sources
from media_pipeline_tests._rental_home import KEY, Home, market, rent_by_hand
from media_pipeline_tests.test_leases import TERMS
from media_pipeline_tests.test_reaper import dead_owner
from media_pipeline_tests.vast_standin import StandIn
from sensors.gpu_reaper import gpu_reaper


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with market(count=20) as running:
        yield running


@pytest.fixture
def home(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with server.market.lock:
        for instance in list(server.market.instances.values()):
            server.market.remove(instance)
        server.market.faults.clear()
    monkeypatch.setenv("VAST_API_KEY", KEY)
    monkeypatch.setenv("MEDIA_PIPELINE_VAST_URL", server.url)
    monkeypatch.setenv("MEDIA_PIPELINE_HOME", str(tmp_path))
    with Home(tmp_path, server) as opened:
        yield opened


class Screen:
    def __init__(self, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
        self._home, self._capsys = home, capsys

    def run(self, *args: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(self._home.layout.home), "gpu", *args])
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def json(self, *args: str) -> Any:
        self.code = self.run(*args, "--format", "json")
        return json.loads(self.out)


@pytest.fixture
def screen(home: Home, capsys: pytest.CaptureFixture[str]) -> Screen:
    return Screen(home, capsys)


def rented(home: Home, *, owner: str | None = None, silent_s: float = 0.0, spent: float = 0.2) -> Lease:
    then = Leases(home.layout.leases, clock=lambda: time.time() - silent_s)
    lease = then.reserve(Caps(9, 9, 9), 0.5, run_id="run-1", owner=owner or processes.signature(), **TERMS)
    then.update(lease.lease_id, instance_id=rent_by_hand(home.server, lease.label), state="busy")
    then.renew(lease.owner, {lease.lease_id: spent})
    then.close()
    return home.leases.get(lease.lease_id)


def test_with_nothing_rented(screen: Screen) -> None:
    assert screen.run("status") == 0
    assert "nothing is rented" in screen.out
    assert screen.run("costs") == 0
    assert screen.run("reap") == 0


def test_status_shows_what_runs_for_whom_and_what_is_left(home: Home, screen: Screen) -> None:
    lease = rented(home)
    foreign = rent_by_hand(home.server, "else")
    lost = rent_by_hand(home.server, home.leases.prefix + "000000000000")
    assert screen.run("status") == 0
    for text in (lease.lease_id, str(lease.instance_id), "RTX 3090 in SE", "run-1", "$0.360", "$0.200", "$0.500"):
        assert text in screen.out
    assert "$0.20 spent and $0.30 reserved of $3.00" in screen.out
    assert "MEDIA_PIPELINE_GPU__MAX_USD_PER_DAY" in screen.out
    assert "2 machines of ours, 1 others" in screen.out
    assert f"machine {lost} runs and no lease needs it: `media-pipeline gpu reap`" in screen.err
    report = screen.json("status")
    assert report["provider"]["without_lease"] == [lost]
    assert report["provider"]["foreign"] == 1
    assert foreign not in report["provider"]["ours"]
    assert report["leases"][0]["unwanted"] is None


def test_status_works_without_the_provider_and_says_so(
    home: Home, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = rented(home, owner=dead_owner(), silent_s=60)
    home.server.fault({"route": "list", "do": "deprecated", "times": -1})
    assert screen.run("status") == 0
    assert lease.lease_id in screen.out
    assert "its run was cut off; `media-pipeline gpu reap`" in screen.out
    assert "Vast.ai was not asked" in screen.err
    assert "https://cloud.vast.ai/instances/" in screen.err
    monkeypatch.delenv("VAST_API_KEY")
    assert screen.run("status") == 0
    assert lease.lease_id in screen.out
    assert "VAST_API_KEY" in screen.err


def test_costs_against_limits_and_the_providers_books(
    home: Home, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = rented(home, spent=0.2)
    with home.server.market.lock:
        home.server.market.instances[lease.instance_id].cost["bwu"] += 0.25
    report = screen.json("costs")
    (day,) = report["days"]
    assert day["usd"] == pytest.approx(0.25, abs=0.01)
    assert day["limit_usd"] == 3.0
    assert [row["name"] for row in report["runs"]] == ["run-1"]
    (row,) = report["leases"]
    assert row["metered_usd"] == pytest.approx(0.2)
    assert row["charged_usd"] == pytest.approx(0.25, abs=0.01)
    assert row["difference_usd"] == pytest.approx(0.05, abs=0.01)
    assert row["books"] == "open"
    assert screen.run("costs") == 0
    assert "8%" in screen.out
    assert "EUR" not in screen.out
    monkeypatch.setenv("MEDIA_PIPELINE_GPU__EUR_PER_USD", "2")
    assert screen.run("costs") == 0
    assert "0.50" in screen.out
    home.server.fault({"route": "charges", "do": "deprecated", "times": -1})
    assert screen.run("costs") == 0
    assert lease.lease_id in screen.out
    assert "not up to date" in screen.err


def test_reap(home: Home, screen: Screen) -> None:
    kept = rented(home)
    lost = rented(home, owner=dead_owner(), silent_s=60)
    foreign = rent_by_hand(home.server, "else")
    assert screen.run("reap") == 0
    assert f"machine {lost.instance_id} (RTX 3090) was destroyed: its run was cut off" in screen.out
    assert {row["id"] for row in home.server.live()} == {kept.instance_id, foreign}
    report = screen.json("reap")
    assert report["kept"] == [kept.instance_id]
    assert report["is_clean"]


def test_reap_that_cannot_see_fails_with_cause_and_remedy(home: Home, screen: Screen) -> None:
    rented(home)
    home.server.fault({"route": "list", "do": "deprecated", "times": -1})
    assert screen.run("reap") == 1
    assert "what is running is not known" in screen.err
    assert "https://cloud.vast.ai/instances/" in screen.err
    assert screen.json("reap")["blind"]
    assert screen.code == 1
    assert [n for n in home.leases.notices() if n.name.startswith("blind")], "somebody is told"


def test_reap_that_cannot_destroy_fails(home: Home, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_PER_MACHINE_S", 0.1)
    lost = rented(home, owner=dead_owner(), silent_s=60)
    home.server.market.instances[lost.instance_id].lies = 99
    assert screen.run("reap") == 1
    assert f"machine {lost.instance_id} (RTX 3090) could not be destroyed" in screen.err
    home.server.market.instances[lost.instance_id].lies = 0
    assert screen.run("reap") == 0


def test_reap_without_a_key(home: Home, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAST_API_KEY")
    assert screen.run("reap") == 0, "nothing was ever rented"
    rented(home)
    assert screen.run("reap") != 0
    assert "VAST_API_KEY" in screen.err


# -- the sensor -------------------------------------------------------------------------------------------------------


def tick(home: Home) -> str:
    (sensor,) = gpu_reaper(load_settings())
    result = sensor(dg.build_sensor_context())
    assert isinstance(result, dg.SkipReason)
    return result.skip_message or ""


def test_the_sensor_is_there_where_a_key_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (sensor,) = gpu_reaper(load_settings())
    assert sensor.minimum_interval_seconds == 60
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert dg.Definitions(sensors=[sensor]).get_repository_def().has_sensor_def("gpu_reaper")
    monkeypatch.delenv("VAST_API_KEY")
    assert gpu_reaper(load_settings()) == []


def test_the_sensor_reaps(home: Home) -> None:
    assert tick(home) == "nothing was ever rented"
    kept = rented(home)
    rented(home, owner=dead_owner(), silent_s=60)
    assert tick(home) == "1 given back, 1 needed"
    assert [row["id"] for row in home.server.live()] == [kept.instance_id]
    home.server.fault({"route": "list", "do": "deprecated", "times": -1})
    assert "not known" in tick(home)


# -- what else holds the home together --------------------------------------------------------------------------------


def test_the_book_is_backed_up_and_the_keys_are_not(home: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    lease = rented(home)
    folder = home.layout.rented / lease.lease_id
    folder.mkdir(parents=True)
    (folder / "key").write_text("secret")
    Sources(home.layout.sources)  # makes it a home
    repository = create(home.layout, tmp_path_factory.mktemp("backup") / "to", min_free_bytes=0)
    report = back_up(home.layout, repository, Options())
    assert not report.problems
    names = {file.path for file in repository.load(report.snapshot).files}
    assert "gpu.sqlite" in names
    assert not [name for name in names if name.startswith("gpu/")]
