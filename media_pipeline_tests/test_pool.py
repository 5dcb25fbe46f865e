"""Several places at work: each medium has exactly one result, whatever becomes of the places."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydantic import SecretStr

from media_pipeline.analyzers import ocr, poses, scenes, speakers, summary
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice, Options
from media_pipeline.config import DecodeLimits, Sampling, Settings
from media_pipeline.errors import BudgetReached, ModelUnavailable, StorageConflict, WorkerLost
from media_pipeline.execution import uploads
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.places import Place
from media_pipeline.execution.pool import PooledExecutor, may_leave
from media_pipeline.execution.worker_line import WorkerLine
from media_pipeline.execution.worker_process import WorkerExecutor, local_place
from media_pipeline.media.cache import FrameReader
from media_pipeline.media.frames import FRAMES_FILE, FrameSink
from media_pipeline.storage.costs import Cost
from media_pipeline_tests._workers import (  # noqa: F401
    CHOICE,
    FAIL,
    KILL,
    SLOW,
    STOP,
    Make,
    Places,
    foreign_place,
    make_fixture,
    settings_fixture,
    tiny_fixture,
)

Tiny = dict[str, AnalyzerSpec]
Results = dict[str, AnalyzerResult]
WAIT_S = 60.0


class Here:
    """This machine; remembers what it was given. What kills a worker does not kill the tests."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self._executor = InProcessExecutor(2)

    @property
    def computed(self) -> list[str]:
        return [media_id for run in self.runs for media_id in run]

    def run(
        self, spec: AnalyzerSpec, choice: ModelChoice, options: Options, media: Iterable[Medium]
    ) -> Iterator[AnalyzerResult]:
        given: list[str] = []
        deadly: list[str] = []
        self.runs.append(given)

        def harmless() -> Iterator[Medium]:
            for medium in media:
                given.append(medium.media_id)
                with contextlib.suppress(StorageConflict):
                    if any(frame.width in (KILL, STOP) for frame in medium.frames):
                        deadly.append(medium.media_id)
                        continue
                yield medium

        yield from self._executor.run(spec, choice, options, harmless())
        for media_id in deadly:
            yield AnalyzerResult(media_id, None, WorkerLost("it died here, too"), 0.0)

    def unload(self) -> None:
        pass

    def close(self) -> None:
        pass


class Pool:
    """A pooled executor and all that is around it."""

    def __init__(self, settings: Settings, fleet: Places, *, share: float = 0.02, heartbeat_s: float = 30) -> None:
        gpu = settings.gpu.model_copy(update={"recheck_share": share, "heartbeat_timeout_s": heartbeat_s})
        self.settings = settings.model_copy(update={"gpu": gpu})
        self.fleet, self.here = fleet, Here()
        self.said: list[str] = []
        self.costs: list[Cost] = []
        self.executor = PooledExecutor(
            fleet, self.here, settings=self.settings, say=self.said.append, on_cost=self.costs.append
        )

    def results(self, spec: AnalyzerSpec, media: Iterable[Medium], **options: Any) -> Iterator[AnalyzerResult]:
        chosen = spec.options(**options)
        return self.executor.run(spec, spec.choose(chosen, None), chosen, media)

    def run(self, spec: AnalyzerSpec, media: list[Medium], **options: Any) -> Results:
        found = list(self.results(spec, media, **options))
        assert sorted(r.media_id for r in found) == sorted(m.media_id for m in media), "exactly one per medium"
        return {result.media_id: result for result in found}

    def pids(self) -> list[int]:
        return [worker.pid for worker in self.executor._workers.values()]


PoolOf = Callable[..., Pool]


@pytest.fixture
def pool(settings: Settings, tiny: Tiny) -> Iterator[PoolOf]:
    opened: list[Pool] = []

    def of(*places: Place, share: float = 0.02, heartbeat_s: float = 30, **fleet: Any) -> Pool:
        opened.append(Pool(settings, Places(*places, **fleet), share=share, heartbeat_s=heartbeat_s))
        return opened[-1]

    yield of
    for one in opened:
        one.executor.close()


