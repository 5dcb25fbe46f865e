"""Rule files: what a rule is, and reading rules from YAML so that every complaint names a line.

    version: 1                    # raise it when the meaning of a rule changes
    disabled: [violence]          # shipped rules that are not wanted
    rules:
      - name: pistols
        severity: block           # or review
        threshold: 0.7            # $threshold in the query
        text: A pistol is to be seen.
        parameters:               # further ones, text, number, or list of texts
          labels: [handgun]
        needs: [labels]           # analyzers; those whose views the query reads when left out
        sql: |
          SELECT media_id, frame_index, pts_s, score, label AS found
          FROM labels
          WHERE list_contains($labels, label) AND score >= $threshold

A rule of the user's with the name of a shipped one takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from media_pipeline.analyzers._yaml_lines import line_at, nodes_to
from media_pipeline.errors import UsageError

SHIPPED = Path(__file__).parent / "moderation_rules"
_MAX_BYTES = 250_000
_MAX_RULES, _MAX_SQL_CHARS, _MAX_LIST = 200, 20_000, 10_000

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)]
Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
Texts = Annotated[tuple[str, ...], Field(max_length=_MAX_LIST)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Strict):
    """What makes a medium suspicious, as a query over the views."""

    name: Name
    severity: Literal["review", "block"]
    threshold: float = Field(0.5, ge=0, le=1, allow_inf_nan=False)
    text: Sentence
    parameters: dict[Name, Texts | float | str] = {}
    needs: tuple[Name, ...] = ()
    sql: Annotated[str, StringConstraints(min_length=1, max_length=_MAX_SQL_CHARS)]


class RuleFile(_Strict):
    version: int = Field(ge=1)
    disabled: tuple[Name, ...] = ()
    rules: tuple[Rule, ...] = Field((), max_length=_MAX_RULES)


@dataclass(frozen=True, slots=True)
class Source:
    """A rule file as text, wherever it comes from."""

    label: str  # path, or revision and path
    text: str
    is_shipped: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a rule, or a whole file, cannot be used."""

    source: str
    line: int | None
    cause: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.cause}" if self.line else f"{self.source}: {self.cause}"


class RuleFileWrong(Exception):
    """Carries the problem of a file that is no rule file."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Parsed:
    """A rule file that says what it should, and where its parts stand."""

    source: Source
    content: RuleFile
    tree: Any  # of YAML nodes

    def line_of(self, *place: int | str) -> int:
        return line_at(self.tree, place) or 1

    def line_of_sql(self, number: int, line: int | None) -> int:
        """The line in the file of a line (from 1) of the query of a rule."""
        *_, node = nodes_to(self.tree, ("rules", number, "sql"))
        first = int(node.start_mark.line) + 1
        if node.style == ">":  # folded: its lines are not those of the file
            return first
        return first + (line or 1) - (0 if node.style == "|" else 1)


def read_folder(folder: Path, *, is_shipped: bool = False) -> tuple[list[Source], list[Problem]]:
    """The rule files of a folder, by name; no folder, no files."""
    if not folder.is_dir():
        return [], []
    files = sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    return read_files(files, is_shipped=is_shipped)


def read_files(files: list[Path], *, is_shipped: bool = False) -> tuple[list[Source], list[Problem]]:
    sources, problems = [], []
    for path in files:
        try:
            if not path.is_file():  # a pipe or a device would be read for ever
                raise UsageError("this is not a file")
            if path.stat().st_size > _MAX_BYTES:
                raise UsageError(f"more than {_MAX_BYTES:,} bytes")
            sources.append(Source(str(path), path.read_text("utf-8"), is_shipped))
        except (OSError, UnicodeDecodeError, UsageError) as error:
            problems.append(Problem(str(path), None, str(error)))
    return sources, problems


def parse(source: Source) -> Parsed:
    """What a rule file says.

    Raises:
        RuleFileWrong: it is no YAML, or not of the form above.
    """
    import yaml

    def wrong(line: int | None, cause: str) -> RuleFileWrong:
        return RuleFileWrong(Problem(source.label, line, cause))

    tree: Any = None
    try:
        # Everything as text, whose types the models know: YAML's own are dates that do not exist, merge keys that grow
        # without end, and a name `no` that is false.
        loader = yaml.BaseLoader(source.text)
        tree = loader.get_single_node()
        plain = None if tree is None else loader.construct_document(tree)
        return Parsed(source, RuleFile.model_validate(plain), tree)
    except RecursionError:
        raise wrong(None, "it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise wrong(mark.line + 1 if mark else None, error.problem or "this is not YAML") from None
    except yaml.YAMLError as error:
        raise wrong(None, str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        cause = f"{place}: {first['msg']}" if place else first["msg"]
        raise wrong(line_at(tree, first["loc"]) or 1, cause) from None
