"""Mistakes in a file of settings are found before a server starts with it, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from media_pipeline.cli import main
from media_pipeline.config_file import mistakes_in

ROOT = Path(__file__).resolve().parent.parent


def found(tmp_path: Path, text: str) -> dict[int, str]:
    (tmp_path / ".env").write_text(text)
    return {mistake.line: mistake.text for mistake in mistakes_in(tmp_path / ".env")}


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    lines = found(
        tmp_path,
        "# a comment\n\nMEDIA_PIPELINE_LANGAUGE=de\nMEDIA_PIPELINE_WORKERS=many\n"
        "MEDIA_PIPELINE_SERVER__HTTPS_PORT=70000\nMEDIA_PIPELINE_SERVER__DOMIAN=example.org\n"
        "MEDIA_PIPELINE_TIER=auto\nMEDIA_PIPELINE_TIER=embedded\nCOMPOSE_PROJECT_NAME=media\nwhat is this\n",
    )
    assert list(lines) == [3, 4, 5, 6, 8, 10]
    assert "did you mean MEDIA_PIPELINE_LANGUAGE?" in lines[3]
    assert "many" in lines[4] and "70000" in lines[5]
    assert "DOMIAN" in lines[6] and "stands in line 7" in lines[8]


def test_a_good_file_has_none_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_PIPELINE_WORKERS", "many")
    assert found(tmp_path, "MEDIA_PIPELINE_LANGUAGE=de\nVAST_API_KEY=x\nOTHER=1\n") == {}


def test_no_secret_is_shown(tmp_path: Path) -> None:
    lines = found(tmp_path, "MEDIA_PIPELINE_ALERTS__WEBHOOK_SECRTE=hush\nMEDIA_PIPELINE_ALERTS__SMTP_PORT=x\n")
    assert set(lines) == {1, 2} and "hush" not in str(lines)


def test_the_example_with_everything_switched_on_has_no_unknown_setting(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8").replace("\n#MEDIA_PIPELINE_", "\nMEDIA_PIPELINE_")
    assert found(tmp_path, text) == {}


def test_the_command_says_what_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.env").write_text("MEDIA_PIPELINE_WORKERS=-1\n")
    with pytest.raises(SystemExit) as ended:
        main(["settings", "check", str(tmp_path / "mine.env")])
    assert ended.value.code == 2
    assert "mine.env:1: MEDIA_PIPELINE_WORKERS" in capsys.readouterr().err
