"""Keeping results: rows and ledger move together, what is superseded is set aside, what was kept comes back.

The ledger never speaks of rows that are not there. A result that takes the place of one with another fingerprint is
written in this order: the old one is copied to what is kept, its entry is forgotten, the rows are replaced, the new
entry is recorded. Killed at any instant, the pair is either as it was, or unknown and made again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa

from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.execution.judging import Entries, Todo
from media_pipeline.execution.kept import Kept, read_whole
from media_pipeline.execution.outcome import Outcome
from media_pipeline.execution.stages import Result, Stage
from media_pipeline.storage.ledger import Entry, Ledger
from media_pipeline.storage.tables import Tables

SHA256_DIGITS = 64


class Results:
    """Writes results of stages.

    Args:
        kept: where superseded results go and come from; None: they are gone
    """

    def __init__(self, tables: Tables, ledger: Ledger, kept: Kept | None) -> None:
        self._tables, self._ledger, self._kept = tables, ledger, kept

    def commit(self, stage: Stage, portion: Sequence[Result], todo: Mapping[str, Todo], run_id: str) -> list[Outcome]:
        """Write these results of media in `todo`, with or without rows. Repeatable."""
        tables = [r.rows for r in portion if r.rows is not None and r.rows.num_rows]
        rows = pa.concat_tables(tables) if tables else stage.schema.empty_table()
        done = {result.media_id: todo[result.media_id] for result in portion}
        superseded = self._superseded(stage, done)
        if self._kept is not None:
            self._kept.put(stage.name, *self._withdraw(stage, superseded))
        self._ledger.forget([(entry.media_id, stage.name) for entry in superseded])
        self._tables.ensure(stage.name, stage.schema)
        self._tables.replace(stage.name, rows, done.keys())
        outcomes = [_outcome(stage, result, done[result.media_id]) for result in portion]
        self._ledger.record([entry_of(stage, outcome, run_id) for outcome in outcomes])
        return outcomes

    def restore(self, stage: Stage, todo: Sequence[Todo], run_id: str) -> list[Outcome]:
        """Put back what was kept with just the fingerprint that is wanted; the present result is kept in its place."""
        # One with the wanted fingerprint already was judged not good enough: it failed or is incomplete.
        wanted = {t.known.media_id: t for t in todo if t.standing is None or t.standing.fingerprint != t.fingerprint}
        if self._kept is None or not wanted:
            return []
        started = time.perf_counter()
        rows, entries = self._kept.take(stage.name, {i: t.fingerprint for i, t in wanted.items()})
        if not entries:
            return []
        found = {entry.media_id: wanted[entry.media_id] for entry in entries}
        superseded = self._superseded(stage, found)
        old = self._withdraw(stage, superseded)
        # The current ones first: until they are recorded, what is wanted stays where it was kept.
        self._ledger.forget([(entry.media_id, stage.name) for entry in superseded])
        self._tables.ensure(stage.name, stage.schema)
        self._tables.replace(stage.name, rows.select(_common(rows, stage.schema)), found.keys())
        seconds = (time.perf_counter() - started) / len(entries)
        outcomes = [_restored(entry, found[entry.media_id], seconds) for entry in entries]
        self._ledger.record([entry_of(stage, outcome, run_id) for outcome in outcomes])
        self._kept.put(stage.name, *old)
        return outcomes

    def _withdraw(self, stage: Stage, superseded: Sequence[Entry]) -> tuple[pa.Table, list[Entry]]:
        """Rows and entries of those that are worth keeping."""
        return read_whole(self._tables, self._ledger, stage.name, [e for e in superseded if e.status == "done"])

    def _superseded(self, stage: Stage, todo: Mapping[str, Todo]) -> list[Entry]:
        """Entries that are about to be replaced by another fingerprint's, as the ledger has them now.

        Another process may have been here since the work began.
        """
        standing = [media_id for media_id, item in todo.items() if item.standing is not None]
        present = self._ledger.entries(standing, [stage.name]) if standing else {}
        return [e for e in present.values() if e.fingerprint != todo[e.media_id].fingerprint]

    def leave(self, stage: Stage, waiting: Sequence[Result], todo: Mapping[str, Todo], run_id: str) -> list[Outcome]:
        """They wait for a later run. What stands from before goes on standing; of others the ledger says why."""
        outcomes = [replace(_outcome(stage, result, todo[result.media_id]), status="unavailable") for result in waiting]
        standing = {o.media_id: todo[o.media_id].standing for o in outcomes}
        news = [o for o in outcomes if (s := standing[o.media_id]) is None or (s.status != "done" and not _same(s, o))]
        self._ledger.record([entry_of(stage, outcome, run_id) for outcome in news])
        return outcomes

    def record_unavailable(self, stage: Stage, outcomes: Collection[Outcome], entries: Entries, run_id: str) -> None:
        """Remember why there is no result where that is news."""
        news = [
            entry_of(stage, outcome, run_id)
            for outcome in outcomes
            if outcome.status == "unavailable" and not _same(entries.get((outcome.media_id, stage.name)), outcome)
        ]
        if news:
            self._ledger.record(news)


def model_name(choice: ModelChoice) -> str:
    """Name and digest; where a package's version stands for the digest, that."""
    return f"{choice.name} ({choice.digest[:12] if len(choice.digest) == SHA256_DIGITS else choice.digest})"


def entry_of(stage: Stage, outcome: Outcome, run_id: str) -> Entry:
    return Entry(
        media_id=outcome.media_id,
        analyzer=stage.name,
        fingerprint=outcome.fingerprint,
        status=outcome.status,
        reason=outcome.reason,
        rows=outcome.rows,
        seconds=outcome.seconds,
        device=outcome.device,
        model=outcome.model,
        run_id=run_id,
        at=datetime.now(UTC),
        version=stage.version,
        options=stage.options_digest,
    )


def _outcome(stage: Stage, result: Result, todo: Todo) -> Outcome:
    choice = stage.choice if result.rows is not None else None
    return Outcome(
        media_id=result.media_id,
        partition_key=todo.known.partition_key,
        status="failed" if result.error else "done",
        fingerprint=todo.fingerprint,
        reason=str(result.error) if result.error else result.incomplete,
        rows=result.rows.num_rows if result.rows is not None else 0,
        seconds=result.seconds,
        device=result.device,
        model=model_name(choice) if choice else None,
        tier=choice.tier if choice else None,
        warning=result.incomplete or (choice.warning if choice else None),
        preview=result.preview,
        thumbnail_jpeg=result.thumbnail_jpeg,
    )


def _restored(entry: Entry, todo: Todo, seconds: float) -> Outcome:
    return Outcome(
        media_id=entry.media_id,
        partition_key=todo.known.partition_key,
        status="done",
        fingerprint=entry.fingerprint,
        reason=entry.reason,
        rows=entry.rows,
        seconds=seconds,
        device=entry.device or "cpu",
        model=entry.model,
        warning=entry.reason,
        restored=True,
    )


def _common(rows: pa.Table, schema: pa.Schema) -> list[str]:
    """Columns of both: a kept table may have some that an older release wrote."""
    return [name for name in schema.names if name in rows.column_names]


def _same(entry: Entry | None, outcome: Outcome) -> bool:
    return entry is not None and entry.status == outcome.status and entry.reason == outcome.reason
