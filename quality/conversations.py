"""Conversations put together from single sentences, so that who speaks when is known to the sample."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quality.metrics import Turn

Pcm = npt.NDArray[np.int16]

PAUSE_S = 0.6
# Of a sentence's own peak: quieter at its ends is room, not speech.
_SILENCE = 0.03


@dataclass(frozen=True, slots=True)
class Sentence:
    file: Path
    speaker: str


@dataclass(frozen=True, slots=True)
class Conversation:
    name: str
    turns: tuple[Turn, ...]
    file: Path


def one_microphone(target: Path, sentences: Sequence[Sentence]) -> Conversation:
    """One after the other, with pauses, in one channel."""
    sound, turns, rate = _in_a_row(sentences)
    _write(target, sound[:, None], rate)
    return Conversation(target.stem, tuple(turns), target)


def two_microphones(target: Path, sentences: Sequence[Sentence]) -> Conversation:
    """The same with a channel for each of two speakers."""
    sound, turns, rate = _in_a_row(sentences)
    speakers = sorted({sentence.speaker for sentence in sentences})
    channels = np.zeros((len(sound), len(speakers)), np.int16)
    for start_s, end_s, speaker in turns:
        span = slice(round(start_s * rate), round(end_s * rate))
        channels[span, speakers.index(speaker)] = sound[span]
    _write(target, channels, rate)
    return Conversation(target.stem, tuple(turns), target)


def _in_a_row(sentences: Sequence[Sentence]) -> tuple[Pcm, list[Turn], int]:
    parts: list[Pcm] = []
    turns: list[Turn] = []
    at = rate = 0
    for sentence in sentences:
        speech, rate = _spoken(sentence.file)
        pause = np.zeros(round(PAUSE_S * rate), np.int16)
        at += len(pause)
        turns.append((at / rate, (at + len(speech)) / rate, sentence.speaker))
        at += len(speech)
        parts += [pause, speech]
    return np.concatenate(parts), turns, rate


def _spoken(file: Path) -> tuple[Pcm, int]:
    """The sentence without the room before and after it."""
    with wave.open(str(file)) as sound:
        if sound.getnchannels() != 1 or sound.getsampwidth() != 2:
            raise ValueError(f"{file.name}: 16-bit mono is needed")
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
        rate = sound.getframerate()
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > _SILENCE * np.abs(samples.astype(np.int32)).max())
    return samples[loud[0] : loud[-1] + 1], rate


def _write(target: Path, samples: Pcm, rate: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(target), "wb") as sound:
        sound.setnchannels(samples.shape[1])
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())
