"""`serve`: its refusals, its children, and once the whole thing live."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from filelock import FileLock
from PIL import Image

from media_pipeline.cli import serve as serve_module
from media_pipeline.cli._children import Child, ChildLostError, Children
from media_pipeline.config import load_settings
from media_pipeline.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_refused_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(UsageError, match="--port"):
        serve_module._require_free("127.0.0.1", server.getsockname()[1])


def test_a_second_serve_on_the_same_home_is_refused(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    (tmp_path / "locks").mkdir()
    refused = pytest.raises(UsageError, match="another `serve`")
    with FileLock(tmp_path / "locks" / "serve.lock"), refused, serve_module._only_one(settings):
        pass
    with serve_module._only_one(settings):
        pass


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "\x1b[32m2026-01-31 12:00:00 +0000 - dagster - INFO - analyze_media - "
            "6ac9bef1-0330-45e5-a080-5c9b0e49cf5b - analyze.ocr - ocr: 4 done; 1.0 s of work\x1b[0m",
            "run 6ac9bef1: ocr: 4 done; 1.0 s of work",
        ),
        (
            "2026-01-31 12:00:00 +0000 - dagster - ERROR - analyze_media - 6ac9bef1-0330-45e5-a080-5c9b0e49cf5b - 77 - "
            "RUN_FAILURE - it failed",
            "run 6ac9bef1: it failed",
        ),
        ("2026-01-31 12:00:00 +0000 - dagster.daemon - WARNING - careful", "WARNING - careful"),
        ('  File "x.py", line 3, in f', None),
        ("", None),
        ("a line of nobody's format", "a line of nobody's format"),
    ],
)
def test_what_the_children_say_is_readable(line: str, said: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    serve_module._tell("code", line)
    printed = capsys.readouterr().err
    assert printed == "" if said is None else printed.endswith(f" code   {said}\n")


def test_addresses_can_be_clicked() -> None:
    assert serve_module._address("127.0.0.1", 3000) == "http://127.0.0.1:3000"
    assert serve_module._address("0.0.0.0", 3000) == "http://127.0.0.1:3000"
    assert serve_module._address("::1", 3000) == "http://[::1]:3000"


# --- children -------------------------------------------------------------------------------------------------------


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def children(said: list[tuple[str, str]]) -> Iterator[Children]:
    made = Children(dict(os.environ), lambda *what: said.append(what), max_deaths=2)
    yield made
    made.stop(0)


def shell(script: str, name: str = "child") -> Child:
    return Child(name, ["/bin/sh", "-c", script])


@pytest.mark.slow
def test_what_a_child_prints_is_passed_on_line_by_line(children: Children, said: list[tuple[str, str]]) -> None:
    children.start(shell("printf 'one\\ntw'; sleep 0.3; printf 'o\\n' >&2; sleep 60"))
    children.attend(0.8)
    assert said == [("child", "one"), ("child", "two")]


@pytest.mark.slow
def test_a_dead_child_is_started_again_and_it_is_said(
    children: Children, said: list[tuple[str, str]], tmp_path
) -> None:
    child = shell(f"echo x >> {tmp_path}/starts; sleep 60")
    children.start(child)
    wait_for((tmp_path / "starts").exists)
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    children.attend(0.8)
    assert child.process.pid != first
    assert is_running(child.process.pid)
    assert ("child", "was killed by SIGKILL; it is started again") in said
    wait_for(lambda: (tmp_path / "starts").read_text().count("x") == 2)


@pytest.mark.slow
def test_a_child_that_will_not_live_is_given_up(children: Children, said: list[tuple[str, str]]) -> None:
    children.start(shell("echo 'last words'; exit 3"))
    with pytest.raises(ChildLostError, match="ended with code 3 and died 3 times"):
        children.attend(20)
    assert said.count(("child", "last words")) == 3


@pytest.mark.slow
def test_stopping_asks_first_and_kills_what_stays(said: list[tuple[str, str]]) -> None:
    children = Children(dict(os.environ), lambda *what: said.append(what))
    polite = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done", "polite")
    stubborn = shell("trap '' TERM; echo up; sleep 300 & wait; wait", "stubborn")
    for child in (polite, stubborn):
        children.start(child)
    children.attend(0.5)
    children.stop(1.0)
    assert ("polite", "bye") in said
    assert [child.process.returncode for child in (polite, stubborn)] == [0, -signal.SIGKILL]


@pytest.mark.slow
def test_children_die_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from media_pipeline.cli._children import *;"
        "c = Children(os.environ, print); x = Child('x', ['/bin/sleep', '300']); c.start(x);"
        "print(x.process.pid, flush=True); c.attend(300)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    wait_for(lambda: not is_running(child))


# --- live -----------------------------------------------------------------------------------------------------------


def ask(address: str, query: str, **variables: object) -> dict:
    answer = httpx.post(f"{address}/graphql", json={"query": query, "variables": variables}, timeout=30).json()
    assert "errors" not in answer, answer
    return answer["data"]


STATS = "{ assetNodes { assetKey { path } partitionStats { numMaterialized numFailed numMaterializing } } }"


def stats(address: str) -> dict[str, tuple[int, int]]:
    nodes = ask(address, STATS)["assetNodes"]
    return {
        node["assetKey"]["path"][0]: (node["partitionStats"]["numMaterialized"], node["partitionStats"]["numFailed"])
        for node in nodes
        if node["partitionStats"]
    }


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    frontier = {pid}
    while frontier:
        children = set()
        for one in frontier:
            with contextlib.suppress(FileNotFoundError):
                children |= {int(c) for c in Path(f"/proc/{one}/task/{one}/children").read_text().split()}
        found |= children
        frontier = children
    return found


@pytest.mark.slow
def test_live_from_the_inbox_to_the_ui_and_down_again(tmp_path: Path) -> None:
    port = free_port()
    env = {**os.environ, "MEDIA_PIPELINE_OFFLINE": "1", "MEDIA_PIPELINE_SETTLE_S": "1"}
    began = time.monotonic()
    command = [sys.executable, "-c", "from media_pipeline.cli import main; main()", "--home", str(tmp_path), "serve"]
    with (
        (tmp_path / "stderr").open("w") as stderr,
        subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            _live(process, tmp_path, command, env, began)
        finally:
            process.kill()


def _turns_away_pages_of_others(address: str) -> None:
    stop = "mutation { stopSensor(id: %22x%22) { __typename } }"
    foreign = {"Origin": "https://evil.example"}
    assert httpx.get(f"{address}/graphql?query={stop}").status_code == 405
    assert httpx.post(f"{address}/graphql?query={stop}", headers=foreign, content="x").status_code == 403
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(address).status_code == 200


def _live(
    process: subprocess.Popen[str], tmp_path: Path, command: list[str], env: dict[str, str], began: float
) -> None:
    line = ""
    while "http://" not in line:
        line = process.stdout.readline()
        assert line or process.poll() is None, (tmp_path / "stderr").read_text()
    print(f"UI up after {time.monotonic() - began:.1f} s")
    address = re.search(r"http://\S+", line).group()
    inbox = tmp_path / "inbox"
    for number in range(3):
        Image.new("RGB", (64, 48), (number * 80, 0, 0)).save(inbox / f"picture {number}.png")
    (inbox / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    # What has no model stays missing; every other stage is done with the good ones.
    no_model = {"image_embeddings", "logos"}

    def is_done() -> bool:
        found = stats(address)
        return all(found[name] in {(3, 1), (4, 0)} for name in found.keys() - no_model) and len(found) > len(no_model)

    wait_for(is_done, 300)
    assert {stats(address)[name] for name in no_model} <= {(0, 1), (0, 0)}
    runs = ask(address, "{ runsOrError { ... on Runs { results { status jobName } } } }")["runsOrError"]["results"]
    assert [run["jobName"] for run in runs] == ["analyze_media"] * len(runs)
    assert len(runs) <= 2
    _turns_away_pages_of_others(address)

    again = subprocess.run([*command, "--port", str(free_port())], cwd=ROOT, env=env, capture_output=True, text=True)
    assert again.returncode == 2
    assert "another `serve`" in again.stderr

    family = descendants(process.pid)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 0
    print(f"stopped after {time.monotonic() - began:.1f} s")
    assert not [pid for pid in family if is_running(pid)]
