"""The sample media are what they say they are."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from demo.pictures import render_landscape, render_slide, write_photo
from demo.samples import Sample, make_samples, meeting
from demo.sound import SAMPLE_RATE, silence, speak, tone, with_room_noise, write_wav
from demo.video import write_video

pytestmark = pytest.mark.slow  # videos are encoded and speech is synthesised


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    return {s.path.name: s for s in make_samples(tmp_path_factory.mktemp("samples"))}


def test_every_file_is_there_and_no_other(samples: dict[str, Sample]) -> None:
    folder = next(iter(samples.values())).path.parent
    assert {p.name for p in folder.iterdir()} == samples.keys()
    assert {s.kind for s in samples.values()} == {"image", "video", "audio", None}
    assert {s.language for s in samples.values()} >= {"de", "en"}


@pytest.mark.slow
def test_same_media_every_time(samples: dict[str, Sample], tmp_path: Path) -> None:
    """Partition keys are hashes of the bytes: a demo whose files differ from run to run would pile up media."""
    again = {s.path.name: s.path.read_bytes() for s in make_samples(tmp_path)}
    assert [name for name, s in samples.items() if s.path.read_bytes() != again[name]] == []


def test_video_cuts_where_it_says(samples: dict[str, Sample]) -> None:
    tour = samples["museum tour.mp4"]
    with av.open(str(tour.path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="gray").astype(np.int16)) for frame in container.decode(video=0)]
        assert container.streams.audio
    assert [len(frames), frames[0][0]] == [330, 0.0]
    changes = [t for (_, a), (t, b) in pairwise(frames) if np.abs(a - b).mean() > 20]
    assert changes == pytest.approx(tour.cuts_s)
    assert all((a != b).any() for (_, a), (_, b) in pairwise(frames)), "no two frames are equal"


def test_broken_files_are_broken(samples: dict[str, Sample]) -> None:
    broken = [s for s in samples.values() if s.broken]
    assert len(broken) == 2
    for sample in broken:
        with pytest.raises(av.error.FFmpegError), av.open(str(sample.path)) as container:
            next(container.decode(video=0))


def test_photo_carries_what_a_camera_writes(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    moment = datetime(2023, 1, 2, 3, 4, 5)
    write_photo(
        path, render_landscape((64, 48)), captured_at=moment, latitude=-33.8568, longitude=151.2153, orientation=6
    )
    with Image.open(path) as picture:
        exif = picture.getexif()
    assert exif[0x0112] == 6
    assert exif.get_ifd(0x8769)[0x9003] == "2023:01:02 03:04:05"
    gps = exif.get_ifd(0x8825)
    degrees = [float(d) + float(m) / 60 + float(s) / 3600 for d, m, s in (gps[2], gps[4])]
    assert (gps[1], gps[3]) == ("S", "E")
    assert degrees == pytest.approx([33.8568, 151.2153], abs=1e-5)


def small(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L").resize((32, 32)), np.int16)


def test_near_duplicate_is_near_but_not_equal(samples: dict[str, Sample]) -> None:
    copy = next(s for s in samples.values() if s.duplicate_of)
    original = samples[str(copy.duplicate_of)]
    assert copy.path.stat().st_size != original.path.stat().st_size
    assert np.abs(small(copy.path) - small(original.path)).mean() < 3


def test_slide_draws_umlauts_and_turns() -> None:
    with_umlauts, without = (render_slide([text], size=(600, 200)) for text in ("Größe über Öl", "Grosse uber Ol"))
    missing = render_slide(["Gr\ue000\ue000e \ue000ber \ue000l"], size=(600, 200))
    assert (with_umlauts != without).any()
    assert (with_umlauts != missing).any(), "the font has no umlauts"
    turned = render_slide(["Größe über Öl"], size=(600, 200), turn_deg=90)
    assert turned.shape == (600, 200, 3)
    assert np.array_equal(cv2.rotate(turned, cv2.ROTATE_90_CLOCKWISE), with_umlauts)
    with pytest.raises(ValueError, match="do not fit"):
        render_slide(["x"] * 40)


def test_columns_share_the_lines() -> None:
    page = render_slide(["one", "two", "three", "four"], columns=2, size=(1000, 300))
    left, right = (half.min() < 128 for half in (page[:, :500], page[:, 500:]))
    assert left
    assert right


def test_speech_is_speech(tmp_path: Path) -> None:
    """The gate of the product hears a voice in it, and neither in the tone nor in the room."""
    from faster_whisper.vad import get_speech_timestamps

    spoken = speak("The contract will be signed on Monday morning")
    assert (spoken.dtype, spoken.ndim) == (np.float32, 1)
    assert 2 < len(spoken) / SAMPLE_RATE < 5
    assert get_speech_timestamps(spoken)
    assert not get_speech_timestamps(with_room_noise(silence(2)))
    assert not get_speech_timestamps(tone(440, 2))
    with pytest.raises(ValueError, match="klingon"):
        speak("nuqneH", voice="no-such-voice-klingon")


def test_wav_holds_what_was_spoken(tmp_path: Path) -> None:
    samples = with_room_noise(tone(440, 0.5))
    write_wav(tmp_path / "a.wav", samples)
    with av.open(str(tmp_path / "a.wav")) as container:
        decoded = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert np.abs(decoded / 32767 - samples).max() < 1e-3


@pytest.mark.slow
def test_recogniser_understands_the_meeting(tmp_path: Path) -> None:
    """Most words of the recording are heard as they were spoken, so that the demo's transcript makes sense."""
    import pocketsphinx

    sample = meeting(tmp_path)
    with av.open(str(sample.path)) as container:
        pcm = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp().hypstr.split()
    words = " ".join(sample.spoken).split()
    assert sum(word in heard for word in words) / len(words) > 0.8


def test_video_needs_no_sound(tmp_path: Path) -> None:
    write_video(tmp_path / "mute.mkv", [(render_landscape((64, 48)), 0.4)], fps=10)
    with av.open(str(tmp_path / "mute.mkv")) as container:
        assert (len(container.streams.audio), sum(1 for _ in container.decode(video=0))) == (0, 4)
