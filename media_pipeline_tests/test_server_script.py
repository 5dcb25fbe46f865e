"""deploy/server.sh up to the engine: what it asks of a Docker that is a stand-in, and what it makes of the answers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from media_pipeline_tests._backup_home import content
from media_pipeline_tests._cli import REPOSITORY

# Notes what it is asked. Files beside it say what it lacks: `fails` has a pattern of commands, `ps` the containers.
DOCKER = """#!/bin/bash
echo "$TAG [$COMPOSE_PROFILES] $*" >>log
[ ! -e fails ] || { [[ "$*" != $(cat fails) ]] || { echo "docker: no room" >&2; exit 1; }; }
case "$*" in
    "ps --all"*) cat ps ;;
    "compose exec -T postgres sh -ec "*) PATH=$PWD/bin:$PATH sh -ec "${@: -1}" ;;
esac
"""
DATA = "/var/lib/postgresql/data"
WELL = "code|running|Up 9 minutes (healthy)\ngateway|running|Up 9 minutes (healthy)\n"


class Checkout:
    """A folder with what the script needs of this one, and the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("deploy/server.sh", "deploy/compose.sh"):
            content(folder / name, (REPOSITORY / name).read_bytes(), mode=0o755)
        # The path in the container becomes one here.
        script = folder / "deploy" / "server.sh"
        script.write_text(script.read_text().replace(f"cd {DATA}", f"cd {folder}/data"))
        content(folder / "bin" / "docker", DOCKER.encode(), mode=0o755)
        content(folder / "bin" / "pg_dump", b"#!/bin/sh\necho a dump\n", mode=0o755)
        (folder / "data").mkdir()
        (folder / "socket").touch()
        self.said("ps", WELL)
        self.said(".version", "new\n")
        self.said(".env", "")

    def said(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def __call__(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.said("log", "")
        known = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "DOCKER_SOCKET": f"{self.folder}/socket"}
        return subprocess.run(
            [self.folder / "deploy" / "server.sh", *command],
            cwd="/",
            env=known | {"WAIT_S": "-1", "GIT_CEILING_DIRECTORIES": str(self.folder.parent)} | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def asked(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def env(self) -> dict[str, str]:
        lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
        pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
        assert len({name for name, _ in pairs}) == len(pairs), "nothing stands in it twice"
        return dict(pairs)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "media")


# --- .env -----------------------------------------------------------------------------------------------------------


def test_up_tells_compose_what_a_person_would_have_to(checkout: Checkout) -> None:
    (checkout.folder / ".env").write_text("MEDIA_PIPELINE_LANGUAGE=de  # ours\nTAG=old", encoding="utf-8")
    (checkout.folder / ".env").chmod(0o640)
    file = (checkout.folder / ".env").stat().st_ino
    done = checkout("up")
    assert done.returncode == 0, done.stderr
    assert checkout.env() == {
        "MEDIA_PIPELINE_LANGUAGE": "de  # ours",
        "COMPOSE_PROJECT_NAME": "media-pipeline",
        "TAG": "new",
        "DOCKER_SOCKET": f"{checkout.folder}/socket",
        "DOCKER_GROUP": str((checkout.folder / "socket").stat().st_gid),
    }
    shown = (checkout.folder / ".env").stat()
    assert (shown.st_ino, shown.st_mode & 0o777) == (file, 0o640), "the backup has this very file mounted"
    before = (checkout.folder / ".env").read_bytes()
    assert checkout("up").returncode == 0
    assert (checkout.folder / ".env").read_bytes() == before
    assert not (checkout.folder / ".env.new").exists()


def test_a_project_that_was_named_once_keeps_its_name(checkout: Checkout) -> None:
    assert checkout("up", COMPOSE_PROJECT_NAME="second").returncode == 0
    assert checkout.env()["COMPOSE_PROJECT_NAME"] == "second"
    checkout("status")
    assert any("label=com.docker.compose.project=second" in line for line in checkout.asked())


@pytest.mark.parametrize(
    ("said", "profiles"),
    [("true", "monitoring"), ("True   # with Grafana", "monitoring"), ('"on"', "monitoring"), ("false # not", "")],
)
def test_monitoring_is_started_however_it_is_written(checkout: Checkout, said: str, profiles: str) -> None:
    checkout.said(".env", f"MEDIA_PIPELINE_SERVER__MONITORING={said}\n")
    assert checkout("up").returncode == 0
    (up,) = [line for line in checkout.asked() if " compose up " in line]
    assert up.startswith(f"new [{profiles}] ")
    assert checkout.env().get("COMPOSE_PROFILES", "") == profiles


def test_monitoring_is_switched_on_by_a_word_and_off_in_the_file(checkout: Checkout) -> None:
    checkout.said(".env", "COMPOSE_PROFILES=own\nMEDIA_PIPELINE_SERVER__MONITORING=false\n")
    assert checkout("up", MONITORING="1").returncode == 0
    assert checkout.env()["MEDIA_PIPELINE_SERVER__MONITORING"] == "true"
    assert checkout.env()["COMPOSE_PROFILES"] == "own,monitoring"
    text = (checkout.folder / ".env").read_text()
    checkout.said(".env", text.replace("MONITORING=true", "MONITORING=false"))
    assert checkout("up").returncode == 0
    assert checkout.env()["COMPOSE_PROFILES"] == "own"


def test_addresses_are_those_of_the_settings_without_their_comments(checkout: Checkout) -> None:
    checkout.said(
        ".env",
        "MEDIA_PIPELINE_SERVER__DOMAIN=media.example.org    # its name in DNS\n"
        "export MEDIA_PIPELINE_SERVER__HTTPS_PORT = '8443' # not 443\r\n",
    )
    assert "  UI        https://media.example.org:8443/\n" in checkout("up").stdout


# --- what is well ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "well"),
    [
        ("oauth2-proxy|running|Up 9 minutes", True),
        ("oauth2-proxy|running|Up 10 seconds", True),
        ("oauth2-proxy|running|Up About a minute", True),
        ("oauth2-proxy|running|Up 9 seconds", False),
        ("oauth2-proxy|running|Up Less than a second", False),
        ("oauth2-proxy|restarting|Restarting (1) 5 seconds ago", False),
        ("oauth2-proxy|exited|Exited (1) 2 minutes ago", False),
        ("daemon|running|Up 9 minutes (unhealthy)", False),
        ("daemon|running|Up 9 minutes (health: starting)", False),
    ],
)
def test_who_has_no_health_check_is_well_when_it_runs(checkout: Checkout, container: str, well: bool) -> None:
    checkout.said("ps", f"{WELL}{container}\n")
    checkout.said(".deployed", "new\n")
    assert (checkout("status").returncode == 0) == well


def test_up_does_not_end_well_before_all_is_well(checkout: Checkout) -> None:
    checkout.said("ps", f"{WELL}oauth2-proxy|restarting|Restarting (1) 5 seconds ago\n")
    done = checkout("up")
    assert done.returncode == 1
    assert "waiting for oauth2-proxy" in done.stdout and "server: not everything is well" in done.stderr
    assert not (checkout.folder / ".deployed").exists()


# --- upgrade --------------------------------------------------------------------------------------------------------


def test_an_upgrade_keeps_the_last_three_dumps(checkout: Checkout) -> None:
    checkout.said(".deployed", "old\n")
    for n in range(5):
        checkout.said(f"data/before-{n}.dump", "")
        os.utime(checkout.folder / "data" / f"before-{n}.dump", (n, n))
    checkout.said("data/base", "PostgreSQL's own")
    done = checkout("upgrade")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (checkout.folder / "data").iterdir()) == [
        *("base", "before-3.dump", "before-4.dump", "before-new.dump"),
    ]
    assert (checkout.folder / ".deployed").read_text() == "new\n" and checkout.env()["TAG"] == "new"