def tampering(settings: Settings, code: str = "pass", name: str = "RTX 4090 of lease 1", *, before: str = "") -> Place:
    """A foreign place whose owner has changed the program: `code` may do what it likes with `rows`."""
    place = foreign_place(settings, name)
    script = f"""
import dataclasses, os, time
import pyarrow as pa
import media_pipeline.execution.worker as worker
from media_pipeline.errors import AnalyzerFailed
from media_pipeline.execution import messages
from media_pipeline.execution.messages import Kind, Message
honest = worker._Worker._answer
answers = []
def answer(self, run, result):
    answers.append(result)
    rows = result.rows
{chr(10).join("    " + line for line in code.splitlines())}
    honest(self, run, dataclasses.replace(result, rows=rows))
worker._Worker._answer = answer
{before}
worker.main()
"""
    arguments = place.command[place.command.index("--device") :]
    return replace(place, command=(place.command[0], "-c", script, *arguments))


def until_busy(rented: Pool, places: int, medium: Medium, fed: list[str]) -> Iterator[Medium]:
    """The same medium under many names, until so many places have had some of it in hand; notes the names."""
    seen: set[str] = set()
    deadline = time.monotonic() + WAIT_S
    while len(seen) < places or len(fed) < 12:
        seen |= {name for name, worker in rented.executor._workers.items() if worker.in_flight}
        assert time.monotonic() < deadline
        fed.append(f"m{len(fed)}")
        yield replace(medium, media_id=fed[-1])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def equal(found: Results, expected: Results) -> bool:
    assert [r.error for r in found.values() if r.error is not None] == []
    return all(found[i].rows.equals(expected[i].rows) for i in expected)  # type: ignore[union-attr]


def here(spec: AnalyzerSpec, media: list[Medium]) -> Results:
    options = spec.options()
    return {r.media_id: r for r in InProcessExecutor(2).run(spec, spec.choose(options, None), options, media)}


# --- the same results ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_are_those_of_this_machine(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    """And whatever number of analyzers reads a medium, it is uploaded once, under a name that says nothing."""
    media = [make(f"m{n}", frames=1 + n % 3, seconds=n % 4 * 0.7, channels=1 + n % 2) for n in range(12)]
    both = pool(foreign_place(settings))
    lines: list[str] = []
    send = WorkerLine.send
    with pytest.MonkeyPatch.context() as patch:

        def listening(self: WorkerLine, message: Any) -> None:
            lines.append(f"{message.operation} {message.header}")
            send(self, message)

        patch.setattr(WorkerLine, "send", listening)
        for name in ("tiny", "tiny_sound", "tiny_pairs", "tiny"):
            spec = tiny[name]
            wanted = [m for m in media if name != "tiny_sound" or m.audio is not None]
            found = both.run(spec, wanted)
            assert equal(found, here(spec, wanted))
            assert all(r.rows.schema.equals(spec.schema, check_metadata=True) for r in found.values() if r.rows)
            assert {r.frames for r in found.values()} == {m.frame_count for m in wanted}
    assert both.fleet.losses == []
    assert len(set(both.here.computed)) < len(media), "most of it was done there"
    sent = [line for line in lines if line.startswith("frames")]
    assert len(sent) == len(set(sent)) == len(media)
    everything = "\n".join(lines)
    assert not any(m.media_id in everything.split("'") for m in media)
    assert str(settings.home) not in everything
    assert "scores" not in [line.split()[0] for line in lines]


