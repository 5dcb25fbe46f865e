"""`analyze` says of files that are still being written to that it did not take them."""

from __future__ import annotations

import json
from functools import partialmethod
from pathlib import Path

import pytest
from click.testing import CliRunner

from media_pipeline.cli import cli
from media_pipeline.cli.analyze import EXIT_SOME_FAILED
from media_pipeline.media.intake import Intake


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that were written to a moment ago; nobody waits for them."""
    monkeypatch.setenv("MEDIA_PIPELINE_SETTLE_S", "600")
    monkeypatch.setenv("MEDIA_PIPELINE_OFFLINE", "1")
    monkeypatch.setattr(Intake, "take", partialmethod(Intake.take, patience_s=0.0))
    folder = tmp_path / "fresh"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.mp4").write_bytes(b"half of %d" % number)
    return folder


def test_they_are_listed_and_not_counted_as_anything_else(fresh: Path, tmp_path: Path) -> None:
    arguments = ["--home", str(tmp_path / "home"), "analyze", str(fresh), str(tmp_path / "nowhere.jpg")]
    found = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert found.return_value == EXIT_SOME_FAILED
    assert found.stderr.count("is still being written to; analyze it again") == 8
    assert f"{fresh / '0.mp4'} is still" in found.stderr
    assert "and 2 more" in found.stderr
    assert "11 files: 0 done, 1 failed, 10 not taken yet" in found.stderr


def test_they_alone_are_reason_enough_for_an_exit_code(fresh: Path, tmp_path: Path) -> None:
    arguments = ["--home", str(tmp_path / "home"), "analyze", str(fresh), "--format", "json"]
    found = CliRunner().invoke(cli, arguments, standalone_mode=False)
    report = json.loads(found.stdout)
    assert found.return_value == EXIT_SOME_FAILED
    assert [one["path"] for one in report["waiting"]] == [str(fresh / f"{number}.mp4") for number in range(10)]
    assert (report["files"], report["media"], report["refused"]) == (10, 0, [])
