"""The expression of a voice: a wav2vec2-like classifier as ONNX, raw sound in, logits out.

The folder is what an export of a `Wav2Vec2ForSequenceClassification` leaves: one ONNX file with the input (1, samples)
at 16 kHz, `config.json` with `id2label`, and, where the model's extractor differs from wav2vec2's own, the
`preprocessor_config.json`. HuBERT and WavLM classifiers have the same interface.

Cost: 0.14 s of CPU per second of speech for a network of wav2vec2-base's size (95 M weights), on one core.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from media_pipeline.analyzers._onnx import open_session
from media_pipeline.analyzers._spec import Audio, Samples
from media_pipeline.analyzers._vad import SAMPLE_RATE, Gate, SileroVad
from media_pipeline.errors import ModelUnavailable

REMEDY = (
    "set MEDIA_PIPELINE_OPTIONS__EMOTION__VOICE_MODEL to a folder with config.json and an ONNX file of a wav2vec2 "
    "speech emotion classifier"
)
# The words of the face's network, so that one query finds both.
_SAME_WORD = {
    "ang": "angry",
    "anger": "angry",
    "dis": "disgust",
    "disgusted": "disgust",
    "fea": "fear",
    "fearful": "fear",
    "hap": "happy",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "sur": "surprise",
    "surprised": "surprise",
    "neu": "neutral",
}
_EPSILON = 1e-7  # of wav2vec2's own normalisation


@dataclass(frozen=True, slots=True)
class Speech:
    """A stretch of speech, half-open, in seconds of the medium."""

    start_s: float
    end_s: float
    speaker: str | None = None
    channel: int | None = None  # of a sound with one voice on each


class VoiceEmotion:
    """A loaded classifier and the voice detector before it. Safe to use from several threads at once."""

    def __init__(self, session: Any, labels: tuple[str, ...], *, normalise: bool) -> None:
        self.labels = labels
        self.vad = SileroVad()
        self._session, self._normalise = session, normalise
        self._inputs = {given.name for given in session.get_inputs()}

    def probabilities(self, samples: Samples) -> npt.NDArray[np.float64]:
        """One probability per label, of 16 kHz mono samples in [-1, 1], shape (n,)."""
        values = np.nan_to_num(samples)
        if self._normalise:
            values = (values - values.mean()) / np.sqrt(values.var() + _EPSILON)
        feed = {name: values[None].astype(np.float32) for name in self._inputs - {"attention_mask"}}
        if "attention_mask" in self._inputs:
            feed["attention_mask"] = np.ones((1, len(values)), np.int64)
        logits = np.asarray(self._session.run(None, feed)[0][0], np.float64)
        shares = np.exp(logits - logits.max())
        return np.asarray(shares / shares.sum())


def find_weights(folder: Path) -> tuple[Path, tuple[str, ...], bool]:
    """The ONNX file, the labels in the order of the outputs, and whether the sound is to be normalised first.

    Raises:
        ModelUnavailable: the folder is not such a model, and why.
    """
    try:
        onnx = sorted(folder.rglob("*.onnx"))
        if not onnx:
            raise ValueError("it has no ONNX file")
        config = json.loads((folder / "config.json").read_text())
        if config.get("problem_type") == "regression":
            raise ValueError("it rates how a voice sounds on scales, it does not name an emotion")
        named = {int(number): str(label) for number, label in config["id2label"].items()}
        if sorted(named) != list(range(len(named))) or len(named) < 2:
            raise ValueError(f"its id2label numbers the labels {sorted(named)}")
        extractor = folder / "preprocessor_config.json"
        sound = json.loads(extractor.read_text()) if extractor.is_file() else {}
        if sound.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise ValueError(f"it wants {sound['sampling_rate']} Hz, there are {SAMPLE_RATE}")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelUnavailable(f"{folder} is not a speech emotion model: {error}", REMEDY) from None
    return onnx[0], tuple(_word(named[number]) for number in range(len(named))), sound.get("do_normalize", True)


def load_voice(folder: Path, device: str) -> VoiceEmotion:
    """The classifier in this folder.

    Raises:
        ModelUnavailable: the network cannot be run, or does not take sound and give one number per label.
    """
    file, labels, normalise = find_weights(folder)
    try:
        session = open_session(file, device=device, keep_memory=False)
        voice = VoiceEmotion(session, labels, normalise=normalise)
        found = len(voice.probabilities(np.zeros(SAMPLE_RATE, np.float32)))
    except ModelUnavailable:
        raise
    except Exception as error:  # onnxruntime raises types of its own
        raise ModelUnavailable(f"{file} cannot be run on sound: {str(error)[:200]}", REMEDY) from None
    if found != len(labels):
        raise ModelUnavailable(f"{file} gives {found} numbers for {len(labels)} labels", REMEDY)
    return voice


def speech_windows(
    vad: SileroVad, audio: Audio, turns: pa.Table | None, min_speech_s: float, window_s: float
) -> Iterator[Speech]:
    """Where somebody speaks, in order, in windows of `min_speech_s` to `window_s` seconds.

    Args:
        turns: the medium's rows of `speakers`; without any, nobody is told apart and the voice detector looks itself
    """
    for span in _speech(vad, audio, turns, window_s):
        end_s = min(span.end_s, audio.duration_s)
        length_s = end_s - span.start_s
        if length_s < min_speech_s:
            continue
        parts = int(np.ceil(length_s / window_s))
        cuts = np.linspace(span.start_s, end_s, parts + 1).tolist()
        yield from (replace(span, start_s=a, end_s=b) for a, b in pairwise(cuts))


def _speech(vad: SileroVad, audio: Audio, turns: pa.Table | None, window_s: float) -> Iterable[Speech]:
    if turns is not None and turns.num_rows:
        rows = turns.select(["start_s", "end_s", "speaker", "channel"]).sort_by("start_s").to_pylist()
        return [Speech(**row) for row in rows]
    return (Speech(span.start_s, span.end_s) for span in vad.spans(audio, Gate(max_span_s=window_s)))


def _word(label: str) -> str:
    word = label.strip().lower()
    return _SAME_WORD.get(word, word)
