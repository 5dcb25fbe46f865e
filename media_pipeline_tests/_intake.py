"""An intake over a folder of its own, for tests that drop files into it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from media_pipeline.config import Settings
from media_pipeline.media.intake import Intake, IntakeReport
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sources import Sources

OLD_S = 3600.0  # nothing here takes an hour: what is younger is still being written, unless a test waits


class Home:
    """An intake over a folder `inbox`; files written by `drop` are complete, those by `write` are fresh."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.inbox = folder / "inbox"
        self.inbox.mkdir(exist_ok=True)
        self.layout = Layout(folder / "home")
        self.layout.create()
        self.sources = Sources(self.layout.sources)
        defaults: dict[str, object] = {"settle_s": 600.0, "min_free_bytes": 0}
        self.settings = Settings(home=folder / "home", **{**defaults, **settings})
        self.intake = Intake(self.layout, self.sources, self.settings)

    def write(self, name: str | bytes, content: bytes) -> Path:
        path = self.inbox / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def drop(self, name: str | bytes, content: bytes) -> Path:
        path = self.write(name, content)
        age(path)
        return path

    def tick(self, *, limit_files: int = 1000, limit_seconds: float = 60.0) -> IntakeReport:
        return self.intake.tick([self.inbox], limit_files=limit_files, limit_seconds=limit_seconds)

    def take(self, *paths: Path, wait: bool = False) -> IntakeReport:
        return self.intake.take(paths, wait=wait)


def age(path: Path) -> None:
    os.utime(path, (time.time() - OLD_S, time.time() - OLD_S))


def names(report: IntakeReport) -> list[str]:
    return [medium.name for medium in report.new]
