"""Writes .env.example from media_pipeline/config.py and the analyzers' options; `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from media_pipeline.analyzers._registry import registry
from media_pipeline.config import ENV_PREFIX, Settings

TARGET = Path(__file__).resolve().parent.parent / ".env.example"
HEADER = """\
# Every setting there is, with its default. Written by scripts/env_example.py: `make format` renews it.
# Settings are environment variables. To keep yours in a file: copy this one to .env, remove the # before what you
# change, and run `set -a; source .env; set +a` before `media-pipeline`.
# Units are part of the names: _s seconds, _bytes bytes, _px pixels. An empty value means the default.
"""
OWN_ANALYZERS = "media_pipeline.analyzers."


def render() -> str:
    """The whole file."""
    settings = {name: field for name, field in Settings.model_fields.items() if name != "options"}
    plain = {name: field for name, field in settings.items() if not _is_section(field)}
    blocks = [HEADER, _section("", plain)]
    for name, field in settings.items():
        if _is_section(field):
            section = type(field.default)
            blocks.append(f"# --- {name}: {section.__doc__}\n\n" + _section(f"{name}__", section.model_fields))
    for analyzer, spec in sorted(registry().items()):
        # Only ours: what else is installed differs from machine to machine.
        if spec.options.__module__.startswith(OWN_ANALYZERS) and spec.options.model_fields:
            fields = spec.options.model_fields
            blocks.append(f"# --- options of the analyzer {analyzer}\n\n" + _section(f"options__{analyzer}__", fields))
    return "\n".join(blocks)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.default, BaseModel)


def _section(prefix: str, fields: dict[str, FieldInfo]) -> str:
    return "\n".join("\n".join(lines) + "\n" for lines in _settings(prefix, fields))


def _settings(prefix: str, fields: dict[str, FieldInfo], about: str | None = None) -> Iterator[list[str]]:
    """The lines of each setting; those of a section within a section say what that is about."""
    for name, field in fields.items():
        if _is_section(field):
            yield from _settings(f"{prefix}{name}__", type(field.default).model_fields, field.description)
        else:
            yield list(_setting(prefix + name, field, about))


def _setting(name: str, field: FieldInfo, about: str | None) -> Iterator[str]:
    notes = [note for note in (about, field.description, _choices(field)) if note]
    if notes:
        yield f"# {'; '.join(notes)}"
    yield f"#{ENV_PREFIX}{name.upper()}={_value(field)}"


def _choices(field: FieldInfo) -> str | None:
    return (
        "one of " + ", ".join(map(str, get_args(field.annotation))) if get_origin(field.annotation) is Literal else None
    )


def _value(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined or value == ():
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> int:
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(render(), encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == render():
        return 0
    print(f"{TARGET.name} is not what the settings say; run `make format`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
