"""Who may import whom, read from the syntax trees: no module is imported to find out."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# An upper layer may import lower ones and its own; never the reverse.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("media_pipeline.definitions",),
    ("sensors",),
    ("media_pipeline.assets",),
    ("resources", "media_pipeline.server"),
    ("media_pipeline.engine",),
    ("media_pipeline.cli", "media_pipeline.__main__"),
    ("media_pipeline.results", "media_pipeline.execution", "media_pipeline.cloud"),
    ("media_pipeline.analyzers", "media_pipeline.media", "media_pipeline.storage"),
    (
        "media_pipeline.config",
        "media_pipeline.config_file",
        "media_pipeline.config_gpu",
        "media_pipeline.config_sections",
        "media_pipeline.config_server",
        "media_pipeline.errors",
        "media_pipeline.grey",
        "media_pipeline.wording",
        "media_pipeline",
    ),
)
# `analyze` and `serve` start Dagster runs, so the command line must reach upwards; only inside functions, so that
# `sql` and `search` start without loading Dagster.
CLI = "media_pipeline.cli"
CLI_MAY_START = ("media_pipeline.engine", "media_pipeline.definitions", "media_pipeline.server")
# Siblings of one layer that must stay apart: analyzers see pictures and samples, not files and tables.
STRANGERS = (
    ("media_pipeline.analyzers", "media_pipeline.media"),
    ("media_pipeline.analyzers", "media_pipeline.storage"),
    ("media_pipeline.storage", "media_pipeline.media"),
    ("media_pipeline.storage", "media_pipeline.analyzers"),
    ("media_pipeline.media", "media_pipeline.analyzers"),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A library, and the only modules that may import it: anywhere in them, or only inside functions."""

    library: str
    anywhere: tuple[str, ...] = ()
    in_functions: tuple[str, ...] = ()
    why: str = ""


ORCHESTRATION = (
    *("media_pipeline.definitions", "sensors", "media_pipeline.assets", "resources"),
    *("media_pipeline.server", "media_pipeline.engine"),
)
SANDBOX_WHY = "decoding foreign bytes belongs in the sandbox"
MODEL_WHY = "model libraries take seconds and hundreds of megabytes; load them where they are used"
RULES = (
    Rule("dagster", ORCHESTRATION, (CLI,), "the domain does not know the orchestrator"),
    Rule("dagster_webserver", ORCHESTRATION, (CLI,), "the domain does not know the orchestrator"),
    Rule("av", ("media_pipeline.media",), (), SANDBOX_WHY),
    Rule("cv2", (), ("media_pipeline.analyzers", "media_pipeline.media"), MODEL_WHY),
    Rule("scenedetect", (), ("media_pipeline.analyzers", "media_pipeline.media"), MODEL_WHY),
    *(
        Rule(library, (), ("media_pipeline.analyzers",), MODEL_WHY)
        for library in (
            "torch",
            "torchvision",
            "onnxruntime",
            "ai_edge_litert",
            "dlib",
            "mediapipe",
            "resemblyzer",
            "fer",
            "nudenet",
            "faster_whisper",
            "ctranslate2",
            "pocketsphinx",
            "rapidocr",
            "paddleocr",
            "open_clip",
            "transformers",
        )
    ),
    *(
        Rule(library, ("media_pipeline.storage",), (), "the tables have one owner")
        for library in ("duckdb", "faiss", "deltalake")
    ),
    *(
        Rule(
            library,
            (
                "media_pipeline.execution",
                "media_pipeline.media.sandbox",
                "media_pipeline.cloud",
                "media_pipeline.server",
                CLI,
            ),
        )
        for library in ("subprocess", "multiprocessing")
    ),
)


@dataclass(frozen=True, slots=True)
class Import:
    module: str  # the importing module
    target: str  # the imported name, as far as it may be a module
    path: Path
    line: int
    in_function: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.module} imports {self.target}"


