"""What the gate before the Docker Engine lets through, and what not."""

from __future__ import annotations

import copy
import json
from typing import Any

import docker
import httpx
import pytest
from docker.models.containers import _create_container_args  # type: ignore[import-untyped]
from docker.types import HostConfig  # type: ignore[import-untyped]
from starlette.testclient import TestClient

from media_pipeline.server.engine_gate import RUN_LABEL, Gate, Refused, Template

CODE = {
    "Config": {"Image": "media-pipeline:1", "Labels": {"com.docker.compose.service": "code"}},
    "NetworkSettings": {"Networks": {"media-pipeline": {}}},
}
RUN = {"Config": {"Image": "media-pipeline:1", "Labels": {RUN_LABEL: "r1"}}}
POSTGRES = {"Config": {"Image": "postgres", "Labels": {}}}


def asked(**changes: Any) -> dict[str, Any]:
    """What docker-py sends for a container as the launcher wants it, with changes."""
    wanted = {
        "image": "media-pipeline:1",
        "command": ["dagster", "api", "execute_run", "…"],
        "detach": True,
        "environment": {"A": "b"},
        "network": "media-pipeline",
        "labels": {RUN_LABEL: "r1"},
        "entrypoint": ["/opt/media-pipeline/deploy/enter"],
        "auto_remove": True,
        "init": True,
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 2000,
        "healthcheck": {"test": ["NONE"]},
        "log_config": {"type": "json-file", "config": {"max-size": "10m"}},
        "mem_limit": "4g",
        "nano_cpus": 2_000_000_000,
        "volumes_from": ["media-pipeline-code"],
        "version": "1.41",
    } | changes
    arguments = _create_container_args({k: v for k, v in wanted.items() if v is not None})
    return dict(docker.types.ContainerConfig(arguments.pop("version", "1.41"), **arguments))


@pytest.fixture
def template() -> Template:
    return Template("media-pipeline-code", CODE)


