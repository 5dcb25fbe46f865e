"""Synthetic speech and tones: float32 samples in [-1, 1], mono, 16 kHz.

The voice is eSpeak NG (GPL-3.0-or-later) out of the package espeakng-loader. It is part of the `demo` extra only: the
product neither contains nor needs it.
"""

from __future__ import annotations

import _ctypes
import ctypes
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import av
import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz
# White noise of a quiet room, as a fraction of full scale. Digital silence between words does not exist in recordings,
# and recognisers trained on them stumble over it: without noise pocketsphinx gets about half of these words wrong.
ROOM_NOISE = 0.003

# From espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_PARAMETER_RATE = 1
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_lock = Lock()  # the library has one global voice


def speak(text: str, *, voice: str = "en-us", words_per_minute: int = 160, seed: int = 0) -> Samples:
    """The text spoken, with 0.3 s of room noise before and after.

    Args:
        voice: a name that eSpeak NG knows: "en-us", "de", "fr", or with a variant, "en-us+f4". Variants with breath
            in them (f2, f3, f5) sound alike, but their samples differ from call to call.

    Raises:
        ValueError: there is no such voice.
    """
    blocks: list[npt.NDArray[np.int16]] = []

    def collect(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    with _fresh_espeak() as (library, native_rate):
        callback = _CALLBACK(collect)  # kept by name: the library does not own it
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {voice!r}")
        library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    voiced = _resampled(np.concatenate(blocks), native_rate)
    return with_room_noise(np.concatenate([silence(0.3), voiced, silence(0.3)]), seed)


@contextmanager
def _fresh_espeak() -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library and the sample rate of what it says, in Hz.

    Loaded anew for each text and unloaded afterwards (7 ms): its static state survives espeak_Terminate and makes the
    second sentence differ from the same sentence spoken first, but samples must be the same every time.
    """
    import espeakng_loader

    with _lock:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        try:
            rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, _INITIALIZE_DONT_EXIT)
            if rate <= 0:
                raise RuntimeError(f"eSpeak NG did not start (code {rate}): its voice data is missing")
            yield library, rate
        finally:
            library.espeak_Terminate()
            _ctypes.dlclose(library._handle)


def _resampled(samples: npt.NDArray[np.int16], rate: int) -> Samples:
    frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    return np.concatenate([f.to_ndarray()[0] for f in [*resampler.resample(frame), *resampler.resample(None)]])


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def tone(hz: float, seconds: float, level: float = 0.2) -> Samples:
    """A sine wave; level is its peak."""
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def with_room_noise(samples: Samples, seed: int = 0, level: float = ROOM_NOISE) -> Samples:
    """The samples with white noise of that standard deviation, clipped to [-1, 1]."""
    noise = np.random.default_rng(seed).normal(0, level, samples.shape).astype(np.float32)
    return np.clip(samples + noise, -1, 1)


def write_wav(path: Path, samples: Samples) -> None:
    """16-bit PCM, mono, 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
