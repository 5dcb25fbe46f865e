from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from media_pipeline.analyzers import _packaged
from media_pipeline.analyzers._speech_windows import (
    WINDOW_S,
    Window,
    clip_to_speech,
    interpolated_words,
    phrases,
    windows,
)
from media_pipeline.analyzers._vad import WINDOW_S as PROBABILITY_S
from media_pipeline.analyzers._vad import Gate, SileroVad, Span, _raw_spans
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._sound import RATE, SHARED, Sound, needs_media, noise, shared_sound, silence, tone, vowels


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return SileroVad()


def test_a_detector_that_cannot_be_opened_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assets").mkdir()
    monkeypatch.setattr(_packaged, "find_spec", lambda _name: SimpleNamespace(submodule_search_locations=[tmp_path]))
    with pytest.raises(ModelUnavailable, match=r"has no assets/silero_vad_v6\.onnx; install the package"):
        SileroVad()
    (tmp_path / "assets" / "silero_vad_v6.onnx").write_bytes(b"half of it")
    with pytest.raises(ModelUnavailable, match=r"silero_vad_v6\.onnx cannot be run.*; install the package"):
        SileroVad()


def test_speech_is_found_where_it_is(vad: SileroVad) -> None:
    sound = Sound(np.concatenate([silence(1), vowels(2), silence(1.5), vowels(1.2), silence(0.7)]))
    first, second = vad.spans(sound, Gate())
    assert (first.start_s, first.end_s) == pytest.approx((1.0, 3.0), abs=0.2)
    assert (second.start_s, second.end_s) == pytest.approx((4.5, 5.7), abs=0.2)


@pytest.mark.parametrize("samples", [silence(2), noise(3), noise(3, 0.5), tone(2), silence(0), silence(0.01)])
def test_nobody_speaks_in_silence_noise_and_tones(vad: SileroVad, samples: np.ndarray) -> None:
    assert vad.spans(Sound(samples), Gate()) == []


@pytest.mark.slow
def test_streaming_gives_what_faster_whisper_computes_at_once(vad: SileroVad) -> None:
    from faster_whisper.vad import get_vad_model

    samples = np.concatenate([noise(20, 0.01), vowels(30), silence(15.25)])
    padded = np.pad(samples, (0, -len(samples) % 512))
    expected = get_vad_model()(padded).reshape(-1)
    streamed = list(vad.probabilities(Sound(samples)))
    assert len(streamed) == len(expected)
    # The reference shifts the context of the very first window; everything after that is the same computation.
    assert np.abs(np.array(streamed[40:]) - expected[40:]).max() < 1e-3


def test_odd_blocks_change_nothing(vad: SileroVad) -> None:
    class Crumbs(Sound):
        def blocks(self, seconds: float, channel: int | None = None):  # type: ignore[no-untyped-def]
            return super().blocks(0.0777)

    samples = np.concatenate([vowels(1), silence(0.5)])
    assert list(vad.probabilities(Crumbs(samples))) == pytest.approx(list(vad.probabilities(Sound(samples))), abs=1e-4)


def test_long_sound_is_never_asked_for_at_once(vad: SileroVad) -> None:
    sound = Sound(silence(120))
    assert vad.spans(sound, Gate()) == []
    assert sound.longest_s <= 32


def spans_of(pattern: str) -> list[tuple[int, int]]:
    """Spans in windows; one letter per window: S speech, u unsure (between the thresholds), . silence."""
    odds = {"S": 0.9, "u": 0.4, ".": 0.1}
    found = [span for span, _ in _raw_spans(iter([odds[letter] for letter in pattern]), Gate())]
    return [(round(s.start_s / PROBABILITY_S), round(s.end_s / PROBABILITY_S)) for s in found]


def test_a_short_gap_does_not_end_speech_and_a_long_one_does() -> None:
    assert spans_of("SSSSSSSS" + "." * 5 + "SSSSSSSS") == [(0, 21)]
    assert spans_of("SSSSSSSS" + "." * 15 + "SSSSSSSS") == [(0, 8), (23, 31)]


def test_a_click_is_not_speech() -> None:
    assert spans_of("." * 20 + "SS" + "." * 20) == []


def test_unsure_windows_go_on_with_what_was() -> None:
    assert spans_of("SSSSSSSS" + "u" * 30 + "SSSS") == [(0, 42)]
    assert spans_of("u" * 30 + "SSSSSSSS") == [(30, 38)]
    assert spans_of("SSSSSSSS." + "u" * 30) == [(0, 8)]