def test_a_dump_that_fails_stays_no_dump_and_nothing_is_begun(checkout: Checkout) -> None:
    checkout.said(".deployed", "old\n")
    checkout.said("data/before-new.dump", "whole")
    content(checkout.folder / "bin" / "pg_dump", b"#!/bin/sh\necho half; exit 1\n", mode=0o755)
    done = checkout("upgrade")
    assert done.returncode == 1 and "the database could not be saved" in done.stderr
    assert [path.name for path in (checkout.folder / "data").iterdir()] == ["before-new.dump"]
    assert (checkout.folder / "data" / "before-new.dump").read_text() == "whole"
    assert not any("migrate" in line for line in checkout.asked())


def test_an_upgrade_that_does_not_succeed_goes_back(checkout: Checkout) -> None:
    checkout.said(".deployed", "old\n")
    checkout.said("fails", "*instance migrate*")
    done = checkout("upgrade")
    assert done.returncode == 1 and "server: still at old" in done.stderr
    asked = checkout.asked()
    (restored,) = [n for n, line in enumerate(asked) if "pg_restore" in line]
    assert asked[restored].startswith("old ") and asked[restored].endswith("/before-new.dump")
    assert any(line.startswith("old ") and " compose up --detach --remove-orphans" in line for line in asked[restored:])
    assert checkout.env()["TAG"] == "old"


