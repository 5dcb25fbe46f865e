"""kill -9 at any instant loses nothing and doubles nothing; neither do two processes at once."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from media_pipeline_tests import _cli

pytestmark = pytest.mark.slow

KILLS = 20
LANGUAGE = {"MEDIA_PIPELINE_LANGUAGE": "en"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from demo.samples import make_samples

    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], float]:
    home = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    done = _cli.run(home, "analyze", samples, **LANGUAGE)
    assert done.returncode == 3, done.stderr  # the samples hold a broken file
    return _cli.contents(home), time.monotonic() - started


def test_killed_at_twenty_random_instants(
    samples: Path, undisturbed: tuple[dict[str, list[str]], float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    instants = random.Random(20)
    homes = [tmp_path / "a", tmp_path / "b"]  # two homes: early kills and late ones both meet fresh and full tables
    for number in range(KILLS):
        process = _cli.start(homes[number % 2], "analyze", samples, **LANGUAGE)
        time.sleep(instants.uniform(0.2, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for home in homes:
        finished = _cli.run(home, "analyze", samples, **LANGUAGE)
        assert finished.returncode == 3, finished.stderr
        assert _cli.contents(home) == expected


def test_two_processes_over_overlapping_files(
    samples: Path, undisturbed: tuple[dict[str, list[str]], float], tmp_path: Path
) -> None:
    expected, _ = undisturbed
    files = sorted(p for p in samples.rglob("*") if p.is_file())
    third = len(files) // 3
    first = _cli.start(tmp_path, "analyze", *files[: 2 * third], **LANGUAGE)
    second = _cli.start(tmp_path, "analyze", *files[third:], **LANGUAGE)
    errors = [process.communicate(timeout=600)[1] for process in (first, second)]
    assert {first.returncode, second.returncode} <= {0, 3}, errors
    assert _cli.contents(tmp_path) == expected
