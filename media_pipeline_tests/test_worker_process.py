"""Analyzers in a process of their own: the same results, and a crash that costs one batch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydantic import SecretStr

from media_pipeline.analyzers import ocr, scenes
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import AnalyzerSpec, Medium
from media_pipeline.config import DecodeLimits, Sampling, Settings
from media_pipeline.errors import AnalyzerFailed, ModelUnavailable, WorkerLost
from media_pipeline.execution.executor import AnalyzerResult, Executor
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.places import Place
from media_pipeline.execution.worker_client import WorkerClient
from media_pipeline.execution.worker_process import WorkerExecutor, local_place
from media_pipeline.media.cache import FrameReader
from media_pipeline.media.frames import FRAMES_FILE, FrameSink
from media_pipeline.media.scores import FRAME_SCORES
from media_pipeline.storage.costs import Cost
from media_pipeline_tests._workers import (  # noqa: F401
    CHOICE,
    FAIL,
    KILL,
    SLOW,
    STOP,
    Make,
    make_fixture,
    settings_fixture,
    tiny_fixture,
)

Tiny = dict[str, AnalyzerSpec]
Results = dict[str, AnalyzerResult]
WAIT_S = 60.0


@pytest.fixture(scope="module")
def shared(settings: Settings, tiny: Tiny) -> Iterator[WorkerExecutor]:
    """One for all tests whose worker lives on."""
    executor = WorkerExecutor(local_place(settings), 2, heartbeat_timeout_s=30)
    yield executor
    executor.close()


@pytest.fixture
def own(settings: Settings, tiny: Tiny) -> Iterator[WorkerExecutor]:
    executor = WorkerExecutor(local_place(settings), 2, heartbeat_timeout_s=30)
    yield executor
    executor.close()


def run(executor: Executor, spec: AnalyzerSpec, media: list[Medium], **options: Any) -> Results:
    chosen = spec.options(**options)
    found = list(executor.run(spec, spec.choose(chosen, None), chosen, media))
    assert sorted(r.media_id for r in found) == sorted(m.media_id for m in media), "exactly one per medium"
    return {result.media_id: result for result in found}


def pid(executor: WorkerExecutor) -> int:
    assert executor._worker is not None
    return executor._worker.pid


def runs(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- the same results ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny_pairs", "tiny_sound"])
def test_results_are_those_of_this_process(shared: WorkerExecutor, make: Make, tiny: Tiny, name: str) -> None:
    media = [
        make("a", frames=3),
        make("bb", seconds=1.2),
        make("ccc", seconds=2.5, channels=2),
        make("d" * 4, frames=0),
    ]
    here = run(InProcessExecutor(2), tiny[name], media)
    there = run(shared, tiny[name], media)
    for media_id, expected in here.items():
        found = there[media_id]
        assert expected.rows is not None
        assert found.rows is not None
        assert found.rows.equals(expected.rows)
        assert found.rows.schema.equals(tiny[name].schema, check_metadata=True)
        assert (found.frames, found.audio_s, found.device) == (expected.frames, expected.audio_s, "cpu")
        assert found.seconds > 0
    assert sum(r.rows.num_rows for r in there.values() if r.rows) > 0


def test_it_gets_scores_rows_of_other_analyzers_and_all_options(shared: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    scores = pa.table([[0.0, 0.04, 0.08], [1.0, 2.0, 3.0]], schema=FRAME_SCORES)
    pictures = tiny["tiny"].schema.empty_table()
    rows = pa.Table.from_pylist([{"media_id": "a"}] * 2, schema=pictures.schema)
    # As it comes back from a table: an older release knew fewer columns.
    rows = rows.drop_columns("embedding")
    media = [replace(make("a"), frame_scores=scores, rows={"tiny": rows}), make("bb")]
    found = run(shared, tiny["tiny_counts"], media, threads=7)
    told = {media_id: result.rows.to_pylist()[0] for media_id, result in found.items() if result.rows is not None}
    assert {i: (t["scores"], t["pictures"], t["kind"], t["threads"]) for i, t in told.items()} == {
        "a": (3, 2, "image", 7),
        "bb": (0, 0, "image", 7),
    }
    assert {t["process"] for t in told.values()} == {pid(shared)}


def test_what_fails_on_a_medium_fails_alone(shared: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    media = [make("a"), make("bad", width=FAIL), make("ccc"), make("d" * 4)]
    found = run(shared, tiny["tiny_pairs"], media)
    assert [i for i, r in found.items() if r.error is not None] == ["bad"]
    error = found["bad"].error
    here = run(InProcessExecutor(1), tiny["tiny_pairs"], media)["bad"].error
    assert isinstance(error, AnalyzerFailed)
    assert (error.cause, error.remedy) == (here.cause, here.remedy)  # type: ignore[union-attr]


def test_frames_that_are_no_files_are_computed_in_this_process(shared: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    on_disk = make("a")
    in_memory = replace(make("bb"), frames=list(make("ccc").frames))
    found = run(shared, tiny["tiny"], [in_memory, on_disk])
    assert all(result.rows is not None and result.rows.num_rows == 1 for result in found.values())


def test_what_left_the_cache_is_said(shared: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    gone, there = make("a"), make("bb")
    assert isinstance(gone.frames, FrameReader)
    assert gone.frames.path is not None
    gone.frames.path.unlink()
    found = run(shared, tiny["tiny"], [gone, there])
    assert found["a"].error is not None
    assert found["a"].error.retryable
    assert found["bb"].error is None


@pytest.mark.slow
def test_real_analyzers_in_a_worker(shared: WorkerExecutor, tmp_path: Path, settings: Settings) -> None:
    times = [n / 25 for n in range(100)]
    table = pa.table([times, [40.0 if n == 50 else 1.0 for n in range(100)]], schema=FRAME_SCORES)
    video = Medium("v", "video", frame_scores=table, duration_s=4.0)
    picture = Image.new("RGB", (640, 160), "white")
    ImageDraw.Draw(picture).text((30, 40), "Rechnung 4711", fill="black", font=ImageFont.load_default(60))
    sink = FrameSink(tmp_path, Sampling(), DecodeLimits())
    sink.finish([sink.add(picture, index=0, size=picture.size)])
    image = Medium("i", "image", FrameReader(tmp_path / FRAMES_FILE))
    store = ModelStore.of(settings)
    for spec, medium in ((scenes.ANALYZER, video), (ocr.ANALYZER, image)):
        options = spec.options()
        choice = spec.choose(options, store)
        (here,) = InProcessExecutor(1).run(spec, choice, options, [medium])
        (there,) = shared.run(spec, choice, options, [medium])
        assert here.rows is not None
        assert here.rows.num_rows > 0
        assert there.rows.equals(here.rows)  # type: ignore[union-attr]


# --- crashes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_medium_that_kills_its_worker_takes_no_other_down(own: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    media = [make(f"good {n}") for n in range(3)]
    media[1:1] = [make("killer", width=KILL)]
    media += [make(f"later {n}") for n in range(8)]
    found = run(own, tiny["tiny"], media)
    assert [i for i, r in found.items() if r.rows is None] == ["killer"]
    error = found["killer"].error
    assert isinstance(error, WorkerLost)
    assert "killed by SIGKILL" in error.cause
    again = run(own, tiny["tiny"], [make("another")])
    assert again["another"].rows is not None, "started again"


@pytest.mark.slow
def test_a_worker_that_dies_once_loses_nothing(own: WorkerExecutor, make: Make, tiny: Tiny, tmp_path: Path) -> None:
    media = [make("killer", width=KILL), *(make(f"good {n}") for n in range(5))]
    found = run(own, tiny["tiny_pairs"], media, flag=str(tmp_path / "flag"))
    assert (tmp_path / "flag").exists()
    assert all(result.rows is not None for result in found.values())


@pytest.mark.slow
def test_a_worker_killed_from_outside_loses_nothing(own: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    media = [make(f"slow {n}", width=SLOW) for n in range(6)]
    spec = tiny["tiny"]
    found: Results = {}
    for result in own.run(spec, CHOICE, spec.options(), media):
        if not found:
            os.kill(pid(own), signal.SIGKILL)
        found[result.media_id] = result
    assert len(found) == 6
    assert all(result.rows is not None for result in found.values())


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended(settings: Settings, make: Make, tiny: Tiny) -> None:
    executor = WorkerExecutor(local_place(settings), 2, heartbeat_timeout_s=5)
    media = [make("hangs", width=STOP), *(make(f"good {n}") for n in range(5))]
    try:
        found = run(executor, tiny["tiny"], media)
    finally:
        executor.close()
    assert [i for i, r in found.items() if r.rows is None] == ["hangs"]
    assert "no sign of life for 5 s" in str(found["hangs"].error)


@pytest.mark.slow
def test_media_that_all_kill_their_worker_end_the_run(own: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    spec = tiny["tiny"]
    drawn = 0

    def feed() -> Iterator[Medium]:
        nonlocal drawn
        for drawn in range(1, 21):
            yield make(f"{drawn}", width=KILL)

    with pytest.raises(WorkerLost, match="SIGKILL"):
        list(own.run(spec, CHOICE, spec.options(), feed()))
    assert drawn < 20


def python(code: str) -> Place:
    return Place("the worker", (sys.executable, "-c", code), {"PATH": "/usr/bin"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        (Place("the worker", ("/nonexistent/python",)), "cannot be started"),
        (python("import sys; sys.exit('no module named media_pipeline')"), "no module named media_pipeline"),
        (python("import os; os.kill(os.getpid(), 11)"), "killed by SIGSEGV"),
        (python("print('Welcome to Ubuntu', flush=True); import time; time.sleep(60)"), "no message"),
        (python("import os; os.close(1); import time; time.sleep(60)"), "closed its output|gave no sign"),
        (python("import time; time.sleep(60)"), "no sign of life"),
        (python("import sys; sys.stderr.write('x' * 10_000_000); import time; time.sleep(60)"), "no sign of life"),
        (python("import sys; sys.stdout.buffer.write(b'MPW1' + b'\\xff' * 12); sys.stdout.flush()"), "message"),
    ],
)  # fmt: skip
def test_what_is_no_worker_is_found_out(place: Place, complaint: str) -> None:
    with pytest.raises(WorkerLost, match=complaint):
        client = WorkerClient(place, heartbeat_timeout_s=1.0, start_s=1.0)
        try:
            client.greet()
        finally:
            client.close(at_once=True)
            assert not runs(client.pid)


@pytest.mark.slow
def test_a_worker_that_cannot_live_ends_the_run(make: Make, tiny: Tiny) -> None:
    executor = WorkerExecutor(python("import sys; sys.exit('no libc')"), 2, heartbeat_timeout_s=5)
    with pytest.raises(WorkerLost, match="no libc"):
        run(executor, tiny["tiny"], [make("a"), make("bb")])
    executor.close()


# --- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_media_are_drawn_as_they_can_be_sent(shared: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    medium = make("a")
    drawn = 0

    def feed() -> Iterator[Medium]:
        nonlocal drawn
        for number in range(200):
            drawn += 1
            yield replace(medium, media_id=f"m{number}")

    spec, done = tiny["tiny"], 0
    for _ in shared.run(spec, CHOICE, spec.options(), feed()):
        done += 1
        assert drawn - done <= 2 + 2 + 1, "as many as are computed, two batches ahead, one to see that there is more"
    assert done == 200


@pytest.mark.slow
def test_who_stops_listening_stops_the_work(own: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    spec = tiny["tiny"]
    options = spec.options(slow_s=3600)
    results = own.run(spec, CHOICE, options, [make("quick"), make("slow", width=SLOW)])
    assert next(results).media_id == "quick"
    number = pid(own)
    results.close()  # type: ignore[attr-defined]
    wait_for(lambda: not runs(number))
    assert run(own, spec, [make("next")])["next"].rows is not None


@pytest.mark.slow
def test_what_breaks_while_media_are_drawn_is_heard(own: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    def feed() -> Iterator[Medium]:
        yield make("a", width=SLOW)
        raise OSError("the disk is gone")

    spec = tiny["tiny"]
    with pytest.raises(OSError, match="the disk is gone"):
        list(own.run(spec, CHOICE, spec.options(), feed()))


@pytest.mark.slow
def test_nothing_to_do_starts_nothing(own: WorkerExecutor, tiny: Tiny) -> None:
    assert run(own, tiny["tiny"], []) == {}
    assert own._worker is None


@pytest.mark.slow
def test_costs_are_told(own: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    told: list[Cost] = []
    own._on_cost = told.append
    run(own, tiny["tiny"], [make("a", frames=3), make("bb", seconds=1.0)])
    (cost,) = told
    assert (cost.analyzer, cost.model, cost.device, cost.machine) == ("tiny", "tiny", "cpu", None)
    assert (cost.media, cost.frames, cost.audio_s) == (2, 4, pytest.approx(1.0, abs=0.1))
    assert cost.wall_s > 0
    assert cost.load_s is not None
    assert cost.load_s > 0.2, "the process starts first"
    assert cost.sent_bytes == 0, "it reads the cache"
    own.unload()
    assert own._worker is None


@pytest.mark.slow
def test_with_little_memory_it_ends_after_each_run(settings: Settings, make: Make, tiny: Tiny) -> None:
    executor = WorkerExecutor(local_place(settings), 1, heartbeat_timeout_s=30, low_memory=True)
    run(executor, tiny["tiny"], [make("a")])
    assert executor._worker is None
    executor.close()


# --- what it must not have ----------------------------------------------------------------------------------------


def test_it_inherits_no_secret(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (
        "VAST_API_KEY",
        "MEDIA_PIPELINE_SUMMARY_API_KEY",
        "MEDIA_PIPELINE_ALERTS__SMTP_PASSWORD",
        "MEDIA_PIPELINE_ALERTS__WEBHOOK_URL",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
    )
    for name in secret:
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("MEDIA_PIPELINE_LANGUAGE", "de")
    environment = local_place(settings).environment
    assert environment is not None
    assert "hush" not in environment.values()
    assert environment["MEDIA_PIPELINE_LANGUAGE"] == "de"


@pytest.mark.slow
def test_who_uses_a_key_is_computed_in_this_process(shared: WorkerExecutor, make: Make, tiny: Tiny) -> None:
    spec = tiny["tiny_counts"]
    choice = replace(CHOICE, secret=SecretStr("hush"))
    (found,) = shared.run(spec, choice, spec.options(), [make("a")])
    assert found.rows is not None
    assert found.rows["process"].to_pylist() == [os.getpid()]


@pytest.mark.slow
def test_what_a_worker_cannot_is_computed_in_this_process(
    shared: WorkerExecutor, make: Make, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    """It chooses the model itself, and finds another one."""
    spec = tiny["tiny_counts"]
    choice = replace(CHOICE, digest="of weights that changed a moment ago")
    found = list(shared.run(spec, choice, spec.options(), [make("a"), make("bb")]))
    assert {row["process"] for r in found if r.rows is not None for row in r.rows.to_pylist()} == {os.getpid()}
    assert len(found) == 2
    assert "tiny_counts is not computed by the worker process" in caplog.text


@pytest.mark.slow
def test_a_model_that_cannot_be_opened_is_said_and_the_worker_lives(
    shared: WorkerExecutor, make: Make, tiny: Tiny
) -> None:
    with pytest.raises(ModelUnavailable, match=r"tiny cannot open broken: OSError: libcudart\.so\.12"):
        run(shared, tiny["tiny"], [make("a"), make("bb")], model="broken")
    number = pid(shared)
    assert run(shared, tiny["tiny"], [make("ccc")])["ccc"].rows is not None
    assert pid(shared) == number


@pytest.mark.slow
def test_it_dies_with_the_orchestrator(settings: Settings, make: Make, tiny: Tiny, tmp_path: Path) -> None:
    medium = make("slow", width=SLOW)
    assert isinstance(medium.frames, FrameReader)
    script = f"""
import logging
from pathlib import Path
from media_pipeline.analyzers._registry import registry
from media_pipeline.analyzers._spec import Medium, ModelChoice
from media_pipeline.config import load_settings
from media_pipeline.execution.worker_process import WorkerExecutor, local_place
from media_pipeline.media.cache import FrameReader

executor = WorkerExecutor(local_place(load_settings(home={str(settings.home)!r})), 1, heartbeat_timeout_s=60)
spec = registry()["tiny"]
def feed():
    yield Medium("quick", "image", FrameReader(Path({str(make("quick").frames.path)!r})))
    yield Medium("slow", "image", FrameReader(Path({str(medium.frames.path)!r})))
for result in executor.run(spec, ModelChoice("tiny", "embedded", "0"), spec.options(slow_s=3600), feed()):
    print(executor._worker.pid, flush=True)
"""
    environment = dict(local_place(settings).environment or {})
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        assert runs(number)
        parent.kill()
        parent.wait()
        wait_for(lambda: not runs(number))
    finally:
        parent.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            parent.kill()
