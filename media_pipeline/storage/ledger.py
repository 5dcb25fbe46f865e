"""The ledger: what has been done to which medium, by which analyzer, with which fingerprint.

It decides what is computed again; Dagster's own bookkeeping never does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.storage.schemas import ANALYSES
from media_pipeline.storage.tables import Tables

TABLE = "analyses"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of `analyses`: the latest word on one medium in one analyzer."""

    media_id: str
    analyzer: str
    fingerprint: str
    status: str  # done, failed, unavailable
    reason: str | None  # null when done
    rows: int
    seconds: float  # wall time
    device: str | None
    model: str | None
    run_id: str | None
    at: datetime  # with a time zone


class Ledger:
    """Reads and writes the table `analyses`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def record(self, entries: Sequence[Entry]) -> None:
        """Replaces what was known of these (media_id, analyzer) pairs, in one commit; of equal pairs the last counts.

        Raises:
            StorageConflict, DiskFull: nothing has changed.
        """
        latest = {(e.media_id, e.analyzer): e for e in entries}
        if not latest:
            return
        self._tables.ensure(TABLE, ANALYSES)
        new = pa.Table.from_pylist([asdict(e) for e in latest.values()], schema=ANALYSES)

        def merged(old: pa.Table) -> pa.Table:
            pairs = zip(old["media_id"].to_pylist(), old["analyzer"].to_pylist(), strict=True)
            others = old.filter(pa.array([pair not in latest for pair in pairs], pa.bool_()))
            return pa.concat_tables([others.select(ANALYSES.names), new], promote_options="permissive")

        self._tables.update(TABLE, {media_id for media_id, _ in latest}, merged)

    def entries(
        self, media_ids: Collection[str] | None = None, analyzers: Collection[str] | None = None
    ) -> dict[tuple[str, str], Entry]:
        """Entries by (media_id, analyzer), of these media and analyzers or of all."""
        if not self._tables.exists(TABLE):
            return {}
        rows = self._tables.read(TABLE, media_ids, ANALYSES.names)
        if analyzers is not None:
            rows = rows.filter(pc.is_in(rows["analyzer"], pa.array(list(analyzers), pa.string())))
        return {(row["media_id"], row["analyzer"]): Entry(**row) for row in rows.to_pylist()}

    def counts(self) -> dict[str, dict[str, int]]:
        """How many media have which status: analyzer -> status -> number."""
        if not self._tables.exists(TABLE):
            return {}
        rows = self._tables.read(TABLE, columns=["analyzer", "status"])
        pairs = Counter(zip(rows["analyzer"].to_pylist(), rows["status"].to_pylist(), strict=True))
        counted: dict[str, dict[str, int]] = {}
        for (analyzer, status), count in sorted(pairs.items()):
            counted.setdefault(analyzer, {})[status] = count
        return counted

    def failures(self, media_ids: Collection[str] | None = None) -> list[Entry]:
        """Entries that are not done, with their reasons, the latest first."""
        if not self._tables.exists(TABLE):
            return []
        rows = self._tables.read(TABLE, media_ids, ANALYSES.names)
        rows = rows.filter(pc.not_equal(rows["status"], "done"))
        return sorted((Entry(**row) for row in rows.to_pylist()), key=lambda e: e.at, reverse=True)
