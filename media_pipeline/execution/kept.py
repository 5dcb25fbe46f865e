"""Superseded results: a second set of tables beside the current ones, one result per medium and analyzer.

Who changes an option, looks, and changes it back gets the former rows without a second of computing. Deleting the
folder costs nothing but that.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.storage.layout import Layout
from media_pipeline.storage.ledger import TABLE as LEDGER
from media_pipeline.storage.ledger import Entry, Ledger
from media_pipeline.storage.tables import RETENTION_HOURS, Tables


class Kept:
    """The tables below `<home>/kept`: the same names and columns, and a ledger that names the fingerprints.

    An entry of this ledger stands for rows that are whole: it is forgotten before they are replaced and written after.
    """

    def __init__(self, layout: Layout) -> None:
        self._root, self._sample = layout.kept, layout.sample
        # Locks of their own: whoever holds that of a current table may well write here.
        self.tables = Tables(self._root, layout.locks / "kept")
        self.ledger = Ledger(self.tables)

    def put(self, analyzer: str, rows: pa.Table, entries: Sequence[Entry]) -> None:
        """Keep these results of one analyzer in the place of what was kept of the same media.

        Raises:
            StorageConflict, DiskFull: at worst nothing is kept of these media any more.
        """
        if not entries:
            return
        self.ledger.forget([(entry.media_id, analyzer) for entry in entries])
        self.tables.ensure(analyzer, rows.schema)
        self.tables.replace(analyzer, rows, [entry.media_id for entry in entries])
        self.ledger.record(entries)

    def matching(self, analyzer: str, fingerprints: Mapping[str, str]) -> list[Entry]:
        """What is kept of these media with exactly these fingerprints (by media_id)."""
        entries = self.ledger.entries(fingerprints.keys(), [analyzer]) if fingerprints else {}
        return [entry for entry in entries.values() if entry.fingerprint == fingerprints[entry.media_id]]

    def take(self, analyzer: str, fingerprints: Mapping[str, str]) -> tuple[pa.Table, list[Entry]]:
        """Rows and entries with exactly these fingerprints; they stay here until something takes their place."""
        return read_whole(self.tables, self.ledger, analyzer, self.matching(analyzer, fingerprints))

    def forget_media(self, media_ids: Collection[str]) -> None:
        """Nothing of these media stays; files of old versions go with the next `maintain(retention_hours=0)`."""
        shutil.rmtree(self._sample, ignore_errors=True)  # of a trial that was killed
        for name in self._names():
            self.tables.delete(name, media_ids)

    def clear(self) -> None:
        """Nothing is kept any more."""
        for name in sorted(self._names(), key=lambda name: name != LEDGER):  # the ledger first
            self.tables.delete(name, self.tables.read(name, columns=["media_id"])["media_id"].unique().to_pylist())

    def maintain(self, retention_hours: int = RETENTION_HOURS) -> list[str]:
        """Compacts the tables and removes files nobody needs; returns their paths."""
        removed: list[str] = []
        for name in self._names():
            self.tables.compact(name)
            removed += self.tables.vacuum(name, retention_hours=retention_hours)
        return removed

    def _names(self) -> list[str]:
        if not self._root.is_dir():
            return []
        return sorted(path.name for path in self._root.iterdir() if self.tables.exists(path.name))


def read_whole(tables: Tables, ledger: Ledger, analyzer: str, entries: Sequence[Entry]) -> tuple[pa.Table, list[Entry]]:
    """The rows of these entries, and those of the entries that still stood after they were read.

    Another process may replace a result at any time, and forgets its entry first: what stands before and after has
    not changed in between.
    """
    if not entries:
        return pa.table({"media_id": pa.array([], pa.string())}), []
    rows = tables.read(analyzer, [entry.media_id for entry in entries])
    after = ledger.entries([entry.media_id for entry in entries], [analyzer])
    whole = [entry for entry in entries if after.get((entry.media_id, analyzer)) == entry]
    if len(whole) < len(entries):
        ids = pa.array([entry.media_id for entry in whole], pa.string())
        rows = rows.filter(pc.is_in(rows["media_id"], ids))
    return rows, whole
