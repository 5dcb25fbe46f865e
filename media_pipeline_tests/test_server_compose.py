"""docker-compose.yml, deploy/dagster.yaml and the images they name: what holds without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.instance.ref import InstanceRef

from media_pipeline.engine.container_launcher import ContainerRunLauncher
from media_pipeline.engine.instance import instance_template
from media_pipeline.server.engine_gate import RUN_LABEL, Template
from media_pipeline.server.webserver import ANY

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
INSTANCE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text(encoding="utf-8"))
OFFICIAL = {"grafana"}  # images that are not ours
OUTSIDE = {"gateway"}  # whoever may be reached from outside
# What people read who operate a server.
TOLD = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        *sorted((ROOT / "docs").glob("operations*.md")),
        *(ROOT / "docs" / name for name in ("backup.md", "sizing.md")),
        *sorted((ROOT / "deploy" / "gateway").glob("*.py")),
        ROOT / "deploy" / "gateway" / "templates" / "nginx.conf",
        ROOT / "deploy" / "monitoring" / "alert-rules.yml",
        ROOT / "deploy" / "server.sh",
    )
}


@pytest.fixture(params=sorted(SERVICES))
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SERVICES[request.param] | {"name": request.param}


def test_old_and_new_compose_read_it() -> None:
    # 1.29 refuses `name`; v2 warns of `version`.
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "networks", "volumes"}


@pytest.mark.slow
@pytest.mark.parametrize("tool", [("docker-compose",), ("docker", "compose")], ids=" ".join)
def test_compose_itself_accepts_it(tool: tuple[str, ...], tmp_path: Path) -> None:
    accepted(tool, tmp_path)


def accepted(tool: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """What Compose makes of our file, and of an override beside it, without a word of complaint."""
    if shutil.which(tool[0]) is None or subprocess.run([*tool, "version"], capture_output=True).returncode != 0:
        pytest.skip(f"`{' '.join(tool)}` is not installed")
    shutil.copy(ROOT / "docker-compose.yml", folder)
    (folder / "deploy").symlink_to(ROOT / "deploy")  # 1.29 looks for what is to be built
    (folder / ".env").touch()
    done = subprocess.run([*tool, "config"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(yaml.safe_load(done.stdout))


def test_every_container_has_walls_limits_and_an_end(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[\d.]+[mg]", service["mem_limit"])
    assert service["restart"] == "unless-stopped"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert not str(service.get("user", "")).startswith("0"), "no container is root"
    assert "privileged" not in service and "network_mode" not in service and "pid" not in service


def test_every_service_says_whether_it_is_well(service: dict[str, Any]) -> None:
    if "healthcheck" in service or service["name"] in OFFICIAL:
        return
    build = service["build"]
    text = (ROOT / build["context"] / build.get("dockerfile", "Dockerfile")).read_text(encoding="utf-8")
    assert "HEALTHCHECK" in text


def test_only_the_gateway_is_reached_from_outside(service: dict[str, Any]) -> None:
    assert bool(service.get("ports")) == (service["name"] in OUTSIDE)


def test_only_the_gate_has_the_socket_of_the_engine() -> None:
    with_socket = {name for name, s in SERVICES.items() if any("docker.sock" in v for v in s.get("volumes", ()))}
    assert with_socket == {"engine-gate"}
    # …and only those that start and stop runs reach the gate; none of them has the home.
    beside = {name for name, s in SERVICES.items() if "engine" in s.get("networks", ())} - {"engine-gate"}
    assert beside == {"daemon", "webserver"}
    assert not any(v.startswith(("home:", "inbox:")) for name in beside for v in SERVICES[name]["volumes"])


@pytest.mark.parametrize("name", ["webserver", "viewer"])
def test_the_ui_turns_away_pages_of_others(name: str) -> None:
    assert SERVICES[name]["command"][:3] == ["python", "-m", "media_pipeline.server.webserver"]
    # Under whatever name the gateway is reached, which passes it on.
    assert SERVICES[name]["environment"]["MEDIA_PIPELINE_UI_HOSTS"] == ANY
    proxy = (ROOT / "deploy" / "gateway" / "templates" / "proxy.conf").read_text(encoding="utf-8")
    assert "proxy_set_header Host $http_host;" in proxy


def test_volumes_are_named_after_the_project() -> None:
    named = {volume["name"] for volume in COMPOSE["volumes"].values()}
    assert named == {"${COMPOSE_PROJECT_NAME:-media-pipeline}-" + name for name in COMPOSE["volumes"]}
    used = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", ()) if v[0].isalpha()}
    assert used == set(COMPOSE["volumes"])


def test_no_secret_is_in_an_environment(service: dict[str, Any]) -> None:
    given = service.get("environment", {})
    names = [entry.partition("=")[0] for entry in given] if isinstance(given, list) else list(given)
    assert not [name for name in names if re.search(r"PASSWORD|SECRET|_KEY$|TOKEN", name)]


# --- what is documented ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TOLD)
def test_commands_that_people_are_told_to_give_do_what_they_should(page: str) -> None:
    typed = r"docker compose(?: --?\S+)* ([a-z]+)(?: --?\S+)*(?: ([a-z0-9-]+))?"
    for command, service in re.findall(typed, TOLD[page]):
        # Starting is for `make up`: it has the images of the release, the secrets, and waits.
        assert command in {"exec", "logs", "restart", "stop", "ps"}, command
        assert service in {*SERVICES, "oauth2-proxy", ""}, f"{command} {service}"
    named = {s["container_name"].rpartition("}-")[2] for s in SERVICES.values() if "container_name" in s}
    assert {*re.findall(r"docker (?:exec|restart)(?: -\S+)* media-pipeline-([a-z]+)", TOLD[page])} <= named


def test_nothing_that_asks_is_documented_where_nobody_can_answer() -> None:
    typed = [line for text in TOLD.values() for line in re.findall(r"docker exec media-pipeline-\w+ (.*)", text)]
    asking = [line for line in typed if re.search(r"--all-before|retention run|media-pipeline erase", line)]
    assert asking and all("--yes" in line for line in asking)


@pytest.fixture(scope="module")
def oidc() -> dict[str, Any]:
    """docker-compose.override.yml of the section about OpenID Connect."""
    (text,) = re.findall(r"```yaml\n(services:\n  oauth2-proxy:.*?)```", TOLD["docs/operations-gateway.md"], re.DOTALL)
    return dict(yaml.safe_load(text))


def test_the_documented_sign_in_by_openid_connect_fits(oidc: dict[str, Any]) -> None:
    page = TOLD["docs/operations-gateway.md"]
    (name, proxy), *others = oidc["services"].items()
    assert not others
    assert set(proxy["networks"]) <= set(COMPOSE["networks"])
    assert set(proxy["networks"]) & set(SERVICES["gateway"]["networks"]), "the gateway reaches it"
    port = proxy["environment"]["OAUTH2_PROXY_HTTP_ADDRESS"].rpartition(":")[2]
    assert f"MEDIA_PIPELINE_SERVER__OIDC_PROXY={name}:{port}" in page
    # Reads the cookie's secret from a file since 7.11, in all places since 7.13.
    version = proxy["image"].rpartition(":v")[2].split(".")
    assert tuple(map(int, version)) >= (7, 13, 0)
    (mounted,) = proxy["volumes"]
    folder, inside, _ = mounted.split(":")
    secrets = [value for key, value in proxy["environment"].items() if key.endswith("_SECRET_FILE")]
    assert len(secrets) == 2
    for secret in secrets:
        made = secret.replace(inside, folder.removeprefix("./"))
        assert f"> {made}" in page and secret.startswith(f"{inside}/")
    assert f"chown -R {proxy['user']} {folder.removeprefix('./')}" in page


@pytest.mark.slow
@pytest.mark.parametrize("tool", [("docker-compose",), ("docker", "compose")], ids=" ".join)
def test_compose_itself_accepts_the_documented_sign_in(
    tool: tuple[str, ...], tmp_path: Path, oidc: dict[str, Any]
) -> None:
    (tmp_path / "docker-compose.override.yml").write_text(yaml.safe_dump(oidc))
    assert "oauth2-proxy" in accepted(tool, tmp_path)["services"]


# --- the instance ---------------------------------------------------------------------------------------------------


def test_the_instance_differs_from_that_of_a_home_alone_where_it_must() -> None:
    alone = yaml.safe_load(instance_template())
    own = ("storage", "run_launcher", "concurrency", "run_monitoring", "code_servers")
    assert {k: v for k, v in INSTANCE.items() if k not in own} == {k: v for k, v in alone.items() if k not in own}


def test_runs_are_let_through_by_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's configuration and the gate's policy are of one mind."""
    import docker
    from docker.models.containers import _create_container_args

    monkeypatch.setenv("DAGSTER_RUNS_LIKE", "media-pipeline-code")
    monkeypatch.setenv("DAGSTER_POSTGRES_HOST", "postgres")
    shutil.copy(ROOT / "deploy" / "dagster.yaml", tmp_path)
    launcher = InstanceRef.from_dir(str(tmp_path)).run_launcher
    assert isinstance(launcher, ContainerRunLauncher)
    wanted = dict(launcher.container_kwargs)
    wanted.pop("stop_timeout")
    wanted |= {"mem_limit": "4g", "volumes_from": ["media-pipeline-code"], "network": "media-pipeline"}
    wanted |= {"image": "media-pipeline:1", "labels": {RUN_LABEL: "1"}, "command": ["dagster"], "version": "1.41"}
    body = docker.types.ContainerConfig(
        "1.41", **{k: v for k, v in _create_container_args(wanted).items() if k != "version"}
    )
    inspected = {
        "Config": {"Image": "media-pipeline:1"},
        "NetworkSettings": {"Networks": {"media-pipeline": {}}},
    }
    Template("media-pipeline-code", inspected).require_like(body)


def test_runs_have_the_walls_of_the_other_containers() -> None:
    code, runs = SERVICES["code"], INSTANCE["run_launcher"]["config"]["container_kwargs"]
    for wall in ("read_only", "cap_drop", "security_opt", "init"):
        assert runs[wall] == code[wall]
    assert list(runs["tmpfs"]) == code["tmpfs"]
    assert runs["entrypoint"] == code["entrypoint"]
