"""Every test starts without this project's settings, and never asks a model hub."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MEDIA_PIPELINE_", "DAGSTER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MEDIA_PIPELINE_OFFLINE", "1")
