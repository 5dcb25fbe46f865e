"""The worker program itself, over its pipes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from media_pipeline.analyzers._spec import AnalyzerSpec, Medium
from media_pipeline.config import Settings
from media_pipeline.execution import messages, uploads
from media_pipeline.execution.hello import Hello, code_digest
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.messages import BadMessage, Kind, Message
from media_pipeline.execution.worker_process import local_place
from media_pipeline_tests._workers import (  # noqa: F401
    CHOICE,
    FAIL,
    PRINT,
    SLOW,
    Make,
    make_fixture,
    settings_fixture,
    tiny_fixture,
)

WAIT_S = 60.0  # for what comes at once on an idle machine


class Raw:
    """A worker without a client: raw messages."""

    def __init__(self, settings: Settings) -> None:
        place = local_place(settings)
        assert place.environment is not None
        self.process = subprocess.Popen(
            place.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(place.environment),
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        self.lines: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._watchdog = threading.Timer(WAIT_S, self.process.kill)
        self._watchdog.start()
        self.spec: AnalyzerSpec | None = None

    def _listen(self) -> None:
        for line in self.stderr:
            self.lines.append(line.decode(errors="replace").strip())

    def send(self, operation: str, **header: Any) -> None:
        messages.write(self.stdin, Message(operation, header))

    def read(self) -> Message:
        found = messages.read(self.stdout, lambda _header, schema: self.spec.schema if self.spec else schema)
        assert found is not None, self.lines
        return found

    def ask(self, operation: str, **header: Any) -> Message:
        self.send(operation, **header)
        return self.read()

    def run(self, spec: AnalyzerSpec, number: int = 1, **options: Any) -> Message:
        self.spec = spec
        chosen = spec.options(**options)
        fingerprint = spec.fingerprint(spec.choose(chosen, None), chosen)
        return self.ask("run", run=number, analyzer=spec.name, options=options, fingerprint=fingerprint)

    def upload(self, medium: Medium, name: str) -> None:
        for message in (*uploads.frame_messages(medium, name), *uploads.sound_messages(medium, name)):
            messages.write(self.stdin, message)

    def work(self, *media: tuple[str, Medium], number: int = 1) -> None:
        described = [uploads.described(medium, name, by_path=False) for name, medium in media]
        self.send("work", run=number, media=described)

    def said(self, key: str) -> list[dict[str, Any]]:
        said = []
        for line in list(self.lines):
            with contextlib.suppress(ValueError):
                said.append(json.loads(line))
        return [one for one in said if isinstance(one, dict) and key in one]

    def ended(self) -> int:
        code = self.process.wait(WAIT_S)
        self._listener.join(WAIT_S)
        return code

    def close(self) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.wait()
        self._listener.join(WAIT_S)
        for pipe in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


@pytest.fixture(scope="module")
def shared(settings: Settings, tiny: dict[str, AnalyzerSpec]) -> Iterator[Raw]:
    """One for all tests that leave it as it was."""
    raw = Raw(settings)
    yield raw
    raw.close()


@pytest.fixture
def own(settings: Settings, tiny: dict[str, AnalyzerSpec]) -> Iterator[Raw]:
    raw = Raw(settings)
    yield raw
    raw.close()


def folders(settings: Settings) -> list[Path]:
    """Private folders of workers."""
    return list((settings.home / "worker").glob("*"))


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


Tiny = dict[str, AnalyzerSpec]


@pytest.mark.slow
def test_it_says_what_it_is(shared: Raw) -> None:
    hello = Hello.from_json(shared.ask("hello").header)
    assert (hello.device, hello.gpu, hello.threads) == ("cpu", None, min(2, len(os.sched_getaffinity(0))))
    assert hello.code == code_digest()
    wait_for(lambda: len(shared.said("beat")) >= 2)
    beat = shared.said("beat")[-1]
    assert beat["beat"] > 10_000_000, "resident memory in bytes"
    assert beat["free_gpu_mb"] is None


@pytest.mark.slow
def test_a_check_is_one_line_of_json(settings: Settings, tmp_path: Path) -> None:
    place = local_place(settings)
    done = subprocess.run(
        [*place.command, "--check", "--threads", "3"],
        env=dict(place.environment or {}),
        capture_output=True,
        timeout=WAIT_S,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert Hello.from_json(json.loads(line)).threads == 3


def test_it_computes_what_is_asked_and_says_what_it_took(shared: Raw, make: Make, tiny: Tiny) -> None:
    spec = tiny["tiny"]
    media = [make("a", frames=3), make("bb", width=PRINT)]
    assert shared.run(spec, 7).header == {"run": 7, "batch_media": 1}
    for medium in media:
        shared.upload(medium, f"name-{medium.media_id}")
    shared.work(*((f"name-{m.media_id}", m) for m in media), number=7)
    answers = {m.header["medium"]: m for m in (shared.read(), shared.read())}
    here = {r.media_id: r.rows for r in InProcessExecutor(1).run(spec, CHOICE, spec.options(), media)}
    for media_id, rows in here.items():
        answer = answers[f"name-{media_id}"]
        assert (answer.operation, answer.header["run"], answer.header["device"]) == ("result", 7, "cpu")
        assert answer.header["seconds"] > 0
        assert set(answer.table["media_id"].to_pylist()) == {f"name-{media_id}"}
        assert answer.table.drop_columns("media_id").equals(rows.drop_columns("media_id"))
    done = shared.ask("end", run=7)
    assert done.operation == "done"
    assert done.header["cost"]["frames"] == 4
    assert done.header["cost"]["wall_s"] > 0
    wait_for(lambda: any("a library prints" in line for line in shared.lines))


def test_what_was_sent_once_serves_every_analyzer_until_it_is_dropped(
    shared: Raw,
    make: Make,
    settings: Settings,
    tiny: Tiny,
) -> None:
    medium = make("talk", frames=2, seconds=1.5, channels=2)
    shared.upload(medium, "x")
    for number, name in enumerate(("tiny", "tiny_sound", "tiny"), 20):
        shared.run(tiny[name], number)
        shared.work(("x", medium), number=number)
        spec = tiny[name]
        (here,) = InProcessExecutor(1).run(spec, CHOICE, spec.options(), [medium])
        assert here.rows is not None
        assert here.rows.num_rows
        assert shared.read().table.drop_columns("media_id").equals(here.rows.drop_columns("media_id"))
    (folder,) = folders(settings)
    assert folder.stat().st_mode & 0o077 == 0, "for its owner only"
    before = set(folder.rglob("*.arrow"))
    shared.send("drop", media=["x"])
    shared.ask("hello")  # it is through with the drop
    assert len(before - set(folder.rglob("*.arrow"))) == 1
    shared.work(("x", medium), number=number)
    error = shared.read().header["error"]
    assert error["type"] == "StorageConflict"


def test_an_analyzer_that_fails_says_so(shared: Raw, make: Make, tiny: Tiny) -> None:
    bad, good = make("a", width=FAIL), make("bb")
    shared.run(tiny["tiny_pairs"], 30)
    for medium in (bad, good):
        shared.upload(medium, medium.media_id)
    shared.work(("a", bad), ("bb", good), number=30)
    answers = {m.header["medium"]: m for m in (shared.read(), shared.read())}
    assert answers["bb"].table.num_rows == 1
    error = answers["a"].header["error"]
    assert error["type"] == "AnalyzerFailed"
    assert "a picture it cannot bear" in error["cause"]
    assert error["remedy"]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"fingerprint": "0" * 16}, "not with what was asked for"),
        ({"analyzer": "nothing"}, "no analyzer is called 'nothing'"),
        ({"options": {"unknown": 1}}, "unknown"),
        ({"options": []}, "TypeError"),
        ({"options": {"model": "broken"}}, "libcudart.so.12"),
    ],
)
def test_what_it_cannot_do_it_says(shared: Raw, tiny: Tiny, changes: dict[str, Any], cause: str) -> None:
    spec = tiny["tiny"]
    options = spec.options(**(changes.get("options") if changes.get("options") == {"model": "broken"} else {}))
    asked = {
        "run": 40,
        "analyzer": spec.name,
        "options": {},
        "fingerprint": spec.fingerprint(spec.choose(options, None), options),
    }
    answer = shared.ask("run", **(asked | changes))
    assert (answer.operation, answer.header["run"]) == ("cannot", 40)
    assert cause in answer.header["cause"]


@pytest.mark.parametrize(
    "message",
    [
        Message("format_disk"),
        Message("work"),
        Message("work", {"run": 1, "media": [{}]}),
        Message("work", {"run": 1, "media": 5}),
        Message("drop"),
        Message("sound", {}, Kind.SOUND, messages.SOUND.empty_table()),
    ],
    ids=lambda m: m.operation,
)
def test_what_it_does_not_understand_it_refuses(shared: Raw, message: Message) -> None:
    messages.write(shared.stdin, message)
    assert shared.read().operation == "refused"
    assert shared.ask("hello").operation == "hello", "and goes on"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "cancel", "garbage"])
def test_it_ends_at_once_whatever_it_computes(
    own: Raw,
    make: Make,
    settings: Settings,
    tiny: Tiny,
    end: str,
) -> None:
    medium = make("a", width=SLOW)
    own.run(tiny["tiny"], slow_s=3600)
    own.upload(medium, "x")
    own.work(("x", medium))
    own.ask("hello")
    mine = [folder for folder in folders(settings) if f":{own.process.pid}:" in folder.name]
    assert len(mine) == 1
    if end == "close":
        own.stdin.close()
    elif end == "cancel":
        own.send("cancel")
    else:
        own.stdin.write(b"what is no message at all")
        own.stdin.flush()
    assert own.ended() == (1 if end == "garbage" else 0)
    assert not mine[0].exists()
    assert any("BadMessage" in said["text"] for said in own.said("log")) == (end == "garbage")


@pytest.mark.slow
def test_what_a_killed_worker_left_is_removed_by_the_next(
    own: Raw,
    make: Make,
    settings: Settings,
) -> None:
    own.upload(make("a"), "x")
    own.ask("hello")
    (left,) = (folder for folder in folders(settings) if f":{own.process.pid}:" in folder.name)
    another = Raw(settings)
    try:
        another.ask("hello")
        assert left.exists(), "its owner lives"
        own.process.send_signal(signal.SIGKILL)
        own.process.wait()
        third = Raw(settings)
        try:
            third.ask("hello")
            assert not left.exists()
        finally:
            third.close()
    finally:
        another.close()


@pytest.mark.slow
def test_it_does_not_outlive_who_started_it(settings: Settings, tmp_path: Path) -> None:
    """Even where a process that was forked beside it keeps its input open."""
    place = local_place(settings)
    script = f"""
