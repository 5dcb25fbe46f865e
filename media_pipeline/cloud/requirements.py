"""What a worker needs, in the versions that are installed here.

No resolver is asked on a machine that is paid by the minute: the list is complete and installed as it is. Only what has
another build for GPUs is resolved there, within these versions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions

from media_pipeline.cloud.wheel import DISTRIBUTION

# The engine and its databases stay here; a worker computes.
_NOT_FOR_WORKERS = ("dagster", "dagster-webserver", "dagster-postgres", "dagster-docker", "sqlalchemy")
# Extras of ours that a worker never needs, and the one that is added by itself. Of others it needs what is here.
_OTHER_EXTRAS = frozenset({"dev", "demo", "gpu"})
# Builds for the CPU, and what takes their place.
_ON_A_GPU = {"torch": "torch", "torchvision": "torchvision", "onnxruntime": "onnxruntime-gpu"}
_REQUIREMENT = re.compile(r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[(?P<extras>[^]]*)\])?")
_EXTRA = re.compile(r"""extra\s*==\s*["'](?P<name>[^"']+)["']""")


@dataclass(frozen=True, slots=True)
class Requirements:
    """Lines for an installer."""

    plain: tuple[str, ...]  # all that is the same on a CPU and on a GPU, name==version; complete
    optional: frozenset[str]  # names in it that only extras of ours ask for, which an image may do without
    cpu: tuple[str, ...]  # the rest of it on a CPU, and
    gpu: tuple[str, ...]  # on a GPU; these bring libraries along, within the versions of `plain`


def requirements() -> Requirements:
    """Of the environment of this process."""
    here = {_normalised(d.name): d for d in distributions()}
    ours = frozenset(map(_normalised, here[DISTRIBUTION].metadata.get_all("Provides-Extra") or ()))
    wanted = _closure(here, ours - _OTHER_EXTRAS)
    versions = {name: here[name].version.split("+")[0] for name in wanted}
    plain = tuple(f"{name}=={version}" for name, version in sorted(versions.items()) if name not in _ON_A_GPU)
    special = {name: versions[name] for name in _ON_A_GPU if name in versions}
    extra = [text.split(";")[0].strip() for text in here[DISTRIBUTION].requires or () if _extra(text) == "gpu"]
    # What the extra says of a build goes before ours: it may be of another version.
    said = {_name(text) for text in extra}
    builds = [f"{_ON_A_GPU[name]}=={version}" for name, version in special.items() if _ON_A_GPU[name] not in said]
    cpu = tuple(f"{name}=={version}" for name, version in special.items())
    return Requirements(plain, frozenset(wanted - _closure(here, frozenset())), cpu, (*builds, *extra))


def _closure(here: dict[str, Distribution], extras_of_ours: frozenset[str]) -> set[str]:
    """All that is installed here because the package asks for it, directly or not."""
    found: set[str] = set()
    wanted = [(DISTRIBUTION, extras_of_ours)]
    seen = set(wanted)
    while wanted:
        name, extras = wanted.pop()
        for text in here[name].requires or ():
            extra, other = _extra(text), _name(text)
            # What another platform needs is not installed here.
            if (extra and extra not in extras) or other not in here or other in _NOT_FOR_WORKERS:
                continue
            found.add(other)
            match = _REQUIREMENT.match(text)
            more = (match["extras"] if match else None) or ""
            nxt = (other, frozenset(_normalised(part) for part in more.split(",") if part.strip()))
            if nxt not in seen:
                seen.add(nxt)
                wanted.append(nxt)
    return found


def _name(text: str) -> str:
    match = _REQUIREMENT.match(text)
    return _normalised(match["name"]) if match else ""


def _extra(text: str) -> str | None:
    match = _EXTRA.search(text)
    return _normalised(match["name"]) if match else None


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
