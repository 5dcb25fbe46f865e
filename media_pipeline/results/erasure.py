"""Erasing media, persons and voices for good, and proving it.

The order is what makes it safe: the journal first, so that a killed erasure goes on; then the user's files and what is
known of them, so that nobody takes the medium in again or begins to work on it; then rows with all their history,
indexes, decisions, the warehouse, copies and cache, and Dagster's memory. Then every byte of the home is searched for
what was erased. Only when nothing is found is a receipt signed, and the journal removed. Every step may be repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from filelock import FileLock, Timeout

from media_pipeline import __version__
from media_pipeline.errors import StorageConflict, UsageError
from media_pipeline.results import _erasure_files as files
from media_pipeline.results import _erasure_tables as rows
from media_pipeline.results._byte_scan import ScanReport, scan
from media_pipeline.results._erasure_journal import Identity, Journal, Journals
from media_pipeline.results._erasure_plan import Plan, begin, find_identities, find_media, make_plan, words_of
from media_pipeline.results._search_text import word_index
from media_pipeline.results.receipts import Signer, write_private
from media_pipeline.results.search import refresh_image_index, refresh_people_indexes, refresh_text_index
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.moderation import ModerationStore
from media_pipeline.storage.sqlite import compact

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline

__all__ = ["Engine", "Erased", "Eraser", "Plan"]

PASSES = 2  # a run that ended just then may have written once more; the second look is thorough
_POLL_S = 2.0
OnStep = Callable[[str, int, int], None]  # (what is done now, done, in all)


class Engine(Protocol):
    """What the orchestrator knows of media (`engine.forgetting.DagsterMemory`)."""

    def in_hand(self, partition_keys: Sequence[str]) -> list[str]: ...
    def count(self, partition_keys: Sequence[str]) -> dict[str, int]: ...
    def forget(self, partition_keys: Sequence[str], words: Iterable[str] = (), *, thorough: bool = False) -> None: ...
    def contents(self) -> Iterator[tuple[str, Iterable[bytes]]]: ...


@dataclass(frozen=True, slots=True)
class Erased:
    """The end of an erasure: what the scan said and, where it found nothing, the receipt."""

    journal: Journal
    scan: ScanReport
    receipt: Mapping[str, Any] | None
    file: Path | None  # of the receipt


class Eraser:
    """Erasures in one home.

    Args:
        on_step: told what is done now
        wait_s: how long to wait for runs that have a medium in hand
    """

    def __init__(
        self, pipeline: Pipeline, engine: Engine, *, on_step: OnStep | None = None, wait_s: float = 0.0
    ) -> None:
        self._pipeline, self._engine = pipeline, engine
        self._on_step, self._wait_s = on_step, wait_s
        self._layout = pipeline.layout
        self.journals = Journals(self._layout.erasures)

    def plan(
        self,
        media: Sequence[str] = (),
        *,
        persons: Sequence[str] = (),
        voices: Sequence[str] = (),
        with_media: bool = False,
        which_files: str = files.WATCHED,
    ) -> Plan:
        """What would go. Changes nothing.

        Args:
            media: media_ids, their first digits, or partition keys
            persons: ids or names; `with_media`: and all media in which they are seen or heard
            which_files: of the user's own: those in watched folders, all, or none

        Raises:
            UsageError: there is no such medium or identity.
        """
        identities = find_identities(self._pipeline, {"person": persons, "voice": voices})
        seen = sorted({media_id for identity in identities for media_id, _ in identity.tracks}) if with_media else []
        found = find_media(self._pipeline, [*media, *seen])
        counts = self._engine.count([medium.partition_key for medium in found]) if found else {}
        return make_plan(self._pipeline, found, identities, which_files, counts)

    def erase(self, plan: Plan, by: str) -> Erased:
        """Erases what was planned.

        Raises:
            StorageConflict: a run has a medium in hand, or another erasure is under way; nothing was erased.
            UsageError: a file cannot be removed; nothing was erased.
        """
        if not plan.media and not plan.identities:
            raise UsageError("nothing is to be erased", "name media, a person or a voice")
        with self._alone():
            files.require_writable(plan.going)
            self._await_runs(self._keys(plan.concerned), "nothing was erased")
            self._step("writing down what goes")
            journal = begin(self._pipeline, plan, by)
            self.journals.write(journal)
            return self._carry_out(journal)

    def resume(self) -> list[Erased]:
        """Goes on with the erasures that were cut off, or whose scan found something."""
        with self._alone():
            return [self._carry_out(journal) for journal in self.journals.open()]

    def scan(self, journal: Journal) -> ScanReport:
        """Looks for what was erased in every byte of the home and of the orchestrator's database."""

        left = journal.media if journal.files == files.NONE else ()  # whose files were to stay where they are
        staying = files.own_files(self._pipeline, left, files.NONE)[1]
        return scan(
            self._layout.home,
            journal.needles,
            copies=journal.copies,
            derived=[self._layout.cache],
            theirs=[self._layout.originals, *self._pipeline.settings.watched],
            skip=[self._layout.erasures, *staying],
            elsewhere=self._engine.contents(),
            progress=lambda done, total: self._step("looking at every byte", done, total),
        )

    # -- the steps -----------------------------------------------------------------------------------------------

    def _carry_out(self, journal: Journal) -> Erased:
        concerned = sorted({*journal.media_ids, *(m for i in journal.identities for m, _ in i.tracks)})
        keys = sorted({*journal.partition_keys, *self._keys(concerned)})
        self._step("removing files")
        files.remove_own_files(self._pipeline, journal.media, journal.files)
        for media_id in journal.media_ids:
            self._pipeline.sources.forget(media_id)
        self._await_runs(keys, "the erasure has begun: go on with `media-pipeline erase --resume`")
        for number in range(PASSES):
            self._erase_all(journal, thorough=number > 0)
            report = self.scan(journal)
            if not report.hits:
                return self._close(journal, report)
        return Erased(journal, report, None, None)

    def _erase_all(self, journal: Journal, *, thorough: bool) -> None:
        self._step("erasing rows")
        self._erase_rows(journal)
        self._step("publishing the warehouse")
        self._pipeline.catalog.publish()
        self._step("erasing history")
        for store in (self._pipeline.tables, self._pipeline.kept.tables):
            for name in store.names():
                store.purge(name)
        self._step("erasing from the indexes")
        self._erase_from_indexes()
        for file in sorted(self._layout.home.glob("*.sqlite")):
            compact(file)
        self._step("erasing originals and cache")
        files.remove_copies(self._pipeline, journal.media)
        files.remove_leftovers(self._pipeline)
        self._step("erasing from Dagster")
        self._engine.forget(journal.partition_keys, words_of(journal), thorough=thorough)

    def _erase_rows(self, journal: Journal) -> None:
        pipeline = self._pipeline
        with closing(Decisions.of(self._layout)) as decisions:
            for identity in journal.identities:
                with self._deciding(identity):
                    rows.delete_tracks(pipeline.tables, pipeline.ledger, identity)
                    decisions.forget_identity(identity.kind, identity.identity_id)
                self._erase_mentions(identity)
            for media_id in journal.media_ids:
                decisions.forget(media_id)
        if journal.media:
            for store in (pipeline.tables, pipeline.kept.tables):
                rows.delete_media(store, journal.media_ids)
            if self._layout.moderation.exists():
                with closing(ModerationStore.of(self._layout)) as moderation:
                    moderation.forget_media(journal.media_ids)

    def _erase_mentions(self, identity: Identity) -> None:
        """What is kept of former results, and what rules said of the person, in the media where it was seen."""
        media_ids = sorted({media_id for media_id, _ in identity.tracks})
        kept, kind = self._pipeline.kept, rows.kind_of(identity)
        # Tracks of a former result have other numbers: nobody knows which were this person's.
        former = rows.sources_of(kind)
        kept.ledger.forget([(media_id, name) for media_id in media_ids for name in former])
        for name in former:
            kept.tables.delete(name, media_ids)
        names = [identity.name] if identity.name else []
        if identity.kind == "person":
            self._pipeline.moderation.forget_person(identity.identity_id, names)
        if self._pipeline.tables.exists("moderation") and media_ids:
            # Where the rules cannot be asked at present, a verdict stands without the reasons that name somebody.
            words = [identity.identity_id, *names]
            self._pipeline.tables.update("moderation", media_ids, lambda old: _without_mentions(old, words))

    @contextmanager
    def _deciding(self, identity: Identity) -> Iterator[None]:
        """Nobody else gives tracks identities meanwhile."""
        plural = rows.kind_of(identity).plural
        with FileLock(self._layout.locks / f"identities-{plural}.lock", fallback_to_soft=False):
            yield

    def _erase_from_indexes(self) -> None:
        pipeline, layout = self._pipeline, self._layout
        refresh_text_index(pipeline.tables, layout, pipeline.settings, pipeline.models)
        refresh_image_index(pipeline.tables, layout, pipeline.settings, pipeline.models)
        refresh_people_indexes(pipeline.tables, layout, pipeline.settings)
        with closing(word_index(pipeline.tables, layout)) as words:
            words.purge()

    def _close(self, journal: Journal, report: ScanReport) -> Erased:
        facts = {
            "erasure": journal.erasure_id,
            "begun_at": journal.created_at,
            "ended_at": datetime.now(UTC).isoformat(),
            "by": journal.by,
            "program": f"media-pipeline {__version__}",
            "own_files": journal.files,
            "counts": dict(journal.counts),
            "scan": _facts(report),
        }
        receipt = Signer(self._layout.keys).sign(facts, journal.targets)
        file = self._layout.receipts / f"{journal.erasure_id}.json"
        write_private(file, (json.dumps(receipt, ensure_ascii=False, indent=2) + "\n").encode())
        self.journals.remove(journal)
        return Erased(journal, report, receipt, file)

    # -- others --------------------------------------------------------------------------------------------------

    def _keys(self, media_ids: Sequence[str]) -> list[str]:
        return [medium.partition_key for medium in self._pipeline.sources.by_id(media_ids).values()]

    def _await_runs(self, partition_keys: Sequence[str], state: str) -> None:
        deadline = time.monotonic() + self._wait_s
        while busy := self._engine.in_hand(partition_keys):
            if time.monotonic() >= deadline:
                raise StorageConflict(
                    f"{', '.join(busy[:3])} has one of these media in hand; {state}",
                    "wait until it has ended (--wait), or cancel it in the UI, and erase again",
                )
            self._step(f"waiting for {busy[0]}")
            time.sleep(_POLL_S)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self._layout.locks / "erasure.lock", fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StorageConflict("another erasure is under way", "wait until it has ended") from None
        try:
            yield
        finally:
            lock.release()

    def _step(self, what: str, done: int = 0, total: int = 0) -> None:
        if self._on_step is not None:
            self._on_step(what, done, total)


def _without_mentions(old: pa.Table, words: Sequence[str]) -> pa.Table:
    """Verdicts without the reasons that name somebody."""
    reasons = [
        [reason for reason in each or [] if not any(word in str(reason) for word in words)]
        for each in old["reasons"].to_pylist()
    ]
    column = pa.array(reasons, old.schema.field("reasons").type)
    return old.set_column(old.column_names.index("reasons"), "reasons", column)


def _facts(report: ScanReport) -> dict[str, Any]:
    """What a receipt says of the scan: names of files may name media that are still there."""
    facts = asdict(report)
    lists = {"mentions": len(report.mentions), "unreadable": len(report.unreadable)}
    return facts | {"hits": report.count, "looked_for": dict(report.looked_for)} | lists
