"""What is told of Dagster, against what Dagster itself says; in SQLite and in PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import psycopg2
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.types import DaemonHeartbeat

from media_pipeline.config import load_settings
from media_pipeline.engine.instance import open_instance
from media_pipeline.server.metrics_dagster import dagster_source
from media_pipeline.server.metrics_source import Source
from media_pipeline_tests._metrics import Samples, of, samples
from media_pipeline_tests._postgres import postgres

CONFIGURATION = "storage: {postgres: {postgres_url: {env: POSTGRES_URL}}}\ntelemetry: {enabled: false}\n"
ORIGIN = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin("code", port=4000), "r").get_job_origin("j")


def read(home: Path) -> Source:
    source = dagster_source(home)
    thread = source.refresh()
    assert thread is not None
    thread.join(60)
    return source


def told(home: Path) -> Samples:
    source = read(home)
    assert source.problems() == {"dagster": None}
    return samples(source.metrics(time.time()))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with ExitStack() as stack:
        if request.param == "postgres":
            stack.enter_context(database(tmp_path, monkeypatch))
        yield tmp_path


@contextmanager
def database(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with postgres(password="pw") as url:
        connection = psycopg2.connect(url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE ROLE dagster LOGIN PASSWORD 'pw'")
            cursor.execute("CREATE DATABASE dagster OWNER dagster")
        connection.close()
        host = url.rpartition("host=")[2]
        monkeypatch.setenv("DAGSTER_POSTGRES_HOST", host)
        monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", "pw")
        monkeypatch.setenv("POSTGRES_URL", f"postgresql://dagster:pw@/dagster?host={host}")
        (home / "dagster").mkdir()
        (home / "dagster" / "dagster.yaml").write_text(CONFIGURATION)
        yield host


@pytest.mark.slow
def test_runs_and_daemons(home: Path) -> None:
    now = time.time()
    with open_instance(load_settings(home=home)) as instance:
        for status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.SUCCESS):
            create_run_for_test(instance, job_name="j", status=status, remote_job_origin=ORIGIN)
        for kind, age in (("SENSOR", 5), ("SCHEDULER", 3600), ("OF_AN_OLD_RELEASE", 3 * 86400)):
            instance.add_daemon_heartbeat(DaemonHeartbeat(now - age, kind, "x", []))
        statuses = instance.get_daemon_statuses(["SENSOR", "SCHEDULER"])
        counts = {s: instance.get_runs_count(dg.RunsFilter(statuses=[s])) for s in dg.DagsterRunStatus}
        oldest = min(
            record.create_timestamp.timestamp()
            for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
        )
    found = told(home)
    by_status = {dict(labels)["status"]: value for (name, labels), value in found.items() if name == "runs"}
    assert by_status == {s.value.lower(): n for s, n in counts.items() if n or s.value.lower() in by_status}
    assert of(found, "runs_queued") == 2
    assert of(found, "runs_oldest_queued_age_seconds") == pytest.approx(time.time() - oldest, abs=5)
    for kind, status in statuses.items():
        assert status.last_heartbeat is not None
        age = of(found, "daemon_heartbeat_age_seconds", daemon=kind.lower())
        assert age == pytest.approx(time.time() - status.last_heartbeat.timestamp, abs=5)
        assert (age < 300) == status.healthy
    assert ("daemon_heartbeat_age_seconds", (("daemon", "of_an_old_release"),)) not in found


@pytest.mark.slow
def test_ages_grow_between_readings(home: Path) -> None:
    with open_instance(load_settings(home=home)) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "x", []))
    source, now = read(home), time.time()
    ages = [of(samples(source.metrics(at)), "daemon_heartbeat_age_seconds", daemon="sensor") for at in (now, now + 600)]
    assert ages[1] - ages[0] == pytest.approx(600, abs=1)


def test_a_home_that_nobody_has_worked_in(tmp_path: Path) -> None:
    assert told(tmp_path) == {}


@pytest.mark.slow
def test_postgresql_before_dagster_was_there_and_when_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database(tmp_path, monkeypatch):
        problem = read(tmp_path).problems()["dagster"]
        assert problem is not None and "no tables yet" in problem.cause
    problem = read(tmp_path).problems()["dagster"]
    assert problem is not None and "PostgreSQL does not answer" in problem.cause
    assert "pw" not in problem.cause.split()
    monkeypatch.delenv("DAGSTER_POSTGRES_PASSWORD")
    problem = read(tmp_path).problems()["dagster"]
    assert problem is not None and "DAGSTER_POSTGRES" in problem.remedy
