"""Reading headers for an estimate."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from media_pipeline.config import DecodeLimits
from media_pipeline.errors import InputError, WorkerLost
from media_pipeline.media.measure import Measured, measure
from media_pipeline_tests import _synth


@pytest.mark.slow
def test_the_kind_and_length_of_media_without_decoding_them(tmp_path: Path) -> None:
    clip = _synth.movie(tmp_path / "clip.mp4", [_synth.scene(1, i) for i in range(50)], sound=_synth.tone(3.0))
    silent = _synth.movie(tmp_path / "no-name", [_synth.scene(1, i) for i in range(25)], muxer="matroska")
    sound = _synth.movie(tmp_path / "sound.m4a", sound=_synth.tone(7.0))
    picture = tmp_path / "picture.jpg"
    Image.fromarray(_synth.scene(3, 0)).save(picture)
    found = dict(measure([clip, silent, sound, picture], DecodeLimits()))
    assert found[clip] == Measured("video", pytest.approx(3.0, abs=0.1), True, clip.stat().st_size)
    assert found[silent] == Measured("video", pytest.approx(1.0, abs=0.1), False, silent.stat().st_size)
    assert found[sound] == Measured("audio", pytest.approx(7.0, abs=0.1), True, sound.stat().st_size)
    assert found[picture] == Measured("image", 0.0, False, picture.stat().st_size)


@pytest.mark.slow
def test_what_is_no_medium_is_said_and_the_next_one_is_measured(tmp_path: Path) -> None:
    letter, folder = tmp_path / "letter.mp4", tmp_path / "folder.mp4"
    letter.write_text("Dear Sir or Madam")
    folder.mkdir()
    cut = tmp_path / "cut.mp4"
    whole = _synth.movie(tmp_path / "whole.mp4", [_synth.scene(1, i) for i in range(50)])
    cut.write_bytes(whole.read_bytes()[:400])
    found = dict(measure([letter, folder, tmp_path / "gone.mp4", cut, whole], DecodeLimits()))
    assert isinstance(found[letter], InputError)
    assert isinstance(found[folder], InputError)
    assert isinstance(found[cut], InputError)
    assert isinstance(found[tmp_path / "gone.mp4"], WorkerLost)  # as decoding says it: it may come back
    assert isinstance(found[whole], Measured)