import os, subprocess, sys, time
pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
worker = subprocess.Popen({list(place.command)!r}, **pipes)
if os.fork() == 0:
    time.sleep(120)
    os._exit(0)
worker.stderr.readline()
print(worker.pid, flush=True)
time.sleep(120)
"""
    parent = subprocess.Popen(
        [place.command[0], "-c", script],
        env=dict(place.environment or {}),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        wait_for(lambda: not _runs(pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.stdout.close()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_media_beyond_its_room_are_refused(tmp_path: Path, make: Make) -> None:
    medium = make("a", frames=3)
    held = uploads.HeldMedia(tmp_path / "home", max_bytes=uploads.input_bytes(medium) // 2)
    with pytest.raises(Exception, match="were sent"):
        for message in uploads.frame_messages(medium, "x"):
            held.add(message)
    held.close()
    assert not (tmp_path / "home" / "worker").exists()


def test_names_of_media_are_no_paths(tmp_path: Path, make: Make) -> None:
    medium = make("a")
    held = uploads.HeldMedia(tmp_path / "home", max_bytes=2**30)
    for message in uploads.frame_messages(medium, "../../x"):
        held.add(message)
    found = held.medium(uploads.described(medium, "../../x", by_path=False))
    assert [f.frame_index for f in found.frames] == [0]
    assert not (tmp_path / "x").exists()
    held.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 2},
        {"threads": 0},
        {"threads": 10**9},
        {"threads": True},
        {"gpu": 5},
        {"max_held_bytes": -1},
        {"libraries": {str(n): "" for n in range(1000)}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_hello_is_not_believed_unseen(changes: dict[str, Any], tmp_path: Path) -> None:
    good = Hello.here("cpu", 2, tmp_path).to_json()
    assert Hello.from_json(good).threads == 2
    with pytest.raises(BadMessage):
        Hello.from_json(good | changes)
    for name in good:
        with pytest.raises(BadMessage):
            Hello.from_json({key: value for key, value in good.items() if key != name})


def test_what_a_hello_says_never_commands_the_terminal(tmp_path: Path) -> None:
    good = Hello.here("cpu", 2, tmp_path).to_json()
    hello = Hello.from_json(good | {"gpu": "RTX\x1b[2J" + "x" * 1000})
    assert hello.gpu is not None
    assert hello.gpu.startswith("RTX [2Jx")
    assert len(hello.gpu) <= 300


def test_its_code_is_told_by_a_digest() -> None:
    assert len(code_digest()) == 64


def test_hashes_of_pictures_stay_here(make: Make) -> None:
    (message,) = uploads.frame_messages(make("a", frames=2), "x")
    assert message.table["phash"].null_count == 2
    assert isinstance(message.table, pa.Table)
