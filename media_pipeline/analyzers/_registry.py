"""Which analyzers there are: the modules of this package and the entry points of others."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import entry_points

import media_pipeline.analyzers as package
from media_pipeline.analyzers._spec import AnalyzerSpec
from media_pipeline.errors import ContractViolation

ENTRY_POINT_GROUP = "media_pipeline.analyzers"


@cache
def registry() -> dict[str, AnalyzerSpec]:
    """All analyzers by name, those that others need first. Loads no model library."""
    return ordered([*_own(), *_third_party()])


def ordered(found: Iterable[AnalyzerSpec]) -> dict[str, AnalyzerSpec]:
    """By name, in an order in which each comes after what it needs.

    Raises:
        ContractViolation: two of one name, a need that nobody meets, or a circle.
    """
    specs: dict[str, AnalyzerSpec] = {}
    for spec in sorted(found, key=lambda s: s.name):
        if spec.name in specs:
            raise ContractViolation(f"two analyzers are called {spec.name!r}", "uninstall one of the packages")
        specs[spec.name] = spec
    for spec in specs.values():
        missing = set(spec.upstream_analyzers) - specs.keys()
        if missing:
            raise ContractViolation(f"analyzer {spec.name} needs {sorted(missing)}, which nobody provides")
    try:
        order = TopologicalSorter({s.name: s.upstream_analyzers for s in specs.values()}).static_order()
        return {name: specs[name] for name in order}
    except CycleError as error:
        raise ContractViolation(f"analyzers need each other in a circle: {error.args[1]}") from None


def _own() -> list[AnalyzerSpec]:
    names = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    specs = [importlib.import_module(f"{package.__name__}.{name}").ANALYZER for name in sorted(names)]
    for name, spec in zip(sorted(names), specs, strict=True):
        if spec.name != name:
            raise ContractViolation(f"module analyzers/{name}.py declares the analyzer {spec.name!r}")
    return specs


def _third_party() -> list[AnalyzerSpec]:
    return [point.load() for point in entry_points(group=ENTRY_POINT_GROUP)]
