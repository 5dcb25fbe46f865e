"""Each analyzer on this machine's GPU and on its CPU: pictures per second, RTF, and whether both say the same.

    python -m benchmarks.gpu_worker [FOLDER] [--analyzers ocr,faces] [--json OUT.json]

Frames and sound are decoded once, then go through the executor that a rented machine's worker has. Each analyzer runs
twice, the second time is measured: the first one loads models and CUDA's kernels. Without a folder of media of yours,
media are drawn and spoken. Models are those that the settings and `MEDIA_PIPELINE_HOME` give.

RTF is compute seconds per second of sound; below 1 is faster than real time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.bare_loop import decoded_media
from media_pipeline.analyzers._device import CPU, CUDA, report
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._registry import registry
from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice
from media_pipeline.config import load_settings
from media_pipeline.errors import MediaPipelineError, ModelUnavailable
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.stages import options_for
from media_pipeline.storage.costs import Cost

SAMPLES = 24  # of the media that are made where none are given


@dataclass(frozen=True, slots=True)
class Line:
    """One analyzer. Rates are pictures per second, or, where there are no pictures, seconds of sound per second."""

    analyzer: str
    model: str
    unit: str
    cpu: float
    gpu: float | None  # None: it has no path to the GPU, or there is none
    why_not: str | None = None
    agreement: str | None = None

    @property
    def ratio(self) -> float | None:
        return self.gpu / self.cpu if self.gpu and self.cpu else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="pictures, videos and recordings")
    parser.add_argument("--analyzers", help="only these, separated by commas; what they need is computed too")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    wanted = set(arguments.analyzers.split(",")) if arguments.analyzers else None
    machine = report()
    print(f"computing on: {machine.gpu or 'no GPU'}, {machine.device}")
    for library, state in machine.libraries.items():
        print(f"  {library}: {state}")
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or _samples(Path(scratch) / "media")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        media = list(decoded_media(files, Path(scratch) / "cache"))
        print(f"{len(media)} media, {sum(len(m.frames) for m in media)} frames, {_seconds(media):.0f} s of sound\n")
        for line in measured(media, wanted):
            lines.append(line)
            print(f"… {_row(line)}", flush=True)
    print("\n" + "\n".join(table(lines)))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": asdict(machine), "lines": [asdict(x) for x in lines]}))


def measured(media: Sequence[Medium], wanted: set[str] | None = None) -> Iterator[Line]:
    """Every analyzer that says something about these media and has a model here."""
    settings = load_settings()
    store = ModelStore.of(settings, fetch=False)
    device = report().device
    rows: dict[str, dict[str, pa.Table]] = {medium.media_id: {} for medium in media}
    for spec in _in_order(wanted):
        options = options_for(spec, settings)
        try:
            choice = spec.choose(options, store)
        except ModelUnavailable as error:
            print(f"… {spec.name} is left out: {error.cause}")
            continue
        given = [_for(spec, medium, rows[medium.media_id]) for medium in media if _applies(spec, medium)]
        if not given:
            continue
        try:
            cost, found = _run(spec, choice, given, CPU)
        except MediaPipelineError as error:
            print(f"… {spec.name} is left out: {error}")
            continue
        for media_id, table_ in found.items():
            rows[media_id][spec.name] = table_
        if wanted is not None and spec.name not in wanted:
            continue
        line = Line(spec.name, choice.name, _unit(cost), _rate(cost), None)
        if spec.uses_gpu is None or not spec.uses_gpu(choice):
            yield replace(line, why_not="computes on the CPU everywhere")
        elif device != CUDA:
            yield replace(line, why_not="no GPU here")
        else:
            gpu_cost, gpu_found = _run(spec, choice, given, CUDA)
            if gpu_cost.device == CPU:
                yield replace(line, why_not="its library cannot use this GPU")
            else:
                yield replace(line, gpu=_rate(gpu_cost), agreement=agreement(_joined(found), _joined(gpu_found)))


def _run(
    spec: AnalyzerSpec, choice: ModelChoice, media: Sequence[Medium], device: str
) -> tuple[Cost, dict[str, pa.Table]]:
    """What the second run took, and its rows by medium.

    Raises:
        MediaPipelineError: a medium failed.
    """
    settings = load_settings()
    costs: list[Cost] = []
    executor = InProcessExecutor(settings.thread_count, device, on_cost=costs.append)
    try:
        for _ in range(2):
            results = list(executor.run(spec, choice, options_for(spec, settings), media))
    finally:
        executor.close()
    for result in results:
        if result.error is not None:
            raise result.error
    return costs[-1], {r.media_id: r.rows for r in results if r.rows is not None}


def agreement(cpu: pa.Table, gpu: pa.Table) -> str:
    """How the rows of the two differ: their number, texts that are not the same, the largest difference of numbers."""
    if cpu.num_rows != gpu.num_rows:
        return f"{cpu.num_rows} rows, {gpu.num_rows} on the GPU"
    differ, numbers = 0, {}
    for name in cpu.column_names:
        one, other = (_flat(table_[name].combine_chunks()) for table_ in (cpu, gpu))
        for field in one.keys() & other.keys():
            a, b = one[field], other[field]
            if pa.types.is_floating(a.type) and len(a) == len(b):
                away = np.abs(a.to_numpy(zero_copy_only=False) - b.to_numpy(zero_copy_only=False))
                numbers[field or name] = float(np.nanmax(away, initial=0.0))
                differ += int(np.sum(np.asarray(a.is_null()) != np.asarray(b.is_null())))
            elif not a.equals(b):
                differ += sum(x != y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=False)) or 1
    worst = ", ".join(f"{name} {away:.1g}" for name, away in sorted(numbers.items()) if away > 0)
    return f"{cpu.num_rows} rows, {differ} values differ; at most {worst or 'nothing'} away"


def _flat(array: pa.Array, name: str = "") -> dict[str, pa.Array]:
    """The leaves of nested values, by the name of the field."""
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        return _flat(array.flatten(), name)
    if pa.types.is_struct(array.type):
        leaves = {}
        for number, field in enumerate(array.type):
            leaves |= _flat(array.field(number), field.name)
        return leaves
    return {name: array}


def table(lines: Sequence[Line]) -> list[str]:
    """Markdown."""
    head = [
        "| analyzer | model | | CPU | GPU | times | CPU and GPU |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    return [*head, *map(_row, lines)]


def _row(line: Line) -> str:
    gpu = f"{line.gpu:.1f}" if line.gpu is not None else ""
    times = f"{line.ratio:.1f}" if line.ratio else ""
    said = line.agreement or line.why_not or ""
    cpu, unit = f"{line.cpu:.1f}", line.unit
    if unit == "RTF":
        cpu, gpu = f"{1 / line.cpu:.4f}", f"{1 / line.gpu:.4f}" if line.gpu else ""
    return f"| {line.analyzer} | {line.model} | {unit} | {cpu} | {gpu} | {times} | {said} |"


def _unit(cost: Cost) -> str:
    return "pictures/s" if cost.frames else "RTF" if cost.audio_s else "media/s"


def _rate(cost: Cost) -> float:
    return (cost.frames or cost.audio_s or cost.media) / max(cost.wall_s, 1e-9)


def _in_order(wanted: set[str] | None) -> list[AnalyzerSpec]:
    """The wanted ones and what they need, that first."""
    specs = registry()
    if wanted is None:
        return list(specs.values())
    todo, found = list(wanted), set()
    while todo:
        name = todo.pop()
        found.add(name)
        todo += specs[name].upstream_analyzers
    return [spec for spec in specs.values() if spec.name in found]


def _applies(spec: AnalyzerSpec, medium: Medium) -> bool:
    has_input = ("frames" in spec.needs and len(medium.frames)) or ("audio" in spec.needs and medium.audio is not None)
    return medium.kind in spec.kinds and bool(has_input or spec.upstream_analyzers)


def _for(spec: AnalyzerSpec, medium: Medium, rows: dict[str, pa.Table]) -> Medium:
    """As the pipeline hands it on: only what the analyzer named."""
    return replace(
        medium,
        frames=medium.frames if "frames" in spec.needs else (),
        audio=medium.audio if "audio" in spec.needs else None,
        rows={name: rows[name] for name in spec.upstream_analyzers if name in rows},
    )


def _joined(found: dict[str, pa.Table]) -> pa.Table:
    return pa.concat_tables([found[media_id] for media_id in sorted(found)])


def _seconds(media: Sequence[Medium]) -> float:
    return sum(medium.audio.duration_s for medium in media if medium.audio is not None)


def _samples(folder: Path) -> Path:
    from benchmarks.mixed_set import make_mixed_set  # the demo's voices, which an image for GPUs has not

    make_mixed_set(folder, SAMPLES)
    return folder


if __name__ == "__main__":
    main()
