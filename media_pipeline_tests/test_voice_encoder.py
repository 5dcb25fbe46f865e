"""Spectrograms and speaker encoders, against other implementations of the same definitions."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from media_pipeline.analyzers import _voice_ge2e
from media_pipeline.analyzers._onnx import open_session
from media_pipeline.analyzers._torch_file import read_tensors
from media_pipeline.analyzers._voice_encoder import normalised
from media_pipeline.analyzers._voice_features import kaldi_fbank, mel_spectrogram, slaney_filters
from media_pipeline.analyzers._voice_ge2e import Ge2e
from media_pipeline.analyzers._voice_identity import same_speaker_cosine, same_voice_cosine
from media_pipeline.analyzers._voice_xvector import XVector
from media_pipeline.errors import ModelUnavailable
from media_pipeline_tests._sound import noise, silence, tone, vowels
from media_pipeline_tests._voices import write_x_vector


@pytest.fixture(scope="module")
def ge2e() -> Ge2e:
    return Ge2e(_voice_ge2e.weights_file())


# --- spectrograms -------------------------------------------------------------------------------------------------


def test_mel_filters_are_those_of_librosa() -> None:
    # faster-whisper carries librosa's definition in NumPy.
    from faster_whisper.feature_extractor import FeatureExtractor

    for bands in (40, 80):
        assert slaney_filters(bands) == pytest.approx(FeatureExtractor.get_mel_filters(16_000, 400, bands), abs=1e-7)


def test_a_frame_is_the_power_around_its_sample() -> None:
    samples = noise(0.5)
    found = mel_spectrogram(samples, 40)
    assert found.shape == (len(samples) // 160 + 1, 40)
    assert found.dtype == np.float32
    around = samples[20 * 160 - 200 : 20 * 160 + 200]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    assert found[20] == pytest.approx(slaney_filters(40) @ np.abs(np.fft.rfft(around * hann)) ** 2, rel=1e-4)


def test_fbank_gives_kaldis_numbers() -> None:
    # From kaldi-native-fbank 1.22.5 without dither, every 16th band of the first and the fourth frame.
    n = np.arange(1600)
    chirp = (0.3 * np.sin(2 * np.pi * (200 + n) * n / 16_000)).astype(np.float32)
    expected = {
        False: ([13.019, 22.728, 14.924, 12.771, 12.083], [13.166, 14.611, 23.017, 15.159, 12.691]),
        True: ([12.676, 22.739, 11.882, 3.399, -0.484], [7.787, 7.718, 22.92, 9.904, 2.149]),
    }
    for povey, (first, fourth) in expected.items():
        found = kaldi_fbank(chirp, 80, povey=povey)
        assert found.shape == (8, 80)
        assert found[0, ::16] == pytest.approx(first, abs=0.01)
        assert found[3, ::16] == pytest.approx(fourth, abs=0.01)
    assert kaldi_fbank(chirp[:399], 80).shape == (0, 80)


# --- weights ------------------------------------------------------------------------------------------------------


def legacy_file(content: bytes) -> bytes:
    """The beginning of a file of torch.save, up to its content."""
    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + content


@pytest.mark.slow
def test_tensors_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    import torch

    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = {"plain": matrix, "turned": matrix.T, "part": matrix[1:, 2:], "whole": torch.tensor([3, 4])}
    torch.save({"state": state, "step": 7}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    found = read_tensors(tmp_path / "w.pt", "state")
    assert {name: array.tolist() for name, array in found.items()} == {n: t.tolist() for n, t in state.items()}
    real = torch.load(_voice_ge2e.weights_file(), map_location="cpu", weights_only=True)["model_state"]
    ours = read_tensors(_voice_ge2e.weights_file(), "model_state")
    assert ours.keys() == real.keys()
    assert all(np.array_equal(ours[name], tensor.numpy()) for name, tensor in real.items())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("false",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"model_state": {}}),
        legacy_file(pickle.dumps({"model_state": Evil()}, 2)),
        legacy_file(pickle.dumps({"other": {}}, 2) + pickle.dumps([], 2)),
        legacy_file(pickle.dumps({"model_state": {"x": 1}}, 2) + pickle.dumps([], 2)),
    ],
)
def test_a_file_that_holds_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pt"):
        read_tensors(tmp_path / "w.pt", "model_state")
    with pytest.raises(ModelUnavailable):
        Ge2e(tmp_path / "w.pt")


def test_a_weights_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    whole = _voice_ge2e.weights_file().read_bytes()
    (tmp_path / "w.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut off"):
        read_tensors(tmp_path / "w.pt", "model_state")


def test_the_graph_computes_what_the_equations_of_an_lstm_say() -> None:
    rng = np.random.default_rng(1)
    bands, hidden, frames = 5, 4, 7
    weights = {}
    for layer, width in enumerate((bands, hidden)):
        for kind, shape in (("weight_ih", (16, width)), ("weight_hh", (16, hidden)), ("bias_ih", 16), ("bias_hh", 16)):
            weights[f"lstm.{kind}_l{layer}"] = rng.standard_normal(shape).astype(np.float32)
    given = rng.standard_normal((frames, 3, bands)).astype(np.float32)
    found = open_session(_voice_ge2e.lstm_graph(weights, 2)).run(None, {"mel": given})[0]

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    states = list(given)
    for layer in range(2):
        w_in, w_state, b_in, b_state = (
            weights[f"lstm.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state = cell = np.zeros((3, hidden))
        for step, x in enumerate(states):
            i, f, g, o = np.split(x @ w_in.T + b_in + state @ w_state.T + b_state, 4, axis=1)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            state = sigmoid(o) * np.tanh(cell)
            states[step] = state
    assert found[0] == pytest.approx(states[-1], abs=1e-5)


# --- encoders -----------------------------------------------------------------------------------------------------


def test_a_voice_sounds_the_same_at_any_volume(ge2e: Ge2e) -> None:
    quiet, loud = (ge2e.embed([ge2e.features(vowels(1.6) * level)])[0] for level in (0.01, 3.0))
    assert float(quiet @ loud) == pytest.approx(1, abs=1e-4)


def test_vectors_do_not_depend_on_their_company(ge2e: Ge2e) -> None:
    windows = [ge2e.features(sound) for sound in (vowels(1.6), noise(0.7), tone(1.6), vowels(0.5), noise(1.6))] * 5
    together = ge2e.embed(windows)
    assert together.shape == (25, 256)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(25), abs=1e-5)
    for number in (0, 1, 3):
        assert ge2e.embed([windows[number]])[0] == pytest.approx(together[number], abs=1e-5)
    with ThreadPoolExecutor(3) as pool:
        for other in pool.map(lambda _: ge2e.embed(windows), range(3)):
            np.testing.assert_array_equal(other, together)


def test_silence_is_no_error(ge2e: Ge2e) -> None:
    assert np.isfinite(ge2e.embed([ge2e.features(silence(1.6))])).all()
    assert np.isfinite(ge2e.features(silence(0))).all()


def test_the_centre_is_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    file = _voice_ge2e.weights_file()
    before = _voice_ge2e.digest(file)
    monkeypatch.setattr(_voice_ge2e, "_CENTRE", "00" * 256)
    assert _voice_ge2e.digest(file) != before


@pytest.mark.parametrize("batch", ["batch", 1])
def test_any_x_vector_network_runs(tmp_path: Path, batch: str | int) -> None:
    encoder = XVector(write_x_vector(tmp_path / "net.onnx", batch=batch))
    windows = [encoder.features(sound) for sound in (vowels(1.6), noise(1.6), vowels(0.8))]
    found = encoder.embed(windows)
    assert found.shape == (3, 16)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    # The mean over time is taken away: a louder voice is the same voice.
    louder = encoder.embed([encoder.features(vowels(1.6) * 0.1)])
    assert float(louder[0] @ found[0]) == pytest.approx(1, abs=1e-3)


def test_what_is_no_speaker_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(b"no network")
    for file in (tmp_path / "text.onnx", write_x_vector(tmp_path / "narrow.onnx", bands=40)):
        with pytest.raises(ModelUnavailable) as caught:
            XVector(file)
        assert "frames, 80" in str(caught.value)


def test_thresholds_belong_to_a_model() -> None:
    assert same_voice_cosine("resemblyzer GE2E@0123456789ab") == same_voice_cosine("resemblyzer GE2E") == 0.5
    assert same_speaker_cosine("resemblyzer GE2E@0123456789ab") == 0.63
    assert same_voice_cosine("another@0123456789ab") == same_speaker_cosine("another") == 0.5


def test_a_row_of_zeros_stays_one() -> None:
    assert normalised(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist() == pytest.approx(np.array([[0, 0], [0.6, 0.8]]))
