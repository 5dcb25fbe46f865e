"""What may be shown: verdicts of rules on every medium, and the decisions of people above them.

`Moderation.update` follows the batches. It judges the media of a batch, those whose faces or voices became somebody
else's since, and after a change of the rules all media. What rules say goes to the table `moderation`, what people say
to `moderation.sqlite`; the view `moderation` puts the two together.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import pyarrow as pa
from filelock import FileLock

from media_pipeline.config import Settings
from media_pipeline.errors import UsageError
from media_pipeline.results._moderation_backtest import Backtest, backtest
from media_pipeline.results._moderation_files import Problem, Source
from media_pipeline.results._moderation_judge import RANK, judge
from media_pipeline.results._moderation_rules import ActiveRule, RuleSet, load_rules, rules_from, unknown_persons
from media_pipeline.results._moderation_verdicts import TABLE, Verdicts
from media_pipeline.results.alerts import channels, deliver
from media_pipeline.storage._media_index import media_in
from media_pipeline.storage.catalog import IDENTITIES, Catalog
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.moderation import Action, Decision, ModerationStore
from media_pipeline.storage.query import names_in
from media_pipeline.storage.schemas import MODERATION
from media_pipeline.storage.tables import Tables

log = logging.getLogger(__name__)

RULES = "rules"  # who decided where no person did
_JUDGED, _FILES = "judged with", "files of "  # states in the store
# Tables of who is who: what they say of a medium changes without the medium being analysed again.
_IDENTIFIED = {"face_persons": {"faces"}, "speaker_voices": {"speakers", "transcript"}}
_LISTED = 20  # newly blocked media in the facts of a run
_MAX_TEXT_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Update:
    """What came of judging."""

    version: str
    verdicts: dict[str, int]  # of the rules, over the media that were judged
    blocked: tuple[str, ...]  # media that were not blocked before and that nobody had decided on
    warnings: tuple[str, ...]
    alerts_sent: int = 0
    alerts_waiting: int = 0


class Moderation:
    """Verdicts and decisions of one home.

    Args:
        analyzers: names of all stages, which rules may need

    Raises (from every method):
        StorageConflict, DiskFull: the media of the last portion are as they were; the next call goes on
    """

    def __init__(
        self, catalog: Catalog, tables: Tables, layout: Layout, settings: Settings, analyzers: Collection[str]
    ) -> None:
        self._catalog, self._tables, self._layout, self._settings = catalog, tables, layout, settings
        self._analyzers = tuple(analyzers)
        self._lock = FileLock(layout.locks / "moderation.lock", fallback_to_soft=False)

    @cached_property
    def store(self) -> ModerationStore:
        return ModerationStore.of(self._layout)

    @cached_property
    def verdicts(self) -> Verdicts:
        return Verdicts(self._tables, self.store)

    def close(self) -> None:
        if "store" in self.__dict__:
            self.store.close()

    def rules(self) -> RuleSet:
        """The rules in force now."""
        settings = self._settings
        return load_rules(self._catalog, self._layout, settings.moderation, settings.sql, self._analyzers)

    def unknown_persons(self) -> list[str]:
        """Blocked persons, as the settings call them, whom nobody knows yet."""
        return unknown_persons(self._settings.moderation, self._layout, self._tables)

    def rules_of(self, sources: Sequence[Source], unread: Sequence[Problem] = ()) -> RuleSet:
        """The shipped rules with these files in the place of the user's."""
        given = self._settings
        return rules_from(sources, unread, self._catalog, self._layout, given.moderation, given.sql, self._analyzers)

    def backtest(
        self, before: RuleSet, *, max_examples: int = 5, on_portion: Callable[[int, int], None] | None = None
    ) -> Backtest:
        """All media by other rules and by those in force now; nothing is written."""
        given, media_ids = self._settings, self.verdicts.all_media()
        return backtest(
            self._catalog,
            before,
            self.rules(),
            media_ids,
            given.moderation,
            given.sql,
            max_examples=max_examples,
            on_portion=on_portion,
        )

    # -- judging --------------------------------------------------------------------------------------------------

    def update(
        self,
        media_ids: Collection[str],
        *,
        everything: bool = False,
        on_portion: Callable[[int, int], None] | None = None,
    ) -> Update:
        """Judges these media and all others whose verdict may have changed; tells of those that are blocked now.

        Args:
            everything: all media, whether anything has changed or not
            on_portion: told how many of how many media are judged
        """
        with self._working():
            rules = self.rules()
            digest = self._digest(rules)
            files = self._identified_files(rules)
            is_stale = everything or (not rules.problems and self.store.state(_JUDGED) != digest)
            ids = self.verdicts.all_media() if is_stale else self._changed(files)
            ids = [*ids, *sorted(set(media_ids) - set(ids))]
            update = self._judge(rules, ids, on_portion)
            # While rules are wrong some verdicts say so: all media are judged again once they are right.
            self.store.set_state({_JUDGED: "" if rules.problems else digest, **files})
        return self._told(update)

    def _judge(self, rules: RuleSet, media_ids: Sequence[str], on_portion: Callable[[int, int], None] | None) -> Update:
        told_to, warnings = self._channels()
        verdicts: Counter[str] = Counter()
        blocked = self.verdicts.finish_interrupted()
        done = 0
        settings = self._settings
        for portion in judge(self._catalog, rules, media_ids, settings.moderation, settings.sql):
            verdicts.update(judgement.verdict for judgement in portion)
            blocked += self.verdicts.keep(rules.version, portion, told_to)
            done += len(portion)
            if on_portion is not None:
                on_portion(done, len(media_ids))
        warnings = (*(f"rules: {problem}" for problem in rules.problems), *warnings)
        return Update(rules.version, dict(verdicts), tuple(dict.fromkeys(blocked)), warnings)

    def _channels(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of those who are told of blocked media, and what is wrong with their settings."""
        try:
            return tuple(channel.name for channel in channels(self._settings.alerts)), ()
        except UsageError as error:
            return (), (f"nobody is told of blocked media: {error}",)

    def _told(self, update: Update) -> Update:
        """Sends what is waiting; whatever becomes of it, verdicts stand and the run goes on."""
        delivery = deliver(self.store, self._settings.alerts, self._layout.locks / "alerts.lock")
        warnings = (*update.warnings, *delivery.warnings)
        for warning in warnings:
            log.warning("moderation: %s", warning)
        return Update(update.version, update.verdicts, update.blocked, warnings, delivery.sent, delivery.waiting)

    # -- what is to be judged -------------------------------------------------------------------------------------

    def _digest(self, rules: RuleSet) -> str:
        """Of everything that verdicts of all media depend on."""
        settings = self._settings.moderation
        parts = [rules.version, settings.unchecked, str(settings.max_evidence)]
        if any(_tells_names(active) for active in rules.judging):
            parts.append(str(self._catalog.provided(IDENTITIES).sort_by("identity_id").to_pylist()))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _identified_files(self, rules: RuleSet) -> dict[str, str]:
        """The files of the tables of who is who that some rule reads."""
        views = {view for active in rules.judging for view in active.views}
        return {
            _FILES + table: json.dumps(sorted(PurePath(path).name for path in self._tables.files(table)))
            for table, readers in _IDENTIFIED.items()
            if views & {table, *readers}
        }

    def _changed(self, files: dict[str, str]) -> list[str]:
        """Media in files that came since the last time: who is seen or heard in them may have changed."""
        changed: set[str] = set()
        for name, now in files.items():
            before = set(json.loads(self.store.state(name) or "[]"))
            fresh = set(json.loads(now)) - before
            folder = self._layout.tables / name.removeprefix(_FILES)
            changed.update(media_id for file in fresh for media_id in media_in(folder / file))
        return sorted(changed)

    def facts(self, update: Update) -> dict[str, Any]:
        """An update as metadata of a run: small, the same for the log, the UI and the check."""
        listed = update.blocked[:_LISTED]
        names = self.verdicts.names(listed)
        return {
            "judged": sum(update.verdicts.values()),
            **{verdict: update.verdicts.get(verdict, 0) for verdict in RANK},
            "rules_version": update.version,
            "newly_blocked": len(update.blocked),
            "new_blocks": [f"{names.get(media_id, '?')} ({media_id[:12]})" for media_id in listed],
            "alerts_sent": update.alerts_sent,
            "alerts_waiting": update.alerts_waiting,
            "warnings": list(update.warnings),
        }

    # -- people ---------------------------------------------------------------------------------------------------

    def decide(self, media_ids: Sequence[str], action: Action, by: str, reason: str | None = None) -> None:
        """Enters a decision or a note of a person on these media, all or none. It stands above what rules say.

        Raises:
            UsageError: there is no name, or one that could be taken for the rules.
        """
        self.store.decide(
            list(dict.fromkeys(media_ids)), action, _person(by), _text(reason), self.verdicts.said(media_ids)
        )

    def undo(self, media_ids: Sequence[str], by: str, reason: str | None = None) -> None:
        """Takes the decision that counts on each of these media back, by another entry."""
        self.store.undo(list(dict.fromkeys(media_ids)), _person(by), _text(reason))

    def decisions(self, media_id: str) -> list[Decision]:
        return self.store.decisions(media_id)

    # -- erasure --------------------------------------------------------------------------------------------------

    def forget_media(self, media_ids: Collection[str]) -> int:
        """Removes verdicts, decisions and alerts of these media; the number of rows of decisions and alerts."""
        with self._lock:
            self._tables.delete(TABLE, media_ids)
            return self.store.forget_media(media_ids)

    def forget_person(self, person_id: str, names: Collection[str] = ()) -> list[str]:
        """Judges the media anew whose reasons name a person, once the person is gone from the other tables.

        Returns the ids of these media. Alerts on them that were not sent yet go, as they may name the person.
        """
        named = self.verdicts.naming({person_id, *names})
        self.store.forget_alerts(named)
        with self._working():
            self._judge(self.rules(), named, None)
        return named

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._layout.locks.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._tables.ensure(TABLE, MODERATION)
            yield


def _tells_names(active: ActiveRule) -> bool:
    """Whether a rule may go by what people are called. In `transcript` only the column `speaker` says so: rules that
    look for words there should not judge all media anew because somebody got a name."""
    if active.views & {"persons", "voices", IDENTITIES}:
        return True
    sql = active.rule.sql
    return "transcript" in active.views and ("*" in sql or not names_in(sql).isdisjoint({"speaker", "columns"}))


def _person(by: str) -> str:
    by = _text(by) or ""
    if not by or by.casefold() == RULES:
        raise UsageError("a decision needs the name of who made it", "give --by NAME")
    return by


def _text(given: str | None) -> str | None:
    if given is None:
        return None
    # Bytes that are no UTF-8 reach us as lone surrogates, which SQLite refuses.
    text = given.encode(errors="replace").decode().strip()
    if len(text) > _MAX_TEXT_CHARS:
        raise UsageError(f"a reason or name of more than {_MAX_TEXT_CHARS} characters", "shorten it")
    return text or None


def decision_table(layout: Layout) -> pa.Table:
    """The log of what people decided, for the catalog."""
    with closing(ModerationStore.of(layout)) as store:
        return store.table()


__all__ = ["Moderation", "Update", "decision_table"]
