"""One home for several servers: its Dagster instance, runs as containers, tables in a bucket."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import docker
import pyarrow as pa
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import WorkerStatus
from deltalake import DeltaTable

from media_pipeline.config import ENV_PREFIX, load_settings
from media_pipeline.engine.container_launcher import ENGINE_TAG, ContainerRunLauncher
from media_pipeline.engine.event_storage import EVENTS_PER_TRANSACTION
from media_pipeline.engine.instance import PROCESS_TAG, instance_template, open_instance, reconcile_dead_runs
from media_pipeline.engine.materializations import log_materializations
from media_pipeline.engine.tags import COMMAND_LINE, SOURCE_TAG
from media_pipeline.errors import UsageError
from media_pipeline.storage import processes
from media_pipeline.storage.tables import Tables
from media_pipeline_tests._postgres import postgres

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "several-servers"
CONFIGURATION: dict[str, Any] = yaml.safe_load((FOLDER / "dagster.yaml").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "docker-compose.yml").read_text(encoding="utf-8"))
LAUNCHER: dict[str, Any] = CONFIGURATION["run_launcher"]["config"]


# --- the files in deploy/several-servers ----------------------------------------------------------------------------


def test_the_instance_differs_from_that_of_one_server_where_it_must() -> None:
    one = yaml.safe_load(instance_template())
    own = ("storage", "run_launcher", "concurrency", "run_monitoring")
    assert {k: v for k, v in CONFIGURATION.items() if k not in own} == {k: v for k, v in one.items() if k not in own}
    assert CONFIGURATION["run_monitoring"].items() >= one["run_monitoring"].items()


@pytest.mark.parametrize("name", ["dagster.yaml", "dagster-kubernetes.yaml", "dagster-celery.yaml"])
def test_no_password_is_written_down(name: str) -> None:
    database = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["storage"]["postgres"]["postgres_db"]
    assert database["password"] == {"env": "DAGSTER_POSTGRES_PASSWORD"}


def test_dagster_takes_the_configuration_of_the_launcher(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "dagster.yaml", tmp_path)
    launcher = InstanceRef.from_dir(str(tmp_path)).run_launcher
    assert isinstance(launcher, ContainerRunLauncher)
    assert launcher.image == COMPOSE["services"]["control"]["image"]


def test_the_control_server_and_its_runs_have_the_same_home_and_the_same_walls() -> None:
    control, runs = COMPOSE["services"]["control"], LAUNCHER["container_kwargs"]
    assert runs["volumes"][0] == control["volumes"][0]
    for wall in ("read_only", "cap_drop", "security_opt"):
        assert runs[wall] == control[wall]
    assert list(runs["tmpfs"]) == control["tmpfs"]
    assert runs["auto_remove"] is True


def test_what_runs_take_from_the_environment_the_control_server_has() -> None:
    given = {entry.partition("=")[0]: entry for entry in COMPOSE["services"]["control"]["environment"]}
    taken = [entry for entry in LAUNCHER["env_vars"] if "=" not in entry]
    assert set(taken) == {"DAGSTER_POSTGRES_HOST", "DAGSTER_POSTGRES_PASSWORD"}
    assert set(taken) <= set(given)
    assert given["DAGSTER_POSTGRES_PASSWORD"] == "DAGSTER_POSTGRES_PASSWORD"


@pytest.mark.slow
@pytest.mark.parametrize("tool", [("docker-compose",), ("docker", "compose")], ids=" ".join)
def test_compose_accepts_it_and_wants_the_password(tool: tuple[str, ...]) -> None:
    if shutil.which(tool[0]) is None or subprocess.run([*tool, "version"], capture_output=True).returncode != 0:
        pytest.skip(f"`{' '.join(tool)}` is not installed")
    known = {"PATH": "/usr/local/bin:/usr/bin:/bin", "SERVER_ADDRESS": "10.0.0.1", "DOCKER_GROUP": "999"}

    def config(**more: str) -> subprocess.CompletedProcess[str]:
        command = [*tool, "-f", FOLDER / "docker-compose.yml", "config"]
        return subprocess.run(command, env=known | more, capture_output=True, text=True, timeout=60)

    without = config()
    assert without.returncode != 0
    assert "several-servers.md" in without.stderr
    done = config(DAGSTER_POSTGRES_PASSWORD="s3cret")
    assert (done.returncode, done.stderr) == (0, "")
    assert "10.0.0.1" in done.stdout


# --- the instance ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_configuration_with_a_storage_of_its_own_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "home" / "dagster" / "dagster.yaml"
    file.parent.mkdir(parents=True)
    text = f"storage:\n  sqlite:\n    base_dir: {tmp_path / 'elsewhere'}\ntelemetry: {{enabled: false}}\n"
    file.write_text(text)
    with open_instance(load_settings(home=tmp_path / "home")) as instance:
        assert instance.get_dynamic_partitions("media") == []
    assert file.read_text() == text
    assert (tmp_path / "elsewhere").exists()
    assert not (file.parent / "history").exists()


@pytest.mark.slow
def test_one_of_ours_is_brought_up_to_date(tmp_path: Path) -> None:
    file = tmp_path / "dagster" / "dagster.yaml"
    file.parent.mkdir()
    file.write_text(instance_template() + "\n# of an older version\n")
    with open_instance(load_settings(home=tmp_path)):
        assert file.read_text() == instance_template()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("storage: [", "is no YAML"),
        ((FOLDER / "dagster.yaml").read_text(), "DAGSTER_POSTGRES_HOST"),
        ("storage:\n  postgres:\n    postgres_url: postgresql://nobody@127.0.0.1:1/none\n", "refused"),
    ],
    ids=["broken", "without its variables", "without its database"],
)
def test_a_storage_that_cannot_be_opened_is_an_error_and_never_replaced(
    tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_postgres.utils.time.sleep", lambda _: None)
    file = tmp_path / "dagster" / "dagster.yaml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        open_instance(load_settings(home=tmp_path))
    assert str(file) in str(refused.value)
    assert file.read_text() == text


@dg.job
def nothing() -> None: ...


@contextmanager
def shared_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of a home whose own configuration names a PostgreSQL server."""
    (home / "dagster").mkdir()
    with postgres() as address:
        configuration = {"storage": {"postgres": {"postgres_url": address}}, "telemetry": {"enabled": False}}
        (home / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(configuration))
        with open_instance(load_settings(home=home)) as instance:
            yield instance


