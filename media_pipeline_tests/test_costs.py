"""What analyzers cost, learnt while they run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice, Options
from media_pipeline.execution import in_process
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.storage.costs import MEMORY_WORK_S, Cost, Costs, machine


@pytest.fixture
def costs(tmp_path: Path) -> Costs:
    return Costs(tmp_path / "costs.sqlite")


def cost(cpu_s: float, *, frames: int = 0, audio_s: float = 0.0, load_s: float | None = None) -> Cost:
    return Cost("ocr", "small", "cpu", 1, frames, audio_s, cpu_s, cpu_s, load_s)


def test_runs_add_up(costs: Costs) -> None:
    costs.record(cost(2.0, frames=10, load_s=1.5))
    costs.record(cost(4.0, frames=20))
    (row,) = costs.table().to_pylist()
    assert row["media"] == pytest.approx(2, rel=0.01)
    assert row["cpu_s_per_frame"] == pytest.approx(0.2)
    assert row["cpu_s_per_audio_s"] is None
    assert row["load_s"] == 1.5, "a run whose model was there already knows nothing of loading"
    assert row["machine"] == machine()


def test_what_was_long_ago_fades(costs: Costs) -> None:
    for _ in range(20):
        costs.record(cost(MEMORY_WORK_S / 4, audio_s=100))
    for _ in range(20):
        costs.record(cost(MEMORY_WORK_S / 4, audio_s=10_000))
    (row,) = costs.table().to_pylist()
    assert row["cpu_s_per_audio_s"] == pytest.approx(MEMORY_WORK_S / 4 / 10_000, rel=0.2)


def test_models_and_analyzers_are_kept_apart(costs: Costs) -> None:
    costs.record(Cost("ocr", "small", "cpu", 1, 1, 0.0, 1.0, 1.0))
    costs.record(Cost("ocr", "large", "cpu", 1, 1, 0.0, 5.0, 5.0))
    costs.record(Cost("faces", "small", "cpu", 1, 1, 0.0, 9.0, 9.0))
    found = {(row["analyzer"], row["model"]): row["cpu_s_per_frame"] for row in costs.table().to_pylist()}
    assert found == {("ocr", "small"): 1.0, ("ocr", "large"): 5.0, ("faces", "small"): 9.0}


def test_machines_are_kept_apart(costs: Costs) -> None:
    costs.record(Cost("ocr", "small", "cpu", 1, 10, 0.0, 5.0, 2.0))
    costs.record(Cost("ocr", "small", "RTX 4090", 1, 10, 0.0, 1.0, 0.5, machine="RTX 4090"))
    found = {row["machine"]: (row["device"], row["wall_s_per_frame"]) for row in costs.table().to_pylist()}
    assert found == {machine(): ("cpu", pytest.approx(0.2)), "RTX 4090": ("RTX 4090", pytest.approx(0.05))}


def test_work_on_a_gpu_fades_too(costs: Costs) -> None:
    """A GPU computes for minutes while its processor has next to nothing to do."""
    for wall_s in (MEMORY_WORK_S, MEMORY_WORK_S / 2):
        costs.record(Cost("ocr", "small", "RTX 4090", 1, 100, 0.0, 0.1, wall_s, machine="RTX 4090"))
    (row,) = costs.table().to_pylist()
    assert row["wall_s"] == pytest.approx(MEMORY_WORK_S)


def test_overheads_are_per_unit_and_unknown_until_measured(costs: Costs) -> None:
    assert costs.overhead("run") is None
    costs.record_overhead("run", 1, 4.0)
    assert costs.overhead("sending") is None
    costs.record_overhead("run", 1, 8.0)
    assert costs.overhead("run") == pytest.approx(6.0, rel=0.05)


def test_an_overhead_of_long_ago_fades(costs: Costs) -> None:
    for seconds in (10.0, 2.0):
        for _ in range(500):
            costs.record_overhead("run", 1, seconds)
    assert costs.overhead("run") == pytest.approx(2.0, rel=0.2)


def test_what_was_sent_tells_how_fast_the_line_is(costs: Costs) -> None:
    costs.record(Cost("ocr", "small", "RTX 4090", 1, 10, 0.0, 1.0, 1.0, sent_bytes=3_000_000, sending_s=1.0))
    costs.record(Cost("faces", "small", "RTX 4090", 1, 10, 0.0, 1.0, 1.0))
    costs.record(Cost("ocr", "small", "RTX 4090", 1, 10, 0.0, 1.0, 1.0, sent_bytes=1_000_000, sending_s=1.0))
    sending_s = costs.overhead("sending")
    assert sending_s is not None
    assert 1 / sending_s == pytest.approx(2_000_000, rel=0.01)


def test_two_processes_on_one_home(tmp_path: Path) -> None:
    one, two = Costs(tmp_path / "costs.sqlite"), Costs(tmp_path / "costs.sqlite")
    for _ in range(5):
        one.record(cost(0.1, frames=1))
        two.record(cost(0.1, frames=1))
    (row,) = one.table().to_pylist()
    assert row["frames"] == pytest.approx(10, rel=0.01)


class _Model:
    """A weak reference tells whether it is still there; a plain list cannot have one."""


def _spec(loaded: list[int]) -> AnalyzerSpec:
    schema = pa.schema([("media_id", pa.string())])

    def load(_choice: ModelChoice, _device: str, _options: Options) -> _Model:
        loaded.append(1)
        return _Model()

    def run(_model: _Model, batch: Batch, _options: Options) -> pa.Table:
        sum(i * i for i in range(200_000))  # something to measure
        return pa.table([[medium.media_id for medium in batch]], schema=schema)

    return AnalyzerSpec("busy", "1", ("frames",), schema, Options, _choose, load, run, "Counts.")


def _choose(_options: Options, _store: ModelStore) -> ModelChoice:
    return ModelChoice("none", "embedded", "0")


@pytest.mark.slow
@pytest.mark.parametrize(("low_memory", "loads"), [(False, 1), (True, 2)])
def test_the_executor_reports_and_unloads(low_memory: bool, loads: int) -> None:
    loaded: list[int] = []
    told: list[Cost] = []
    executor = InProcessExecutor(2, low_memory=low_memory, on_cost=told.append)
    spec, choice = _spec(loaded), ModelChoice("none", "embedded", "0")
    media = [Medium(f"{n:064}", "video", frames=[object()] * 3) for n in range(4)]  # type: ignore[list-item]
    for _ in range(2):
        assert len(list(executor.run(spec, choice, Options(), media))) == 4
    assert len(loaded) == loads
    assert [(c.analyzer, c.media, c.frames, c.audio_s) for c in told] == [("busy", 4, 12, 0.0)] * 2
    assert all(c.cpu_s > 0 and c.wall_s > 0 for c in told)
    assert told[0].load_s is not None
    assert (told[1].load_s is None) == (not low_memory)


@pytest.mark.slow
def test_a_process_that_has_grown_large_keeps_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    executor, spec = InProcessExecutor(1), _spec(loaded)
    for limit in (1, 2**60, 2**60):
        monkeypatch.setattr(in_process, "KEEP_MODELS_BELOW_BYTES", limit)
        list(executor.run(spec, ModelChoice("none", "embedded", "0"), Options(), [Medium("a" * 64, "image")]))
    assert len(loaded) == 2, "let go after the first run, kept after the second"


def test_nothing_to_do_costs_nothing() -> None:
    loaded: list[int] = []
    told: list[Cost] = []
    assert not list(
        InProcessExecutor(1, on_cost=told.append).run(
            _spec(loaded), ModelChoice("none", "embedded", "0"), Options(), []
        )
    )
    assert not loaded
    assert not told
