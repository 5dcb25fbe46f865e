"""Where things lie in a home folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from media_pipeline.errors import UsageError

RESTORING = ".restoring"  # a file in a home that `restore` is writing, or was when it was interrupted
STAGE = ".installation-backup"  # a folder in a home that a backup of the installation lays out, and removes


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
    def kept(self) -> Path:
        """Superseded results, one per medium and analyzer: they come back without being computed."""
        return self.home / "kept"

    @property
    def sample(self) -> Path:
        """Results of a trial beside the current ones; gone when it ends."""
        return self.kept / "sample"

    @property
    def rules(self) -> Path:
        """The user's own rule files, `*.yaml`; the user makes the folder."""
        return self.home / "rules"

    @property
    def moderation(self) -> Path:
        """SQLite file: what people decided on media, and alerts on their way."""
        return self.home / "moderation.sqlite"

    @property
    def leases(self) -> Path:
        """SQLite file: rented machines and what they cost."""
        return self.home / "gpu.sqlite"

    @property
    def rented(self) -> Path:
        """A folder per open lease with its throwaway key; gone with the machine."""
        return self.home / "gpu"

    @property
    def warehouse(self) -> Path:
        """DuckDB file of views for the user's own tools; replaced after each batch."""
        return self.home / "warehouse.duckdb"

    @property
    def erasures(self) -> Path:
        """Journals of erasures that have not ended; they name what is erased, and go last."""
        return self.home / "erasures"

    @property
    def receipts(self) -> Path:
        """Signed receipts of erasures."""
        return self.home / "receipts"

    @property
    def keys(self) -> Path:
        """The key that signs receipts."""
        return self.home / "keys"

    @property
    def dagster(self) -> Path:
        return self.home / "dagster"

    def create(self) -> None:
        """Makes the home, for its owner only, and its folders. One that is there stays as the user made it.

        Raises:
            UsageError: it is only half restored.
        """
        if (self.home / RESTORING).exists():
            raise UsageError(f"{self.home} is being restored", "let it finish, or start the same `restore` again")
        # It holds faces and voices; the umask of most systems would let every user of the machine read them.
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.inbox, self.originals, self.cache, self.tables, self.indexes, self.locks, self.dagster):
            folder.mkdir(parents=True, exist_ok=True)
