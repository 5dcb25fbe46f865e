"""`serve` over PostgreSQL, with each run in a container of its own, all on one home."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import psycopg2
import pytest
import yaml
from dagster import DagsterRunStatus as Status
from PIL import Image

from media_pipeline.config import load_settings
from media_pipeline.engine.instance import PROCESS_TAG, open_instance
from media_pipeline.engine.tags import SOURCE_TAG
from media_pipeline.storage import processes
from media_pipeline_tests import _cli
from media_pipeline_tests._docker import IMAGE, docker_engine, make_image, mounts
from media_pipeline_tests._postgres import postgres
from media_pipeline_tests._synth import movie, scene, tone

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse/battery"
CONTAINER_TAG = "docker/container_id"
PATIENCE_S = 180.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first answer that is true.

    Raises:
        AssertionError: there was none for `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)
    return found


class World:
    """A control server, its database, and an engine for the containers of its runs."""

    def __init__(self, home: Path, inbox: Path, ui: str, instance: dg.DagsterInstance, engine: Any) -> None:
        self.home, self.inbox, self.ui, self.instance, self.engine = home, inbox, ui, instance, engine

    def drop(self, *names: str) -> None:
        for name in names:
            make(self.inbox / f".{name}")
            (self.inbox / f".{name}").rename(self.inbox / name)

    def runs(self, *statuses: Status) -> list[dg.DagsterRun]:
        return list(reversed(self.instance.get_runs(dg.RunsFilter(statuses=list(statuses)))))

    def finished(self, count: int, *statuses: Status) -> list[dg.DagsterRun]:
        """That many runs of these statuses, once there are so many, and no container is left."""

        def look() -> list[dg.DagsterRun]:
            found = self.runs(*statuses)
            return found if len(found) >= count and not self.engine.containers.list(all=True) else []

        return list(wait_for(look, f"{count} runs that are {statuses}; there are {self.told()}"))

    def told(self) -> str:
        return ", ".join(f"{run.run_id[:8]} {run.status.value}" for run in self.runs())

    def backfill(self, assets: Sequence[str], keys: Sequence[str]) -> None:
        mutation = "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename } }"
        wanted = {"assetSelection": [{"path": [name]} for name in assets], "partitionNames": list(keys), "tags": []}
        query = {"query": mutation, "variables": {"p": wanted}}
        answer = httpx.post(f"{self.ui}/graphql", json=query, timeout=60).json()
        assert answer["data"]["launchPartitionBackfill"]["__typename"] == "LaunchBackfillSuccess", answer


def make(path: Path) -> None:
    """A medium that only a file of this name has."""
    number = sum(path.name.encode())
    if path.suffix == ".mp4":
        movie(path, [scene(number, frame) for frame in range(50)], sound=tone(2.0, hz=200.0 + number))
    else:
        Image.fromarray(scene(number, 0)).save(path)


def configuration(home: Path, database: str) -> str:
    """deploy/several-servers/dagster.yaml for containers without a network, which have this machine's programs."""
    made = yaml.safe_load((ROOT / "deploy" / "several-servers" / "dagster.yaml").read_text(encoding="utf-8"))
    made["storage"]["postgres"]["postgres_db"]["params"] = {"host": database}  # the folder of its socket
    made["run_monitoring"]["poll_interval_seconds"] = 2
    launcher = made["run_launcher"]["config"]
    launcher["image"] = IMAGE
    launcher["env_vars"].append(f"PATH={Path(sys.executable).parent}:/usr/bin:/bin")
    launcher["container_kwargs"] |= {
        "network_mode": "none",
        "volumes": [f"{home}:{home}", f"{database}:{database}:ro", *mounts()],
    }
    return yaml.safe_dump(made)


