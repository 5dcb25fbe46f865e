"""constraints.txt against pyproject.toml: every requirement pinned, every pin allowed, no index named."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)==([0-9][0-9a-z.]*)$")


def problems(pyproject: str, constraints: str) -> Iterator[str]:
    """One sentence each, from the text of both files."""
    pins: dict[str, str] = {}
    for line in constraints.splitlines():
        match = PIN.match(line)
        if match is None:
            yield f"constraints.txt: {line!r} is not a plain pin name==version"
        else:
            pins[match[1]] = match[2]
    for requirement in _requirements(pyproject):
        version = pins.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"constraints.txt does not pin {requirement.name}; run `make constraints`"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"constraints.txt pins {requirement.name}=={version}, pyproject.toml asks for {requirement.specifier}"


def _requirements(pyproject: str) -> list[Requirement]:
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"].values()
    found = [Requirement(line) for line in [*project["dependencies"], *(line for extra in extras for line in extra)]]
    return [r for r in found if r.name != project["name"]]


def main() -> int:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")]
    found = list(problems(*texts))
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
