"""Time stamps that jump: time goes on, and picture and sound stay together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.media.audio import AUDIO_FILE, AudioReader
from media_pipeline.media.frames import FRAMES_FILE
from media_pipeline.media.scores import SCORES_FILE
from media_pipeline.media.timeline import Clock, Timeline
from media_pipeline.media.types import MediaFacts
from media_pipeline.media.worker import decode
from media_pipeline_tests import _synth

FPS = 25
PICTURE, SOUND = 0.04, 0.02  # seconds a frame lasts


# --- clocks ---------------------------------------------------------------------------------------------------------


def stamps(start_s: float, seconds: float, step_s: float) -> list[float]:
    return [start_s + i * step_s for i in range(round(seconds / step_s))]


def place(clock: Clock, times: Iterable[float | None], step_s: float) -> list[float | None]:
    return [clock.place(time, step_s) for time in times]


@pytest.mark.parametrize(
    "times",
    [
        stamps(100.0, 3.0, PICTURE),
        stamps(95.0, 10.0, PICTURE),  # begins before the medium does
        stamps(130.0, 1.0, PICTURE),  # late
        [100.0, 100.12, 100.04, 100.08, 101.5, 100.6],  # out of order
        [100.0, 112.0, 124.0, 3700.0, 7300.0],  # slides; holes of less than an hour
    ],
    ids=["plain", "early", "late", "out of order", "holes"],
)
def test_stamps_without_jumps_are_taken_at_their_word(times: list[float]) -> None:
    timeline = Timeline(100.0)
    assert place(Clock(timeline), times, PICTURE) == [time - 100.0 for time in times]
    assert timeline.jumps_s == []


def test_what_one_stream_finds_holds_for_the_other_whenever_it_comes_to_the_seam() -> None:
    timeline = Timeline(0.0)
    picture, sound = Clock(timeline), Clock(timeline)
    place(picture, stamps(0, 10, PICTURE), PICTURE)
    place(sound, stamps(0, 9.4, SOUND), SOUND)
    assert place(picture, stamps(0.1, 1, PICTURE), PICTURE)[0] == pytest.approx(10.0)
    # The last sound before the seam, delivered after the first picture behind it.
    assert place(sound, stamps(9.4, 0.6, SOUND), SOUND)[-1] == pytest.approx(9.98)
    assert place(sound, stamps(0.05, 1, SOUND), SOUND)[0] == pytest.approx(10.0)
    # 0.05 s of sound come before the picture: that much later is all of it from now on.
    assert place(picture, [1.1], PICTURE) == [pytest.approx(11.05)]
    assert len(timeline.jumps_s) == 1


def test_a_stream_that_begins_or_goes_on_behind_the_seam_follows_the_other() -> None:
    timeline = Timeline(0.0)
    picture, mute, paused = Clock(timeline), Clock(timeline), Clock(timeline)
    place(picture, stamps(0, 30, PICTURE), PICTURE)
    place(paused, stamps(0, 5, SOUND), SOUND)
    place(picture, stamps(0, 20, PICTURE), PICTURE)
    assert mute.place(19.0, SOUND) == pytest.approx(49.0)
    assert paused.place(19.0, SOUND) == pytest.approx(49.0)
    assert len(timeline.jumps_s) == 1


def test_stray_stamps_do_not_move_what_follows_them() -> None:
    for stray in (3.0, 36_000.0):
        timeline = Timeline(0.0)
        picture, sound = Clock(timeline), Clock(timeline)
        place(picture, stamps(0, 10, PICTURE), PICTURE)
        place(sound, stamps(0, 10, SOUND), SOUND)
        assert picture.place(stray, PICTURE) == pytest.approx(10.0)
        assert picture.place(10.04, PICTURE) == pytest.approx(10.04)
        assert sound.place(10.0, SOUND) == pytest.approx(10.0)


def test_stamps_that_alternate_or_mean_nothing_do_not_add_up_to_years() -> None:
    two, chaos = Timeline(0.0), Timeline(0.0)
    place(Clock(two), (i * PICTURE + 500 * (i % 2) for i in range(2000)), PICTURE)
    assert two.reached_s < 700
    place(Clock(chaos), np.random.default_rng(0).uniform(0, 3600, 2000), PICTURE)
    assert chaos.reached_s < 2000 * 10 + 2 * 3600
    assert len(chaos.warning) < 150


def test_frames_without_a_stamp_count_for_those_behind_them() -> None:
    timeline = Timeline(0.0)
    clock = Clock(timeline)
    assert place(clock, [0.0, *[None] * 100, 4.04], PICTURE) == [0.0, *[None] * 100, 4.04]


# --- files ----------------------------------------------------------------------------------------------------------


def part(path: Path, number: int, *, sound_s: float = 4.0, at_s: float = 0.0) -> bytes:
    """4 s of a transport stream: at second 2 the picture changes, and a tone begins in its sound."""
    frames = [_synth.scene(2 * number + (i >= 2 * FPS), i) for i in range(4 * FPS)]
    tone = _synth.tone(sound_s)
    tone[: 2 * _synth.RATE] = 0
    _synth.movie(
        path, frames, sound=tone, sound_at_s=at_s, muxer="mpegts", audio_codec="mp2", times=lambda i: at_s + i / FPS
    )
    return path.read_bytes()


class Decoded:
    def __init__(self, path: Path) -> None:
        folder = path.with_suffix("")
        folder.mkdir()
        self.facts: MediaFacts = decode(path, folder, Sampling(), DecodeLimits(), 1, lambda: None)
        table = pa.ipc.open_file(folder / SCORES_FILE).read_all()
        self.times, self.scores = table["pts_s"].to_numpy(), table["score"].to_numpy()
        kept = pa.ipc.open_file(folder / FRAMES_FILE).read_all()
        ticks, num, den = (kept[name].to_numpy() for name in ("pts", "time_base_num", "time_base_den"))
        self.kept = ticks * num / den
        self.sound = AudioReader(folder / AUDIO_FILE, self.facts.audio_duration_s or 0.0).read(0, 1e9)

    def changes(self, start_s: float, end_s: float) -> tuple[float, float]:
        """When in that span the picture changes most, and when a tone begins."""
        inside = (self.times >= start_s) & (self.times < end_s)
        loud = np.flatnonzero(np.abs(self.sound[round(start_s * 16_000) : round(end_s * 16_000)]) > 0.1)
        return float(self.times[inside][self.scores[inside].argmax()]), start_s + loud[0] / 16_000


def test_joined_recordings_go_on_and_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "joined.ts"
    path.write_bytes(
        part(tmp_path / "a.ts", 1) + part(tmp_path / "b.ts", 2, sound_s=4.6) + part(tmp_path / "c.ts", 3, sound_s=3.2)
        + part(tmp_path / "d.ts", 4)
    )  # fmt: skip
    decoded = Decoded(path)
    assert decoded.facts.duration_s == pytest.approx(16.6, abs=0.15)
    assert decoded.facts.audio_duration_s == pytest.approx(16.6, abs=0.15)
    assert decoded.facts.frame_count == 400
    assert np.diff(decoded.times).min() > 0, "no two frames at one instant"
    for start in (0.0, 4.0, 8.6, 12.6):
        picture, sound = decoded.changes(start + 1.0, start + 3.0)
        assert picture == pytest.approx(start + 2.0, abs=0.15)
        assert sound == pytest.approx(picture, abs=0.08), start
    assert np.diff(decoded.kept).max() <= Sampling().max_gap_s + 0.5
    (warning,) = decoded.facts.warnings
    assert warning.startswith("the time stamps jump at 4.0, 8.")


def test_a_stretch_of_stamps_hours_ahead_lasts_as_long_as_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "ahead.ts"
    path.write_bytes(
        part(tmp_path / "a.ts", 1) + part(tmp_path / "b.ts", 2, at_s=36_000) + part(tmp_path / "c.ts", 3, at_s=8)
    )
    decoded = Decoded(path)
    assert decoded.facts.duration_s == pytest.approx(12, abs=0.15)
    assert decoded.facts.audio_duration_s == pytest.approx(12, abs=0.15)
    for start in (0.0, 4.0, 8.0):
        picture, sound = decoded.changes(start + 1.0, start + 3.0)
        assert sound == pytest.approx(picture, abs=0.15), start
    assert not [warning for warning in decoded.facts.warnings if "cut off" in warning]


def test_joined_sound_alone_goes_on_too(tmp_path: Path) -> None:
    sound = _synth.movie(tmp_path / "a.ts", sound=_synth.tone(3.0), audio_codec="mp2").read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(sound * 2)
    folder = tmp_path / "out"
    folder.mkdir()
    facts = decode(path, folder, Sampling(), DecodeLimits(), 1, lambda: None)
    assert facts.duration_s == facts.audio_duration_s == pytest.approx(6.0, abs=0.05)
    assert len(facts.warnings) == 1
