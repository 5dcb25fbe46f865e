"""A home of three media and two analyzers that count what they compute, for tests of recomputing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from media_pipeline.analyzers import _registry
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, ModelChoice, Options
from media_pipeline.config import load_settings
from media_pipeline.errors import ModelUnavailable
from media_pipeline.execution import pipeline as pipeline_module
from media_pipeline.execution import stages as stages_module
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.execution.stages import Result, stage_infos
from media_pipeline.storage import schemas

SCHEMA = pa.schema([("media_id", pa.string()), ("value", pa.float64())])
MEDIA = ("aardvark", "bonobo", "cheetah")


class ScaleOptions(Options):
    scale: float = 1.0
    absent: bool = False


class Counted:
    """Two analyzers, the second over the rows of the first; counts what they compute."""

    def __init__(self, version: str = "1") -> None:
        self.calls: list[tuple[str, str]] = []
        first = AnalyzerSpec(
            name="first",
            version=version,
            needs=(),
            schema=SCHEMA,
            options=ScaleOptions,
            choose=self._choose,
            load=lambda choice, device, options: None,
            run=lambda model, batch, options: self._run("first", batch, options),
            description="The first letter of the id as a number, scaled.",
        )
        self.specs = (first, replace(first, name="second", needs=("first",), run=self._second))

    @staticmethod
    def _choose(options: ScaleOptions, store: object) -> ModelChoice:
        if options.absent:
            raise ModelUnavailable("no model")
        return ModelChoice("scale", "embedded", "0" * 64)

    def _run(self, name: str, batch: Batch, options: ScaleOptions) -> pa.Table:
        self.calls += [(name, medium.media_id) for medium in batch]
        rows = [{"media_id": m.media_id, "value": ord(m.media_id[0]) * options.scale} for m in batch]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _second(self, model: object, batch: Batch, options: ScaleOptions) -> pa.Table:
        self.calls += [("second", medium.media_id) for medium in batch]
        tables = [medium.rows["first"] for medium in batch]
        return pa.concat_tables(tables).cast(SCHEMA)

    def taken(self) -> list[tuple[str, str]]:
        calls, self.calls = sorted(self.calls), []
        return calls


class MediaStage:
    """In the place of decoding: one row per medium."""

    name, needs, schema, version, options_digest, choice = "media", (), schemas.MEDIA, "1", "o" * 16, None

    def __init__(self, decoded: object) -> None: ...

    def prepare(self) -> str:
        return "decoded"

    def compute(self, media: Any) -> Iterator[Result]:
        for known in media:
            row = {"media_id": known.media_id, "kind": "image"}
            yield Result(known.media_id, rows=pa.Table.from_pylist([row], schema=schemas.MEDIA))


class Home:
    """A home of three media whose stages are `media` and the two analyzers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "home", **reprocess: Any) -> None:
        self.home, self._monkeypatch, self._reprocess = folder / name, monkeypatch, reprocess
        self.use(Counted())
        monkeypatch.setattr(pipeline_module, "MediaStage", MediaStage)
        pipeline = self.open()
        for number, media_id in enumerate(MEDIA):
            path = folder / f"{number}.bin"
            path.write_bytes(b"x")
            pipeline.sources.add(path, path.stat(), media_id=media_id, partition_key=f"{media_id}~0", stored=path)

    def use(self, counted: Counted) -> None:
        self.counted = counted
        found = _registry.ordered(counted.specs)
        self._monkeypatch.setattr(stages_module, "registry", lambda: found)
        self._monkeypatch.setattr(pipeline_module, "registry", lambda: found)

    def open(self, **first_options: Any) -> Pipeline:
        options = {"first": first_options} if first_options else {}
        settings = load_settings(
            home=self.home,
            offline=True,
            min_free_bytes=0,
            workers=1,
            options=options,
            reprocess=self._reprocess,
        )
        return Pipeline(settings)

    def run(self, **first_options: Any) -> Pipeline:
        pipeline = self.open(**first_options)
        for info in stage_infos():
            if info.name not in ("frames", "audio"):
                pipeline.run_stage(info.name, [f"{m}~0" for m in MEDIA], run_id="r")
        return pipeline

    @staticmethod
    def values(pipeline: Pipeline, name: str = "second") -> list[float]:
        found: list[float] = pipeline.tables.read(name)["value"].to_pylist()
        return found


BOTH = sorted((name, media_id) for name in ("first", "second") for media_id in MEDIA)
