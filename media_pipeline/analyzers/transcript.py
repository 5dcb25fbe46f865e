"""What is said, when, in which language.

Silero's voice detector stands before every recogniser: where nobody speaks nothing is recognised, because recognisers
invent words for noise. Then faster-whisper, or, only where the language is set to English, a marked draft of
pocketsphinx: a draft in the wrong language would poison the search.

Where two channels carry one side of a talk each, each is heard by itself: who speaks at the same time is not lost.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers._markdown import escaped
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice, Options
from media_pipeline.analyzers._speech_channels import all_of, speech_of
from media_pipeline.analyzers._speech_sphinx import Sphinx
from media_pipeline.analyzers._speech_whisper import Whisper, check_folder
from media_pipeline.analyzers._speech_windows import Segment, windows
from media_pipeline.analyzers._vad import Gate, SileroVad, detector_digest
from media_pipeline.errors import ModelUnavailable
from media_pipeline.wording import clock

_S = {"unit": "s"}
_SCORE = {"range": "[0, 1]"}
WORD = pa.struct(
    [
        ("word", pa.string()),
        pa.field("start_s", pa.float64(), metadata=_S),
        pa.field("end_s", pa.float64(), metadata=_S),
        pa.field("score", pa.float32(), metadata=_SCORE),  # null: the time is interpolated, not measured
    ]
)
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("segment_index", pa.int32()),
        pa.field("start_s", pa.float64(), metadata=_S),
        pa.field("end_s", pa.float64(), metadata=_S),
        ("text", pa.string()),
        ("language", pa.string()),  # ISO 639-1
        ("speaker", pa.string()),  # null: nobody was told apart
        pa.field("score", pa.float32(), metadata=_SCORE),
        ("words", pa.list_(WORD)),
        ("draft", pa.bool_()),  # recognised by pocketsphinx: to find a place by, not to quote
        ("channel", pa.int32()),  # 0 left, 1 right; null: the channels were heard together
    ]
)


class TranscriptOptions(Options):
    model: str = Field("faster-whisper-small", description="a catalogued model, or a folder with a CTranslate2 Whisper")
    language: str = Field("auto", pattern=r"^(auto|[a-z]{2,3})$", description="ISO 639-1 code of the speech, or auto")
    beam_size: int = Field(5, ge=1, description="hypotheses kept while decoding; 1 is fastest")
    speech_gate: bool = Field(True, description="listen only where Silero hears speech")
    vad_threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a sound is speech")
    min_speech_s: float = Field(0.25, ge=0, description="seconds below which speech is not believed")
    min_silence_s: float = Field(0.3, gt=0, description="seconds of silence that end a span of speech")
    # Not part of the fingerprint: it changes how fast, not what.
    threads: int = Field(0, ge=0, exclude=True, description="threads per recording; 0: one per core")


@dataclass(frozen=True, slots=True)
class Model:
    vad: SileroVad
    recogniser: Whisper | Sphinx


def choose(options: TranscriptOptions, store: ModelStore) -> ModelChoice:
    """faster-whisper where its weights are or can be had, else the English draft.

    Raises:
        ModelUnavailable: neither; the remedy is the command that mends it.
    """
    is_default = options.model == TranscriptOptions.model_fields["model"].default
    folder = None if is_default and store.tier == "embedded" else store.obtain(options.model)
    if folder is not None:
        check_folder(folder)
        recogniser = f"{store.digest(folder)} faster-whisper {version('faster-whisper')}"
        digest = hashlib.sha256(_gated(recogniser, options).encode()).hexdigest()
        return ModelChoice(f"{folder.name} int8", "standard", digest, folder)
    cause, remedy = store.reason(options.model), store.remedy(options.model)
    if not is_default or store.tier == "standard":
        raise ModelUnavailable(cause, remedy)
    if options.language != "en" and store.tier == "embedded":
        raise ModelUnavailable(
            f"the tier is embedded, whose recogniser knows English only, and the language is set to {options.language}",
            f"set MEDIA_PIPELINE_TIER to auto and {remedy}, or MEDIA_PIPELINE_LANGUAGE=en for a draft in English",
        )
    if options.language != "en":
        raise ModelUnavailable(
            f"{cause}; the embedded recogniser knows English only and the language is set to {options.language}",
            f"{remedy}, or set MEDIA_PIPELINE_LANGUAGE=en for a draft in English",
        )
    # The weights are files of the package, so its version names them.
    return ModelChoice(
        name="pocketsphinx en-us (draft)",
        tier="embedded",
        digest=_gated(f"pocketsphinx {version('pocketsphinx')}", options),
        warning=None if store.tier == "embedded" else f"{cause}: a rough English draft was made instead; {remedy}",
    )


def _gated(recogniser: str, options: TranscriptOptions) -> str:
    """What a recogniser is known by, and the voice detector that decides what it hears."""
    return f"{recogniser}, Silero {detector_digest()[:12]}" if options.speech_gate else recogniser


def load(choice: ModelChoice, device: str, options: TranscriptOptions) -> Model:
    """The recogniser and the voice detector before it.

    Raises:
        ModelUnavailable: one of them cannot be opened, and why.
    """
    if choice.path is None:
        return Model(SileroVad(), Sphinx())
    return Model(SileroVad(), Whisper(choice.path, device, options.beam_size, options.threads))


def run(model: Model, batch: Batch, options: TranscriptOptions) -> pa.Table:
    """One row per segment, in order of time; no rows where nobody speaks."""
    rows = [row for medium in batch for row in _rows(model, medium, options)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def preview(rows: pa.Table) -> str:
    """The first sentences with their times."""
    if rows.num_rows == 0:
        return "no speech"
    lines: list[str] = []
    length = 0
    for row in rows.to_pylist():
        text = row["text"] if len(row["text"]) <= 300 else row["text"][:299] + "…"
        length += len(text)
        if lines and length > 300:
            break
        lines.append(f"{clock(row['start_s'])} {escaped(text)}")
    if rows.column("draft")[0].as_py():
        lines.insert(0, "*draft*")
    return "  \n".join(lines)


def _rows(model: Model, medium: Medium, options: TranscriptOptions) -> list[dict[str, Any]]:
    if medium.audio is None:
        return []
    gate = Gate(options.vad_threshold, options.min_speech_s, options.min_silence_s)
    found: list[tuple[int | None, Segment]] = []
    sides = speech_of(medium.audio, model.vad, gate) if options.speech_gate else all_of(medium.audio, gate)
    for side in sides:
        heard = windows(side.spans, side.audio.duration_s)
        found += [(side.channel, s) for s in model.recogniser.segments(side.audio, heard, options.language)]
    # A stable sort: one side's segments keep the order in which they were heard.
    found.sort(key=lambda item: item[1].start_s)
    return [
        {"media_id": medium.media_id, "segment_index": index, "channel": channel, "draft": model.recogniser.draft}
        | _columns(segment)
        for index, (channel, segment) in enumerate(found)
    ]


def _columns(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "text": segment.text,
        "language": segment.language,
        "speaker": None,
        "score": segment.score,
        "words": [{"word": w.text, "start_s": w.start_s, "end_s": w.end_s, "score": w.score} for w in segment.words],
    }


ANALYZER = AnalyzerSpec(
    name="transcript",
    version="2",
    needs=("audio",),
    schema=SCHEMA,
    options=TranscriptOptions,
    choose=choose,
    load=load,
    run=run,
    description="What is said in recordings and videos, with times of segments and words.",
    kinds=frozenset({"video", "audio"}),
    batch_media=1,
    preview=preview,
    compute_kind="whisper",
    uses_gpu=lambda choice: choice.path is not None,  # pocketsphinx has none
)
