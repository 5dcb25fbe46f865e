"""Whole runs through rented machines: the stand-in for Vast.ai, real sshd, the real worker, the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo import samples
from media_pipeline.config import load_settings
from media_pipeline.definitions import build
from media_pipeline.engine.instance import open_instance
from media_pipeline.engine.partitions import PARTITIONS_NAME, range_tags
from media_pipeline.engine.submit import ANALYZE_JOB
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Leases
from media_pipeline_tests import _cli
from media_pipeline_tests._rental_home import KEY, creates, market, remember_quick_boot, until
from media_pipeline_tests.vast_standin import StandIn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("sshd", path="/usr/sbin:/usr/bin"), reason="no sshd (openssh-server) is here"),
]
# Stays here: made of the results of others. Everything else goes out.
MADE_THERE = ("faces", "ocr", "poses", "speakers", "transcript")


def renting(server: StandIn, **more: str) -> dict[str, str]:
    """The environment of a command that rents there: machines have no GPU, and this Python with all packages."""
    return {
        "VAST_API_KEY": KEY,
        "MEDIA_PIPELINE_VAST_URL": server.url,
        "MEDIA_PIPELINE_LANGUAGE": "en",
        "MEDIA_PIPELINE_GPU__NEEDS_CUDA": "false",
        "MEDIA_PIPELINE_GPU__PYTHON": sys.executable,
        "MEDIA_PIPELINE_GPU__RECHECK_SHARE": "0",
        **{f"MEDIA_PIPELINE_GPU__{name.upper()}": value for name, value in more.items()},
    }


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    samples.make_samples(folder)
    return folder


@pytest.fixture(scope="module")
def here(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that rented nothing."""
    home = tmp_path_factory.mktemp("here")
    done = _cli.run(home, "analyze", media, MEDIA_PIPELINE_LANGUAGE="en")
    assert done.returncode == 3, done.stderr  # two of the samples are broken
    return home


@pytest.fixture
def server() -> Iterator[StandIn]:
    with market(ssh=True) as made:
        yield made


def analyze(home: Path, media: Path, *args: str, **env: str) -> dict[str, Any]:
    done = _cli.run(home, "analyze", media, *args, "--format", "json", **env)
    assert done.returncode == 3, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["said"] = done.stderr
    return answer


def ask(home: Path, sql: str) -> list[dict[str, Any]]:
    answer = _cli.run(home, "sql", sql, "--format", "json")
    assert answer.returncode == 0, answer.stderr
    rows: list[dict[str, Any]] = json.loads(answer.stdout)
    return rows


def assert_same(one: Path, other: Path) -> None:
    """Every row of every table; embeddings within 1e-3, as other threads of the same library add up differently."""
    first, second = (_cli.contents(home, without=["device", "embedding"]) for home in (one, other))
    assert first.keys() == second.keys()
    for table in first:
        assert first[table] == second[table], table
    for table, vectors in _cli.embeddings(one).items():
        np.testing.assert_allclose(vectors, _cli.embeddings(other)[table], atol=1e-3, err_msg=table)


def test_a_rented_machine_finds_what_this_one_finds(server: StandIn, here: Path, media: Path, tmp_path: Path) -> None:
    answer = analyze(tmp_path / "home", media, "--target", "gpu", **renting(server))
    assert answer["placement"]["target"] == "gpu"
    assert answer["placement"]["rented"]["spent_usd"] > 0
    assert server.live() == []
    # It has no GPU, so `analyses.device` says "cpu"; where that was, what was learnt of costs tells.
    costs = ask(tmp_path / "home", "SELECT analyzer FROM analyzer_costs WHERE machine = 'RTX 3090'")
    there = {row["analyzer"] for row in costs}
    assert there == set(MADE_THERE), answer["said"]
    assert_same(here, tmp_path / "home")


def test_the_machine_sees_no_name_and_no_secret(server: StandIn, media: Path, tmp_path: Path) -> None:
    """Looked at from the host's side, while the machine works and after."""
    seen: dict[str, bytes] = {}

    def look() -> None:
        for row in server.live():
            for box in (i.box for i in [*server.market.instances.values()] if i.id == row["id"] and i.box):
                for folder, _, names in os.walk(box.home):  # passes over what is gone meanwhile
                    for file in (Path(folder, name) for name in names if name != "host_ed25519"):
                        with contextlib.suppress(OSError):
                            seen[str(file.relative_to(box.home))] = file.read_bytes()

    process = _cli.start(
        tmp_path / "home", "analyze", media, "--target", "gpu", **renting(server), SOME_PASSWORD="hunter2-secret"
    )
    try:
        while process.poll() is None:
            look()
    finally:
        process.kill()
        process.communicate()
    assert any("media-worker" in name for name in seen), sorted(seen)[:20]
    names = [path.stem for path in media.iterdir()]
    ids = [row["media_id"] for row in ask(tmp_path / "home", "SELECT media_id FROM media")]
    for secret in [KEY, "hunter2-secret", str(tmp_path), *names, *ids]:
        holders = [name for name, content in seen.items() if secret.encode() in content or secret in name]
        assert holders == [], secret


