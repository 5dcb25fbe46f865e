"""Who speaks when, and how each voice sounds: turns, told apart within a recording, with one vector each.

Silero's voice detector finds the speech; windows of 1.6 s become vectors (`_voice_ge2e`, or any x-vector network);
`_speaker_clusters` says how many people there are, `_speaker_turns` who speaks at each moment. Where two channels carry
one side of a talk each they are heard one by one. Who "S1" is across recordings is decided later, from the vectors.

Tiers:
    embedded: GE2E out of an installed package.
    standard: an ONNX file of a speaker encoder (WeSpeaker, 3D-Speaker), given by the option `model`.

Measured with GE2E on one thread:
    Cost: 0.0075 s of CPU per second of sound, 0.0017 where nobody speaks; 26 s for an hour of four people. Without
        the gate 0.0097 and 0.0092, and noise becomes a speaker.
    People: 14 of 15 conversations of one to five readers of LibriSpeech counted right, all 39 recordings of one
        person, ten of them with noise and volumes that jump by up to 25 dB, and an interview of three.
    Speech given to the wrong person: 3.5 % in those conversations, 1.6 % in four of the two voices of speechbrain's
        samples.
    The threshold was chosen on these recordings, so others will come out somewhat worse.
    Weak: of meetings heard by a distant microphone (AMI, 13 pieces of 30 s) one is counted right, the others too low,
        and 47 % of their speech is missed; the two people of pyannote's sample of 30 s became one.
        Nobody is given two speakers at a time except on two channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from media_pipeline.analyzers import _voice_ge2e
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._packaged import sha256_of
from media_pipeline.analyzers._speaker_clusters import MIN_WINDOWS, centroids_of
from media_pipeline.analyzers._speaker_turns import Turn, turns_of, voice_of
from media_pipeline.analyzers._speaker_windows import vector_of, windows_of
from media_pipeline.analyzers._spec import AnalyzerSpec, Audio, Batch, Medium, ModelChoice, Options
from media_pipeline.analyzers._speech_channels import Side, all_of, speech_of
from media_pipeline.analyzers._vad import Gate, SileroVad, detector_digest
from media_pipeline.analyzers._voice_encoder import Vectors, VoiceEncoder
from media_pipeline.analyzers._voice_identity import same_speaker_cosine
from media_pipeline.analyzers._voice_xvector import XVector
from media_pipeline.errors import ModelUnavailable

MIN_VOICE_S = 0.8  # of speech; less says more about the words than about the voice

_S = {"unit": "s"}
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("turn_index", pa.int32()),
        pa.field("start_s", pa.float64(), metadata=_S),
        pa.field("end_s", pa.float64(), metadata=_S),
        ("speaker", pa.string()),  # S1, S2 in order of first appearance; means nothing beyond its recording
        ("channel", pa.int32()),  # 0 left, 1 right; null: the channels were heard together
        # L2-normalised; null where the turn holds less than 0.8 s of speech.
        ("embedding", pa.list_(pa.float32())),
        pa.field("model", pa.string(), metadata={b"comment": b"vectors of different models must not be compared"}),
    ]
)


class SpeakersOptions(Options):
    """Options of `speakers`."""

    model: str | None = Field(None, description="ONNX file of a speaker encoder, or its folder; by tier when empty")
    threshold: float | None = Field(
        None, gt=-1, le=1, description="cosine from which on two groups of windows are one speaker; the model's own"
    )
    min_speakers: int = Field(1, ge=1, description="people on a recording, or on each channel, at the least")
    max_speakers: int = Field(10, ge=1, description="and at the most")
    speech_gate: bool = Field(True, description="listen only where Silero hears speech")
    vad_threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a sound is speech")
    min_speech_s: float = Field(0.25, ge=0, description="seconds below which speech is not believed")
    min_silence_s: float = Field(0.3, gt=0, description="seconds of silence that end a span of speech")

    @model_validator(mode="after")
    def _at_least_is_not_more_than_at_most(self) -> SpeakersOptions:
        if self.min_speakers > self.max_speakers:
            raise ValueError(f"min_speakers {self.min_speakers} is more than max_speakers {self.max_speakers}")
        return self

    @property
    def gate(self) -> Gate:
        return Gate(self.vad_threshold, self.min_speech_s, self.min_silence_s)


@dataclass(frozen=True, slots=True)
class Model:
    """Safe for threads."""

    vad: SileroVad
    encoder: VoiceEncoder
    fingerprint: str  # "name@digest": which vectors may be compared


def choose(options: SpeakersOptions, store: ModelStore) -> ModelChoice:
    """The network the user gave, else GE2E.

    Raises:
        ModelUnavailable: what was given is not there, or the standard tier was asked for and nothing was given.
    """
    if options.model is not None:
        file = _onnx_file(options.model, store)
        return _choice_of(file.stem, "standard", file, options)
    if store.tier == "standard":
        raise ModelUnavailable(
            "no speaker encoder can be downloaded by itself",
            "set MEDIA_PIPELINE_OPTIONS__SPEAKERS__MODEL to an ONNX file of one, or MEDIA_PIPELINE_TIER=auto",
        )
    return _choice_of(_voice_ge2e.NAME, "embedded", _voice_ge2e.weights_file(), options)


def _choice_of(name: str, tier: str, file: Path, options: SpeakersOptions) -> ModelChoice:
    digest = _encoder_digest(tier, file)
    if options.speech_gate:  # it decides what is heard at all
        digest = hashlib.sha256(f"{digest} {detector_digest()}".encode()).hexdigest()
    return ModelChoice(name, tier, digest, file)


def _encoder_digest(tier: str, file: Path) -> str:
    return _voice_ge2e.digest(file) if tier == "embedded" else sha256_of(file)


def fingerprint(choice: ModelChoice) -> str:
    """Names the space of its vectors: stored with each. Whatever finds the speech, the same voice lies there."""
    assert choice.path is not None
    return f"{choice.name}@{_encoder_digest(choice.tier, choice.path)[:12]}"


def load(choice: ModelChoice, device: str, _options: SpeakersOptions) -> Model:
    """About 0.1 s for GE2E.

    Raises:
        ModelUnavailable: the file holds no speaker encoder.
    """
    assert choice.path is not None
    encoder = _voice_ge2e.Ge2e(choice.path) if choice.tier == "embedded" else XVector(choice.path, device)
    return Model(SileroVad(), encoder, fingerprint(choice))


def run(model: Model, batch: Batch, options: SpeakersOptions) -> pa.Table:
    """One row per turn, in order of time; no rows where nobody speaks."""
    rows = [row for medium in batch for row in _rows(model, medium, options)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def preview(rows: pa.Table) -> str:
    """Who speaks for how long."""
    spoken: dict[str, float] = {}
    for row in rows.select(["speaker", "start_s", "end_s"]).to_pylist():
        spoken[row["speaker"]] = spoken.get(row["speaker"], 0.0) + row["end_s"] - row["start_s"]
    return ", ".join(f"{speaker} {seconds:.0f} s" for speaker, seconds in spoken.items()) or "no speech"


def _rows(model: Model, medium: Medium, options: SpeakersOptions) -> list[dict[str, Any]]:
    if medium.audio is None:
        return []
    found = [turn for side in _sides(model, medium.audio, options) for turn in _turns(model, side, options)]
    names: dict[tuple[int | None, int], str] = {}
    rows = []
    for index, (channel, turn, vector) in enumerate(sorted(found, key=lambda item: (item[1].start_s, item[0] or 0))):
        name = names.setdefault((channel, turn.speaker), f"S{len(names) + 1}")
        rows.append(
            {
                "media_id": medium.media_id,
                "turn_index": index,
                "start_s": turn.start_s,
                "end_s": turn.end_s,
                "speaker": name,
                "channel": channel,
                "embedding": vector,
                "model": model.fingerprint,
            }
        )
    return rows


def _sides(model: Model, audio: Audio, options: SpeakersOptions) -> list[Side]:
    return speech_of(audio, model.vad, options.gate) if options.speech_gate else all_of(audio, options.gate)


def _turns(model: Model, side: Side, options: SpeakersOptions) -> Iterator[tuple[int | None, Turn, Vectors | None]]:
    """The turns of one side, each with its vector."""
    windows = windows_of(model.encoder, side.audio, side.spans)
    if windows is None:  # not even a "yes" is that short
        return
    same = options.threshold if options.threshold is not None else same_speaker_cosine(model.fingerprint)
    enough = windows.are_long.sum() >= 2 * MIN_WINDOWS
    vectors = windows.vectors[windows.are_long] if enough else windows.vectors
    voices = centroids_of(vectors, same, options.min_speakers, options.max_speakers)
    for turn in turns_of(side.spans, windows, voices):
        vector = None
        if turn.speech_s >= MIN_VOICE_S:
            vector = voice_of(turn, windows)
            if vector is None:  # short, and in no window by itself
                vector = vector_of(model.encoder, side.audio, turn.spans)
        yield side.channel, turn, vector


def _onnx_file(given: str, store: ModelStore) -> Path:
    """Raises:
    ModelUnavailable: there is no such file, or not exactly one in the folder.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path.absolute()
    folder = store.obtain(given)
    if folder is None:
        raise ModelUnavailable(store.reason(given), store.remedy(given))
    files = sorted(folder.glob("*.onnx"))
    if len(files) != 1:
        raise ModelUnavailable(f"{folder} holds {len(files)} ONNX files, not one", "give the path of the file")
    return files[0]


ANALYZER = AnalyzerSpec(
    name="speakers",
    version="1",
    needs=("audio",),
    schema=SCHEMA,
    options=SpeakersOptions,
    choose=choose,
    load=load,
    run=run,
    description="Who speaks when in recordings and videos, told apart by voice.",
    kinds=frozenset({"video", "audio"}),
    preview=preview,
    compute_kind="onnx",
    # GE2E takes a hundredth of the time of the sound on one core, less than sending the sound away.
    uses_gpu=lambda choice: choice.tier != "embedded",
)
