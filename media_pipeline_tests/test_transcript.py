from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from media_pipeline.analyzers import _speech_whisper, _vad, transcript
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._speech_windows import Segment, Window
from media_pipeline.analyzers._vad import SileroVad, Span
from media_pipeline.analyzers.transcript import ANALYZER, Model, TranscriptOptions, preview
from media_pipeline.errors import ModelUnavailable, UsageError
from media_pipeline_tests._sound import (
    SHARED,
    Sound,
    medium,
    needs_media,
    needs_whisper,
    noise,
    shared_call,
    shared_sound,
    silence,
    tone,
    vowels,
)
from media_pipeline_tests._whisper import make_whisper

MEMORISED = SHARED / "models" / "whisper-micro-memorised-ct2"
NON_SPEECH = ("audio/noise1.wav", "audio/crunching.mp3", "audio/sine_mono_s16.wav", "speech/empty_no_speech.wav")


def store(root: Path, tier: str = "auto") -> ModelStore:
    return ModelStore(root, offline=True, hub_url="http://127.0.0.1:9", tier=tier)


def transcribe(model: Model, sound: Sound | None, options: TranscriptOptions) -> list[dict[str, Any]]:
    table = ANALYZER.run(model, (medium(sound),), options)
    ANALYZER.check(table, {"m"})
    return table.to_pylist()  # type: ignore[no-any-return]


def assert_well_formed(rows: list[dict[str, Any]], duration_s: float) -> None:
    assert [row["segment_index"] for row in rows] == list(range(len(rows)))
    for row in rows:
        assert 0 <= row["start_s"] < row["end_s"] <= duration_s + 1e-6
        assert 0 <= row["score"] <= 1
        assert row["text"] == row["text"].strip() != ""
        assert row["speaker"] is None
        for word in row["words"]:
            assert row["start_s"] - 1.0 <= word["start_s"] <= word["end_s"] <= row["end_s"] + 1.0
            assert word["score"] is None or 0 <= word["score"] <= 1


# --- choosing a model ---------------------------------------------------------------------------------------------


def test_without_weights_and_language_there_is_no_model_but_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        ANALYZER.choose(TranscriptOptions(), store(tmp_path))
    assert "models pull faster-whisper-small" in str(caught.value)
    assert "MEDIA_PIPELINE_LANGUAGE=en" in str(caught.value)


def test_the_english_draft_is_taken_for_english_only_and_says_so(tmp_path: Path) -> None:
    choice = ANALYZER.choose(TranscriptOptions(language="en"), store(tmp_path))
    assert (choice.tier, choice.path) == ("embedded", None)
    assert "draft" in choice.name
    assert choice.warning is not None
    assert "models pull faster-whisper-small" in choice.warning
    with pytest.raises(ModelUnavailable, match="set to de"):
        ANALYZER.choose(TranscriptOptions(language="de"), store(tmp_path))


def test_a_wanted_embedded_tier_is_no_warning(tmp_path: Path) -> None:
    assert ANALYZER.choose(TranscriptOptions(language="en"), store(tmp_path, "embedded")).warning is None


