"""deploy/restore-drill.sh and deploy/restore.sh, up to the engine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from media_pipeline.cli.installation import installation
from media_pipeline_tests import _cli
from media_pipeline_tests._backup_home import content


def call(
    folder: Path, script: str, *args: str, running: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A script of deploy/ and what it asks of Docker, of which one container runs.

    Args:
        running: its role
    """
    log = folder / "log"
    docker = (
        f'#!/bin/sh\necho "$TAG: $@" >>{log}\ncase "$*" in *"exec -T {running} true") exit 0;; *true) exit 1;; esac\n'
    )
    content(folder / "bin" / "docker", docker.encode(), mode=0o755)
    done = subprocess.run(
        [_cli.REPOSITORY / "deploy" / script, *args],
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TAG": "abc"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, log.read_text().splitlines()


@pytest.mark.parametrize(("running", "how"), [("backup", "exec -T backup"), ("", "run --rm -T backup")])
def test_the_drill_runs_in_the_container_there_is_or_in_one_of_its_own(tmp_path: Path, running: str, how: str) -> None:
    done, asked = call(tmp_path, "restore-drill.sh", "--without-originals", running=running)
    assert done.returncode == 0, done.stderr
    assert asked[-1] == f"abc: compose {how} media-pipeline installation drill --without-originals"


def test_a_server_that_runs_is_not_restored(tmp_path: Path) -> None:
    done, asked = call(tmp_path, "restore.sh", running="daemon")
    assert done.returncode == 1
    assert "the server runs (daemon); stop it first: make down" in done.stderr
    assert not [line for line in asked if " run " in line]


def test_a_server_that_is_stopped_is_restored(tmp_path: Path) -> None:
    done, asked = call(tmp_path, "restore.sh", "--snapshot", "12ab")
    assert done.returncode == 0, done.stderr
    assert (
        asked[-1] == "abc: compose run --rm -T backup media-pipeline installation restore --home /data --snapshot 12ab"
    )


def test_the_scripts_call_commands_there_are() -> None:
    assert {"restore", "drill", "schedule"} <= set(installation.commands)
    options = {option for command in installation.commands.values() for p in command.params for option in p.opts}
    assert {"--snapshot", "--home", "--without-originals", "--configuration"} <= options
