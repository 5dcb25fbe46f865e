"""The example of all settings is current, and true: it can be sourced and changes nothing."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from media_pipeline.config import ENV_PREFIX, Settings, load_settings
from scripts import env_example


def example_lines() -> dict[str, str]:
    lines = [line.removeprefix("#") for line in env_example.render().splitlines() if line.startswith(f"#{ENV_PREFIX}")]
    return dict(line.split("=", 1) for line in lines)


def test_file_is_current() -> None:
    assert env_example.TARGET.read_text(encoding="utf-8") == env_example.render(), "run `make format`"


def test_every_setting_is_there_and_explained() -> None:
    names = set(example_lines())
    for name in Settings.model_fields:
        variable = f"{ENV_PREFIX}{name.upper()}"
        assert any(n == variable or n.startswith(f"{variable}__") for n in names), name
    lines = env_example.render().splitlines()
    pairs = [(before, line) for before, line in pairwise(lines) if line.startswith(f"#{ENV_PREFIX}")]
    assert len(pairs) == len(names)
    assert [line for before, line in pairs if not before.startswith("# ")] == [], "give the field a description"


def test_defaults_read_back_as_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of the example set in the environment gives the settings of an empty environment."""
    for name in example_lines():
        monkeypatch.delenv(name, raising=False)
    expected = load_settings().model_dump(exclude={"options"})
    for name, value in example_lines().items():
        monkeypatch.setenv(name, value)
    assert load_settings().model_dump(exclude={"options"}) == expected


def test_shell_can_source_it(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text(env_example.render().replace(f"#{ENV_PREFIX}", ENV_PREFIX), encoding="utf-8")
    command = f"set -aeu; source {env}; echo $MEDIA_PIPELINE_SAMPLING__MAX_GAP_S"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "5.0")
