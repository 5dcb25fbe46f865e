"""Who speaks when: turns, how many people, two channels, and whose voice it is."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from media_pipeline.analyzers import _vad
from media_pipeline.analyzers._packaged import sha256_of
from media_pipeline.analyzers._speaker_clusters import centroids_of
from media_pipeline.analyzers._speaker_turns import turns_of
from media_pipeline.analyzers._speaker_windows import Windows, vector_of
from media_pipeline.analyzers._spec import Samples
from media_pipeline.analyzers._speech_channels import speech_of
from media_pipeline.analyzers._vad import Gate, SileroVad, Span
from media_pipeline.analyzers._voice_encoder import Vectors, normalised
from media_pipeline.analyzers._voice_identity import same_voice_cosine
from media_pipeline.analyzers.speakers import (
    ANALYZER,
    Model,
    SpeakersOptions,
    choose,
    fingerprint,
    load,
    preview,
)
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._sound import Sound, medium, needs_media, noise, shared_sound, silence, tone, vowels
from media_pipeline_tests._voices import MAN, WOMAN, model, say, store, write_x_vector

RATE = 16_000
Rows = list[dict[str, Any]]


def speakers(sound: Sound | None, options: SpeakersOptions | None = None, using: Model | None = None) -> Rows:
    table = ANALYZER.run(using or model(), (medium(sound),), options or SpeakersOptions())
    ANALYZER.check(table, {"m"})
    return table.to_pylist()  # type: ignore[no-any-return]


def assert_well_formed(rows: Rows, duration_s: float) -> None:
    assert [row["turn_index"] for row in rows] == list(range(len(rows)))
    assert [row["start_s"] for row in rows] == sorted(row["start_s"] for row in rows)
    # Numbered by first appearance.
    assert list(dict.fromkeys(r["speaker"] for r in rows)) == [f"S{n + 1}" for n in range(len({*names(rows)}))]
    for row in rows:
        assert 0 <= row["start_s"] < row["end_s"] <= duration_s + 1e-6
        if row["embedding"] is not None:
            assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-4)


def vector(sound: Sound) -> Vectors:
    """Of all that is said in a recording of one person."""
    found = vector_of(model().encoder, sound, model().vad.spans(sound, Gate()))
    assert found is not None
    return found


def names(rows: Rows) -> list[str]:
    return [row["speaker"] for row in rows]


# --- choosing a model ---------------------------------------------------------------------------------------------


def test_the_embedded_encoder_needs_nothing(tmp_path: Path) -> None:
    choice = choose(SpeakersOptions(), store(tmp_path))
    assert (choice.name, choice.tier, choice.warning) == ("resemblyzer GE2E", "embedded", None)
    with pytest.raises(ModelUnavailable, match="MEDIA_PIPELINE_OPTIONS__SPEAKERS__MODEL"):
        choose(SpeakersOptions(), store(tmp_path, "standard"))


def test_a_network_is_given_as_file_or_folder(tmp_path: Path) -> None:
    file = write_x_vector(tmp_path / "voices.onnx")
    for given in (file, tmp_path):
        choice = choose(SpeakersOptions(model=str(given)), store(tmp_path / "store", "embedded"))
        assert (choice.name, choice.tier, choice.path) == ("voices", "standard", file)
    write_x_vector(tmp_path / "second.onnx")
    with pytest.raises(ModelUnavailable, match="2 ONNX files"):
        choose(SpeakersOptions(model=str(tmp_path)), store(tmp_path / "store"))
    with pytest.raises(ModelUnavailable):
        choose(SpeakersOptions(model=str(tmp_path / "missing.onnx")), store(tmp_path / "store"))


@pytest.mark.parametrize("given", [False, True])
def test_another_voice_detector_makes_results_stale_but_voices_stay_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    model = str(write_x_vector(tmp_path / "voices.onnx")) if given else None
    asked = (SpeakersOptions(model=model), SpeakersOptions(model=model, speech_gate=False))
    before = [choose(options, store(tmp_path)) for options in asked]
    (tmp_path / "other.bin").write_bytes(b"another detector")
    monkeypatch.setattr(_vad, "weights_file", lambda: tmp_path / "other.bin")
    after = [choose(options, store(tmp_path)) for options in asked]
    assert [b.digest == a.digest for b, a in zip(before, after, strict=True)] == [False, True]
    assert len({fingerprint(choice) for choice in (*before, *after)}) == 1


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_speakers 3 is more than max_speakers 2"):
        SpeakersOptions(min_speakers=3, max_speakers=2)


# --- the gate -----------------------------------------------------------------------------------------------------


class Forbidden:
    """An encoder that must not be asked."""

    def features(self, samples: Samples) -> Any:
        raise AssertionError("the encoder was asked without speech")

    def embed(self, windows: Any) -> Any:
        raise AssertionError("the encoder was asked without speech")


@pytest.mark.parametrize("samples", [silence(2), noise(3), tone(2), silence(0), silence(0.01)])
def test_where_nobody_speaks_there_are_no_turns(samples: Samples) -> None:
    assert speakers(Sound(samples), using=Model(SileroVad(), Forbidden(), "none@0")) == []
    assert speakers(Sound(samples, samples), using=Model(SileroVad(), Forbidden(), "none@0")) == []


def test_a_medium_without_sound_has_no_rows() -> None:
    assert speakers(None) == []


@pytest.mark.slow
def test_the_gate_can_be_opened() -> None:
    rows = speakers(Sound(noise(30)), SpeakersOptions(speech_gate=False))
    assert (rows[0]["start_s"], rows[-1]["end_s"]) == (0, 30)


# --- how many people ----------------------------------------------------------------------------------------------


def cloud(people: int, windows: int, spread: float = 0.05, dimension: int = 64) -> np.ndarray:
    """Windows of people who sound nothing alike, shuffled; in each its person's number, far behind the comma."""
    rng = np.random.default_rng(people)
    centres = normalised(rng.standard_normal((people, dimension)))
    return normalised(np.repeat(centres, windows, axis=0) + rng.normal(0, spread, (people * windows, dimension)))


