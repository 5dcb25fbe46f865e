"""Where somebody speaks: Silero's voice activity detector, streamed.

Silero VAD v6 (https://github.com/snakers4/silero-vad, MIT) looks at windows of 512 samples with 64 samples before them
and carries the state of its LSTM from window to window; the ONNX file is the one inside the faster-whisper package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from media_pipeline.analyzers._onnx import open_session
from media_pipeline.analyzers._packaged import packaged_file, sha256_of
from media_pipeline.analyzers._spec import Audio, Samples
from media_pipeline.errors import ModelUnavailable

SAMPLE_RATE = 16_000  # Hz
_WINDOW = 512  # samples; fixed by the model
_CONTEXT = 64  # samples before the window; fixed by the model
_BLOCK_S = 32.0
_HYSTERESIS = 0.15  # Silero's own: speech goes on until the probability falls this far below the threshold
_SILENCE = 0.01  # Silero's own: no threshold is so low that below it there is no silence
WINDOW_S = _WINDOW / SAMPLE_RATE
_REMEDY = "install the package faster-whisper again"


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open, in seconds of the medium."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Gate:
    """When a probability counts as speech."""

    threshold: float = 0.5
    min_speech_s: float = 0.25  # shorter bursts are clicks and single notes
    min_silence_s: float = 0.3  # shorter gaps are within a phrase
    pad_s: float = 0.1  # kept on each side: soft onsets are detected late
    max_span_s: float = 28.0  # speech without a pause is divided where it is least certain


class SileroVad:
    """Safe for threads: the state of a recording lives in the call.

    Raises:
        ModelUnavailable: its file is not there or damaged.
    """

    def __init__(self) -> None:
        file = weights_file()
        try:
            self._session = open_session(file)
        except Exception as error:  # onnxruntime raises types of its own
            raise ModelUnavailable(f"{file} cannot be run: {str(error)[:200]}", _REMEDY) from None

    def probabilities(self, audio: Audio) -> Iterator[float]:
        """One speech probability per window of 32 ms, the last window filled up with zeros. Memory: one block."""
        state: dict[str, Any] = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
        context = np.zeros(_CONTEXT, np.float32)
        for block in _whole_windows(audio):
            windows = block.reshape(-1, _WINDOW)
            before = np.vstack([context, windows[:-1, -_CONTEXT:]])
            context = windows[-1, -_CONTEXT:]
            output, state["h"], state["c"] = self._session.run(None, {"input": np.hstack([before, windows]), **state})
            yield from output.reshape(-1).tolist()

    def spans(self, audio: Audio, gate: Gate) -> list[Span]:
        """The spans with speech, in order and apart from each other; empty where nobody speaks."""
        found = [
            part for span, odds in _raw_spans(self.probabilities(audio), gate) for part in _divide(span, odds, gate)
        ]
        return _padded(found, gate.pad_s, audio.duration_s)


def weights_file() -> Path:
    """Raises:
    ModelUnavailable: the package faster-whisper is not installed, or has no such file.
    """
    return packaged_file("faster_whisper", "assets/silero_vad_v6.onnx", _REMEDY)


def detector_digest() -> str:
    """Names the weights: other ones hear speech elsewhere.

    Raises:
        ModelUnavailable: there are none.
    """
    return sha256_of(weights_file())


def _whole_windows(audio: Audio) -> Iterator[Samples]:
    """The sound in blocks whose length is a multiple of the window, whatever the blocks of the source."""
    rest = np.zeros(0, np.float32)
    for block in audio.blocks(_BLOCK_S):
        samples = np.concatenate([rest, block])
        whole = len(samples) // _WINDOW * _WINDOW
        rest = samples[whole:]
        if whole:
            yield samples[:whole]
    if len(rest):
        yield np.pad(rest, (0, _WINDOW - len(rest)))


def _raw_spans(probabilities: Iterator[float], gate: Gate) -> Iterator[tuple[Span, list[float]]]:
    """Spans with their probabilities, ended by `min_silence_s` without speech and at least `min_speech_s` long."""
    patience = round(gate.min_silence_s / WINDOW_S)
    silence = max(gate.threshold - _HYSTERESIS, _SILENCE)
    start: int | None = None
    odds: list[float] = []
    silent = 0
    number = -1
    for number, probability in enumerate(probabilities):
        if start is None:
            if probability >= gate.threshold:
                start, odds, silent = number, [probability], 0
            continue
        odds.append(probability)
        # Between the two thresholds nothing changes: a span goes on, a pause that began goes on.
        if probability >= gate.threshold:
            silent = 0
        elif silent or probability < silence:
            silent += 1
        if silent > patience:
            yield from _long_enough(start, odds[: len(odds) - silent], gate)
            start = None
    if start is not None:
        yield from _long_enough(start, odds[: len(odds) - silent], gate)


def _long_enough(start: int, odds: list[float], gate: Gate) -> Iterator[tuple[Span, list[float]]]:
    if len(odds) * WINDOW_S >= gate.min_speech_s:
        yield Span(start * WINDOW_S, (start + len(odds)) * WINDOW_S), odds


def _divide(span: Span, odds: list[float], gate: Gate) -> Iterator[Span]:
    longest = int(gate.max_span_s / WINDOW_S)
    start = 0
    while len(odds) - start > longest:
        # Only the later half is searched, so that parts do not become tiny.
        late = start + longest // 2
        cut = late + int(np.argmin(odds[late : start + longest]))
        yield Span(span.start_s + start * WINDOW_S, span.start_s + cut * WINDOW_S)
        start = cut
    yield Span(span.start_s + start * WINDOW_S, span.end_s)


def _padded(spans: list[Span], pad_s: float, duration_s: float) -> list[Span]:
    result = []
    for number, span in enumerate(spans):
        before = spans[number - 1].end_s if number else -2 * pad_s
        after = spans[number + 1].start_s if number + 1 < len(spans) else duration_s + 2 * pad_s
        start = span.start_s - min(pad_s, (span.start_s - before) / 2)
        end = span.end_s + min(pad_s, (after - span.end_s) / 2)
        result.append(Span(max(0.0, start), min(duration_s, end)))
    return result
