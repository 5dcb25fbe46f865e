"""What is measured in a synthetic home, each against a goal."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import dagster as dg
import duckdb
import numpy as np
import psutil

from benchmarks._scale_data import SEED, batch, face_vectors, partition_key, passage_vectors
from benchmarks._scale_home import LedgerRows, models_of, percentile, refresh_indexes, register
from benchmarks._scale_questions import QUESTIONS
from benchmarks._scale_words import questions
from media_pipeline.engine.instance import open_instance
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.execution.recompute import plan
from media_pipeline.execution.stages import AnalyzerStage, stage_infos
from media_pipeline.results._identity_kinds import PERSONS
from media_pipeline.results._search_text import Meanings, word_index
from media_pipeline.storage.vectors import Space, VectorIndex, dimension_of

MIB = 1024**2
QUERIES = 100
WARM = 5
NEW_MEDIA = 64
BUMPED = "ocr"
TEXT_COLUMNS = ("media_id", "source", "row_index", "pts_s", "text")
FACE_COLUMNS = ("media_id", "track_index", "person_id", "at_s")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    constant: bool = False  # must not grow with the library; else at most in proportion to it

    @property
    def ok(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )


def measured(pipeline: Pipeline, media: int) -> Iterator[Figure]:
    """Everything, in an order in which nothing disturbs what follows."""
    yield from sql(pipeline)
    yield from text_search(pipeline)
    yield from face_search(pipeline)
    yield from sensor_tick(pipeline)
    yield from ledger_plan(pipeline)
    yield from new_batch(pipeline, media)
    yield from upkeep(pipeline)


def sql(pipeline: Pipeline) -> Iterator[Figure]:
    medians = []
    with closing(duckdb.connect(str(pipeline.layout.warehouse), read_only=True)) as connection:
        for name, question in QUESTIONS.items():
            ask = partial(_answered, connection, question)
            runs = [seconds(ask) for _ in range(WARM + 1)][1:]
            medians.append(statistics.median(runs) * 1000)
            yield Figure(f"SQL: {name}", medians[-1], "ms")
    yield Figure("SQL: median of ten questions, warm", statistics.median(medians), "ms", at_most=100)


def _answered(connection: duckdb.DuckDBPyConnection, question: str) -> int:
    return len(connection.execute(question).fetchall())


def text_search(pipeline: Pipeline) -> Iterator[Figure]:
    rng = np.random.default_rng([SEED, 2])
    with closing(word_index(pipeline.tables, pipeline.layout)) as words:
        asked = questions(rng, QUERIES)
        words.search(asked[0], 10)
        times = [seconds(partial(words.search, query, 50)) * 1000 for query in asked]
    yield Figure("text search by word, p50", percentile(times, 0.5), "ms")
    yield Figure("text search by word, p95", percentile(times, 0.95), "ms", at_most=100)
    meanings = Meanings(pipeline.tables, pipeline.layout, pipeline.settings, pipeline.models)
    assert meanings._choice is not None
    queries = passage_vectors(rng, rng.integers(0, 4_000, QUERIES))
    yield from vector_search("text", meanings._index(meanings._choice), queries, TEXT_COLUMNS)


def face_search(pipeline: Pipeline) -> Iterator[Figure]:
    rng = np.random.default_rng([SEED, 3])
    model = models_of(pipeline).face
    dimension = dimension_of(pipeline.tables, PERSONS.table, model)
    assert dimension is not None
    index = VectorIndex(pipeline.tables, pipeline.layout, Space("face", PERSONS.table, model, dimension))
    queries = face_vectors(rng, rng.zipf(1.3, QUERIES) % 20_000)
    yield from vector_search("face", index, queries, FACE_COLUMNS)


def vector_search(name: str, index: VectorIndex, queries: np.ndarray, columns: tuple[str, ...]) -> Iterator[Figure]:
    """Searches for the 50 nearest to each of the queries, and whether they are the nearest."""
    state = index.refresh()
    before = _memory()
    index.search(queries[0], 10, columns)
    times = [seconds(partial(index.search, query, 50, columns)) * 1000 for query in queries]
    # Of the mapped files what was looked at; all of it in the end, where memory allows.
    resident = max(0, _memory() - before)
    codes = sum(size for file, size in state.files.items() if not file.endswith(".vectors") or state.kind == "flat")
    yield Figure(f"{name} search by vector: {state.vectors} as {state.kind}, p50", percentile(times, 0.5), "ms")
    yield Figure(f"{name} search by vector, p95", percentile(times, 0.95), "ms", at_most=100)
    yield Figure(f"{name} search, recall@10 against comparing all", _recall(index, queries), "", at_least=0.98)
    yield Figure(f"{name} index, MB resident after {len(queries)} searches", resident / 1e6, "MB")
    if state.vectors >= 100_000:
        yield Figure(f"{name} index, MB per million", codes / state.vectors, "MB", at_most=700)


def _recall(index: VectorIndex, queries: np.ndarray) -> float:
    opened = index._open(index.refresh())
    found = 0
    for query, floor in zip(queries, opened.floors(queries, 10), strict=True):
        found += sum(score >= floor - 1e-4 for score, _ in opened.nearest(query, 10))
    return found / (10 * len(queries))


def sensor_tick(pipeline: Pipeline) -> Iterator[Figure]:
    from media_pipeline.definitions import defs
    from resources.pipeline import PipelineResource

    os.environ["MEDIA_PIPELINE_HOME"] = str(pipeline.settings.home)
    sensor = defs.resolve_sensor_def("watch_folders")
    with open_instance(pipeline.settings) as instance:

        def tick() -> None:
            with dg.build_sensor_context(instance=instance, definitions=defs) as context:
                sensor(context, pipeline=PipelineResource())

        tick()
        yield Figure("sensor tick, nothing new", min(seconds(tick) for _ in range(3)), "s", at_most=1)


def ledger_plan(pipeline: Pipeline) -> Iterator[Figure]:
    """After a new version of one analyzer exactly its results and those made from them are stale."""
    stage = pipeline.judge.stages[BUMPED]
    assert isinstance(stage, AnalyzerStage)
    spec, version = stage.spec, stage.version
    yield Figure("ledger plan, nothing stale", seconds(lambda: plan(pipeline)), "s", at_most=5)
    stage.spec, stage.version = replace(spec, version=f"{version}.bumped"), f"{version}.bumped"
    try:
        began = time.monotonic()
        found = plan(pipeline)
        spent = time.monotonic() - began
    finally:
        stage.spec, stage.version = spec, version
    pairs = set(zip(found.pairs["media_id"].to_pylist(), found.pairs["analyzer"].to_pylist(), strict=True))
    expected = _dependent_pairs(pipeline)
    yield Figure(f"ledger plan after a new {BUMPED}: {len(pairs)} pairs", spent, "s", at_most=5)
    yield Figure("ledger plan, pairs missed", len(expected - pairs), "", at_most=0)
    yield Figure("ledger plan, pairs too many", len(pairs - expected), "", at_most=0)


def _dependent_pairs(pipeline: Pipeline) -> set[tuple[str, str]]:
    """What a new version makes stale, from the graph alone: the analyzer and all behind it, of media with frames."""
    behind = {BUMPED}
    for info in stage_infos():
        if behind & set(info.needs):
            behind.add(info.name)
    media = pipeline.tables.read("media", columns=["media_id", "kind"]).to_pylist()
    return {(row["media_id"], name) for row in media if row["kind"] != "audio" for name in behind}


def new_batch(pipeline: Pipeline, media: int) -> Iterator[Figure]:
    """One run's media, written as a process does that has just started."""
    fresh = Pipeline(pipeline.settings)
    made = batch(range(media, media + NEW_MEDIA), models_of(fresh))
    entries = list(LedgerRows(fresh).entries(made))
    by_stage = {name: [e for e in entries if e.analyzer == name] for name in {e.analyzer for e in entries}}
    register(fresh, made.numbers)
    # Nobody has asked the rules in this home yet: the first to ask judges all media.
    yield Figure("moderation, all media judged", seconds(lambda: fresh.moderation.update(())), "s")
    began = time.monotonic()
    for name, rows in made.tables.items():
        fresh.tables.replace(name, rows, made.ids)
    for rows_of_stage in by_stage.values():
        fresh.ledger.record(rows_of_stage)
    yield Figure(f"{NEW_MEDIA} new media: tables and ledger", time.monotonic() - began, "s", at_most=3, constant=True)
    yield Figure("… indexes after them", seconds(lambda: refresh_indexes(fresh)), "s", constant=True)
    yield Figure("… warehouse after them", seconds(fresh.catalog.publish), "s", at_most=3)
    yield Figure(
        "… all results after them", seconds(lambda: fresh.finish([partition_key(n) for n in made.numbers])), "s"
    )
    fresh.close()


def upkeep(pipeline: Pipeline) -> Iterator[Figure]:
    yield Figure("compaction, vacuum, warehouse", seconds(pipeline.catalog.maintain), "s")
    yield Figure("indexes after compaction", seconds(lambda: refresh_indexes(pipeline)), "s")


def _memory() -> int:
    return int(psutil.Process().memory_info().rss)


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


@contextmanager
def peak_memory(found: dict[str, int]) -> Iterator[None]:
    """Most bytes that this process had in memory at once while the block ran: `all` of it, and without mapped files."""
    done = threading.Event()

    def watch() -> None:
        while True:
            info = psutil.Process().memory_info()
            found["all"] = max(found.get("all", 0), info.rss)
            found["own"] = max(found.get("own", 0), info.rss - info.shared)
            if done.wait(0.2):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
