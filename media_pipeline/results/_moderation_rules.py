"""The rules that are in force: the shipped ones and the user's, with their parameters, each checked before it is used.

A query is checked by planning it over empty views: nothing is read, and what DuckDB complains of is told with the line
of the file. What is wrong with one rule does not keep the others from judging.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from media_pipeline.config import Moderation, SqlLimits
from media_pipeline.errors import QueryRejected, UsageError
from media_pipeline.results._identity_kinds import PERSONS
from media_pipeline.results._identity_known import present
from media_pipeline.results._moderation_files import (
    SHIPPED,
    Parsed,
    Problem,
    Rule,
    RuleFileWrong,
    Source,
    parse,
    read_folder,
)
from media_pipeline.storage.catalog import JUDGEMENTS, Catalog, Scope
from media_pipeline.storage.identities import Decisions
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.query import Asker, QueryWrong, asking, names_in
from media_pipeline.storage.tables import Tables

Value = float | str | tuple[str, ...]

NUMBERS = ("score", "x1", "y1", "x2", "y2", "pts_s", "frame_index")
COLUMNS = ("media_id", *NUMBERS, "found")  # what the query of a rule may return
_NUMERIC = (  # beginnings of DuckDB's names; of a NULL without a type too
    *(
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "HUGEINT",
        "UTINYINT",
        "USMALLINT",
        "UINTEGER",
        "UBIGINT",
        "UHUGEINT",
    ),
    *("FLOAT", "DOUBLE", "DECIMAL", '"NULL"', "NULL"),
)
_SOME_TEXT = ("text",)  # a list without anything has no type
_MAX_WORDS, _MAX_WORD_CHARS, _MAX_WORD_FILE_BYTES = 10_000, 100, 1_000_000


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """A rule as it is asked."""

    rule: Rule
    source: str
    parameters: Mapping[str, Value]  # those the query names
    columns: frozenset[str]  # of COLUMNS, that the query returns
    views: frozenset[str]  # that the query may read
    needs: frozenset[str]  # analyzers that must have looked

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to look for: one of its lists is empty."""
        return any(value == () for value in self.parameters.values())


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything that decides on a verdict, and its name."""

    rules: tuple[ActiveRule, ...]
    problems: tuple[Problem, ...]
    version: str  # "1@0123456789ab": versions of the files, hash of everything in force

    @property
    def judging(self) -> tuple[ActiveRule, ...]:
        return tuple(active for active in self.rules if not active.is_idle)


def load_rules(
    catalog: Catalog, layout: Layout, settings: Moderation, limits: SqlLimits, analyzers: Collection[str]
) -> RuleSet:
    """The rules in force in a home. What is wrong with files is among the problems, never raised."""
    sources, problems = read_folder(settings.rules or layout.rules)
    if settings.rules is not None and not settings.rules.is_dir():
        problems.append(Problem(str(settings.rules), None, "there is no such folder"))
    return rules_from(sources, problems, catalog, layout, settings, limits, analyzers)


def rules_from(
    own: Sequence[Source],
    unread: Sequence[Problem],
    catalog: Catalog,
    layout: Layout,
    settings: Moderation,
    limits: SqlLimits,
    analyzers: Collection[str],
) -> RuleSet:
    """The shipped rules and these of the user's."""
    shipped, missing = read_folder(SHIPPED, is_shipped=True)
    problems = [*missing, *unread]
    files: list[Parsed] = []
    for source in (*shipped, *own):
        try:
            files.append(parse(source))
        except RuleFileWrong as wrong:
            problems.append(wrong.problem)
    lists = {"blocked_words": _words(settings, problems), "blocked_persons": _persons(settings, layout)}
    chosen = _chosen(files, settings, problems)
    rules: list[ActiveRule] = []
    with asking(catalog, limits, Scope(())) as asker:
        for file, number in chosen:
            check = _Check(catalog, asker, analyzers, lists, settings.thresholds)
            active, found = check.rule(file, number)
            problems.extend(found)
            rules.extend([active] if active else [])
    return RuleSet(tuple(rules), tuple(problems), _version(files, rules, problems))


