"""deploy/single/docker-compose.yml, deploy/Dockerfile and .dockerignore agree with each other and with the product."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import click
import pytest
import yaml

from media_pipeline.cli import serve as serve_module
from media_pipeline.config import ENV_PREFIX, load_settings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "single"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "docker-compose.yml").read_text(encoding="utf-8"))
# Without the image for GPUs, which test_gpu_image.py looks at.
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")).partition(
    "\nFROM ${GPU_BASE}"
)[0]
GIB = 1024**3


@pytest.fixture
def service() -> dict[str, Any]:
    (only,) = COMPOSE["services"].values()
    return dict(only)


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def image_environment() -> dict[str, str]:
    final_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    (line,) = re.findall(r"^ENV (.*)$", final_stage, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())


def copied_from_the_checkout() -> list[str]:
    lines = [line.split() for line in instructions("COPY") if not line.startswith("--from")]
    return [source for words in lines for source in words[:-1]]


# --- deploy/single/docker-compose.yml -------------------------------------------------------------------------------


def test_old_and_new_compose_read_it() -> None:
    # 1.29 refuses `name`; v2 warns of `version`.
    assert set(COMPOSE) == {"services", "volumes"}


@pytest.mark.slow
@pytest.mark.parametrize("tool", [("docker-compose",), ("docker", "compose")], ids=" ".join)
def test_compose_itself_accepts_it(tool: tuple[str, ...]) -> None:
    if shutil.which(tool[0]) is None or subprocess.run([*tool, "version"], capture_output=True).returncode != 0:
        pytest.skip(f"`{' '.join(tool)}` is not installed")
    done = subprocess.run([*tool, "config"], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    # Variables that a person may leave unset must not be complained about.
    assert (done.returncode, done.stderr) == (0, "")
    (service,) = yaml.safe_load(done.stdout)["services"].values()
    assert float(service["mem_limit"].removesuffix("g")) == 6.5 or int(service["mem_limit"]) == 6.5 * GIB


def test_only_this_machine_reaches_the_ui(service: dict[str, Any]) -> None:
    """The container listens everywhere, because its port could not be published otherwise; the host does not."""
    command, arguments = service["command"][0], service["command"][1:]
    assert command == serve_module.serve.name
    parsed = serve_module.serve.make_context(command, arguments).params
    assert parsed["host"] == "0.0.0.0"
    assert service["ports"] == [f"127.0.0.1:3000:{parsed['port']}"]


def test_settings_of_the_container(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable is a setting there is, and the folders it names are mounted."""
    targets = [volume.replace(":-", "").split(":")[1] for volume in service["volumes"]]
    for name, value in {**image_environment(), **dict(v.partition("=")[::2] for v in service["environment"])}.items():
        if name.startswith(ENV_PREFIX):
            monkeypatch.setenv(name, value)  # an empty value means the default
    settings = load_settings()
    assert [str(settings.home), *map(str, settings.watched)] == targets
    assert service["volumes"][0].split(":")[0] in COMPOSE["volumes"]


def test_container_may_write_its_volume_and_tmp_only(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [v.rpartition(":")[2] for v in service["volumes"]] == ["/data", "ro"]


def test_limits_of_the_container(service: dict[str, Any]) -> None:
    assert float(service["mem_limit"].removesuffix("g")) * GIB > load_settings().decode.max_memory_bytes * 2
    assert service["restart"] == "unless-stopped"
    assert int(service["stop_grace_period"].removesuffix("s")) > serve_module._STOP_PATIENCE_S
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


# --- deploy/Dockerfile ----------------------------------------------------------------------------------------------


def test_base_is_an_argument_of_both_stages(service: dict[str, Any]) -> None:
    assert instructions("ARG")[0].startswith("BASE=")
    assert [line.split()[0] for line in instructions("FROM")] == ["${BASE}", "${BASE}"]
    assert service["build"]["target"] == instructions("FROM")[-1].split()[-1]


def test_process_is_not_root() -> None:
    (user,) = instructions("USER")
    assert re.search(rf"useradd --uid \$\{{UID\}} .*{user}\b", DOCKERFILE)
    assert any(re.fullmatch(r"UID=[1-9]\d+", line) for line in instructions("ARG"))


def test_dockerfile_and_compose_start_the_same(service: dict[str, Any]) -> None:
    (command,), (entrypoint,) = instructions("CMD"), instructions("ENTRYPOINT")
    assert yaml.safe_load(command) == service["command"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert yaml.safe_load(entrypoint)[0] in scripts


def test_health_is_asked_where_the_ui_listens() -> None:
    (check,) = instructions("HEALTHCHECK")
    default = next(p.default for p in serve_module.serve.params if isinstance(p, click.Option) and p.name == "port")
    assert f"http://127.0.0.1:{default}/server_info" in check
    assert instructions("EXPOSE") == [str(default)]


def test_what_is_copied_exists_and_is_enough() -> None:
    copied = copied_from_the_checkout()
    assert [name for name in copied if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    code = {"media_pipeline", "resources", "sensors"}
    installing = {"pyproject.toml", "constraints.txt", "overrides.txt", "scripts"}
    of_the_server = {"deploy/slim.sh", "deploy/enter", "deploy/dagster.yaml", "deploy/workspace.yaml"}
    assert set(copied) == code | installing | of_the_server | set(project["license-files"])


def test_nothing_else_is_sent_to_the_engine() -> None:
    """Media, settings and history lie in the checkout, too; an image must not carry them."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"

    def sent(path: str) -> bool:
        kept = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            path_and_above = [str(part) for part in (PurePosixPath(path), *PurePosixPath(path).parents)][:-1]
            names = PurePosixPath(path).parts if "**/" in rule else path_and_above
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                kept = rule.startswith("!")
        return kept

    assert all(sent(name) for name in copied_from_the_checkout())
    for private in (
        ".git/config",
        ".env",
        "data/originals/a",
        "inbox/a.jpg",
        ".venv/bin/python",
        "secrets/gateway/users",
        "docker-compose.yml",
    ):
        assert not sent(private)
    assert not sent("media_pipeline/cli/__pycache__/serve.cpython-311.pyc")
