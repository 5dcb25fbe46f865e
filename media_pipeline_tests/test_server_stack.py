"""A whole server, from a clean clone to results through its front door, on a real engine."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from media_pipeline_tests._server import BASE, Server, server, until

pytestmark = pytest.mark.slow

GB = 1000**3
DEBIAN_SLIM = 0.075 * GB  # upstream's; what a test makes of packages is larger


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("server") / "media-pipeline", MEDIA_PIPELINE_LANGUAGE="en") as found:
        yield found


@pytest.fixture(scope="module")
def analysed(running: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The sample media came in through the door and were analysed."""
    from demo.samples import make_samples

    folder = tmp_path_factory.mktemp("samples")
    samples = make_samples(folder)
    running.upload([sample.path for sample in samples])
    seen: list[dict[str, object]] = []

    def done() -> bool:
        for run in running.runs():  # gone when they are through
            shown = running.docker("inspect", run, check=False)
            seen.extend(json.loads(shown) if shown.strip() else [])
        status = running.status()
        return status["media"] == len(samples) and status["waiting"] == 0 and not running.open_runs()

    until(done, 600, "all samples are analysed")
    running.inspected_runs = seen  # type: ignore[attr-defined]
    return running


def test_all_is_well_small_and_says_where_it_is(running: Server) -> None:
    assert running.is_well(), running.containers()
    size, base = (
        int(running.docker("image", "inspect", "--format", "{{.Size}}", image))
        for image in (f"media-pipeline:{tag(running)}", BASE)
    )
    assert size - base + DEBIAN_SLIM < 2.5 * GB
    time.sleep(20)  # what starting took is over
    memory = running.memory_mb()
    assert sum(memory.values()) < 1500, memory
    assert f"https://localhost:{running.https_port}/" in running.make("up").stdout  # may be repeated


def test_what_was_uploaded_is_found_by_sql(analysed: Server) -> None:
    found = analysed.sql("SELECT name FROM media JOIN ocr USING (media_id) WHERE ocr.text ILIKE '%rechnung 4711%'")
    assert {row["name"] for row in found} == {"rechnung-4711.png"}
    assert analysed.sql("SELECT count(*) AS n FROM transcript WHERE text ILIKE '%contract%'")[0]["n"] >= 1
    failed = {failure["name"] for failure in analysed.status()["failures"]}
    assert failed == {"broken-upload.mp4", "not-a-picture.jpg"}


def test_runs_are_containers_with_limits_and_without_secrets(analysed: Server) -> None:
    runs = analysed.inspected_runs  # type: ignore[attr-defined]
    assert runs, "no container of a run was ever seen"
    password = (analysed.folder / "secrets" / "media" / "postgres_password").read_text().strip()
    for run in runs:
        host = run["HostConfig"]
        assert 0 < host["Memory"] <= 4 * 1024**3
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"]
        assert not [mount for mount in run["Mounts"] if "docker.sock" in mount["Source"]]
        assert run["Config"]["User"].startswith(("media", "1000"))
        assert password not in json.dumps(run)
        assert not any(
            entry.startswith(("DOCKER_HOST=", "DAGSTER_POSTGRES_PASSWORD=")) for entry in run["Config"]["Env"]
        )


def test_no_secret_stands_in_a_log_or_in_what_the_engine_says(analysed: Server) -> None:
    secrets = {
        (analysed.folder / "secrets" / name).read_text().strip()
        for name in ("media/postgres_password", "backup/restic_password")
    } | {analysed.password}
    ids = analysed.docker("ps", "--all", "--quiet", "--filter", f"name={analysed.project}").split()
    told = analysed.docker("inspect", *ids)
    for container in ids:
        done = subprocess.run(
            ["docker", "logs", container],
            env={"DOCKER_HOST": analysed.engine, "PATH": "/usr/bin:/bin"},
            capture_output=True,
        )
        told += (done.stdout + done.stderr).decode(errors="replace")
    assert not [secret for secret in secrets if secret in told]


def test_no_program_in_the_images_gives_rights(running: Server) -> None:
    images = running.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    ours = [image for image in images if image.endswith(f":{tag(running)}")]
    assert len(ours) >= 3
    for image in ours:
        look = ["--rm", "--network", "none", "--user", "0", "--entrypoint", "find", image]
        assert not running.docker("run", *look, "/", "-xdev", "-type", "f", "-perm", "/6002"), image


@pytest.mark.parametrize(
    "path",
    ["/", "/runs", "/graphql", "/upload/", "/upload/a.jpg", "/healthz", "/grafana/", "/prometheus/", "/alertmanager/"],
)
def test_nothing_is_to_be_had_without_signing_in(running: Server, path: str) -> None:
    with running.browser() as nobody, running.browser("operator", "wrong") as guesser:
        for client in (nobody, guesser):
            answer = client.get(path)
            assert answer.status_code in (302, 401, 429), (path, answer.status_code)
            assert "dagster" not in answer.text.lower()


