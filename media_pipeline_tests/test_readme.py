"""What README.md tells people to do works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
