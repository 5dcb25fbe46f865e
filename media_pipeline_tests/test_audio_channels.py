"""Recordings whose two channels carry one voice each: recognised while decoding, kept apart, read back."""

from __future__ import annotations

import hashlib
import tracemalloc
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.media.audio import AUDIO_FILE, SAMPLE_RATE, SIDE_FILE, AudioReader, AudioSink
from media_pipeline.media.cache import Cache, CacheEntry
from media_pipeline.media.channels import ChannelWatch
from media_pipeline.media.decode import DecodeJob, Decoder, decode_fingerprint
from media_pipeline_tests._sound import SHARED, needs_media, vowels

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute

Stereo = np.ndarray  # float32 (2, samples)


def in_turn(seconds: float, overlap_s: float = 0.0, rate: int = SAMPLE_RATE) -> Stereo:
    """Two voices: left, then right, then left ..., a second each."""
    count = round(seconds * rate)
    at = np.arange(count) / rate
    left = 0.3 * np.sin(2 * np.pi * 200 * at) * (at % 2 < 1 + overlap_s)
    right = 0.3 * np.sin(2 * np.pi * 310 * at) * ((at + 1) % 2 < 1 + overlap_s)
    return np.stack([left, right]).astype(np.float32)


def music(seconds: float) -> Stereo:
    """Wide stereo: two instruments, each louder on its side, neither ever alone."""
    at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    first, second = (
        np.sin(2 * np.pi * f * at) * (0.6 + 0.4 * np.sin(2 * np.pi * b * at)) for f, b in ((220, 2), (330, 3))
    )
    return (0.2 * np.stack([first + 0.5 * second, second + 0.5 * first])).astype(np.float32)


