"""A tick over a folder of known files: it ends soon, and the next one goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from media_pipeline.config import load_settings
from media_pipeline.media import intake as intake_module
from media_pipeline.media.intake import Intake
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.sources import Sources


def test_looking_ends_soon_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "CHUNK", 4)
    layout = Layout(tmp_path / "home")
    layout.create()
    settings = load_settings(home=layout.home, settle_s=0, min_free_bytes=1)
    for number in range(20):
        (layout.inbox / f"{number:02}.jpg").write_bytes(b"picture %d" % number)
    intake = Intake(layout, Sources(layout.sources), settings)

    def tick() -> tuple[int, bool]:
        report = intake.tick([layout.inbox], limit_files=100, limit_seconds=60, look_seconds=0)
        return len(report.new), report.complete

    assert tick() == (20, True), "what is new is read in one go"
    (layout.inbox / "99.jpg").write_bytes(b"the last one")
    ticks = [tick() for _ in range(6)]
    assert [new for new, _ in ticks].count(1) == 1
    assert ticks[0] == (0, False)
    assert any(complete for _, complete in ticks)