@pytest.mark.parametrize("language", ["auto", "de"])
def test_in_the_embedded_tier_it_is_the_tier_that_is_to_change(tmp_path: Path, language: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        ANALYZER.choose(TranscriptOptions(language=language), store(tmp_path, "embedded"))
    assert caught.value.cause.startswith("the tier is embedded") and f"set to {language}" in caught.value.cause
    assert "set MEDIA_PIPELINE_TIER to auto and run" in (caught.value.remedy or "")
    assert "not on this machine" not in str(caught.value)


def test_the_standard_tier_takes_no_draft(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="models pull faster-whisper-small"):
        ANALYZER.choose(TranscriptOptions(language="en"), store(tmp_path, "standard"))


@pytest.mark.parametrize("language", ["auto", "en"])
def test_a_model_asked_for_by_name_is_never_replaced(tmp_path: Path, language: str) -> None:
    with pytest.raises(ModelUnavailable, match="models pull faster-whisper-base"):
        ANALYZER.choose(TranscriptOptions(model="faster-whisper-base", language=language), store(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused_before_it_asks_the_network(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelUnavailable, match=re.escape("config.json, tokenizer.json, vocabulary.* missing")):
        ANALYZER.choose(TranscriptOptions(model=str(tmp_path)), store(tmp_path / "store"))


@pytest.mark.parametrize("language", ["de", "en"])
def test_the_voice_detector_is_part_of_the_model_where_it_decides_what_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    given = {"model": str(folder_like_whisper(tmp_path / "whisper"))} if language == "de" else {}
    for speech_gate in (True, False):
        options = TranscriptOptions(language=language, speech_gate=speech_gate, **given)
        before = ANALYZER.choose(options, store(tmp_path)).digest
        with monkeypatch.context() as patch:
            (tmp_path / "other.onnx").write_bytes(b"another detector")
            patch.setattr(_vad, "weights_file", lambda: tmp_path / "other.onnx")
            assert (ANALYZER.choose(options, store(tmp_path)).digest != before) is speech_gate
        assert ANALYZER.choose(options, store(tmp_path)).digest == before


def test_another_faster_whisper_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TranscriptOptions(model=str(folder_like_whisper(tmp_path / "whisper")))
    before = ANALYZER.choose(options, store(tmp_path / "store"))
    monkeypatch.setattr(transcript, "version", lambda package: f"2.0 of {package}")
    after = ANALYZER.choose(options, store(tmp_path / "store"))
    assert (after.name, after.path) == (before.name, before.path)
    assert after.digest != before.digest


def folder_like_whisper(folder: Path) -> Path:
    """What `choose` looks for, and nothing that could be opened."""
    folder.mkdir()
    for name in (*_speech_whisper.REQUIRED_FILES, "vocabulary.txt"):
        (folder / name).touch()
    return folder


@pytest.mark.slow
def test_damaged_weights_are_named_with_what_is_wrong(random_whisper: Loaded, tmp_path: Path) -> None:
    whole = Path(random_whisper[1].model)
    for damaged in ("model.bin", "tokenizer.json"):
        folder = tmp_path / f"without the end of {damaged}"
        shutil.copytree(whole, folder)
        (folder / damaged).write_bytes((whole / damaged).read_bytes()[:-5000])
        options = TranscriptOptions(model=str(folder))
        choice = ANALYZER.choose(options, store(tmp_path / "store"))
        with pytest.raises(ModelUnavailable) as caught:
            ANALYZER.load(choice, "cpu", options)
        assert f"{folder} cannot be opened as a Whisper model" in caught.value.cause
        assert "MEDIA_PIPELINE_OPTIONS__TRANSCRIPT__MODEL" in (caught.value.remedy or "")


def test_threads_do_not_change_the_fingerprint_and_the_beam_does(tmp_path: Path) -> None:
    choice = ANALYZER.choose(TranscriptOptions(language="en"), store(tmp_path))
    plain = ANALYZER.fingerprint(choice, TranscriptOptions())
    assert ANALYZER.fingerprint(choice, TranscriptOptions(threads=3)) == plain
    assert ANALYZER.fingerprint(choice, TranscriptOptions(beam_size=1)) != plain


# --- the gate -----------------------------------------------------------------------------------------------------


class Forbidden:
    """A recogniser that must not be asked."""

    draft = False

    def segments(self, *_: object) -> Iterator[Any]:
        raise AssertionError("the recogniser was called without speech")


@pytest.mark.parametrize("samples", [silence(2), noise(3), tone(2), silence(0)])
def test_without_speech_nothing_is_recognised(samples: np.ndarray) -> None:
    assert transcribe(Model(SileroVad(), Forbidden()), Sound(samples), TranscriptOptions()) == []  # type: ignore[arg-type]


def test_a_medium_without_sound_has_no_rows() -> None:
    assert transcribe(Model(SileroVad(), Forbidden()), None, TranscriptOptions()) == []  # type: ignore[arg-type]


@needs_media
@pytest.mark.parametrize("name", NON_SPEECH)
def test_real_noise_reaches_no_recogniser(name: str) -> None:
    assert transcribe(Model(SileroVad(), Forbidden()), shared_sound(name), TranscriptOptions()) == []  # type: ignore[arg-type]


# --- what is made of Whisper's answers ----------------------------------------------------------------------------


def answer(text: str, start: float, end: float, words: Any = None, **changed: float) -> SimpleNamespace:
    facts = {"avg_logprob": -0.2, "no_speech_prob": 0.0, "compression_ratio": 1.0, **changed}
    return SimpleNamespace(text=text, start=start, end=end, words=words, **facts)


def placed(*segments: SimpleNamespace) -> list[Any]:
    window = Window(100.0, 120.0, (Span(101, 104), Span(110, 112)))
    return list(_speech_whisper._placed(_speech_whisper._Heard(list(segments), "de", 0.9), window))


def test_times_are_those_of_the_medium_and_end_with_the_speech() -> None:
    (segment,) = placed(answer(" Guten Tag.", 0.0, 5.0))
    assert (segment.start_s, segment.end_s, segment.text, segment.language) == (101, 104, "Guten Tag.", "de")
    assert [(w.text, w.score) for w in segment.words] == [("Guten", None), ("Tag.", None)]
    assert segment.words[0].start_s == 101


def test_measured_words_keep_their_times_and_scores() -> None:
    word = SimpleNamespace(word=" Tag", start=2.0, end=2.5, probability=0.75)
    (segment,) = placed(answer(" Tag", 1.5, 3.0, [word]))
    assert [(w.text, w.start_s, w.end_s, w.score) for w in segment.words] == [("Tag", 102.0, 102.5, 0.75)]


@pytest.mark.parametrize(
    "invention",
    [
        answer(" Thanks for watching!", 5.0, 9.0),  # where nobody speaks
        answer(" you", 1.0, 3.0, no_speech_prob=0.9, avg_logprob=-1.2),
        answer(" la la la la la la la", 1.0, 3.0, compression_ratio=3.0),
        answer(" xq zt", 1.0, 3.0, avg_logprob=-2.0),
        answer("  ", 1.0, 3.0),
    ],
)
def test_inventions_are_dropped(invention: SimpleNamespace) -> None:
    assert placed(invention) == []


class Echo:
    """A recogniser that says which sound it was given: how loud its speech is."""

    draft = False

    def segments(self, audio: Any, windows: Iterator[Window], _language: str) -> Iterator[Segment]:
        for window in windows:
            for span in window.spans:
                level = float(np.abs(audio.read(span.start_s, span.end_s)).max())
                yield Segment(span.start_s, span.end_s, f"{level:.1f}", "en", 1.0, ())


def test_the_sides_of_a_call_are_merged_by_time() -> None:
    left = np.concatenate([vowels(1), silence(1.5), vowels(1), silence(0.5)])
    right = np.concatenate([silence(1.5), 2 * vowels(2), silence(0.5)])
    rows = transcribe(Model(SileroVad(), Echo()), Sound(left, right), TranscriptOptions())  # type: ignore[arg-type]
    assert_well_formed(rows, 4.0)
    assert [(row["channel"], row["text"]) for row in rows] == [(0, "0.3"), (1, "0.6"), (0, "0.3")]
    assert [row["start_s"] for row in rows] == sorted(row["start_s"] for row in rows)
    mono = transcribe(Model(SileroVad(), Echo()), Sound(left), TranscriptOptions())  # type: ignore[arg-type]
    assert {row["channel"] for row in mono} == {None}


# --- recognisers for real -----------------------------------------------------------------------------------------


Loaded = tuple[Model, TranscriptOptions]


def heard(loaded: Loaded, sound: Sound) -> list[dict[str, Any]]:
    return transcribe(loaded[0], sound, loaded[1])


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    options = TranscriptOptions(language="en")
    return ANALYZER.load(ANALYZER.choose(options, store(tmp_path_factory.mktemp("store"))), "cpu", options), options


@pytest.mark.slow
def test_the_draft_is_marked_and_its_times_are_inside_the_speech(draft: Loaded) -> None:
    sound = Sound(np.concatenate([silence(1), vowels(2), silence(2), vowels(1), silence(0.5)]))
    rows = heard(draft, sound)
    assert_well_formed(rows, sound.duration_s)
    assert [row["draft"] for row in rows] == [True, True]
    assert {row["language"] for row in rows} == {"en"}
    assert preview(pa.Table.from_pylist(rows, transcript.SCHEMA)).startswith("*draft*")
    # A decoder that was used gives what a fresh one gives.
    assert heard(draft, sound) == rows


@pytest.fixture(scope="module")
def random_whisper(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_whisper(tmp_path_factory.mktemp("whisper"))
    options = TranscriptOptions(model=str(folder), threads=1, beam_size=1, language="en")
    choice = ANALYZER.choose(options, store(folder.parent / "store"))
    assert (choice.tier, choice.path) == ("standard", folder)
    return ANALYZER.load(choice, "cpu", options), options


@pytest.mark.slow
def test_a_whisper_that_babbles_yields_well_formed_rows_or_none(
    random_whisper: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = random_whisper
    sound = Sound(np.concatenate([silence(1), vowels(3), silence(1)]))
    # The guards recognise the babble of random weights for what it is ...
    assert transcribe(model, sound, options) == []
    # ... so they are lifted to see the whole path down to the rows.
    monkeypatch.setattr(_speech_whisper, "_is_plausible", lambda _segment: True)
    rows = transcribe(model, sound, options)
    assert rows
    assert_well_formed(rows, sound.duration_s)
    assert {(row["language"], row["draft"]) for row in rows} == {("en", False)}
    assert transcribe(model, sound, options) == rows


@pytest.mark.slow
def test_long_sound_is_heard_in_windows(random_whisper: Loaded) -> None:
    model, options = random_whisper
    sound = Sound(np.concatenate([*(np.concatenate([vowels(6), silence(2)]) for _ in range(9))]))
    transcribe(model, sound, options)
    assert sound.longest_s <= 32


@pytest.mark.slow
def test_an_unknown_language_is_a_usage_error(random_whisper: Loaded) -> None:
    model, options = random_whisper
    with pytest.raises(UsageError, match="'xx'"):
        transcribe(model, Sound(vowels(2)), options.model_copy(update={"language": "xx"}))


# --- the memorised Whisper of ../shared ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def memorised(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    options = TranscriptOptions(model=str(MEMORISED), threads=1)
    return ANALYZER.load(ANALYZER.choose(options, store(tmp_path_factory.mktemp("store"))), "cpu", options), options


@cache
def truths() -> dict[str, dict[str, Any]]:
    manifest = SHARED / "media" / "MANIFEST.json"
    if not manifest.is_file():
        return {}
    return {item["file"]: item["ground_truth"] for item in json.loads(manifest.read_text())["files"]}


def memorised_clips() -> list[str]:
    named = [name for name, truth in truths().items() if "transcript" in truth and name not in NON_SPEECH]
    return sorted([*named, "speech/stereo_two_speakers.wav"])


def plain(text: str) -> list[str]:
    return re.sub(r"[^\w' ]", " ", text.lower()).split()


@needs_media
@needs_whisper
@pytest.mark.slow
@pytest.mark.parametrize("name", memorised_clips())
def test_memorised_clips_come_out_exactly(memorised: Loaded, name: str) -> None:
    truth = truths()[name]
    sound = shared_sound(name)
    rows = heard(memorised, sound)
    assert_well_formed(rows, sound.duration_s)
    right = [truth.get(key) for key in ("transcript", "transcript_also_accept", "left_transcript") if truth.get(key)]
    assert plain(" ".join(row["text"] for row in rows)) in [plain(text) for text in right]
    assert {row["language"] for row in rows} == {truth.get("language", "en")}
    if times := truth.get("word_times"):
        assert rows[0]["start_s"] == pytest.approx(times[0][1], abs=0.3)
        assert rows[-1]["end_s"] == pytest.approx(times[-1][2], abs=0.3)
        assert [word["score"] for row in rows for word in row["words"]] == [None] * len(times)


@needs_media
@needs_whisper
@pytest.mark.slow
def test_two_channels_are_heard_one_by_one(memorised: Loaded) -> None:
    truth = truths()["speech/stereo_two_speakers.wav"]
    rows = heard(memorised, shared_call("speech/stereo_two_speakers.wav"))
    assert_well_formed(rows, 5.0)
    assert [(row["channel"], plain(row["text"])) for row in rows] == [
        (0, plain(truth["left_transcript"])),
        (1, plain(truth["right_transcript"])),
    ]
    # They speak at the same time.
    assert rows[1]["start_s"] < rows[0]["end_s"]


@needs_media
@needs_whisper
@pytest.mark.slow
def test_threads_share_one_whisper(memorised: Loaded) -> None:
    names = ["speech/jfk.flac", "speech/leopard_de.wav", "speech/leopard_fr.wav"]
    sounds = [shared_sound(name) for name in names]
    alone = [heard(memorised, sound) for sound in sounds]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda sound: heard(memorised, sound), sounds))
    assert together == alone


@needs_media
@needs_whisper
@pytest.mark.slow
def test_a_long_recording_keeps_times_and_languages(memorised: Loaded) -> None:
    clips = [shared_sound(f"speech/leopard_{code}.wav").samples for code in ("de", "fr", "de", "fr")]
    pause = silence(28)
    sound = Sound(np.concatenate([part for clip in clips for part in (clip, pause)]))
    rows = heard(memorised, sound)
    starts = np.cumsum([0.0] + [len(clip) / 16_000 + 28 for clip in clips[:-1]])
    first_words = np.array([0.77, 1.12, 0.77, 1.12])
    assert [row["language"] for row in rows] == ["de", "fr", "de", "fr"]
    assert [row["start_s"] for row in rows] == pytest.approx(list(starts + first_words), abs=0.3)


def test_preview_shows_the_first_sentences() -> None:
    rows = [
        {"media_id": "m", "start_s": 3725.0, "end_s": 3726.0, "text": "Guten Tag.", "draft": False},
        {"media_id": "m", "start_s": 3730.0, "end_s": 3731.0, "text": "x" * 400, "draft": False},
    ]
    assert preview(pa.Table.from_pylist(rows, transcript.SCHEMA)) == r"1:02:05 Guten Tag\."
    assert preview(pa.Table.from_pylist([], transcript.SCHEMA)) == "no speech"


def test_what_is_said_becomes_no_markup_in_the_preview() -> None:
    row = {"media_id": "m", "start_s": 5.0, "end_s": 6.0, "text": "[here](http://x) <img>", "draft": False}
    assert preview(pa.Table.from_pylist([row], schema=transcript.SCHEMA)) == r"0:05 \[here\]\(http\://x\) \<img\>"
