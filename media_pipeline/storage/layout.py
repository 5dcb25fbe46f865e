"""Where things lie in a home folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below one home. `create()` makes the folders; everything else only names them."""

    home: Path

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    @property
    def originals(self) -> Path:
        """Originals by hash, read-only: `originals/ab/abcdef…`."""
        return self.home / "originals"

    @property
    def cache(self) -> Path:
        """Decoded frames and audio; may be deleted at any time."""
        return self.home / "cache"

    @property
    def tables(self) -> Path:
        return self.home / "tables"

    @property
    def indexes(self) -> Path:
        return self.home / "indexes"

    @property
    def locks(self) -> Path:
        return self.home / "locks"

    @property
    def sources(self) -> Path:
        """SQLite file: which files were seen where, and which medium each is."""
        return self.home / "sources.sqlite"

    @property
    def costs(self) -> Path:
        """SQLite file: what analyzers cost on this machine, learnt while they run."""
        return self.home / "costs.sqlite"

    @property
    def warehouse(self) -> Path:
        """DuckDB file of views for the user's own tools; replaced after each batch."""
        return self.home / "warehouse.duckdb"

    @property
    def dagster(self) -> Path:
        return self.home / "dagster"

    def create(self) -> None:
        for folder in (self.inbox, self.originals, self.cache, self.tables, self.indexes, self.locks, self.dagster):
            folder.mkdir(parents=True, exist_ok=True)
