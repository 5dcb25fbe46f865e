"""Looking at a file of settings before a server starts with it: every mistake, with its line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic import ValidationError

from media_pipeline.config import ENV_PREFIX, Settings, setting_error
from media_pipeline.errors import UsageError


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a line. Says no value of a secret."""

    line: int
    text: str


def mistakes_in(path: Path) -> list[Mistake]:
    """All of them, by line; other variables than ours are none of our business.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error})", "name a text file of lines NAME=value") from None
    found = [Mistake(b.original.line, "this is no line NAME=value") for b in bindings if b.error]
    lines: dict[str, int] = {}
    values: dict[str, str] = {}
    for binding in bindings:
        name = binding.key
        if name is None or not name.upper().startswith(ENV_PREFIX):
            continue
        line = binding.original.line + len(binding.original.string) - len(binding.original.string.lstrip("\n"))
        if name in lines:
            found.append(Mistake(line, f"{name} stands in line {lines[name]} already"))
        lines[name], values[name] = line, binding.value or ""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    for name in [name for name in values if name.split("__")[0] not in known]:
        near = difflib.get_close_matches(name.split("__")[0], known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        found.append(Mistake(lines[name], f"there is no setting {name}{hint}"))
        del values[name]
    with _environment_of(values):
        try:
            Settings()
        except ValidationError as error:
            for detail in error.errors():
                name, text = setting_error(detail)
                # Of a whole section that is wrong, the first line of it.
                line = lines.get(name) or min((n for k, n in lines.items() if k.startswith(name)), default=1)
                found.append(Mistake(line, text))
    return sorted(found, key=lambda mistake: mistake.line)


@contextmanager
def _environment_of(values: Mapping[str, str]) -> Iterator[None]:
    """Our variables as in the file and no others."""
    before = dict(os.environ)
    try:
        for name in [name for name in before if name.upper().startswith(ENV_PREFIX) or name.startswith("VAST_")]:
            del os.environ[name]
        os.environ.update(values)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