def test_a_database_that_cannot_be_put_back_is_said_with_what_to_do(checkout: Checkout) -> None:
    checkout.said(".deployed", "old\n")
    checkout.said("fails", "*@(instance migrate|pg_restore)*")
    done = checkout("upgrade")
    assert done.returncode == 1
    assert "docker: no room" in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("server: the database could not be put back; it is saved as before-new.dump")
    assert said.endswith("then: deploy/server.sh back before-new.dump")
    assert checkout.env()["TAG"] == "old", "whoever starts now does not start the new version on the old data"

    (checkout.folder / "fails").unlink()
    done = checkout(*said.split()[-2:])
    assert done.returncode == 0, done.stderr
    assert "back at old, with the database of before-new.dump" in done.stdout
    assert [line for line in checkout.asked() if "pg_restore" in line]


def test_back_wants_to_be_told_where_to(checkout: Checkout) -> None:
    checkout.said(".deployed", "old\n")
    done = checkout("back")
    assert done.returncode == 1 and "which one? docker compose exec postgres ls" in done.stderr
    assert not [line for line in checkout.asked() if "pg_restore" in line]


# --- what a person types in that folder -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("tool", [("docker-compose",), ("docker", "compose")], ids=" ".join)
def test_compose_alone_means_the_same_server(checkout: Checkout, tool: tuple[str, ...]) -> None:
    if shutil.which(tool[0]) is None or subprocess.run([*tool, "version"], capture_output=True).returncode != 0:
        pytest.skip(f"`{' '.join(tool)}` is not installed")
    assert checkout("up", MONITORING="1").returncode == 0
    shutil.copy(REPOSITORY / "docker-compose.yml", checkout.folder)
    for name in ("gateway", "postgres", "monitoring", "Dockerfile"):  # 1.29 looks for what is to be built
        (checkout.folder / "deploy" / name).symlink_to(REPOSITORY / "deploy" / name)
    clean = {"PATH": os.environ["PATH"], "HOME": str(checkout.folder)}

    def shown(*more: str) -> str:
        done = subprocess.run(
            [*tool, "config", *more], cwd=checkout.folder, env=clean, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert {"gateway", "grafana", "prometheus"} <= set(shown("--services").split())
    found = shown()
    assert "image: media-pipeline:new" in found and "container_name: media-pipeline-code" in found
    assert f"{checkout.folder}/socket" in found
    assert str(yaml.safe_load(found)["services"]["engine-gate"]["group_add"]) == str([checkout.env()["DOCKER_GROUP"]])
    assert "latest" not in found
