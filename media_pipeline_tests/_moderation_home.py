"""A home with rows that rules judge, made without media, and rules of one's own beside or in place of the shipped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from media_pipeline.config import Settings, load_settings
from media_pipeline.execution.pipeline import table_schemas
from media_pipeline.execution.stages import stage_infos
from media_pipeline.results.identities import identity_table
from media_pipeline.results.moderation import Moderation, decision_table
from media_pipeline.storage.catalog import Catalog
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.tables import Tables

ADDED = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMAS = table_schemas()
STAGES = [info.name for info in stage_infos()]


@dataclass
class ModerationHome:
    settings: Settings
    layout: Layout
    tables: Tables
    catalog: Catalog
    opened: list[Moderation] = field(default_factory=list)

    def moderation(self, **changes: Any) -> Moderation:
        """As a new process would open it; `changes` are of the settings `moderation` or `alerts`."""
        settings = self.settings
        for section, values in changes.items():
            settings = settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})
        made = Moderation(self.catalog, self.tables, self.layout, settings, STAGES)
        self.opened.append(made)
        return made

    def add(self, *names: str, analyzed: Iterable[str] = STAGES) -> None:
        """Media that these stages are through with."""
        media = [
            {"media_id": n, "name": f"{n}.jpg", "added_at": ADDED + timedelta(days=i)} for i, n in enumerate(names)
        ]
        done = [{"media_id": n, "analyzer": a, "status": "done", "fingerprint": "1"} for n in names for a in analyzed]
        self.put("media", names, media)
        self.put("analyses", names, done)

    def put(self, table: str, media_ids: Iterable[str], rows: list[dict[str, Any]]) -> None:
        self.tables.ensure(table, SCHEMAS[table])
        self.tables.replace(table, pa.Table.from_pylist(rows, schema=SCHEMAS[table]), list(media_ids))

    def bare(self, media_id: str, *scores: float, label: str = "FEMALE_BREAST_EXPOSED") -> None:
        """Findings of `nsfw`, one per frame."""
        rows = [
            {"media_id": media_id, "frame_index": n, "pts_s": n / 2, "label": label, "score": score, "explicit": True}
            | {"x1": 10.0, "y1": 20.0, "x2": 30.0, "y2": 40.0, "source": "detector"}
            for n, score in enumerate(scores)
        ]
        self.put("nsfw", [media_id], rows)

    def write(self, media_id: str, *lines: str) -> None:
        """Lines on the screen."""
        rows = [
            {"media_id": media_id, "frame_index": n, "pts_s": float(n), "line_index": 0, "text": text, "score": 0.9}
            for n, text in enumerate(lines)
        ]
        self.put("ocr", [media_id], rows)

    def rule(self, text: str, file: str = "own.yaml") -> Path:
        """A rule file of the user's."""
        self.layout.rules.mkdir(exist_ok=True)
        path = self.layout.rules / file
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with self.catalog.connect() as connection:
            return connection.execute(sql).fetchall()

    def verdicts(self) -> dict[str, str]:
        return dict(self.ask("SELECT media_id, verdict FROM moderation"))

    def reasons(self, media_id: str) -> list[dict[str, Any]]:
        found = self.ask(f"SELECT reasons FROM moderation WHERE media_id = '{media_id}'")
        reasons: list[dict[str, Any]] = found[0][0]
        return reasons

    def close(self) -> None:
        for made in self.opened:
            made.close()


def moderation_home(folder: Path) -> ModerationHome:
    settings = load_settings(home=folder)
    layout = Layout(folder)
    layout.create()
    tables = Tables(layout.tables, layout.locks)
    extra = {"identities": lambda: identity_table(layout), "moderation_decisions": lambda: decision_table(layout)}
    return ModerationHome(settings, layout, tables, Catalog(layout, tables, SCHEMAS, extra))


# One rule, with nothing of the shipped ones beside it.
ONLY = """\
    version: 1
    disabled: [nudity, possible_nudity, restraint, violence, weapons, blocked_faces, blocked_words_on_screen,
               blocked_words_in_speech, blocked_words_in_draft]
    rules:
"""
