"""One version of a Delta table, and the step to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake.transaction import AddAction, RemoveAction

from media_pipeline.storage._files import DataFile

# Opening a table reads its log since the last checkpoint.
CHECKPOINT_COMMITS = 20
# No quiet rebase by delta-rs: two appends of the same medium would not conflict in its eyes.
EXACT = CommitProperties(max_commit_retries=0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a table, files in order of writing."""

    delta: DeltaTable  # one writer's alone: a commit moves it on
    version: int
    files: tuple[DataFile, ...]
    schema: pa.Schema  # as stored

    @classmethod
    def of(cls, delta: DeltaTable) -> Snapshot:
        # Not pa.table(): it looks for a data frame first and imports pandas to know one.
        actions = pa.RecordBatchReader.from_stream(delta.get_add_actions()).read_all()
        pairs = zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True)
        files = tuple(DataFile(path, size) for path, size in sorted(pairs))
        return cls(delta, delta.version(), files, pa.schema(delta.schema().to_arrow()))

    @property
    def next_order(self) -> str:
        return f"{self.version + 1:012d}"


def commit(snapshot: Snapshot, adds: list[AddAction], removes: list[RemoveAction]) -> Snapshot:
    """The version after it, read on from the snapshot: opening the table anew costs several times as much."""
    if not (adds or removes):
        return snapshot
    # To find expired entries the whole log is listed: not at every commit.
    hooks = PostCommitHookProperties(
        create_checkpoint=True, cleanup_expired_logs=snapshot.version % CHECKPOINT_COMMITS == 0
    )
    snapshot.delta.create_write_transaction(
        [*adds, *removes],
        "append",
        snapshot.delta.schema(),
        commit_properties=EXACT,
        post_commithook_properties=hooks,
    )
    snapshot.delta.update_incremental()
    return Snapshot.of(snapshot.delta)


class Seen:
    """The version of a table that was seen last: opening a table reads its log, asking costs two looks."""

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._log = folder / "_delta_log"
        self._stamp = self._stamp_now()

    def is_newest(self) -> bool:
        """Whether the log still ends with this version, and is the same log."""
        stamp = self._stamp_now()
        return stamp is not None and stamp == self._stamp and not self._entry(self.snapshot.version + 1).exists()

    def _entry(self, version: int) -> Path:
        return self._log / f"{version:020}.json"

    def _stamp_now(self) -> tuple[int, int] | None:
        """Tells the log's entry from that of another table that came to lie in its place; None where it expired."""
        try:
            stat = self._entry(self.snapshot.version).stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns
