"""Label sets: what `labels` looks for, in YAML files that anybody can write.

    name: weapons
    version: 1                  # raise it when the meaning of a label changes
    labels:
      - name: handgun
        threshold: 0.6          # score from which it counts; the option min_score where there is none
        prompts:                # captions of pictures that show it
          en: [a photo of a pistol, a person aiming a gun]
          de: [ein Foto einer Pistole]
        poses: []               # evidence of `_label_restraint.py` that speaks for it
    background:                 # captions of pictures that do not; those of background.yaml where there are none
      en: [...]

A file of the user's with the name of a shipped set takes its place.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from media_pipeline.analyzers._yaml_lines import line_at
from media_pipeline.errors import ModelUnavailable

Language = Literal["en", "de"]
PoseEvidence = Literal["wrists_behind_back", "wrists_above_head", "ankles_together"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)]
Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]

SHIPPED = Path(__file__).parent / "label_sets"
BACKGROUND = "background.yaml"
_MAX_BYTES = 250_000
_MAX_LABELS, _MAX_PROMPTS = 500, 100  # CLIP reads a caption in 50 ms


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompts(_Strict):
    """Captions by language. A multilingual model reads all of them, an English one those in English."""

    en: tuple[Prompt, ...] = Field((), max_length=_MAX_PROMPTS)
    de: tuple[Prompt, ...] = Field((), max_length=_MAX_PROMPTS)

    @model_validator(mode="after")
    def _any(self) -> Prompts:
        if not (self.en or self.de):
            raise ValueError("give captions under en or de")
        return self

    def texts(self, *, multilingual: bool) -> tuple[str, ...]:
        return (*self.en, *self.de) if multilingual else self.en


class Label(_Strict):
    name: Name
    prompts: Prompts
    threshold: float | None = Field(None, gt=0, le=1)
    poses: tuple[PoseEvidence, ...] = ()


class LabelSet(_Strict):
    name: Name
    version: int = Field(ge=1)
    labels: tuple[Label, ...] = Field(min_length=1, max_length=_MAX_LABELS)
    background: Prompts | None = None

    @model_validator(mode="after")
    def _different(self) -> LabelSet:
        names = [label.name for label in self.labels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the label {twice[0]!r} is there twice")
        return self


class Background(_Strict):
    version: int = Field(ge=1)
    prompts: Prompts


S = TypeVar("S", LabelSet, Background)


def load_sets(folder: Path | None, names: tuple[str, ...] = ()) -> tuple[LabelSet, ...]:
    """The shipped sets and those in the user's folder, by name; all of them, or the named ones.

    Every set comes out with a background.

    Raises:
        ModelUnavailable: a file cannot be read or is wrong; the cause names file and line.
    """
    found: dict[str, LabelSet] = {}
    for path in (*_files(SHIPPED), *_files(folder)):
        one = _read(path, LabelSet)
        found[one.name] = one.model_copy(update={"background": one.background or shared_background()})
    unknown = sorted(set(names) - found.keys())
    if unknown:
        raise ModelUnavailable(f"no label set is called {unknown[0]!r}", f"there are: {', '.join(sorted(found))}")
    return tuple(found[name] for name in sorted(found) if not names or name in names)


@cache
def shared_background() -> Prompts:
    """Captions of everyday pictures, as shipped."""
    return _read(SHIPPED / BACKGROUND, Background).prompts


def digest_of(sets: tuple[LabelSet, ...]) -> str:
    """sha256 over everything in the sets that may change a score."""
    plain = [one.model_dump(mode="json") for one in sets]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    files = (p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    return sorted(p for p in files if p.name != BACKGROUND)


def _read(path: Path, kind: type[S]) -> S:
    import yaml

    try:
        if not path.is_file():  # a pipe or a device would be read for ever
            raise _wrong(path, None, "this is not a file")
        if path.stat().st_size > _MAX_BYTES:
            raise _wrong(path, None, f"more than {_MAX_BYTES:,} bytes")
        text = path.read_text("utf-8")
        # Everything as text, whose types the models know: YAML's own are dates that do not exist, merge keys that grow
        # without end, and a label `no` that is false.
        tree = yaml.compose(text, Loader=yaml.BaseLoader)
        return kind.model_validate(yaml.load(text, Loader=yaml.BaseLoader))  # noqa: S506 - knows no tags at all
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, None, str(error)) from None
    except RecursionError:
        raise _wrong(path, None, "it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise _wrong(path, mark.line + 1 if mark else None, error.problem or "this is not YAML") from None
    except yaml.YAMLError as error:
        raise _wrong(path, None, str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _wrong(path, line_at(tree, first["loc"]), f"{place}: {first['msg']}" if place else first["msg"]) from None


def _wrong(path: Path, line: int | None, cause: str) -> ModelUnavailable:
    where = f"{path}, line {line}" if line else str(path)
    return ModelUnavailable(f"the label set {where}: {cause}", "mend the file, or move it away")