@pytest.mark.parametrize("people", [1, 2, 3, 5, 8])
def test_every_voice_is_one_cluster(people: int) -> None:
    vectors = cloud(people, 30)
    found = centroids_of(vectors, 0.63, 1, 10)
    assert len(found) == people
    labels = np.argmax(vectors @ found.T, axis=1).reshape(people, 30)
    assert all(len(set(row)) == 1 for row in labels.tolist())


def test_the_number_of_people_can_be_given() -> None:
    vectors = cloud(5, 30)
    assert len(centroids_of(vectors, 0.63, 1, 2)) == 2
    assert len(centroids_of(vectors, 0.63, 7, 10)) == 7
    assert len(centroids_of(vectors[:30], 0.63, 2, 2)) == 2


def test_a_cough_is_no_person() -> None:
    vectors = np.concatenate([cloud(2, 40), cloud(9, 1)[-1:]])
    assert len(centroids_of(vectors, 0.63, 1, 10)) == 2


@pytest.mark.parametrize("count", [1, 2, 7, 8, 50])
def test_few_or_equal_windows_are_one_voice(count: int) -> None:
    assert len(centroids_of(np.repeat(cloud(1, 1), count, axis=0), 0.63, 1, 10)) == 1


@pytest.mark.slow
def test_two_hours_of_speech_need_no_matrix_of_all_pairs() -> None:
    vectors = cloud(6, 3000)
    tracemalloc.start()
    assert len(centroids_of(vectors, 0.63, 1, 10)) == 6
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000  # the pairs of 18000 windows would be 1.3 GB


# --- turns --------------------------------------------------------------------------------------------------------


def windows_from(labels: str, spans: list[Span]) -> Windows:
    """One window of 1.6 s every 0.4 s, voiced by the letter at its middle: a or b, in letters of 0.4 s."""
    voices = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    starts, vectors = [], []
    for span in spans:
        for start in np.arange(span.start_s, span.end_s - 1.6 + 1e-6, 0.4):
            starts.append(start)
            vectors.append(voices[labels[int((start + 0.8) / 0.4)]])
    return Windows(np.array(starts), np.array(starts) + 1.6, np.array(vectors, np.float32))


def turns(labels: str, spans: list[Span]) -> list[tuple[float, float, int]]:
    found = turns_of(spans, windows_from(labels, spans), np.eye(2, dtype=np.float32))
    return [(round(t.start_s, 1), round(t.end_s, 1), t.speaker) for t in found]