def modules() -> dict[str, Path]:
    """The product's modules by dotted name."""
    found = {}
    for package in ("media_pipeline", "resources", "sensors"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


@cache
def imports_of(name: str) -> tuple[Import, ...]:
    """Every import statement, those inside functions marked; what only the type checker reads is left out."""
    return tuple(_imports(name))


def _imports(name: str) -> Iterator[Import]:
    pending: list[tuple[ast.AST, bool]] = [(TREES[name], False)]
    while pending:
        node, in_function = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in _targets(name, node):
                yield Import(name, target, MODULES[name], node.lineno, in_function)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        pending.extend((child, inside) for child in ast.iter_child_nodes(node))


def _targets(name: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, base] if base else above)
    # `from package import name`: the name is meant where it is a module, else the package.
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]


def below(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def layer(name: str) -> int:
    """Index into LAYERS, 0 on top. The most specific entry counts: `media_pipeline` alone is at the bottom."""
    candidates = [(len(p), number) for number, row in enumerate(LAYERS) for p in row if below(name, (p,))]
    if not candidates or (max(candidates)[0] == len("media_pipeline") and name != "media_pipeline"):
        raise AssertionError(f"{name} is in no layer; add it to LAYERS")
    return max(candidates)[1]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name: str) -> None:
    wrong = []
    for found in imports_of(name):
        if found.target not in MODULES:
            continue
        upwards = layer(found.target) < layer(name)
        started_by_cli = found.in_function and below(name, (CLI,)) and below(found.target, CLI_MAY_START)
        strangers = any(below(name, (a,)) and below(found.target, (b,)) for a, b in STRANGERS)
        if (upwards and not started_by_cli) or strangers:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.library)
def test_library_stays_where_it_belongs(rule: Rule) -> None:
    wrong = [
        f"{found}; {rule.why or 'see RULES'}"
        for name in MODULES
        for found in imports_of(name)
        if below(found.target, (rule.library,))
        and not below(name, rule.anywhere)
        and not (found.in_function and below(name, rule.in_functions))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_config_reads_the_environment() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for name, path in MODULES.items()
        if name not in ("media_pipeline", "media_pipeline.config", "media_pipeline.config_file")
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.environb", "os.getenv")
    ]
    assert not wrong, "\n".join(wrong)


def test_assets_keep_their_annotations() -> None:
    """Dagster reads the annotations of asset factories, and cannot when a future import makes them strings."""
    wrong = [
        str(MODULES[name].relative_to(ROOT))
        for name, tree in TREES.items()
        if below(name, ("media_pipeline.assets",))
        and any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    ]
    assert not wrong, wrong


def test_the_checker_sees_what_it_must_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above would hold of anything if the reading of imports were broken."""
    source = """
from __future__ import annotations
from typing import TYPE_CHECKING
from . import config
from .storage import tables as t
if TYPE_CHECKING:
    import torch
def load():
    import cv2.dnn
"""
    name = "media_pipeline.example"
    monkeypatch.setitem(MODULES, name, ROOT / "media_pipeline" / "example.py")
    monkeypatch.setitem(TREES, name, ast.parse(source))
    monkeypatch.setitem(MODULES, "media_pipeline.storage.tables", ROOT / "media_pipeline" / "storage" / "tables.py")
    seen = {(found.target, found.in_function) for found in imports_of(name)}
    assert seen == {
        ("__future__", False),
        ("typing", False),
        ("media_pipeline.config", False),
        ("media_pipeline.storage.tables", False),
        ("cv2.dnn", True),
    }


HEAVY = (
    "torch",
    "onnxruntime",
    "cv2",
    "faster_whisper",
    "ctranslate2",
    "rapidocr",
    "paddleocr",
    "scenedetect",
    "dagster",
)


@pytest.mark.parametrize("module", ["media_pipeline.analyzers._registry", "media_pipeline.cli"])
def test_start_is_light(module: str) -> None:
    """Neither the list of analyzers nor the command line loads a model library or Dagster."""
    call = "registry()" if module.endswith("_registry") else "main"
    code = f"import sys; from {module} import *; import {module} as m; m.{call}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(set(HEAVY) & set(done.stdout.split())) == []


def test_resources_and_sensors_are_ours() -> None:
    """Both names are generic: a stranger's package in site-packages must not shadow them."""
    code = "import resources, sensors; print(resources.__file__, sensors.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert all(Path(path).is_relative_to(ROOT) for path in done.stdout.split()), done.stdout + done.stderr
    assert len(done.stdout.split()) == 2
