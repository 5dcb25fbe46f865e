"""What cheap gates before heavy models save, and what they cost.

A gate is a switch among an analyzer's options, on as it comes, with a name that ends in `_gate`, or
`reuse_unchanged_frames`: it is found by that, in whatever analyzer there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from media_pipeline.analyzers._registry import registry
from media_pipeline.analyzers._spec import AnalyzerSpec
from quality.home import Cost, Home
from quality.report import NOT_MEASURED, Grid

# What makes a finding the same finding, where the analyzer has such a column; boxes and scores may differ a little.
_IDENTITY = ("frame_index", "text", "label", "logo")

Findings = Counter[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Gate:
    analyzer: str
    option: str


@dataclass(frozen=True, slots=True)
class GateEffect:
    """One gate, on and off over the same media."""

    with_gate: Cost
    without: Cost
    kept: int  # findings without the gate that are there with it too
    findings: int  # without the gate

    @property
    def saving(self) -> float:
        """Share of the CPU time that the gate spares."""
        return 1 - self.with_gate.cpu_s / self.without.cpu_s

    def cells(self) -> tuple[str, ...]:
        share = f"{100 * self.kept / self.findings:.1f} %" if self.findings else "nothing to find"
        lost = f"{self.findings - self.kept} of {self.findings}"
        return (self.without.shown, self.with_gate.shown, f"{round(100 * self.saving)} %", share, lost)


def gates_of(specs: Iterable[AnalyzerSpec]) -> list[Gate]:
    """Every gate of these analyzers."""
    return [
        Gate(spec.name, name)
        for spec in specs
        for name, field in spec.options.model_fields.items()
        if field.default is True and (name.endswith("_gate") or name == "reuse_unchanged_frames")
    ]


def all_off(gates: Iterable[Gate]) -> dict[str, dict[str, object]]:
    """Options that switch these gates off."""
    options: dict[str, dict[str, object]] = {}
    for gate in gates:
        options.setdefault(gate.analyzer, {})[gate.option] = False
    return options


def measure_gates(
    label: str, home: Home, analyzers: Iterable[str], on_gate: Callable[[Gate], None]
) -> list[tuple[str, ...]]:
    """Analyse a home's media again with one gate off at a time. Afterwards it holds results without the last one.

    Args:
        label: names the media
        home: all of its media were analysed with every gate on
    """
    gates = [gate for gate in gates_of(registry().values()) if gate.analyzer in set(analyzers)]
    names = {gate.analyzer for gate in gates}
    missing = {name: reason for name in names if (reason := home.missing([name]))}
    before = {name: (findings(home, name), home.cost(name)) for name in names - missing.keys()}
    rows = []
    for gate in gates:
        on_gate(gate)
        effect = None if gate.analyzer in missing else _effect(home, gate, *before[gate.analyzer])
        reason = missing.get(gate.analyzer, "no cost was recorded")
        cells = effect.cells() if effect else (f"{NOT_MEASURED}: {reason}", "", "", "", "")
        rows.append((label, gate.analyzer, gate.option, *cells))
    return rows


def grid(rows: Iterable[tuple[str, ...]]) -> Grid:
    columns = ("media", "analyzer", "gate", "CPU without", "CPU with", "saved", "findings kept", "lost")
    return Grid("What the gates save, and what they cost", columns, tuple(rows), _NOTES)


_NOTES = (
    "Each gate switched off alone. A finding is a row: the same text or label, or one more person or face, in the same "
    "frame. The collection is mostly single pictures, where a gate that compares a frame with the one before has "
    "little to do; the talk is four slides that stand still for 20 s each, drawn for this measurement."
)


def _effect(home: Home, gate: Gate, on: Findings, with_gate: Cost | None) -> GateEffect | None:
    home.forget_costs()
    home.analyze([home.media], [gate.analyzer], all_off([gate]))
    without, off = home.cost(gate.analyzer), findings(home, gate.analyzer)
    if with_gate is None or without is None:
        return None
    return GateEffect(with_gate, without, (on & off).total(), off.total())


def findings(home: Home, analyzer: str) -> Findings:
    """How often each finding stands in the analyzer's view."""
    present = [name for name in _IDENTITY if name in registry()[analyzer].schema.names]
    columns = ", ".join(["media_id", *present])
    rows = home.sql(f"SELECT {columns} FROM {analyzer}")  # noqa: S608 - names of the registry
    return Counter(tuple(row.values()) for row in rows)
