from __future__ import annotations

from pathlib import Path

import pytest

from media_pipeline.config import child_environment, load_settings
from media_pipeline.errors import MediaPipelineError, UsageError


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"MEDIA_PIPELINE_{name}", value)


def test_values_come_from_the_environment_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, HOME="/from/environment", DECODE__MAX_PIXELS="7", WORKERS="", OPTIONS__OCR__MIN_SCORE="0.7")
    settings = load_settings()
    assert (settings.home, settings.decode.max_pixels) == (Path("/from/environment"), 7)
    assert settings.workers == 0  # empty means the default
    assert settings.options == {"ocr": {"min_score": "0.7"}}
    assert load_settings(home="/from/option").home == Path("/from/option")


def test_paths_are_absolute_and_inboxes_are_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.home == tmp_path / "data"
    assert settings.watched == (tmp_path / "data" / "inbox",)
    assert settings.models == tmp_path / "data" / "models"
    set_all(monkeypatch, INBOXES="/one::two", MODELS_DIR="weights")
    settings = load_settings()
    assert settings.watched == (Path("/one"), tmp_path / "two")
    assert settings.models == tmp_path / "weights"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOEM", "x"),  # a setting there is not
        ("DECODE__MAX_PIXEL", "1"),  # nor this within a section
        ("DECODE__MAX_PIXELS", "0"),
        ("TIER", "best"),
        ("LANGUAGE", "English"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, **{name: value})
    with pytest.raises(UsageError, match=f"MEDIA_PIPELINE_{name}"):
        load_settings()


def test_a_child_works_on_the_same_home(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, HOME="/elsewhere", TIER="embedded")
    given = child_environment(load_settings(home="/here"))
    assert (given["MEDIA_PIPELINE_HOME"], given["DAGSTER_HOME"]) == ("/here", "/here/dagster")
    assert given["MEDIA_PIPELINE_TIER"] == "embedded"


def test_every_error_crosses_a_process_border_whole() -> None:
    import pickle

    def tree(kind: type[MediaPipelineError]) -> list[type[MediaPipelineError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]

    kinds = tree(MediaPipelineError)
    assert len(kinds) > 10
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("what\n happened", "what to do")))
        assert (type(error), error.cause, str(error)) == (kind, "what happened", "what happened; what to do")
