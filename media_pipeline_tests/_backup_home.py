"""A small home that is written to like a real one, and its backups."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from media_pipeline.storage import backup
from media_pipeline.storage._backup_manifest import Snapshot
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.ledger import Entry, Ledger
from media_pipeline.storage.sightings import stamp
from media_pipeline.storage.sources import Sources
from media_pipeline.storage.tables import Tables

OCR = pa.schema([("media_id", pa.string()), ("line_index", pa.int32()), ("text", pa.string())])
ANALYZERS = ("ocr", "titles")


def content(path: Path, data: bytes, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


class BackupHome:
    def __init__(self, home: Path, root: Path) -> None:
        self.layout = Layout(home)
        self.layout.create()
        self.root = root
        self.sources = Sources(self.layout.sources)
        self.tables = Tables(self.layout.tables, self.layout.locks)
        self.ledger = Ledger(self.tables)
        self.repository = backup.create(self.layout, root)

    def add(self, *media_ids: str, rows: int = 3, run: str = "run") -> None:
        """Results of these media, in the order in which the product writes them."""
        for analyzer in ANALYZERS:
            pairs = [(media_id, analyzer) for media_id in media_ids]
            self.tables.ensure(analyzer, OCR)
            self.ledger.forget(pairs)
            lines = [{"media_id": m, "line_index": i, "text": f"{run} {i}"} for m in media_ids for i in range(rows)]
            self.tables.replace(analyzer, pa.Table.from_pylist(lines, schema=OCR), media_ids)
            self.ledger.record([entry(media_id, analyzer, rows, run) for media_id, analyzer in pairs])

    def take_in(self, name: str, data: bytes, *, linked: bool = False) -> str:
        """What intake does with a file of the inbox; linked ones lie outside the home."""
        media_id = hashlib.sha256(data).hexdigest()
        source = content((self.layout.home.parent if linked else self.layout.inbox) / name, data)
        stored = source if linked else self.layout.originals / media_id[:2] / media_id
        if not linked:
            content(stored, data, mode=0o444)
        key = f"{name}~{media_id[:12]}"
        self.sources.add(source, source.stat(), media_id=media_id, partition_key=key, stored=stored, linked=linked)
        return media_id

    def take(self, options: backup.Options | None = None) -> backup.Report:
        return backup.back_up(self.layout, self.repository, options)

    def newest(self) -> Snapshot:
        return self.repository.load(self.repository.resolve(None))

    def restore(self, target: Path, snapshot: str | None = None) -> Path:
        backup.restore(self.repository, self.repository.resolve(snapshot), target)
        return target

    def rows(self, home: Path | None = None) -> dict[str, list[dict[str, Any]]]:
        """Every table of this home or of a restored one."""
        layout = Layout(home or self.layout.home)
        tables = Tables(layout.tables, layout.locks)
        return {name: tables.read(name).to_pylist() for name in (*ANALYZERS, "analyses") if tables.exists(name)}

    @staticmethod
    def tops(home: Path) -> list[str]:
        return sorted(path.name for path in home.iterdir())

    @staticmethod
    def files(home: Path) -> dict[str, tuple[int, bytes]]:
        """Permissions and content of every file but databases, tables and locks."""
        found = {path.relative_to(home): path for path in home.rglob("*") if path.is_file()}
        return {
            str(name): (path.stat().st_mode, path.read_bytes())
            for name, path in found.items()
            if name.parts[0] not in ("tables", "locks") and ".sqlite" not in name.name
        }

    def rot(self, path: Path, data: bytes) -> None:
        """Changes a file as a failing disk does: to the last snapshot its times are what they were."""
        path.chmod(0o644)
        path.write_bytes(data)
        name, newest = str(path.relative_to(self.layout.home)), self.newest()
        files = tuple(replace(f, stamp=stamp(path.stat())) if f.path == name else f for f in newest.files)
        with self.repository.locked():
            self.repository.publish(Snapshot(replace(newest.head, created_at=datetime.now(UTC)), files))


def entry(media_id: str, analyzer: str, rows: int, run: str) -> Entry:
    return Entry(media_id, analyzer, f"{analyzer}-{run}", "done", None, rows, 0.1, "cpu", None, run, datetime.now(UTC))
