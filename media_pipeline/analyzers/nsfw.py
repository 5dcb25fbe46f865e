"""What is not safe for work: bare parts of the body with boxes, and whole frames.

Tiers:
    embedded: NudeNet's detector (`_nsfw_detector`), 18 labels with boxes. Its weights are AGPL-3.0 and come with the
        extra `nsfw` only. 16 ms per frame on one core. On 164 safe frames, two of them borderline (yoga at the
        beach, a man in shorts), the highest score of an explicit label is 0.23; the default threshold is 0.30.
    standard: CLIP (`_nsfw_clip`) besides, which judges the whole frame (`explicit`, `suggestive`) and costs next to
        nothing where `image_embeddings` has run.

There is no gate that looks for the colour of skin. It would take 2 ms to spare 11 % of the frames, and on the same
pictures in blue light it lost 36 of 54 findings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
from pydantic import Field, field_validator

from media_pipeline.analyzers import _nsfw_clip as nsfw_clip
from media_pipeline.analyzers._clip_weights import choose_clip
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._nsfw_clip import FrameJudge, load_frame_judge
from media_pipeline.analyzers._nsfw_detector import EXPLICIT, LABELS, Detector, Finding
from media_pipeline.analyzers._packaged import packaged_file, sha256_of
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice, Options
from media_pipeline.analyzers._unchanged import new_pictures
from media_pipeline.errors import ModelUnavailable

EMBEDDED = "NudeNet 320n"
_REMEDY = "run `.venv/bin/uv pip install --python .venv --constraints constraints.txt nudenet` (AGPL-3.0)"

T = TypeVar("T")

_PIXELS = {"unit": "px of the displayed picture; null for the whole frame"}
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        pa.field("pts_s", pa.float64(), metadata={"unit": "s"}),
        ("label", pa.string()),  # of `_nsfw_detector.LABELS`, or explicit, suggestive
        pa.field("score", pa.float32(), metadata={"range": "[0, 1]"}),
        pa.field("x1", pa.float32(), metadata=_PIXELS),
        pa.field("y1", pa.float32(), metadata=_PIXELS),
        pa.field("x2", pa.float32(), metadata=_PIXELS),
        pa.field("y2", pa.float32(), metadata=_PIXELS),
        ("source", pa.string()),  # detector, clip
        ("explicit", pa.bool_()),  # whether the label is one that no platform for everybody shows
    ]
)


class NsfwOptions(Options):
    """Options of `nsfw`."""

    model: str | None = Field(None, description="ONNX file of another NudeNet 3 (640m.onnx); the package's when empty")
    clip_model: str | None = Field(None, description="the same as that of image_embeddings")
    side_px: int = Field(320, ge=64, multiple_of=32, description="longer side of the picture the detector looks at")
    min_score: float = Field(0.3, gt=0, le=1, description="score below which a finding is dropped")
    min_scores: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, description='the same for single labels, e.g. {"feet_exposed": 0.8}'
    )
    second_look: bool = Field(True, description="look again, mirrored and grey, at what seems explicit")
    reuse_unchanged_frames: bool = Field(True, description="repeat the findings of the frame before if nothing moved")
    # Not part of the fingerprint: it changes the time, not what is found.
    threads: int = Field(1, ge=1, exclude=True, description="threads per picture; media run in parallel anyway")

    @field_validator("min_scores", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("min_scores")
    @classmethod
    def _known_labels(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(value.keys() - {*LABELS, *nsfw_clip.LABELS})
        if unknown:
            raise ValueError(f"no label is called {unknown[0]!r}")
        return value

    def threshold(self, label: str) -> float:
        return self.min_scores.get(label, self.min_score)


@dataclass(frozen=True, slots=True)
class Model:
    """At least one of the two."""

    detector: Detector | None
    clip: FrameJudge | None


@dataclass(frozen=True, slots=True)
class Choice(ModelChoice):
    """Both parts, where there are both."""

    detector: Path | None = None
    clip: ModelChoice | None = None


def choose(options: NsfwOptions, store: ModelStore) -> Choice:
    """The detector, CLIP, or both, as the tier and what is here allow.

    Raises:
        ModelUnavailable: neither is here, or one that was asked for is not; with the command that mends it.
    """
    detector = _or_reason(lambda: _detector_file(options))
    clip = _or_reason(lambda: choose_clip(options.clip_model, store))
    if isinstance(clip, ModelUnavailable):
        if options.clip_model is not None or store.tier == "standard":
            raise clip
        if isinstance(detector, ModelUnavailable):
            raise ModelUnavailable(detector.cause, f"{detector.remedy}, or for whole frames only {clip.remedy}")
        tier = "embedded" if options.model is None else "standard"
        return Choice(_detector_name(options), tier, sha256_of(detector), detector=detector)
    if isinstance(detector, ModelUnavailable):
        if options.model is not None:
            raise detector
        warning = f"{detector.cause}, so whole frames are judged and nothing has a box; {detector.remedy}"
        return Choice(clip.name, "standard", clip.digest, warning=warning, clip=clip)
    name = f"{_detector_name(options)} + {clip.name}"
    digest = hashlib.sha256(f"{sha256_of(detector)} {clip.digest}".encode()).hexdigest()
    return Choice(name, "standard", digest, detector=detector, clip=clip)


def _or_reason(find: Callable[[], T]) -> T | ModelUnavailable:
    try:
        return find()
    except ModelUnavailable as error:
        return error


def _detector_file(options: NsfwOptions) -> Path:
    if options.model is None:
        return packaged_file("nudenet", "320n.onnx", _REMEDY)
    file = Path(options.model).expanduser().absolute()
    if not file.is_file():
        raise ModelUnavailable(f"there is no file {file}", "give the path of 640m.onnx or 320n.onnx of NudeNet 3")
    return file


def _detector_name(options: NsfwOptions) -> str:
    return f"NudeNet {Path(options.model).stem}" if options.model is not None else EMBEDDED


def load(choice: ModelChoice, device: str, options: NsfwOptions) -> Model:
    """Open the detector and encode CLIP's captions.

    Raises:
        ModelUnavailable: one of them is no such model.
    """
    assert isinstance(choice, Choice)
    return Model(
        detector=Detector(choice.detector, side_px=options.side_px, threads=options.threads, device=device)
        if choice.detector
        else None,
        clip=load_frame_judge(choice.clip, device, options.threads) if choice.clip else None,
    )


def run(model: Model, batch: Batch, options: NsfwOptions) -> pa.Table:
    """One row per finding: first those with boxes, frame by frame, then those of whole frames."""
    rows: list[dict[str, Any]] = []
    for medium in batch:
        if model.detector is not None:
            rows += _detector_rows(model.detector, medium, options)
        if model.clip is not None:
            rows += _clip_rows(model.clip, medium, options)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _detector_rows(detector: Detector, medium: Medium, options: NsfwOptions) -> Iterator[dict[str, Any]]:
    lowest = min([options.min_score, *options.min_scores.values()])
    findings: list[Finding] = []
    scale = (1.0, 1.0)
    for frame, image in new_pictures(medium.frames, options.reuse_unchanged_frames):
        if image is not None:
            findings = detector.find(image, lowest, second_look=options.second_look)
            scale = (frame.width / image.shape[1], frame.height / image.shape[0])
        for finding in findings:
            if finding.score >= options.threshold(finding.label):
                yield {
                    "media_id": medium.media_id,
                    "frame_index": frame.frame_index,
                    "pts_s": frame.pts_s,
                    "label": finding.label,
                    "score": finding.score,
                    "x1": finding.box[0] * scale[0],
                    "y1": finding.box[1] * scale[1],
                    "x2": finding.box[2] * scale[0],
                    "y2": finding.box[3] * scale[1],
                    "source": "detector",
                    "explicit": finding.label in EXPLICIT,
                }


def _clip_rows(clip: FrameJudge, medium: Medium, options: NsfwOptions) -> Iterator[dict[str, Any]]:
    embeddings = medium.rows.get("image_embeddings")
    if embeddings is None or embeddings.num_rows == 0:
        return
    frames = embeddings.select(["frame_index", "pts_s"]).to_pylist()
    for frame, scores in zip(frames, clip.scores(embeddings).tolist(), strict=True):
        for label, score in zip(nsfw_clip.LABELS, scores, strict=True):
            if score >= options.threshold(label):
                yield {
                    "media_id": medium.media_id,
                    **frame,
                    "label": label,
                    "score": score,
                    "source": "clip",
                    "explicit": label == nsfw_clip.EXPLICIT,
                }


def preview(rows: pa.Table) -> str:
    """How high the explicit labels are, and in how many frames."""
    explicit = [row for row in rows.to_pylist() if row["explicit"]]
    if not explicit:
        return "nothing explicit"
    frames = len({row["frame_index"] for row in explicit})
    best = max(explicit, key=lambda row: row["score"])
    return f"{best['label'].replace('_', ' ')} {best['score']:.2f}; explicit in {frames} frame{'s' * (frames != 1)}"


ANALYZER = AnalyzerSpec(
    name="nsfw",
    version="1",
    needs=("frames", "image_embeddings"),
    schema=SCHEMA,
    options=NsfwOptions,
    choose=choose,
    load=load,
    run=run,
    description="Bare parts of the body with boxes, and frames that are explicit or suggestive.",
    kinds=frozenset({"image", "video"}),
    preview=preview,
    compute_kind="onnx",
    # CLIP's part compares vectors that `image_embeddings` has made: nothing a GPU would help with.
    uses_gpu=lambda choice: isinstance(choice, Choice) and choice.detector is not None,
)