def test_endless_speech_is_divided_where_it_is_least_certain(vad: SileroVad) -> None:
    pause = silence(0.15)
    samples = np.concatenate([vowels(20), pause, vowels(20), pause, vowels(15)])
    spans = vad.spans(Sound(samples), Gate())
    assert max(span.duration_s for span in spans) <= 28.2
    assert spans[0].start_s < 0.3
    assert spans[-1].end_s > 54.8
    assert any(abs(span.end_s - 20.1) < 0.5 for span in spans)


def test_a_short_recording_is_heard_whole() -> None:
    spans = [Span(2, 3), Span(10, 12)]
    assert list(windows(spans, 29.0)) == [Window(0.0, 29.0, tuple(spans))]
    assert list(windows([], 29.0)) == []


def test_windows_hold_all_speech_once_and_are_cut_in_pauses() -> None:
    random = np.random.default_rng(1)
    at, spans = 0.0, []
    while at < 600:
        start = at + random.uniform(0.3, 6)
        at = start + random.uniform(0.3, 20)
        spans.append(Span(start, at))
    found = list(windows(spans, at + 1))
    assert [span for window in found for span in window.spans] == spans
    for window in found:
        assert window.end_s - window.start_s <= WINDOW_S + 1e-9
        assert window.start_s <= window.spans[0].start_s
        assert window.end_s >= window.spans[-1].end_s
    for before, after in pairwise(found):
        assert before.end_s <= after.start_s + 1e-9


def test_a_window_ends_at_its_longest_late_pause() -> None:
    spans = [Span(0, 8), Span(9, 17), Span(20, 24), Span(24.5, 28), Span(28.5, 40)]
    first, second = windows(spans, 60)
    assert first.spans == tuple(spans[:2])
    assert second.spans == tuple(spans[2:])


def test_clipping_takes_the_silence_at_the_ends_only() -> None:
    spans = [Span(1, 2), Span(4, 5)]
    assert clip_to_speech(0, 10, spans) == Span(1, 5)
    assert clip_to_speech(1.5, 4.5, spans) == Span(1.5, 4.5)
    assert clip_to_speech(2.5, 3.5, spans) is None


def test_interpolated_words_stay_in_the_speech_and_carry_no_score() -> None:
    words = interpolated_words("ab cdef gh", Span(0, 6), [Span(1, 2), Span(4, 5)])
    assert [word.text for word in words] == ["ab", "cdef", "gh"]
    assert [(word.start_s, word.end_s) for word in words] == [
        pytest.approx((1, 1.5)),
        pytest.approx((1.5, 4.5)),
        pytest.approx((4.5, 5)),
    ]
    assert {word.score for word in words} == {None}
    assert interpolated_words("", Span(0, 1), []) == ()


def test_phrases_join_short_pauses() -> None:
    assert phrases([Span(0, 1), Span(1.5, 2), Span(4, 5)], 1.0) == [Span(0, 2), Span(4, 5)]


def media_files(*folders: str) -> list[str]:
    root = SHARED / "media"
    return sorted(str(p.relative_to(root)) for folder in folders for p in (root / folder).glob("*"))


NON_SPEECH = {"audio/noise1.wav", "audio/crunching.mp3", "audio/sine_mono_s16.wav", "speech/empty_no_speech.wav"}


@pytest.mark.slow
@needs_media
@pytest.mark.parametrize("name", sorted(NON_SPEECH))
@pytest.mark.parametrize("gain", [0.2, 1.0, 4.0])
def test_real_noise_does_not_pass(vad: SileroVad, name: str, gain: float) -> None:
    samples = np.clip(shared_sound(name).samples * gain, -1, 1)
    assert vad.spans(Sound(samples), Gate()) == []


@pytest.mark.slow
@needs_media
@pytest.mark.parametrize("name", [n for n in media_files("speech", "voice_id", "emotion") if n not in NON_SPEECH])
def test_real_speech_passes(vad: SileroVad, name: str) -> None:
    spans = vad.spans(shared_sound(name), Gate())
    assert sum(span.duration_s for span in spans) > 0.5
    assert RATE == 16_000


@pytest.mark.parametrize("threshold", [0.15, 0.1, 0.02])
def test_speech_ends_however_low_the_threshold(threshold: float) -> None:
    odds = [0.9] * 60 + [0.0] * 60 + [0.9] * 60
    found = [span for span, _ in _raw_spans(iter(odds), Gate(threshold=threshold))]
    assert [(round(span.start_s / PROBABILITY_S), round(span.end_s / PROBABILITY_S)) for span in found] == [
        (0, 60),
        (120, 180),
    ]