def _chosen(files: Sequence[Parsed], settings: Moderation, problems: list[Problem]) -> list[tuple[Parsed, int]]:
    """The rules that count, by name: the user's in the place of shipped ones, without what is switched off."""
    chosen: dict[str, tuple[Parsed, int]] = {}
    for file in files:
        for number, rule in enumerate(file.content.rules):
            standing = chosen.get(rule.name)
            if standing and standing[0].source.is_shipped == file.source.is_shipped:
                cause = f"the rule {rule.name!r} is there twice, also in {standing[0].source.label}"
                problems.append(Problem(file.source.label, file.line_of("rules", number, "name"), cause))
            else:
                chosen[rule.name] = (file, number)
    for file in files:
        for number, name in enumerate(file.content.disabled):
            if name in chosen:
                del chosen[name]
            else:
                cause = f"disabled: no rule is called {name!r}"
                problems.append(Problem(file.source.label, file.line_of("disabled", number), cause))
    problems.extend(
        Problem("MEDIA_PIPELINE_MODERATION__THRESHOLDS", None, f"no rule is called {name!r}")
        for name in sorted(settings.thresholds.keys() - chosen.keys())
    )
    return [chosen[name] for name in sorted(chosen)]


@dataclass(frozen=True, slots=True)
class _Check:
    """Checks rules one by one, against what there is."""

    catalog: Catalog
    asker: Asker
    analyzers: Collection[str]
    lists: Mapping[str, tuple[str, ...]]
    thresholds: Mapping[str, float]

    def rule(self, file: Parsed, number: int) -> tuple[ActiveRule | None, list[Problem]]:
        rule = file.content.rules[number]
        label = file.source.label
        unknown = [need for need in rule.needs if need not in self.analyzers]
        views = names_in(rule.sql) & (set(self.catalog.names) - JUDGEMENTS)
        needs = frozenset(rule.needs or self._analyzers_of(views))
        if unknown and not file.source.is_shipped:
            line = file.line_of("rules", number, "needs")
            cause = f"{rule.name}: needs: no analyzer is called {unknown[0]!r}; there are {', '.join(self.analyzers)}"
            return None, [Problem(label, line, cause)]
        values: dict[str, Value] = {"threshold": self.thresholds.get(rule.name, rule.threshold), **self.lists}
        values |= rule.parameters
        try:
            asked = self.asker.parameters(rule.sql)
            strangers = sorted(asked - values.keys())
            if strangers:
                raise QueryRejected(f"the parameter ${strangers[0]} is not given", f"there are {_listed(values)}")
            given = {name: values[name] for name in asked}
            columns = self.asker.columns(rule.sql, bound(given, sample=True))
            _refuse_columns(columns)
        except QueryRejected as error:
            if file.source.is_shipped and not needs <= set(self.analyzers):
                # Somebody runs without an analyzer of ours: its rule has nothing to look at.
                return ActiveRule(rule, label, {}, frozenset(), frozenset(), needs), []
            line = file.line_of_sql(number, error.line if isinstance(error, QueryWrong) else None)
            return None, [Problem(label, line, f"{rule.name}: {error}")]
        return ActiveRule(rule, label, given, frozenset(columns), frozenset(views), needs), []

    def _analyzers_of(self, views: Collection[str]) -> Iterator[str]:
        """Who makes what a query reads: the analyzer of the view's name, else those of the tables behind the view."""
        for view in views:
            yield from [view] if view in self.analyzers else self.catalog.read_by(view) & set(self.analyzers)


