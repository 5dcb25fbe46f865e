"""Keeping verdicts: what rules say goes to the table `moderation`, and what is newly blocked to who is to be told."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.results._moderation_judge import Judgement
from media_pipeline.results.alerts import alert_body
from media_pipeline.storage.moderation import ModerationStore
from media_pipeline.storage.schemas import MODERATION
from media_pipeline.storage.tables import Tables

TABLE = "moderation"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The table `moderation` of one home, and its alerts. For one process at a time."""

    tables: Tables
    store: ModerationStore

    def keep(self, version: str, portion: Sequence[Judgement], told_to: Collection[str]) -> list[str]:
        """Writes what has changed; returns the media that are blocked from now on, and on which nobody decided.

        Args:
            told_to: names of the channels of `alerts.py`
        """
        standing = {row["media_id"]: row for row in self._rows([judgement.media_id for judgement in portion])}
        now = datetime.now(UTC)
        rows = pa.Table.from_pylist([_row(judgement, version, now) for judgement in portion], schema=MODERATION)
        changed = [row for row in rows.to_pylist() if _telling(row) != _telling(standing.get(row["media_id"]))]
        if not changed:
            return []
        was_blocked = {media_id for media_id, row in standing.items() if row["verdict"] == "block"}
        blocked = {row["media_id"]: row for row in changed if row["verdict"] == "block"}
        silent = was_blocked | self.store.decided(blocked).keys()
        names = self.names(blocked.keys() - silent)
        bodies = {m: alert_body(row, names.get(m)) for m, row in blocked.items() if m not in silent}
        # First what is to be told, then the verdict, then the telling: a kill in between loses and invents nothing.
        self.store.plan_alerts(told_to, bodies)
        self.tables.replace(
            TABLE, pa.Table.from_pylist(changed, schema=MODERATION), [row["media_id"] for row in changed]
        )
        if bodies:
            self.store.release_alerts(bodies)
        return list(bodies)

    def finish_interrupted(self) -> list[str]:
        """Media of a killed run whose alerts were planned, and whose verdict did reach the table."""
        planned = self.store.planned()
        blocked = [row["media_id"] for row in self._rows(planned) if row["verdict"] == "block"] if planned else []
        if planned:
            self.store.release_alerts(blocked)
        return blocked

    def said(self, media_ids: Collection[str]) -> dict[str, tuple[str, str]]:
        """rules_version and verdict of the rules, of those of the media that were judged."""
        return {row["media_id"]: (row["rules_version"], row["verdict"]) for row in self._rows(media_ids)}

    def naming(self, words: Collection[str]) -> list[str]:
        """Media with a reason that found one of these words, a person's name for one."""
        if not self.tables.exists(TABLE):
            return []
        rows = self.tables.read(TABLE, columns=["media_id", "reasons"]).combine_chunks()
        reasons = rows["reasons"].combine_chunks()
        found = pc.struct_field(pc.list_flatten(reasons), "found")
        at = pc.list_parent_indices(reasons).filter(pc.is_in(found, pa.array(sorted(words), pa.string())))
        named: list[str] = rows["media_id"].take(at.unique()).to_pylist()
        return named

    def all_media(self) -> list[str]:
        """Every medium there is or was, in the order in which they came, in which their rows lie in the tables."""
        known: list[str] = []
        if self.tables.exists("media"):
            rows = self.tables.read("media", columns=["media_id", "added_at"])
            known = rows.sort_by([("added_at", "ascending"), ("media_id", "ascending")])["media_id"].to_pylist()
        if self.tables.exists(TABLE):
            judged = self.tables.read(TABLE, columns=["media_id"])["media_id"].to_pylist()
            known += sorted(set(judged) - set(known))  # those that cannot be read
        return known

    def names(self, media_ids: Collection[str]) -> dict[str, str]:
        """File names of media."""
        if not media_ids or not self.tables.exists("media"):
            return {}
        rows = self.tables.read("media", media_ids, ["media_id", "name"])
        return dict(zip(rows["media_id"].to_pylist(), rows["name"].to_pylist(), strict=True))

    def _rows(self, media_ids: Collection[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        if self.tables.exists(TABLE):
            rows = self.tables.read(TABLE, media_ids, MODERATION.names).to_pylist()
        return rows


def _row(judgement: Judgement, version: str, now: datetime) -> dict[str, Any]:
    return {
        "media_id": judgement.media_id,
        "verdict": judgement.verdict,
        "reasons": list(judgement.reasons),
        "rules_version": version,
        "at": now,
        "unchecked": list(judgement.unchecked),
    }


def _telling(row: dict[str, Any] | None) -> Any:
    """A row without the time at which it was made."""
    return None if row is None else {name: value for name, value in row.items() if name != "at"}