def test_a_change_within_a_span_is_found() -> None:
    (first, second) = turns("a" * 15 + "b" * 15, [Span(0, 12)])
    assert (first[0], first[2], second[1], second[2]) == (0, 0, 12, 1)
    assert first[1] == second[0] == pytest.approx(6, abs=0.4)


def test_one_odd_window_is_no_turn() -> None:
    assert turns("a" * 12 + "b" + "a" * 17, [Span(0, 12)]) == [(0, 12, 0)]


def test_short_pauses_stay_within_a_turn_and_long_ones_do_not() -> None:
    assert turns("a" * 30, [Span(0, 3), Span(3.4, 6), Span(7, 12)]) == [(0, 6, 0), (7, 12, 0)]


def test_a_word_between_spans_belongs_to_somebody() -> None:
    spans = [Span(0, 4), Span(4.3, 4.6), Span(5, 12)]
    found = turns("a" * 30, spans)
    assert found == [(0, 12, 0)]


# --- real turns, synthetic voices ---------------------------------------------------------------------------------


def conversation(*said: tuple[str, int], pause_s: float = 0.2) -> tuple[Sound, list[tuple[float, float]]]:
    """These voices saying these sentences one after the other, and when."""
    parts, times, at = [], [], 0.0
    for voice, number in said:
        part = np.concatenate([say(voice, number), silence(pause_s)])
        times.append((at, at + len(part) / RATE))
        at += len(part) / RATE
        parts.append(part)
    return Sound(np.concatenate(parts)), times


@pytest.mark.slow
def test_two_people_in_turn_are_two(tmp_path: Path) -> None:
    sound, times = conversation(*product((MAN, WOMAN), range(2)), (MAN, 2), (WOMAN, 3))
    rows = speakers(sound)
    assert_well_formed(rows, sound.duration_s)
    truth = ["S1", "S1", "S2", "S2", "S1", "S2"]
    for (start, end), speaker in zip(times, truth, strict=True):
        middle = (start + end) / 2
        assert [r["speaker"] for r in rows if r["start_s"] <= middle < r["end_s"]] == [speaker]
    assert {row["channel"] for row in rows} == {None}
    assert {row["model"] for row in rows} == {model().fingerprint}
    assert sound.longest_s <= 32
    assert "S1" in preview(pa.Table.from_pylist(rows, ANALYZER.schema))


@pytest.mark.slow
def test_one_person_stays_one_in_noise_and_shouting() -> None:
    sound, _ = conversation(*((MAN, n) for n in range(4)))
    loudness = np.repeat([0.2, 1.0, 3.0, 0.5], len(sound.samples) // 4 + 1)[: len(sound.samples)]
    disturbed = np.clip(sound.samples * loudness + noise(sound.duration_s + 1, 0.005)[: len(sound.samples)], -1, 1)
    for samples in (sound.samples, disturbed.astype(np.float32)):
        rows = speakers(Sound(samples))
        assert_well_formed(rows, sound.duration_s)
        assert set(names(rows)) == {"S1"}


@pytest.mark.slow
def test_results_do_not_depend_on_what_else_is_running() -> None:
    sounds = [conversation((MAN, n), (WOMAN, n + 1))[0] for n in range(3)]
    alone = [speakers(sound) for sound in sounds]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(speakers, sounds)) == alone


def test_a_short_word_has_no_vector() -> None:
    rows = speakers(Sound(np.concatenate([silence(1), vowels(0.45), silence(1)])))
    assert [row["embedding"] for row in rows] == [None]


@pytest.mark.slow
def test_a_given_network_names_itself(tmp_path: Path) -> None:
    file = write_x_vector(tmp_path / "voices.onnx")
    options = SpeakersOptions(model=str(file))
    choice = choose(options, store(tmp_path / "store"))
    rows = speakers(conversation((MAN, 0), (WOMAN, 1))[0], options, load(choice, "cpu", options))
    assert {row["model"] for row in rows} == {fingerprint(choice)} == {f"voices@{sha256_of(file)[:12]}"}
    assert {len(row["embedding"]) for row in rows if row["embedding"]} == {16}


# --- two channels -------------------------------------------------------------------------------------------------