@contextmanager
def control_server(home: Path, env: dict[str, str], port: int, log: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "media_pipeline", "--home", str(home), "serve", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
    ui = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{ui}/server_info", timeout=2).is_success
        except httpx.HTTPError:
            return False

    try:
        wait_for(is_up, "the UI")
        yield ui
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    home, inbox = tmp_path / "home", tmp_path / "inbox"
    (home / "dagster").mkdir(parents=True)
    inbox.mkdir()
    with docker_engine() as (address, engine), postgres(password="of-the-superuser") as database:
        make_image(engine)
        prepare(database)
        (home / "dagster" / "dagster.yaml").write_text(configuration(home, database.rpartition("=")[2]))
        variables = {"DAGSTER_POSTGRES_HOST": "postgres", "DAGSTER_POSTGRES_PASSWORD": PASSWORD}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings = {"MEDIA_PIPELINE_INBOXES": str(inbox), "MEDIA_PIPELINE_SETTLE_S": "0.5"}
        env = _cli.environment(DOCKER_HOST=address, A_SECRET="of the control server", **variables, **settings)
        started = control_server(home, env, free_port(), tmp_path / "serve.log")
        with started as ui, open_instance(load_settings(home=home)) as instance:
            yield World(home, inbox, ui, instance, engine)


def prepare(database: str) -> None:
    connection = psycopg2.connect(database)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE dagster LOGIN PASSWORD %s", (PASSWORD,))
        cursor.execute("CREATE DATABASE dagster OWNER dagster")
    connection.close()


@pytest.mark.slow
def test_runs_in_containers_share_one_home(world: World, tmp_path: Path) -> None:
    # Two batches at the same time, each in a container.
    world.drop("a.png", "b.png")
    wait_for(lambda: world.runs(), "a run")
    world.drop("c.mp4")
    containers = wait_for(lambda: both(world.engine.containers.list()), "two containers at a time")
    check_environment(containers)
    first, second = world.finished(2, Status.SUCCESS)
    assert first.tags[CONTAINER_TAG] != second.tags[CONTAINER_TAG]
    keys = world.instance.get_dynamic_partitions("media")
    assert len(keys) == 3

    # A container is killed: the run is failed by Dagster's monitoring, and its medium is taken up by another.
    world.drop("d.mp4")
    [doomed] = wait_for(lambda: signed(world), "a run at work")
    world.engine.containers.get(doomed.tags[CONTAINER_TAG]).kill()
    [failed] = world.finished(1, Status.FAILURE)
    assert failed.run_id == doomed.run_id
    world.finished(3, Status.SUCCESS)

    # A backfill from the UI, and `analyze` in a process of this machine beside it; neither is taken for dead.
    world.backfill(["scenes", "ocr"], keys)
    typed = tmp_path / "e.png"
    make(typed)
    variables = {name: value for name, value in os.environ.items() if name.startswith("DAGSTER_")}
    done = _cli.run(world.home, "analyze", typed, **variables)
    assert done.returncode == 0, done.stderr
    finished = world.finished(5, Status.SUCCESS)
    assert [run.run_id for run in world.runs(Status.FAILURE)] == [doomed.run_id]
    [own] = [run for run in finished if run.tags.get(SOURCE_TAG) == "command line"]
    assert CONTAINER_TAG not in own.tags

    check_instance(world.instance)
    check_tables(world.home, tmp_path, [*world.inbox.iterdir(), typed])


def both(containers: Sequence[Any]) -> Sequence[Any]:
    return containers if len(containers) == 2 else ()


def signed(world: World) -> list[dg.DagsterRun]:
    return [run for run in world.runs(Status.STARTED) if PROCESS_TAG in run.tags]


def check_environment(containers: Sequence[Any]) -> None:
    for container in containers:
        given = dict(entry.split("=", 1) for entry in container.attrs["Config"]["Env"])
        assert given["DAGSTER_POSTGRES_PASSWORD"] == PASSWORD
        assert "A_SECRET" not in given
        assert "DOCKER_HOST" not in given
        assert PASSWORD not in " ".join(container.attrs["Config"]["Cmd"]), "the command line is for all to see"


def check_instance(instance: dg.DagsterInstance) -> None:
    """Every medium stands as materialized, and every result over all media."""
    keys = set(instance.get_dynamic_partitions("media"))
    assert len(keys) == 5
    for asset in ("media", "frames", "scenes", "ocr", "faces", "text_embeddings"):
        assert set(instance.get_materialized_partitions(dg.AssetKey(asset))) == keys
    for asset in ("duplicates", "persons", "voices", "moderation", "search_index", "warehouse"):
        assert instance.get_latest_materialization_event(dg.AssetKey(asset)) is not None
        [record] = instance.get_asset_records([dg.AssetKey(asset)])
        assert record.asset_entry.last_materialization_storage_id is not None, "what the UI shows of it"
    assert not [run for run in instance.get_runs() if processes.is_alive(run.tags[PROCESS_TAG])]


def check_tables(home: Path, tmp_path: Path, files: Sequence[Path]) -> None:
    """The same rows as in a home of one process alone: none lost, none doubled."""
    alone = tmp_path / "alone"
    done = _cli.run(alone, "analyze", *files)
    assert done.returncode == 0, done.stderr
    assert _cli.contents(home, without=["path"]) == _cli.contents(alone, without=["path"])
    shutil.rmtree(alone)
