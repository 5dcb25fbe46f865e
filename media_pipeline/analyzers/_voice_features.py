"""Spectrograms as speaker encoders want them: 100 frames a second of 25 ms each, float32, shape (frames, bands)."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from media_pipeline.analyzers._spec import Samples

SAMPLE_RATE = 16_000  # Hz
HOP = 160  # samples: 10 ms
WINDOW = 400  # samples: 25 ms
FRAMES_PER_S = SAMPLE_RATE // HOP

Features = npt.NDArray[np.float32]
_KALDI_FFT = 512
_KALDI_PREEMPHASIS = 0.97
_KALDI_LOW_HZ = 20.0


def mel_spectrogram(samples: Samples, bands: int) -> Features:
    """Power spectrogram on the mel scale, frame n centred on sample 160 n; ``len(samples) // 160 + 1`` frames.

    The same as ``librosa.feature.melspectrogram(n_fft=400, hop_length=160)``: periodic Hann window, Slaney's mel scale
    with filters of equal area, no logarithm.
    """
    padded = np.pad(samples, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    return np.asarray(power @ slaney_filters(bands).T, np.float32)


def kaldi_fbank(samples: Samples, bands: int, *, povey: bool = False) -> Features:
    """Log mel filter bank energies as Kaldi's ``compute-fbank-feats`` without dither, frames inside the signal only.

    Args:
        samples: float32 in [-1, 1]; Kaldi's scale of 16-bit integers is applied here
        povey: Kaldi's own window (CAM++ of 3D-Speaker) instead of Hamming's (WeSpeaker)
    """
    if len(samples) < WINDOW:
        return np.zeros((0, bands), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples * np.float32(32768), WINDOW)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    angle = 2 * np.pi * np.arange(WINDOW) / (WINDOW - 1)
    shape = (0.5 - 0.5 * np.cos(angle)) ** 0.85 if povey else 0.54 - 0.46 * np.cos(angle)
    windowed = (frames - np.float32(_KALDI_PREEMPHASIS) * before) * shape.astype(np.float32)
    power = np.abs(np.fft.rfft(windowed, _KALDI_FFT)) ** 2
    energies = power[:, :-1] @ kaldi_filters(bands).T
    return np.asarray(np.log(np.maximum(energies, np.finfo(np.float32).eps)), np.float32)


@cache
def slaney_filters(bands: int) -> npt.NDArray[np.float32]:
    """Triangles of equal area on the mel scale of Slaney's Auditory Toolbox; shape (bands, 201)."""

    def hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # Linear up to 1 kHz (mel 15), then 27 steps for a factor of 6.4.
        return np.asarray(np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15))), np.float64)

    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    edges = hertz(np.linspace(0, top, bands + 2, dtype=np.float64))
    filters = _triangles(np.arange(WINDOW // 2 + 1) * SAMPLE_RATE / WINDOW, edges)
    return (filters * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


@cache
def kaldi_filters(bands: int) -> npt.NDArray[np.float32]:
    """Kaldi's triangles, linear on its mel scale, from 20 Hz to 8 kHz; shape (bands, 256)."""

    def mel(hertz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return 1127 * np.log1p(hertz / 700)

    low, high = mel(np.array([_KALDI_LOW_HZ, SAMPLE_RATE / 2]))
    positions = mel(np.arange(_KALDI_FFT // 2) * SAMPLE_RATE / _KALDI_FFT)
    return _triangles(positions, np.linspace(low, high, bands + 2, dtype=np.float64)).astype(np.float32)


def _triangles(bins: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Filters that rise from one edge to the next and fall to the one after it."""
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.asarray(np.maximum(0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))))