def two_sides(overlap: bool, leak: float = 0.0) -> Sound:
    """A man on the left, a woman on the right; a fraction of each is heard by the other's microphone."""
    man, woman = say(MAN, 0), say(WOMAN, 1)
    later = 0 if overlap else len(man)
    left, right = np.zeros((2, later + max(len(man), len(woman))), np.float32)
    left[: len(man)] += man
    right[later : later + len(woman)] += woman
    return Sound(left + leak * right, right + leak * left)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("leak", [0.0, 0.1])
def test_each_channel_has_its_speaker(overlap: bool, leak: float) -> None:
    sound = two_sides(overlap, leak)
    rows = speakers(sound)
    assert_well_formed(rows, sound.duration_s)
    assert {(row["speaker"], row["channel"]) for row in rows} == (
        {("S1", 0), ("S2", 1)} if names(rows)[0] == "S1" and rows[0]["channel"] == 0 else {("S1", 1), ("S2", 0)}
    )
    man, woman = (vector(Sound(say(voice, 3))) for voice in (MAN, WOMAN))
    for row in rows:
        own, other = (man, woman) if row["channel"] == 0 else (woman, man)
        if row["embedding"] is not None:
            assert np.dot(row["embedding"], own) > np.dot(row["embedding"], other) + 0.1


def test_what_leaks_into_the_other_microphone_is_not_said_twice() -> None:
    sides = speech_of(two_sides(overlap=False, leak=0.1), SileroVad(), Gate())
    assert [side.channel for side in sides] == [0, 1]
    (left, right) = (side.spans for side in sides)
    assert left[-1].end_s < right[0].start_s + 0.5
    assert all(before.end_s <= after.start_s for before, after in pairwise([*left, *right]))


def test_a_silent_side_is_left_out() -> None:
    sound = Sound(say(MAN, 0), np.zeros_like(say(MAN, 0)))
    assert [side.channel for side in speech_of(sound, SileroVad(), Gate())] == [0]
    assert {row["channel"] for row in speakers(sound)} == {0}


# --- vectors ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recording_is_nearest_to_its_own_voice() -> None:
    samples = {(v, n): vector(Sound(say(v, n))) for v, n in product((MAN, WOMAN), range(3))}
    alike = {(a, b): float(np.dot(x, y)) for (a, x), (b, y) in product(samples.items(), repeat=2) if a != b}
    same = [cosine for (a, b), cosine in alike.items() if a[0] == b[0]]
    different = [cosine for (a, b), cosine in alike.items() if a[0] != b[0]]
    assert min(same) > same_voice_cosine(model().fingerprint) > max(different)


# --- real voices --------------------------------------------------------------------------------------------------


@needs_media
@pytest.mark.slow
def test_real_speakers_are_told_apart_across_recordings() -> None:
    samples = [
        (person, vector(shared_sound(f"voice_id/spk{person}_snt{sentence}.wav")))
        for person, sentence in product((1, 2), (1, 2, 3, 4))
    ]
    pairs = [(a == b, float(np.dot(x, y))) for n, (a, x) in enumerate(samples) for b, y in samples[:n]]
    threshold = same_voice_cosine(model().fingerprint)
    assert [same for same, cosine in pairs if (cosine >= threshold) is not same] == []


@needs_media
@pytest.mark.slow
def test_real_speakers_are_told_apart_in_a_conversation() -> None:
    order = [(1, 1), (2, 1), (1, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 4)]
    clips = [shared_sound(f"voice_id/spk{person}_snt{sentence}.wav").samples for person, sentence in order]
    sound = Sound(np.concatenate(clips))
    rows = speakers(sound)
    assert_well_formed(rows, sound.duration_s)
    ends = np.cumsum([len(clip) for clip in clips]) / RATE
    wrong = total = 0
    for row in rows:
        for at in np.arange(row["start_s"], row["end_s"], 0.01):
            person = order[min(int(np.searchsorted(ends, at)), len(order) - 1)][0]
            wrong += (row["speaker"] == "S1") != (person == 1)
            total += 1
    assert wrong / total < 0.1


@needs_media
@pytest.mark.slow
@pytest.mark.parametrize("name", ["jfk.flac", "leopard_en.wav", "leopard_de.wav", "leopard_fr.wav", "leopard_es.wav"])
def test_a_real_speaker_stays_one(name: str) -> None:
    assert set(names(speakers(shared_sound(f"speech/{name}")))) == {"S1"}