@pytest.mark.slow
def test_costs_are_learnt_by_machine(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    rented = pool(foreign_place(settings), share=0)
    media = [make("a", frames=3), make("bb", width=SLOW)]
    rented.run(tiny["tiny"], media)
    rented.run(tiny["tiny"], media[:1])
    cost, again = rented.costs
    assert (cost.analyzer, cost.model, cost.device, cost.machine) == ("tiny", "tiny", "cpu", "RTX 4090")
    assert (cost.media, cost.frames) == (2, 4)
    assert 0.25 < cost.wall_s < 30
    assert cost.load_s is not None
    assert cost.load_s > 0.2, "the worker starts first"
    assert again.load_s is None
    assert cost.sent_bytes > again.sent_bytes == 0, "what is there is not sent again"
    assert 0 < cost.sending_s < cost.wall_s + cost.load_s


@pytest.mark.slow
def test_real_analyzers_give_the_same_here_in_a_process_and_on_a_rented_machine(
    pool: PoolOf, settings: Settings, make: Make, tmp_path: Path
) -> None:
    picture = Image.new("RGB", (640, 200), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((30, 40), "Rechnung 4711", fill="black", font=ImageFont.load_default(60))
    sink = FrameSink(tmp_path, Sampling(), DecodeLimits())
    sink.finish([sink.add(picture, index=0, size=picture.size)])
    page = Medium("page", "image", FrameReader(tmp_path / FRAMES_FILE))
    media = [page, make("clip", frames=2, width=320, seconds=3.0, channels=2)]
    store = ModelStore.of(settings)
    rented = pool(foreign_place(settings), share=0)
    process = WorkerExecutor(local_place(settings), 2, heartbeat_timeout_s=60)
    rows = 0
    try:
        for spec in (ocr.ANALYZER, poses.ANALYZER, speakers.ANALYZER):
            options = spec.options()
            choice = spec.choose(options, store)
            wanted = [m for m in media if "audio" not in spec.needs or m.audio is not None]
            expected = {r.media_id: r for r in InProcessExecutor(2).run(spec, choice, options, wanted)}
            for executor in (process, rented.executor):
                found = {r.media_id: r for r in executor.run(spec, choice, options, wanted)}
                assert equal(found, expected)
            rows += sum(r.rows.num_rows for r in expected.values() if r.rows)
    finally:
        process.close()
    assert rows > 0
    assert rented.here.runs == []


# --- who does what ------------------------------------------------------------------------------------------------


def _uses_gpu(_choice: ModelChoice) -> bool:
    return True


GPU_OCR = replace(ocr.ANALYZER, uses_gpu=_uses_gpu)
PACKAGED = ModelChoice("packaged", "embedded", "0", Path(pa.__file__))


@pytest.mark.parametrize(
    ("spec", "choice", "options", "needs_cuda", "reason"),
    [
        (GPU_OCR, PACKAGED, {}, True, None),
        (GPU_OCR, replace(PACKAGED, path=None), {}, True, None),
        (replace(ocr.ANALYZER, uses_gpu=None), PACKAGED, {}, False, None),
        (replace(ocr.ANALYZER, uses_gpu=None), PACKAGED, {}, True, "does not compute on a GPU"),
        (replace(ocr.ANALYZER, uses_gpu=lambda _: False), PACKAGED, {}, True, "does not compute on a GPU"),
        (GPU_OCR, replace(PACKAGED, path=Path("/home/anna/model")), {}, True, "a file of yours"),
        (GPU_OCR, PACKAGED, {"model": "/home/anna/model"}, True, "a file of yours"),
        (GPU_OCR, PACKAGED, {"model": "~/model"}, True, "a file of yours"),
        (GPU_OCR, replace(PACKAGED, secret=SecretStr("x")), {}, True, "a key"),
        (scenes.ANALYZER, PACKAGED, {}, False, "scores of frames"),
        (summary.ANALYZER, PACKAGED, {}, False, "what ocr and transcript found"),
        (replace(ocr.ANALYZER, reads_frame_times=True), PACKAGED, {}, False, "table of frames"),
    ],
)  # fmt: skip
def test_what_may_leave_this_machine(
    settings: Settings, spec: AnalyzerSpec, choice: ModelChoice, options: Any, needs_cuda: bool, reason: str | None
) -> None:
    gpu = settings.gpu.model_copy(update={"needs_cuda": needs_cuda})
    found = may_leave(spec, choice, settings.model_copy(update={"gpu": gpu}), spec.options(**options))
    assert found is None if reason is None else found is not None and reason in found


def test_models_of_the_home_may_be_there_too(settings: Settings) -> None:
    choice = replace(PACKAGED, path=settings.models / "ViT-B-32")
    assert may_leave(GPU_OCR, choice, settings) is None


def test_what_must_stay_is_computed_here_without_a_word(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny
) -> None:
    rented = pool(foreign_place(settings))
    found = rented.run(tiny["tiny_counts"], [make("a")])
    assert found["a"].rows is not None
    assert rented.here.computed == ["a"]
    assert rented.pids() == []
    assert rented.said == []


def test_without_a_machine_this_one_does_everything(pool: PoolOf, make: Make, tiny: Tiny) -> None:
    nowhere = pool(reason="no offer fits the limits")
    media = [make(f"m{n}") for n in range(10)]
    assert equal(nowhere.run(tiny["tiny"], media), here(tiny["tiny"], media))
    assert sorted(nowhere.here.computed) == sorted(m.media_id for m in media)
    assert len(nowhere.here.runs) == 1, "in one go"
    nowhere.run(tiny["tiny"], media[:2])
    assert nowhere.said == ["tiny is computed here: no offer fits the limits"], "said once"


@pytest.mark.slow
def test_media_whose_frames_are_no_files_are_computed_here(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny
) -> None:
    rented = pool(foreign_place(settings), share=0)
    on_disk, in_memory = make("a"), replace(make("bb"), frames=list(make("ccc").frames))
    found = rented.run(tiny["tiny"], [in_memory, on_disk])
    assert all(result.rows is not None for result in found.values())
    assert rented.here.computed == ["bb"]


@pytest.mark.slow
def test_what_left_the_cache_meanwhile_is_decided_here(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny
) -> None:
    rented = pool(foreign_place(settings), share=0)
    gone, there = make("gone"), make("there")
    assert isinstance(gone.frames, FrameReader)
    assert gone.frames.path is not None
    gone.frames.path.unlink()
    found = rented.run(tiny["tiny"], [gone, there])
    assert isinstance(found["gone"].error, StorageConflict)
    assert found["there"].rows is not None
    assert rented.fleet.losses == []


@pytest.mark.slow
def test_what_a_place_cannot_is_computed_here_and_said_once(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny
) -> None:
    rented = pool(foreign_place(settings), is_starting=True)
    spec, choice = tiny["tiny"], replace(CHOICE, digest="of other weights")
    for _ in range(2):
        found = list(rented.executor.run(spec, choice, spec.options(), [make(f"m{time.monotonic_ns()}")]))
        assert found[0].rows is not None
    assert len([words for words in rented.said if "tiny is not computed by RTX 4090" in words]) == 1
    assert rented.fleet.losses == []
    (number,) = rented.pids()
    rented.run(tiny["tiny_pairs"], [make("other")])
    assert [cost.analyzer for cost in rented.costs] == ["tiny_pairs"], "the next analyzer is computed there"
    assert rented.pids() == [number]


# --- places come and go -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_place_that_is_starting_is_waited_for(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    rented = pool(is_starting=True, share=0)
    threading.Timer(1.0, lambda: rented.fleet.change(places=[foreign_place(settings)], is_starting=False)).start()
    found = rented.run(tiny["tiny"], [make(f"m{n}") for n in range(5)])
    assert all(result.rows is not None for result in found.values())
    assert rented.here.computed == []


@pytest.mark.slow
def test_a_place_that_never_comes_is_not_waited_for(pool: PoolOf, make: Make, tiny: Tiny) -> None:
    rented = pool(is_starting=True)
    threading.Timer(1.0, lambda: rented.fleet.change(is_starting=False)).start()
    rented.run(tiny["tiny"], [make("a")])
    assert rented.here.computed == ["a"]


@pytest.mark.slow
def test_several_places_share_the_work(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    one = replace(foreign_place(settings, "one"), machine="one")
    two = replace(foreign_place(settings, "two"), machine="two")
    rented = pool(one, two, share=0)
    fed: list[str] = []
    found = [r.media_id for r in rented.results(tiny["tiny"], until_busy(rented, 2, make("slow", width=SLOW), fed))]
    assert sorted(found) == sorted(fed)
    done = {cost.machine: cost.media for cost in rented.costs}
    assert done.keys() == {"one", "two"}
    assert sum(done.values()) == len(fed)
    assert rented.here.computed == []


@pytest.mark.slow
def test_a_place_that_joins_late_helps(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    rented = pool(share=0)
    fed: list[str] = []
    found: list[str] = []
    for result in rented.results(tiny["tiny"], until_busy(rented, 1, make("slow", width=SLOW), fed)):
        if not found:
            rented.fleet.change(places=[foreign_place(settings)])
        found.append(result.media_id)
    assert sorted(found) == sorted(fed)
    assert 0 < len(rented.here.computed) < len(fed)
    assert rented.costs[0].media == len(fed) - len(rented.here.computed)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_is_started_again(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny
) -> None:
    rented = pool(foreign_place(settings), share=0)
    media = [make(f"m{n}", width=SLOW) for n in range(12)]
    found: Results = {}
    for result in rented.results(tiny["tiny"], media):
        if len(found) == 3:
            os.kill(rented.pids()[0], signal.SIGKILL)
        assert result.media_id not in found
        found[result.media_id] = result
    assert equal(found, here(tiny["tiny"], media))
    assert rented.fleet.losses == []
    assert rented.here.computed == []
    assert any("SIGKILL" in words and "started again" in words for words in rented.said)


@pytest.mark.slow
@pytest.mark.parametrize("survivors", [0, 1])
def test_what_a_lost_place_owed_is_done_elsewhere(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny, survivors: int, tmp_path: Path
) -> None:
    """It answers three times, dies, and cannot be started again."""
    flag = tmp_path / "burnt"
    doomed = tampering(
        settings, f"if len(answers) > 3:\n    open({str(flag)!r}, 'w').close()\n    os._exit(9)", "doomed"
    )
    script = list(doomed.command)
    script[2] = f"import os, sys\nif os.path.exists({str(flag)!r}): sys.exit('no route to host')\n{script[2]}"
    doomed = replace(doomed, command=tuple(script))
    rented = pool(doomed, *[foreign_place(settings, "survivor")] * survivors, share=0)
    media = [make(f"m{n}", width=SLOW) for n in range(16)]
    found = rented.run(tiny["tiny"], media)
    assert equal(found, here(tiny["tiny"], media))
    ((name, why),) = rented.fleet.losses
    assert name == "doomed"
    assert "no route to host" in why
    assert bool(rented.here.computed) == (survivors == 0)


@pytest.mark.slow
def test_a_medium_that_kills_is_computed_here_by_itself(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny
) -> None:
    rented = pool(foreign_place(settings, "one"), foreign_place(settings, "two"), share=0)
    media = [make("killer", width=KILL), *(make(f"m{n}", width=SLOW) for n in range(10))]
    found = rented.run(tiny["tiny"], media)
    assert [i for i, r in found.items() if r.rows is None] == ["killer"]
    assert "it died here, too" in str(found["killer"].error)
    assert ["killer"] in rented.here.runs
    assert all(len(run) == 1 for run in rented.here.runs), "medium by medium"


@pytest.mark.slow
def test_a_place_that_falls_silent_is_lost(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    rented = pool(foreign_place(settings), share=0, heartbeat_s=4)
    media = [make("hangs", width=STOP), make("a"), make("bb"), make("ccc")]
    found = rented.run(tiny["tiny"], media)
    assert [i for i, r in found.items() if r.rows is None] == ["hangs"]
    assert any("no sign of life for 4 s" in words for words in rented.said)


@pytest.mark.slow
def test_a_place_that_is_taken_back_leaves_in_good_order(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny
) -> None:
    """The budget is used up: what is done is kept, the rest is computed here."""
    rented = pool(foreign_place(settings), share=0)
    media = [make(f"m{n}", width=SLOW) for n in range(12)]
    found: Results = {}
    for result in rented.results(tiny["tiny"], media):
        if not found:
            rented.fleet.change(places=[])
        assert result.media_id not in found
        found[result.media_id] = result
    assert len(found) == 12
    assert 0 < len(rented.here.computed) < 12
    assert rented.fleet.losses == []
    assert rented.pids() == []


def test_what_speaks_otherwise_is_no_worker(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    place = foreign_place(settings)
    motd = replace(
        place, command=(place.command[0], "-c", "print('Welcome to Ubuntu 24.04, root!', flush=True); input()")
    )
    rented = pool(motd)
    assert rented.run(tiny["tiny"], [make("a")])["a"].rows is not None
    assert rented.here.computed == ["a"]
    assert "no message" in rented.fleet.losses[0][1]


@pytest.mark.slow
def test_another_version_of_the_program_is_refused(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    change = "import media_pipeline.execution.hello as hello; hello.code_digest = lambda: 'old'"
    old = tampering(settings, before=change)
    rented = pool(old)
    rented.run(tiny["tiny"], [make("a")])
    assert rented.here.computed == ["a"]
    assert "another version" in rented.fleet.losses[0][1]


# --- places that lie ----------------------------------------------------------------------------------------------

_COLUMN = "rows = rows.set_column({0}, (f := rows.schema.field({0})), pa.array([{1}] * len(rows), f.type))"
_ANSWER = "told = {'run': run, 'medium': result.media_id, 'seconds': 1, 'device': 'x'}\n"
LIES = {
    "a score beyond one": (_COLUMN.format(4, "7.5"), "score"),
    "another medium": ("result = dataclasses.replace(result, media_id='of somebody else')", "not asked for"),
    "rows of another medium": (_COLUMN.format(0, "'x'"), "not asked for"),
    "other columns": ("rows = rows.rename_columns([*rows.column_names[:-1], 'vector'])", "columns"),
    "twice": ("honest(self, run, result)", "not asked for"),
    "neither": (f"{_ANSWER}self._send(Message('result', told))\nreturn", "neither"),
    "time": (f"{_ANSWER}self._send(Message('result', told | {{'seconds': -1}}, Kind.ROWS, rows))\nreturn", "neither"),
    "nothing": ("rows = rows.slice(0, 0)", "no partner"),
    "another vector": (_COLUMN.format(9, "[1.0] + [0.0] * 63"), "embedding differs"),
    "another word": (_COLUMN.format(3, "'cat'"), "no partner"),
    "garbage": ("self._sink.write(b'what is no message at all'); self._sink.flush()", "no message"),
    "too much": ("self._sink.write(b'MPW1' + bytes([4, 0, 0, 0]) + b'\\xff' * 8); self._sink.flush()", "more than"),
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_who_lies_is_given_up_and_nothing_of_it_counts(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny, lie: str
) -> None:
    code, complaint = LIES[lie]
    rented = pool(tampering(settings, code))
    media = [make(f"m{n}") for n in range(8)]
    found = rented.run(tiny["tiny"], media)
    assert equal(found, here(tiny["tiny"], media))
    ((_, why),) = rented.fleet.losses
    assert complaint in why
    if lie != "twice":  # the first of the two was right, and may have been checked in between
        assert sorted(set(rented.here.computed)) == sorted(m.media_id for m in media)
        assert rented.executor.suspects == {}


@pytest.mark.slow
def test_who_begins_to_lie_later_is_found_out_and_named(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    late = f"if len(answers) > 12:\n    {_COLUMN.format(3, repr('cat'))}"
    rented = pool(tampering(settings, late), share=0.3)
    media = [make(f"m{n}", width=SLOW) for n in range(60)]
    found = rented.run(tiny["tiny"], media, slow_s=0.05)
    ((_, why),) = rented.fleet.losses
    assert "no partner" in why
    wrong = {i for i, r in found.items() if "cat" in r.rows["label"].to_pylist()}  # type: ignore[union-attr]
    suspects = set(rented.executor.suspects["tiny"])
    assert wrong <= suspects, "all that were taken on trust"
    assert len(suspects) < 60
    assert any("should be made again" in words for words in rented.said)
    assert all(media_id in caplog.text for media_id in suspects)


@pytest.mark.slow
def test_a_claim_that_media_fail_is_not_believed(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    code = "if len(answers) % 2:\n    result = dataclasses.replace(result, error=AnalyzerFailed('bad')); rows = None"
    rented = pool(tampering(settings, code), share=0)
    media = [make(f"m{n}") for n in range(8)]
    media.append(make("truly", width=FAIL))
    found = rented.run(tiny["tiny"], media)
    assert [i for i, r in found.items() if r.error is not None] == ["truly"]
    assert "a picture it cannot bear" in str(found["truly"].error)
    assert len(rented.here.computed) >= 4
    assert rented.fleet.losses == []


@pytest.mark.slow
def test_who_fails_on_everything_is_asked_no_more(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    code = "result = dataclasses.replace(result, error=AnalyzerFailed('no kernel image')); rows = None"
    rented = pool(tampering(settings, code))
    media = [make(f"m{n}") for n in range(30)]
    assert equal(rented.run(tiny["tiny"], media), here(tiny["tiny"], media))
    assert any("one medium after the other" in words and "no kernel image" in words for words in rented.said)
    assert rented.fleet.losses == [], "the next analyzer may work there"


# --- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_media_are_drawn_as_they_can_be_sent(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    medium, drawn, done = make("a"), 0, 0
    rented = pool(foreign_place(settings), share=0)

    def feed() -> Iterator[Medium]:
        nonlocal drawn
        for number in range(150):
            drawn += 1
            yield replace(medium, media_id=f"m{number}")

    for _ in rented.results(tiny["tiny"], feed()):
        done += 1
        # Two computing and two on their way, the same number answered and not looked at yet, and one in the queue.
        assert drawn - done <= 2 * (2 + 2) + 1
    assert done == 150


@pytest.mark.slow
def test_a_worker_holds_no_more_than_it_has_room_for(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = [make(f"m{n}", frames=2) for n in range(12)]
    room = uploads.input_bytes(media[0]) * 7
    limit = f"""
from media_pipeline.execution.hello import Hello
real = Hello.here
Hello.here = lambda *given: dataclasses.replace(real(*given), max_held_bytes={room})
"""
    rented = pool(tampering(settings, before=limit), share=0)
    for _ in range(2):
        assert equal(rented.run(tiny["tiny"], media), here(tiny["tiny"], media))
    assert rented.fleet.losses == []
    assert rented.here.computed == []
    (number,) = rented.pids()
    assert 0 < sum(f":{number}:" in owner for owner, _ in _files(settings, ".arrow")) < 12


def _files(settings: Settings, suffix: str) -> list[tuple[str, str]]:
    """Files that workers hold: the folder of each, and its name."""
    return [(file.parent.parent.name, file.name) for file in (settings.home / "worker").rglob(f"*{suffix}")]


@pytest.mark.slow
def test_who_stops_listening_stops_the_work(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    rented = pool(foreign_place(settings), share=0)
    results = rented.results(tiny["tiny"], [make("a"), make("slow", width=SLOW)], slow_s=3600)
    assert next(results).media_id == "a"
    (number,) = rented.pids()
    results.close()  # type: ignore[attr-defined]
    wait_for(lambda: not Path("/proc", str(number)).exists())
    assert rented.run(tiny["tiny"], [make("next")])["next"].rows is not None


def test_what_cannot_be_computed_here_is_heard(pool: PoolOf, make: Make, tiny: Tiny) -> None:
    nowhere = pool()
    with pytest.raises(ModelUnavailable, match="libcudart"):
        nowhere.run(tiny["tiny"], [make("a")], model="broken")


@pytest.mark.slow
def test_a_model_that_can_be_opened_nowhere_is_said_and_the_next_is_computed_there(
    pool: PoolOf, settings: Settings, make: Make, tiny: Tiny
) -> None:
    rented = pool(foreign_place(settings))
    with pytest.raises(ModelUnavailable, match="libcudart"):
        rented.run(tiny["tiny"], [make("a"), make("bb")], model="broken")
    assert rented.run(tiny["tiny_pairs"], [make("other")])["other"].rows is not None
    assert rented.fleet.losses == []


def test_nothing_to_do_costs_nothing(pool: PoolOf, settings: Settings, tiny: Tiny) -> None:
    rented = pool(foreign_place(settings))
    assert rented.run(tiny["tiny"], []) == {}
    assert rented.here.runs == []
    assert rented.pids() == []


@pytest.mark.slow
def test_closing_ends_the_workers_and_what_they_held(pool: PoolOf, settings: Settings, make: Make, tiny: Tiny) -> None:
    rented = pool(foreign_place(settings), share=0)
    rented.run(tiny["tiny"], [make("a")])
    (number,) = rented.pids()
    assert any(f":{number}:" in owner for owner, _ in _files(settings, ".arrow"))
    rented.executor.close()
    rented.executor.close()
    assert not Path("/proc", str(number)).exists()
    assert not list((settings.home / "worker").glob(f"*:{number}:*"))


@pytest.mark.slow
def test_what_went_there_and_came_back_is_told_to_who_pays(
    tiny: Tiny, make: Make, settings: Settings, pool: PoolOf
) -> None:
    rented = pool(foreign_place(settings))
    media = [make(f"m{n}", frames=3) for n in range(4)]
    rented.run(tiny["tiny"], media)
    first = list(rented.fleet.moved_bytes)
    rented.run(tiny["tiny_pairs"], media)
    second = list(rented.fleet.moved_bytes)
    pictures = sum(len(frame.jpeg()) for medium in media for frame in medium.frames)  # type: ignore[attr-defined]
    assert pictures <= first[0] < 2 * pictures + 20_000
    assert first[1] > 0
    assert second[0] - first[0] < pictures  # they are there already
    assert second[1] > first[1]


@pytest.mark.slow
@pytest.mark.parametrize("waits", [False, True])
def test_at_a_limit_of_the_budget_the_rest_is_done_here_or_waits(
    tiny: Tiny, make: Make, settings: Settings, pool: PoolOf, waits: bool
) -> None:
    rented = pool(foreign_place(settings), share=0, reason="of the $1.00 that a day may cost, $1.00 are spent")
    rented.fleet.waits = waits
    media = [make(f"m{n}", width=SLOW) for n in range(12)]
    found: Results = {}
    for result in rented.results(tiny["tiny"], media, slow_s=0.2):
        found[result.media_id] = result
        rented.fleet.change(places=[])
    assert found.keys() == {medium.media_id for medium in media}
    waiting = [r for r in found.values() if isinstance(r.error, BudgetReached)]
    done = [r for r in found.values() if r.rows is not None]
    assert len(waiting) + len(done) == len(media)
    assert done
    assert bool(waiting) == waits
    assert bool(rented.here.computed) == (not waits)
    if waits:
        assert "$1.00" in str(waiting[0].error)
