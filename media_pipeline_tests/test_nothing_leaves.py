"""Libraries of ours that would tell their makers about their use do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_onnxruntime_prepares_no_report(tmp_path: Path) -> None:
    """Where it means to send something it makes an id of the device and a queue below the home folder of the user."""

    def left_by(first: str, folder: Path) -> list[str]:
        folder.mkdir()
        known = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")}
        program = f"{first}\nimport onnxruntime, time\ntime.sleep(1)\n"
        subprocess.run([sys.executable, "-c", program], env=known | {"HOME": str(folder)}, check=True, timeout=120)
        return [path.name for path in folder.rglob("*") if path.is_file()]

    assert left_by("import media_pipeline", tmp_path / "with") == []
    if not left_by("", tmp_path / "without"):
        pytest.skip("this build of onnxruntime reports nothing anyway")