def test_without_an_offer_everything_is_done_here_and_says_why(here: Path, media: Path, tmp_path: Path) -> None:
    with market(0) as empty:
        answer = analyze(tmp_path / "home", media, "--target", "gpu", **renting(empty))
    assert answer["placement"]["target"] == "cpu"
    assert "no machine on offer" in answer["placement"]["reason"]
    assert "no GPU" in answer["said"]
    assert_same(here, tmp_path / "home")


def test_a_machine_that_dies_is_replaced_and_nothing_is_lost(
    server: StandIn, here: Path, media: Path, tmp_path: Path
) -> None:
    server.fault({"route": "create", "do": "instance", "plan": {"die_after": 9}})
    answer = analyze(tmp_path / "home", media, "--target", "gpu", **renting(server, heartbeat_timeout_s="5"))
    assert creates(server) >= 2, answer["said"]
    assert server.live() == []
    assert_same(here, tmp_path / "home")


def test_at_the_cap_the_rest_is_done_here(server: StandIn, here: Path, media: Path, tmp_path: Path) -> None:
    """A machine for 60 dollars an hour, and 40 cents: enough for some twenty seconds."""
    for offer in server.market.offers.values():
        offer["dph_base"] = 60.0
    layout = Layout(tmp_path / "home")
    layout.create()
    remember_quick_boot(layout)
    answer = analyze(
        tmp_path / "home", media, "--target", "gpu", "--max-usd", "0.4", **renting(server, max_usd_per_hour="100")
    )
    assert server.live() == []
    assert server.spent() <= 0.4 + 1.0
    assert_same(here, tmp_path / "home")
    assert answer["placement"]["rented"]["spent_usd"] <= 0.4


@pytest.mark.parametrize("at", ["upload", "compute"])
def test_a_killed_run_leaves_nothing_running_and_goes_on(
    server: StandIn, here: Path, media: Path, tmp_path: Path, at: str
) -> None:
    home = tmp_path / "home"

    def has_come_so_far() -> bool:
        if at == "compute":
            return (home / "tables" / "faces" / "_delta_log").exists()
        with server.market.lock:
            return any(i.box and i.box.gate.rx > 200_000 for i in server.market.instances.values())

    process = _cli.start(home, "analyze", media, "--target", "gpu", **renting(server))
    try:
        until(has_come_so_far, seconds=120)
    finally:
        process.kill()
        process.communicate()
    assert len(server.live()) == 1

    def is_reaped() -> bool:
        return _cli.run(home, "gpu", "reap", **renting(server)).returncode == 0 and server.live() == []

    until(is_reaped, seconds=90)  # an owner that is silent for twenty seconds is taken for dead
    leases = ask(home, "SELECT state, spent_usd FROM gpu_leases")
    assert [lease["state"] for lease in leases] == ["closed"]
    assert leases[0]["spent_usd"] >= 0.95 * server.spent() - 0.001
    done = _cli.run(home, "analyze", media, MEDIA_PIPELINE_LANGUAGE="en")
    assert done.returncode == 3, done.stderr
    assert_same(here, home)


def test_a_run_of_dagster_rents_by_its_tag_and_the_next_one_uses_the_machine_again(
    server: StandIn, here: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    taken = _cli.run(home, "analyze", media, "--analyzers", "media", MEDIA_PIPELINE_LANGUAGE="en")
    assert taken.returncode == 3, taken.stderr
    for name, value in {**renting(server, idle_s="60"), "MEDIA_PIPELINE_HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    job = build().resolve_job_def(ANALYZE_JOB)
    with open_instance(load_settings()) as instance:
        keys = instance.get_dynamic_partitions(PARTITIONS_NAME)
        tags = {**range_tags(keys), "media_pipeline/target": "gpu", "media_pipeline/max_usd": "0.5"}
        config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        runs = [job.execute_in_process(instance=instance, tags=tags, run_config=config, raise_on_error=False)]
        assert [row["actual_status"] for row in server.live()] == ["running"]
        runs.append(job.execute_in_process(instance=instance, tags=tags, run_config=config, raise_on_error=False))
        written = [instance.get_run_by_id(run.run_id).tags for run in runs]
    assert creates(server) == 1
    assert {found["media_pipeline/placed"] for found in written} == {"RTX 3090 in SE"}
    assert all(0 < float(found["media_pipeline/spent_usd"]) < 0.5 for found in written)
    leases = ask(home, "SELECT state FROM gpu_leases")
    assert [lease["state"] for lease in leases] == ["idle"]
    with contextlib.closing(Leases.of(Layout(home))) as book:  # its time is over
        book.update(book.open()[0].lease_id, idle_until=time.time() - 1)
    assert _cli.run(home, "gpu", "reap", **renting(server)).returncode == 0
    assert server.live() == []
    assert_same(here, home)