def test_a_run_as_the_launcher_wants_it_is_let_through(template: Template) -> None:
    template.require_like(asked())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "debian"}, "the image"),
        ({"labels": {}}, "label"),
        ({"privileged": True}, "Privileged"),
        ({"cap_add": ["SYS_ADMIN"]}, "CapAdd"),
        ({"cap_drop": None}, "capabilities"),
        ({"devices": ["/dev/sda:/dev/sda"]}, "Devices"),
        ({"volumes": ["/:/host"]}, "Binds"),
        ({"volumes": {"/": {"bind": "/host", "mode": "rw"}}}, "Binds"),
        ({"mounts": [docker.types.Mount("/host", "/", type="bind")]}, "Mounts"),
        ({"volumes_from": ["media-pipeline-postgres"]}, "volumes"),
        ({"volumes_from": ["media-pipeline-code", "media-pipeline-backup"]}, "volumes"),
        ({"network": "media-pipeline-engine"}, "network"),
        ({"network": None, "network_mode": "host"}, "network"),
        ({"network": None, "network_mode": "container:media-pipeline-engine-gate"}, "network"),
        ({"pid_mode": "host"}, "PidMode"),
        ({"ipc_mode": "host"}, "IpcMode"),
        ({"userns_mode": "host"}, "UsernsMode"),
        ({"user": "0"}, "User"),
        ({"read_only": None}, "read-only"),
        ({"security_opt": ["no-new-privileges:true", "apparmor=unconfined"]}, "no-new-privileges"),
        ({"security_opt": None}, "no-new-privileges"),
        ({"mem_limit": None}, "memory"),
        ({"runtime": "other"}, "Runtime"),
        ({"log_config": {"type": "syslog", "config": {"syslog-address": "tcp://evil:1"}}}, "logs"),
        ({"ports": {"22/tcp": 22}}, "PortBindings"),
        ({"cgroup_parent": "/"}, "CgroupParent"),
        ({"group_add": ["999"]}, "GroupAdd"),
    ],
    ids=str,
)
def test_anything_with_more_power_is_refused(template: Template, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        template.require_like(asked(**changes))


def test_what_no_release_of_docker_has_yet_is_refused(template: Template) -> None:
    body = copy.deepcopy(asked())
    body["HostConfig"]["AllPowerful"] = True
    with pytest.raises(Refused, match="AllPowerful"):
        template.require_like(body)
    assert isinstance(body["HostConfig"], HostConfig | dict)


@pytest.fixture
def gate() -> tuple[TestClient, list[httpx.Request]]:
    """The gate before an engine that says yes to everything, and what reaches that engine."""
    reached: list[httpx.Request] = []
    known = {"media-pipeline-code": CODE, "r1": RUN, "postgres": POSTGRES}

    def engine(request: httpx.Request) -> httpx.Response:
        parts = request.url.path.strip("/").split("/")
        if request.method == "GET" and parts[0] == "containers" and parts[-1] == "json" and len(parts) == 3:
            found = known.get(parts[1])
            return httpx.Response(200, json=found) if found else httpx.Response(404, json={"message": "none"})
        reached.append(request)
        return httpx.Response(200, json={"Id": "r2"})

    client = httpx.AsyncClient(transport=httpx.MockTransport(engine), base_url="http://engine")
    return TestClient(Gate(client, "media-pipeline-code").app(), raise_server_exceptions=False), reached


def test_only_containers_of_runs_can_be_touched(gate: tuple[TestClient, list[httpx.Request]]) -> None:
    client, reached = gate
    assert client.post("/v1.41/containers/r1/stop?t=30").status_code == 200
    assert [r.url.path for r in reached] == ["/v1.41/containers/r1/stop"]
    for container in ("postgres", "media-pipeline-code", "..%2fvolumes", "a%20b"):
        for method, path in (("POST", "stop"), ("POST", "kill"), ("DELETE", "")):
            answer = client.request(method, f"/containers/{container}/{path}".rstrip("/"))
            assert answer.status_code in (403, 404), (method, container)
    assert len(reached) == 1
    assert client.get("/containers/postgres/json").status_code == 403  # its environment is nobody's business
    assert client.get("/containers/media-pipeline-code/json").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/images/json"),
        ("POST", "/images/create?fromImage=evil"),
        ("POST", "/build"),
        ("GET", "/info"),
        ("GET", "/volumes"),
        ("POST", "/containers/r1/exec"),
        ("POST", "/exec/x/start"),
        ("GET", "/containers/r1/archive?path=/run/secrets"),
        ("PUT", "/containers/r1/archive?path=/"),
        ("POST", "/containers/r1/update"),
        ("POST", "/containers/r1/rename?name=media-pipeline-code"),
        ("POST", "/networks/create"),
        ("GET", "/secrets"),
        ("POST", "/v1.41/v1.41/containers/create"),
    ],
)
def test_no_other_part_of_the_engine_is_reached(
    gate: tuple[TestClient, list[httpx.Request]], method: str, path: str
) -> None:
    client, reached = gate
    assert client.request(method, path).status_code in (404, 405)
    assert not reached


def test_the_list_is_of_runs(gate: tuple[TestClient, list[httpx.Request]]) -> None:
    client, reached = gate
    client.get("/containers/json", params={"all": "1"})
    client.get("/containers/json", params={"filters": json.dumps({"label": ["x"], "status": ["running"]})})
    filters = [json.loads(request.url.params["filters"]) for request in reached]
    assert all(RUN_LABEL in found["label"] for found in filters)


def test_a_container_is_made_only_when_it_is_like_the_template(gate: tuple[TestClient, list[httpx.Request]]) -> None:
    client, reached = gate
    assert client.post("/v1.41/containers/create", json=asked()).status_code == 200
    refused = client.post("/v1.41/containers/create", json=asked(privileged=True))
    assert refused.status_code == 403 and "Privileged" in refused.json()["message"]
    # Twice the same key: what is looked at is what is sent.
    twice = json.dumps(asked())[:-1] + ', "Image": "debian"}'
    assert client.post("/containers/create", content=twice).status_code == 403
    assert client.post("/containers/create", content=b"[]").status_code == 403
    assert client.post("/containers/create", content=b"{").status_code == 403
    assert len(reached) == 1


def test_an_engine_that_does_not_answer_is_named() -> None:
    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no such socket", request=request)

    client = httpx.AsyncClient(transport=httpx.MockTransport(silent), base_url="http://engine")
    answer = TestClient(Gate(client, "x").app()).get("/healthz")
    assert answer.status_code == 502 and "Docker Engine" in answer.json()["message"]
