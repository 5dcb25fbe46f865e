"""What README.md tells people to do works."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice, Options

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def run_cli(*arguments: str) -> int:
    from media_pipeline.cli import main

    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("query", blocks("sql"))
def test_questions_can_be_asked(query: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against a home without media: every view and column that is named exists."""
    assert run_cli("--home", str(tmp_path), "sql", query, "--format", "json") == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip() == "[]"


def test_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in set(re.findall(r"media-pipeline ([a-z]+)", TEXT)):
        assert run_cli(command, "--help") == 0
        assert "Usage" in capsys.readouterr().out


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in {word for line in re.findall(r"make ([a-z -]+)", TEXT) for word in line.split()[:1]}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE) or target == "alone", target


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) >= 3
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_example_of_an_analyzer_keeps_the_contract() -> None:
    @dataclass
    class White:
        frame_index = 7

        def image(self) -> np.ndarray:
            return np.full((4, 4, 3), 255, np.uint8)

    (source,) = blocks("python")
    names: dict[str, Any] = {"pa": pa, "Options": Options, "ModelChoice": ModelChoice, "Batch": Batch}
    names["AnalyzerSpec"] = AnalyzerSpec
    exec(source, names)
    spec: AnalyzerSpec = names["ANALYZER"]
    choice = spec.choose(spec.options(), None)
    model = spec.load(choice, "cpu", spec.options())
    white = Medium("m1", "image", frames=(White(),))  # type: ignore[arg-type]
    for batch, rows in (((white,), [{"media_id": "m1", "frame_index": 7, "brightness": 1.0}]), ((), [])):
        table = spec.run(model, batch, spec.options())
        spec.check(table, {"m1"})
        assert table.to_pylist() == rows
