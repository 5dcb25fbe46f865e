"""Sound on the medium's own timeline, read back in bounded memory."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media_pipeline.media.audio import AUDIO_FILE, SAMPLE_RATE, AudioReader, AudioSink
from media_pipeline_tests import _synth


def write(folder: Path, *pieces: tuple[float | None, np.ndarray], rate: int = 48_000) -> AudioSink:
    """Pieces of sound with the second each begins at."""
    sink = AudioSink(folder)
    for start, samples in pieces:
        add(sink, start, samples, rate)
    sink.close()
    return sink


def add(sink: AudioSink, start: float | None, samples: np.ndarray, rate: int) -> None:
    """In frames of 20 ms, as a decoder hands them out."""
    for at in range(0, len(samples), rate // 50):
        part = samples[None, at : at + rate // 50].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        sink.add(frame, None if start is None else start + at / rate)


def reader(folder: Path, sink: AudioSink) -> AudioReader:
    return AudioReader(folder / AUDIO_FILE, sink.duration_s)


def level(samples: np.ndarray) -> float:
    return float(np.sqrt((samples**2).mean())) if len(samples) else 0.0


def test_sound_keeps_its_length_level_and_pitch(tmp_path: Path) -> None:
    sink = write(tmp_path, (0.0, _synth.tone(3.0, 1000)))
    assert sink.duration_s == pytest.approx(3.0, abs=0.002)
    assert sink.peak == pytest.approx(0.5, abs=0.01)
    assert sink.rms == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    heard = reader(tmp_path, sink).read(1.0, 2.0)
    assert heard.dtype == np.float32
    assert len(heard) == SAMPLE_RATE
    assert np.argmax(np.abs(np.fft.rfft(heard))) == 1000


def test_holes_and_late_beginnings_are_silent_for_as_long_as_they_last(tmp_path: Path) -> None:
    sink = write(tmp_path, (1.5, _synth.tone(1.0)), (4.0, _synth.tone(1.0)))
    audio = reader(tmp_path, sink)
    assert audio.duration_s == pytest.approx(5.0, abs=0.002)
    for start, end, sounds in ((0, 1.49, False), (1.52, 2.48, True), (2.52, 3.98, False), (4.02, 4.98, True)):
        assert (level(audio.read(start, end)) > 0.3) is sounds, (start, end)


def test_the_sample_rate_may_change_on_the_way(tmp_path: Path) -> None:
    sink = AudioSink(tmp_path)
    for start, rate in ((0.0, 44_100), (1.0, 22_050), (2.0, 48_000)):
        add(sink, start, _synth.tone(1.0, 1000, rate=rate), rate)
    sink.close()
    assert sink.duration_s == pytest.approx(3.0, abs=0.01)
    assert sink.jumps == 0
    audio = reader(tmp_path, sink)
    for second in range(3):
        heard = audio.read(second + 0.25, second + 0.75)
        assert np.argmax(np.abs(np.fft.rfft(heard))) == 500  # of half a second: 1000 Hz


def test_jitter_and_time_stamps_gone_mad_insert_nothing(tmp_path: Path) -> None:
    sink = write(tmp_path, (0.0, _synth.tone(1.0)), (1.02, _synth.tone(1.0)), (1e9, _synth.tone(1.0)))
    assert sink.duration_s == pytest.approx(3.0, abs=0.05)
    assert sink.jumps >= 1


def test_an_overlap_is_one_jump_and_the_next_hole_makes_up_for_it(tmp_path: Path) -> None:
    sink = write(tmp_path, (0.0, _synth.tone(2.0, 1000)), (1.5, _synth.tone(2.0, 1000)), (5.0, _synth.tone(1.0, 1000)))
    assert sink.jumps == 1
    assert sink.duration_s == pytest.approx(6.0, abs=0.01)
    audio = reader(tmp_path, sink)
    for start, end, sounds in ((0.1, 3.9, True), (4.1, 4.9, False), (5.1, 5.9, True)):
        assert (level(audio.read(start, end)) > 0.3) is sounds, (start, end)


def test_any_span_is_the_same_as_in_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sink = write(tmp_path, (0.0, rng.uniform(-0.5, 0.5, SAMPLE_RATE * 30)), rate=SAMPLE_RATE)
    audio = reader(tmp_path, sink)
    whole = audio.read(0, 1e9)
    assert len(whole) == round(sink.duration_s * SAMPLE_RATE)
    for start, end in rng.uniform(0, 31, (12, 2)):
        expected = whole[round(start * SAMPLE_RATE) : max(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))]
        np.testing.assert_array_equal(audio.read(start, end), expected)
    for seconds in (0.7, 4.0, 100.0):
        blocks = list(audio.blocks(seconds))
        np.testing.assert_array_equal(np.concatenate(blocks), whole)
        assert all(len(block) == round(seconds * SAMPLE_RATE) for block in blocks[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.7, 1.4, 2.1, 7.9, 11.1])
def test_the_last_instants_can_be_read_alone(tmp_path: Path, seconds: float) -> None:
    """FFmpeg finds no frame to begin with in the last one of files that end in a short, quiet one."""
    tone = np.where((np.arange(round(seconds * SAMPLE_RATE)) // 4000) % 2 == 0, 0.3, 0.0).astype(np.float32)
    tone *= np.sin(np.arange(len(tone)) / 8).astype(np.float32)
    sink = write(tmp_path, (0.0, tone), rate=SAMPLE_RATE)
    whole = np.concatenate(list(reader(tmp_path, sink).blocks(30.0)))
    for start in range(0, len(whole), 2000):
        found = reader(tmp_path, sink).read(start / SAMPLE_RATE, seconds)
        assert np.array_equal(found, whole[start:])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    minute = _synth.tone(60.0, rate=SAMPLE_RATE)
    sink = write(tmp_path, *((i * 60.0, minute) for i in range(5)), rate=SAMPLE_RATE)
    audio = reader(tmp_path, sink)
    tracemalloc.start()
    total = sum(len(block) for block in audio.blocks(1.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == pytest.approx(300 * SAMPLE_RATE, abs=20)
    assert peak < 2_000_000  # the whole would be 19 MB