def bound(parameters: Mapping[str, Value], *, sample: bool = False) -> dict[str, object]:
    """Parameters as DuckDB takes them; as a sample, empty lists get a member, so that they have a type."""
    return {
        name: list(value or (_SOME_TEXT if sample else ())) if isinstance(value, tuple) else value
        for name, value in parameters.items()
    }


def _refuse_columns(columns: Mapping[str, str]) -> None:
    """Raises: QueryRejected: the query returns what is no evidence."""
    if columns.get("media_id") != "VARCHAR":
        raise QueryRejected("the query returns no media_id", f"it may return {', '.join(COLUMNS)}")
    for name, kind in columns.items():
        if name not in COLUMNS:
            raise QueryRejected(f"the query returns {name}", f"it may return {', '.join(COLUMNS)}")
        if name in NUMBERS and not kind.startswith(_NUMERIC):
            raise QueryRejected(f"the query returns {name} as {kind}", "it must be a number")


def _words(settings: Moderation, problems: list[Problem]) -> tuple[str, ...]:
    """Lines of the file of blocked words."""
    file = settings.blocked_words_file
    if file is None:
        return ()
    path = file.expanduser()
    try:
        if not path.is_file() or path.stat().st_size > _MAX_WORD_FILE_BYTES:
            raise UsageError(f"this is no file of at most {_MAX_WORD_FILE_BYTES:,} bytes")
        lines = [line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
        words = tuple(sorted({line for line in lines if line}))
        if len(words) > _MAX_WORDS or any(len(word) > _MAX_WORD_CHARS for word in words):
            raise UsageError(f"more than {_MAX_WORDS:,} words, or one of more than {_MAX_WORD_CHARS} characters")
    except (OSError, UnicodeDecodeError, UsageError) as error:
        problems.append(Problem(str(path), None, f"blocked words: {error}"))
        return ()
    problems.extend(_never_found(path, lines))
    return tuple(word for word in words if _can_be_found(word))


def _never_found(path: Path, lines: Sequence[str]) -> Iterator[Problem]:
    """The first line that is nothing but symbols, and how many more there are."""
    numbers = [number for number, line in enumerate(lines, 1) if line and not _can_be_found(line)]
    if numbers:
        more = f" (nor can {len(numbers) - 1:,} more)" if len(numbers) > 1 else ""
        cause = f"{lines[numbers[0] - 1]!r} has neither letters nor digits and cannot be found{more}; take it out"
        yield Problem(str(path), numbers[0], f"blocked words: {cause}")


def _can_be_found(word: str) -> bool:
    """Whether `found_word` has anything to go by."""
    return any(unicodedata.category(character)[0] in "LN" for character in word)


def _persons(settings: Moderation, layout: Layout) -> tuple[str, ...]:
    """Ids of the blocked persons as they are now: a name may come later, and a person become part of another."""
    if not settings.persons:
        return ()
    with closing(Decisions.of(layout)) as known:
        found = {known.named("person", given) or known.current("person", given) for given in settings.persons}
    return tuple(sorted(found))


def unknown_persons(settings: Moderation, layout: Layout, tables: Tables) -> list[str]:
    """Blocked persons, as the settings call them, whom nobody knows: names that are to come, or misspelt."""
    with closing(Decisions.of(layout)) as decisions:
        ids = {
            given: decisions.current("person", given)
            for given in settings.persons
            if decisions.named("person", given) is None
        }
        known = decisions.known("person", list(ids.values()))
    known |= present(tables, PERSONS, set(ids.values()) - known)
    return [given for given, person_id in ids.items() if person_id not in known]


def _version(files: Sequence[Parsed], rules: Sequence[ActiveRule], problems: Sequence[Problem]) -> str:
    plain = [[active.rule.model_dump(mode="json"), dict(active.parameters), sorted(active.needs)] for active in rules]
    text = json.dumps([plain, [str(problem) for problem in problems]], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{'+'.join(str(file.content.version) for file in files)}@{digest}"


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"${name}" for name in sorted(names))