@pytest.mark.slow
def test_postgres_knows_the_newest_event_of_every_asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its storage notes it for the last event of a batch only."""
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
    names = ["one", "two", "three"]

    @dg.op
    def log(context) -> None:  # unannotated: Dagster cannot read annotations that are text
        log_materializations(context, [dg.AssetMaterialization(name) for name in names])

    @dg.job
    def logging() -> None:
        log()

    with shared_instance(tmp_path) as instance:
        assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == str(EVENTS_PER_TRANSACTION)
        logging.execute_in_process(instance=instance)
        records = instance.get_asset_records([dg.AssetKey(name) for name in names])
        newest = [record.asset_entry.last_materialization_storage_id for record in records]
        assert len(newest) == len(set(newest)) == 3
        assert None not in newest


@pytest.mark.slow
def test_each_server_tells_of_its_own_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["sleep", "60"])
    killed = processes.signature(gone.pid)
    gone.kill()
    gone.wait()
    elsewhere = "another-" + killed
    with shared_instance(tmp_path) as instance:

        def started(**tags: str) -> str:
            named = {{"process": PROCESS_TAG, "source": SOURCE_TAG}[k]: v for k, v in tags.items()}
            return instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=named).run_id

        here, there = started(process=killed), started(process=elsewhere)
        assert reconcile_dead_runs(instance) == [here]
        launched = started(process=killed)
        typed = started(process=killed, source=COMMAND_LINE)
        monkeypatch.setattr(type(instance), "run_launcher", property(lambda _: ContainerRunLauncher()))
        assert reconcile_dead_runs(instance) == [typed], "of what it launched the launcher knows more"
        for run_id in (there, launched):
            assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED


# --- runs as containers ---------------------------------------------------------------------------------------------


class FakeEngine:
    """A Docker engine with so many runs; None: it does not answer."""

    def __init__(self, runs: int | None) -> None:
        self.runs = runs
        self.created: list[dict[str, Any]] = []
        self.containers = self

    def list(self, filters: dict[str, str]) -> Sequence[None]:
        assert filters == {"label": "dagster/run_id"}
        if self.runs is None:
            raise docker.errors.DockerException("connection refused")
        return [None] * self.runs

    def create(self, **options: Any) -> FakeEngine:
        self.created.append(options)
        return self

    id, status = "c0ffee", "running"

    def start(self) -> None: ...

    def get(self, container_id: str) -> FakeEngine:
        if container_id != self.id or not self.created:
            raise docker.errors.NotFound("no such container")
        return self


ENGINES = ("unix:///here.sock", "tcp://10.0.0.2:2376", "tcp://10.0.0.3:2376")


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    """How engines were reached."""
    return []


@pytest.fixture
def launcher(
    monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]
) -> Iterator[Callable[..., tuple[ContainerRunLauncher, list[FakeEngine], dg.DagsterRun]]]:
    """Makes a launcher over engines with so many runs, and a run of an instance of its own."""
    monkeypatch.setenv("MEDIA_PIPELINE_LANGUAGE", "de")
    monkeypatch.setenv("SOMETHING_SECRET", "not for runs")
    monkeypatch.setenv("VAST_API_KEY", "for renting")
    with dg.DagsterInstance.ephemeral() as instance:

        def made(*runs: int | None) -> tuple[ContainerRunLauncher, list[FakeEngine], dg.DagsterRun]:
            engines = [FakeEngine(count) for count in runs]

            def connect(timeout: int, environment: dict[str, str]) -> FakeEngine:
                asked.append(environment)
                return engines[ENGINES.index(environment["DOCKER_HOST"])]

            monkeypatch.setattr("docker.from_env", connect)
            config = {"engines": list(ENGINES[: len(runs)]), "certificates": "/certificates", "env_vars": ["A=b"]}
            found = ContainerRunLauncher(image="media-pipeline", **config)
            found.register_instance(instance)
            return found, engines, instance.create_run_for_job(nothing)

        yield made


def test_a_run_goes_to_the_engine_with_the_fewest_runs(launcher, asked) -> None:
    found, engines, run = launcher(2, 0, 1)
    found._launch_container_with_command(run, "media-pipeline", ["dagster", "api", "execute_run", "{}"])
    assert [len(engine.created) for engine in engines] == [0, 1, 0]
    launched = found._instance.get_run_by_id(run.run_id)
    assert launched.tags[ENGINE_TAG] == ENGINES[1]
    assert found.check_run_worker_health(launched).status == WorkerStatus.RUNNING, "it is asked where it is"
    assert asked[0] == {"DOCKER_HOST": ENGINES[0]}
    assert asked[1] == {"DOCKER_HOST": ENGINES[1], "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/certificates"}
    engines[1].created.clear()
    assert found.check_run_worker_health(launched).status == WorkerStatus.NOT_FOUND


def test_engines_that_do_not_answer_are_passed_over(launcher) -> None:
    found, engines, run = launcher(None, 5, None)
    found._launch_container_with_command(run, "media-pipeline", [])
    assert [len(engine.created) for engine in engines] == [0, 1, 0]
    engines[1].runs = None
    with pytest.raises(UsageError, match=r"no Docker engine answers .*10\.0\.0\.3"):
        found._launch_container_with_command(run, "media-pipeline", [])


def test_an_engine_that_is_passed_over_is_named_with_the_reason(
    tmp_path: Path, launcher, caplog: pytest.LogCaptureFixture
) -> None:
    found = ContainerRunLauncher(engines=[ENGINES[1]], certificates=str(tmp_path / "certificates"))
    with pytest.raises(UsageError, match="no Docker engine answers"):  # docker's own client looks for them
        found._least_busy()
    (record,) = caplog.records
    assert (
        f"{ENGINES[1]} is passed over: {tmp_path / 'certificates'} lacks ca.pem, cert.pem or key.pem" in record.message
    )
    assert "; put them there" in record.message
    caplog.clear()
    assert launcher(0, None)[0]._least_busy() == ENGINES[0]
    (record,) = caplog.records
    assert f"{ENGINES[1]} is passed over: " in record.message and "; start it, or mend" in record.message


def test_a_run_has_the_settings_of_the_server_that_starts_it_and_nothing_else(launcher) -> None:
    found, engines, run = launcher(0)
    found._launch_container_with_command(run, "media-pipeline", [])
    environment = dict(engines[0].created[0]["environment"])
    assert environment["MEDIA_PIPELINE_HOME"] == str(load_settings().home)
    assert environment["MEDIA_PIPELINE_LANGUAGE"] == "de"
    others = {name: value for name, value in environment.items() if not name.startswith(ENV_PREFIX)}
    assert others == {"A": "b", "VAST_API_KEY": "for renting", "DAGSTER_RUN_JOB_NAME": "nothing"}


def test_a_run_of_the_command_line_has_no_container_and_is_not_failed_for_that(launcher) -> None:
    found, _, _ = launcher(0)
    typed = found._instance.create_run_for_job(nothing, tags={SOURCE_TAG: COMMAND_LINE})
    assert found.check_run_worker_health(typed).status == WorkerStatus.RUNNING


def test_an_engine_on_the_network_is_not_spoken_to_without_certificates() -> None:
    with pytest.raises(UsageError, match="certificates"):
        ContainerRunLauncher(engines=["tcp://10.0.0.2:2376"])


# --- tables in a bucket ---------------------------------------------------------------------------------------------


def test_tables_are_published_whole_and_only_when_they_have_changed(tmp_path: Path) -> None:
    """To a folder here; to a bucket it is the same call with another address."""
    publish = runpy.run_path(str(FOLDER / "publish_tables.py"))["publish"]
    schema = pa.schema([("media_id", pa.string()), ("text", pa.string()), ("box", pa.list_(pa.float32()))])
    tables = Tables(tmp_path / "home" / "tables", tmp_path / "home" / "locks")
    for name in ("ocr", "titles"):
        tables.ensure(name, schema)

    def write(media_id: str, text: str) -> None:
        tables.replace("ocr", pa.table([[media_id], [text], [[0.5]]], schema=schema), {media_id})

    def read(name: str) -> list[dict[str, Any]]:
        table = DeltaTable(f"{target}/{name}").to_pyarrow_dataset().to_table()
        return sorted(table.to_pylist(), key=json.dumps)

    target = (tmp_path / "bucket").as_uri()
    write("a", "one")
    assert publish(tmp_path / "home", target) == ["ocr", "titles"]
    assert read("ocr") == [{"media_id": "a", "text": "one", "box": [0.5]}]
    assert read("titles") == []
    assert publish(tmp_path / "home", target) == []
    write("a", "two")
    write("b", "three")
    before = DeltaTable(f"{target}/ocr")
    assert publish(tmp_path / "home", target) == ["ocr"]
    assert [row["text"] for row in read("ocr")] == ["two", "three"]
    assert before.to_pyarrow_dataset().to_table()["text"].to_pylist() == ["one"], "who reads goes on reading"