def write(folder: Path, *pieces: np.ndarray, rate: int = SAMPLE_RATE) -> AudioSink:
    """Pieces of one or two channels, one after the other, in frames of 20 ms."""
    sink = AudioSink(folder)
    at = 0
    for piece in pieces:
        layout = "stereo" if piece.shape[0] == 2 else "mono"
        for start in range(0, piece.shape[1], rate // 50):
            part = np.ascontiguousarray(piece[:, start : start + rate // 50])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate = rate
            frame.time_base = Fraction(1, rate)
            sink.add(frame, at / rate)
            at += part.shape[1]
    sink.close()
    return sink


def reader(folder: Path, sink: AudioSink) -> AudioReader:
    side = folder / SIDE_FILE
    return AudioReader(folder / AUDIO_FILE, sink.duration_s, side if side.exists() else None)


# --- which recordings ---------------------------------------------------------------------------------------------


def apart(samples: Stereo) -> bool:
    watch = ChannelWatch()
    for start in range(0, samples.shape[1], 1111):
        watch.add(*(samples[:, start : start + 1111] * 32767).astype(np.int16))
    return watch.apart


@pytest.mark.parametrize("overlap_s", [0.0, 0.4])
def test_two_who_take_turns_are_apart(overlap_s: float) -> None:
    assert apart(in_turn(10, overlap_s))


def test_a_faint_echo_of_the_other_side_changes_nothing() -> None:
    samples = in_turn(10)
    assert apart(samples + 0.1 * samples[::-1])


def test_what_both_channels_carry_is_not_apart() -> None:
    voice = vowels(5)
    assert not apart(np.stack([voice, voice]))
    assert not apart(np.stack([voice, 0.5 * voice]))
    assert not apart(music(10))


def test_a_dead_channel_is_no_speaker() -> None:
    assert not apart(np.stack([vowels(5), np.zeros(5 * SAMPLE_RATE, np.float32)]))
    assert not apart(np.zeros((2, 5 * SAMPLE_RATE), np.float32))
    assert not apart(np.zeros((2, 0), np.float32))


def test_one_click_on_the_other_side_is_no_speaker() -> None:
    samples = np.stack([vowels(10), np.zeros(10 * SAMPLE_RATE, np.float32)])
    samples[:, :1600] = samples[::-1, 1600:3200]
    assert not apart(samples)


# --- writing and reading ------------------------------------------------------------------------------------------


def test_both_channels_come_back(tmp_path: Path) -> None:
    samples = in_turn(6)
    sink = write(tmp_path, samples)
    audio = reader(tmp_path, sink)
    assert (sink.channels, audio.channels) == (2, 2)
    for channel in (0, 1):
        assert audio.read(0, 6, channel) == pytest.approx(samples[channel], abs=3 / 32768)
        np.testing.assert_array_equal(np.concatenate(list(audio.blocks(0.7, channel))), audio.read(0, 6, channel))
        assert audio.read(2.345, 3.21, channel) == pytest.approx(audio.read(0, 6, channel)[37_520:51_360])
    assert audio.read(0, 6) == pytest.approx(samples.mean(axis=0), abs=3 / 32768)
    np.testing.assert_array_equal(np.concatenate(list(audio.blocks(0.7))), audio.read(0, 6))


def test_of_music_only_the_mean_is_kept(tmp_path: Path) -> None:
    samples = music(5)
    sink = write(tmp_path, samples)
    assert sink.channels == 1
    assert [path.name for path in tmp_path.iterdir()] == [AUDIO_FILE]
    audio = reader(tmp_path, sink)
    assert audio.channels == 1
    assert audio.read(1, 2) == pytest.approx(samples.mean(axis=0)[SAMPLE_RATE : 2 * SAMPLE_RATE], abs=3 / 32768)
    # Whoever asks for a channel of a sound that has one hears that.
    np.testing.assert_array_equal(audio.read(1, 2, 0), audio.read(1, 2))


@pytest.mark.parametrize("rest", [0.0, 0.05])
def test_channels_that_cancel_each_other_out_are_heard(tmp_path: Path, rest: float) -> None:
    voice = 0.5 * vowels(5)
    sink = write(tmp_path, np.stack([voice, (rest - 1) * voice]))
    assert sink.cancels
    assert sink.channels == 1
    assert [path.name for path in tmp_path.iterdir()] == [AUDIO_FILE]
    assert sink.peak == pytest.approx(float(np.abs(voice).max()) * (1 - rest / 2), abs=1e-3)
    heard = reader(tmp_path, sink).read(0, 5)
    assert heard == pytest.approx((1 - rest / 2) * voice, abs=3 / 32768)


def test_wide_stereo_does_not_cancel_itself_out(tmp_path: Path) -> None:
    assert not write(tmp_path, music(5)).cancels


def test_the_mean_is_what_ffmpeg_makes_of_stereo(tmp_path: Path) -> None:
    samples = music(3)
    write(tmp_path, samples)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate = SAMPLE_RATE
    expected = np.concatenate([f.to_ndarray()[0] for f in [*resampler.resample(frame), *resampler.resample(None)]])
    found = AudioReader(tmp_path / AUDIO_FILE, 3.0).read(0, 3)
    assert found == pytest.approx(expected / 32768, abs=3 / 32768)


def test_the_number_of_channels_may_change_on_the_way(tmp_path: Path) -> None:
    mono = vowels(1)[None]
    samples = in_turn(6)
    sink = write(tmp_path, mono, samples, mono)
    audio = reader(tmp_path, sink)
    assert (audio.channels, audio.duration_s) == (2, pytest.approx(8, abs=0.01))
    left, right = (audio.read(0, 8, channel) for channel in (0, 1))
    assert len(left) == len(right) == len(audio.read(0, 8))
    np.testing.assert_array_equal(left[:15_000], right[:15_000])
    np.testing.assert_array_equal(left[-15_000:], right[-15_000:])
    assert left[17_000:30_000] == pytest.approx(samples[0, 1000:14_000], abs=0.01)


def test_a_recording_of_a_call_at_telephone_rate(tmp_path: Path) -> None:
    sink = write(tmp_path, in_turn(6, rate=8000), rate=8000)
    audio = reader(tmp_path, sink)
    assert audio.channels == 2
    assert np.abs(audio.read(1.2, 1.8, 0)).max() < 0.01 < np.abs(audio.read(1.2, 1.8, 1)).max()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    minute = in_turn(60)
    tracemalloc.start()
    sink = write(tmp_path, *[minute] * 4)
    audio = reader(tmp_path, sink)
    total = sum(len(block) for block in audio.blocks(1.0, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == pytest.approx(240 * SAMPLE_RATE, abs=20)
    assert peak < 4_000_000  # one channel of the whole would be 15 MB


# --- through the sandbox ------------------------------------------------------------------------------------------


def decoded(path: Path, root: Path) -> CacheEntry:
    cache = Cache(root, 1 << 30)
    media_id = hashlib.sha256(path.name.encode()).hexdigest()
    with Decoder(cache, DecodeLimits(), Sampling(), workers=1) as decoder:
        (result,) = decoder.decode([DecodeJob(media_id, path)])
    assert result.error is None, result.error
    entry = cache.get(media_id, decode_fingerprint(Sampling()))
    assert entry is not None
    return entry


@pytest.mark.parametrize(("samples", "channels"), [(in_turn(4), 2), (music(4), 1)], ids=["call", "music"])
def test_a_decoded_file_says_so(tmp_path: Path, samples: Stereo, channels: int) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    entry = decoded(tmp_path / "sound.wav", tmp_path / "cache")
    assert entry.facts.audio_channels == 2
    assert entry.facts.audio_cached_channels == channels
    assert entry.audio is not None
    assert entry.audio.channels == channels


@needs_media
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("speech/stereo_two_speakers.wav", 2),
        ("speech/jfk.flac", 1),
        ("speech/hotwords.mp3", 1),
        ("audio/crunching.mp3", 1),
        ("video/chaplin.mp4", 1),
        ("video/bbb_example2.mp4", 1),
        ("video/big_buck_bunny_432_433.webm", 1),
    ],
)
def test_real_stereo(tmp_path: Path, name: str, channels: int) -> None:
    entry = decoded(SHARED / "media" / name, tmp_path / "cache")
    assert entry.facts.audio_cached_channels == channels