def test_from_outside_only_the_two_ports_are_open(running: Server) -> None:
    published = running.docker(
        "ps", "--filter", f"label=com.docker.compose.project={running.project}", "--format", "{{.Names}} {{.Ports}}"
    )
    ports = {part.split("->")[0].rpartition(":")[2] for part in published.replace(",", " ").split() if "->" in part}
    assert ports == {str(running.http_port), str(running.https_port)}
    for port in (3000, 4000, 5432, 2375, 9090, 9093, 9200):
        with socket.socket() as probe:
            probe.settimeout(1)
            inside = probe.connect_ex(("127.0.0.1", port)) == 0
        if inside:  # something else of this machine; not of the server
            assert str(port) not in ports


def test_a_viewer_looks_and_an_operator_acts(analysed: Server) -> None:
    added = subprocess.run(
        ["docker", "exec", "-i", analysed.container("gateway"), "user", "add", "eva"],
        env={"DOCKER_HOST": analysed.engine, "PATH": "/usr/bin:/bin"},
        input="a rather long password\n",
        capture_output=True,
        text=True,
    )
    assert added.returncode == 0, added.stderr
    mutation = {"query": 'mutation { deleteRun(runId: "none") { __typename } }'}
    permission = {"query": "{ permissions { permission value } }"}

    def may(client: object) -> set[str]:
        answer = client.post("/graphql", json=permission)  # type: ignore[attr-defined]
        return {p["permission"] for p in answer.json()["data"]["permissions"] if p["value"]}

    with analysed.browser("eva", "a rather long password") as eva:
        until(lambda: eva.get("/").status_code == 200, 60, "the new user may look")
        assert "launch_pipeline_execution" not in may(eva)
        assert eva.post("/graphql", json=mutation).json()["data"]["deleteRun"]["__typename"] == "UnauthorizedError"
        assert eva.put("/upload/eva.jpg", content=b"x").status_code == 403
    assert "launch_pipeline_execution" in may(analysed.web)


def test_runs_are_started_and_stopped_from_the_ui(analysed: Server) -> None:
    """The webserver reaches the engine, through the gate."""
    assert finished(analysed, launched(analysed)) == "SUCCESS"
    run_id = launched(analysed)
    until(analysed.runs, 60, "its container is there")
    stopped = analysed.graphql(
        "mutation($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message } } }", id=run_id
    )["terminateRun"]
    assert stopped["__typename"] == "TerminateRunSuccess", stopped
    assert finished(analysed, run_id) == "CANCELED"


def launched(running: Server) -> str:
    job = {
        "pipelineName": "maintenance",
        "repositoryName": "__repository__",
        "repositoryLocationName": "media_pipeline",
    }
    found = running.graphql(
        """mutation($job: JobOrPipelineSelector!) {
             launchRun(executionParams: {selector: $job, runConfigData: {}}) {
               __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
        job=job,
    )["launchRun"]
    assert found["__typename"] == "LaunchRunSuccess", found
    return str(found["run"]["runId"])


def finished(running: Server, run_id: str) -> str:
    until(lambda: not running.open_runs(), 180, "no run is under way")
    found = running.graphql("query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
    return str(found["runOrError"]["status"])


def test_it_is_all_there_after_down_and_up(analysed: Server) -> None:
    before = analysed.sql("SELECT analyzer, status, count(*) AS n FROM analyses GROUP BY ALL ORDER BY ALL")
    assert analysed.make("down").returncode == 0
    assert not analysed.containers()
    analysed.up()
    assert analysed.sql("SELECT analyzer, status, count(*) AS n FROM analyses GROUP BY ALL ORDER BY ALL") == before


def test_an_upgrade_that_is_not_well_goes_back_by_itself(analysed: Server) -> None:
    before, media = tag(analysed), analysed.sql("SELECT count(*) AS n FROM media")
    definitions = analysed.folder / "media_pipeline" / "definitions.py"
    good = definitions.read_text()
    definitions.write_text(good + '\nraise RuntimeError("a release that cannot be loaded")\n')
    try:
        done = analysed.make("upgrade", WAIT_S="75")
    finally:
        definitions.write_text(good)
    assert done.returncode != 0
    assert f"still at {before}" in done.stderr, done.stderr
    assert analysed.is_well() and tag(analysed) == before
    assert analysed.sql("SELECT count(*) AS n FROM media") == media
    # …and one that is well stays.
    wording = analysed.folder / "media_pipeline" / "wording.py"
    wording.write_text(wording.read_text() + "\n# another release\n")
    done = analysed.make("upgrade")
    assert done.returncode == 0, done.stderr
    assert tag(analysed) != before and analysed.is_well()
    assert analysed.sql("SELECT count(*) AS n FROM media") == media


def tag(running: Server) -> str:
    return (running.folder / ".deployed").read_text().strip()
