"""`persons` and `voices` as a person and a script meet them: real processes, exit codes, one-line errors."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pytest

from media_pipeline_tests import _cli
from media_pipeline_tests._identity_home import VOICES, Face, IdentityHome, identity_home, media_id
from media_pipeline_tests._voices import WOMAN, say

pytestmark = pytest.mark.slow  # each command is a process of its own

MODEL = "dlib-resnet@0123456789ab"  # one whose threshold is known
NAMES = ("a0", "a1", "a2", "b0", "b1")


@pytest.fixture
def home(tmp_path: Path) -> IdentityHome:
    home = identity_home(tmp_path / "home")
    home.model, home.threshold = MODEL, 0.93
    home.show_all({name: [Face(name[0], noise=0.2)] for name in NAMES})
    home.speak("call", ("S1", "a", 0, 9), ("S2", "b", 9, 20))
    home.update(*NAMES)
    home.update("call", kind=VOICES)
    return home


def done(home: IdentityHome, *args: str | Path) -> str:
    finished = _cli.run(home.layout.home, *args)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def write_sound(path: Path, samples: npt.NDArray[np.floating[Any]]) -> None:
    with wave.open(str(path), "wb") as sink:
        sink.setparams((1, 2, 16_000, 0, "NONE", ""))
        sink.writeframes((samples * 32767).astype("<i2").tobytes())


def listed(home: IdentityHome, command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done(home, command, "--format", "json"))
    return found


def test_an_empty_home_has_no_persons(tmp_path: Path) -> None:
    finished = _cli.run(tmp_path / "home", "persons")
    assert (finished.returncode, finished.stdout) == (0, "")
    assert "no persons yet" in finished.stderr
    assert json.loads(_cli.run(tmp_path / "home", "voices", "--format", "json").stdout) == []


def test_listing_naming_merging_and_splitting(home: IdentityHome) -> None:
    a, b = home.of("a0"), home.of("b0")
    assert [(p["person_id"], p["name"], p["members"], p["media"]) for p in listed(home, "persons")] == [
        (a, None, 3, 3),
        (b, None, 2, 2),
    ]
    assert f"{a} (Frau Müller): 3 tracks in 3 media" in done(home, "persons", "name", a, "Frau Müller")
    assert "Frau Müller" in done(home, "persons")
    shown = json.loads(done(home, "persons", "show", "frau müller", "--format", "json"))
    assert (shown["person_id"], shown["name"]) == (a, "Frau Müller")
    assert [track["name"] for track in shown["tracks"]] == ["a0.jpg", "a1.jpg", "a2.jpg"]
    assert "5 tracks" in done(home, "persons", "merge", "Frau Müller", b)
    fresh = done(home, "persons", "split", "Frau Müller", media_id("b0"), f"{media_id('b1')}:0").split(":")[0]
    assert home.of("b0") == home.of("b1") == fresh
    assert "5 tracks, of which 0 are another person now" in done(home, "persons", "recluster")
    with duckdb.connect(home.layout.warehouse, read_only=True) as warehouse:  # published at once
        rows = warehouse.execute("SELECT person_id, name, members FROM persons ORDER BY members DESC").fetchall()
    assert rows == [(a, "Frau Müller", 3), (fresh, None, 2)]


def test_voices_are_the_same_commands(home: IdentityHome) -> None:
    voice = home.of("call", "S2", VOICES)
    done(home, "voices", "name", voice, "Bert")
    assert {(v["voice_id"], v["name"]) for v in listed(home, "voices")} >= {(voice, "Bert")}
    assert "0:09 - 0:20" in done(home, "voices", "show", "bert")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("persons", "show", "Nobody"), "there is no person 'Nobody'; `media-pipeline persons` lists them"),
        (("voices", "name", "V-1234", "X"), "there is no voice 'V-1234'; `media-pipeline voices` lists them"),
        (("persons", "show", "\udcff"), "there is no person '?'; `media-pipeline persons` lists them"),
        (("persons", "enrol", "X", "/no/such.jpg"), "/no/such.jpg is not a file; name a recording or a picture"),
    ],
)
def test_errors_are_one_line_with_a_remedy(home: IdentityHome, args: tuple[str, ...], message: str) -> None:
    finished = _cli.run(home.layout.home, *args)
    assert finished.returncode == 2
    assert finished.stderr.splitlines() == [f"media-pipeline: {message}"]  # and no word on models before


def test_a_sample_in_which_nobody_speaks_is_refused(home: IdentityHome, tmp_path: Path) -> None:
    silence = tmp_path / "silence.wav"
    write_sound(silence, np.zeros(3 * 16_000))
    finished = _cli.run(home.layout.home, "voices", "enrol", "Anna", silence)
    assert finished.returncode == 2
    assert "no voice that could be known again is in silence.wav" in finished.stderr
    assert all(voice["name"] is None for voice in listed(home, "voices"))


def test_a_sample_may_have_any_file_name(home: IdentityHome, tmp_path: Path) -> None:
    path = tmp_path / "\udcff.wav"  # a byte that is no UTF-8
    write_sound(path, say(WOMAN, 0))
    assert "(Anna): 0 tracks" in done(home, "voices", "enrol", "Anna", path)


def test_a_name_that_cannot_be_is_refused_before_the_sample_is_read(home: IdentityHome, tmp_path: Path) -> None:
    no_picture = tmp_path / "sample.jpg"
    no_picture.write_text("no picture")
    finished = _cli.run(home.layout.home, "persons", "enrol", "ring\x07", no_picture)
    assert finished.returncode == 2
    assert "cannot be a name" in finished.stderr
