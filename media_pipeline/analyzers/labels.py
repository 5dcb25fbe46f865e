"""What pictures are about, label by label: zero-shot CLIP over the label sets of `label_sets/`, and the user's own.

Shipped sets: content, documents, restraint, violence, weapons. Own sets, or others in place of these, lie as YAML in
`<home>/label_sets` (`_label_sets.py` says what is in them). Scores are calibrated against captions of everyday pictures
(`_label_prompts.py`), so that nothing fires only because it is the best of a few; labels of `restraint` also take
evidence from the key points of bodies (`_label_restraint.py`).

Tiers:
    standard: the model that made `image_embeddings`; both follow MEDIA_PIPELINE_CLIP_MODEL. Its text encoder reads the
        captions once, 10 s with ViT-B-32 on one core, and what it read is kept beside the models; judging a frame then
        costs 0.05 ms. English captions, and German ones too where the model is multilingual.
    embedded: no CLIP; `restraint` from poses alone, the other sets stay silent.

Limits: the thresholds stand where the formula puts "clearly more than everything ordinary". They were not measured on
violent or restrained people, of whom there are no pictures here, and a zero-shot model errs on toys, films, costumes
and sports. A label is a reason to look; it says nothing of consent or crime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from media_pipeline.analyzers._clip_weights import choose_clip, clip_fingerprint
from media_pipeline.analyzers._label_prompts import PromptScorer, keep_scorers, kept_scorers, scorers_of
from media_pipeline.analyzers._label_restraint import Held, combined, held_postures
from media_pipeline.analyzers._label_sets import Label, LabelSet, digest_of, load_sets
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, Medium, ModelChoice, Options
from media_pipeline.errors import ModelUnavailable

_CAPTIONS = "1"  # raised when captions are read or kept in another way
SCHEMA = pa.schema(
    [
        ("media_id", pa.string()),
        ("frame_index", pa.int64()),
        pa.field("pts_s", pa.float64(), metadata={"unit": "s"}),
        ("label_set", pa.string()),
        ("label", pa.string()),
        ("score", pa.float32()),  # [0, 1]; at or above the label's threshold, or there is no row
        ("evidence", pa.string()),  # clip, pose, clip+pose
    ]
)
Row = dict[str, Any]
Times = dict[int, float]  # frame_index -> pts_s


class LabelsOptions(Options):
    """Options of `labels`."""

    clip_model: str | None = Field(None, description="the same as that of image_embeddings")
    folder: str | None = Field(None, description="folder with label sets of yours; `<home>/label_sets` when empty")
    sets: tuple[str, ...] = Field((), description="names of the sets to use, separated by commas; all when empty")
    min_score: float = Field(0.5, gt=0, le=1, description="score of labels that name no threshold of their own")
    pose_evidence: bool = Field(True, description="let the key points of bodies speak for restraint")
    threads: int = Field(1, ge=1, exclude=True, description="threads that read the captions")

    @field_validator("sets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class LabelsChoice(ModelChoice):
    """The label sets, and the CLIP model that reads them."""

    sets: tuple[LabelSet, ...] = ()
    clip: ModelChoice | None = None
    captions: Path | None = None  # file of their vectors; made by the first process that needs them


@dataclass(frozen=True, slots=True)
class Labeller:
    """Loaded: small matrices, not the CLIP model."""

    sets: tuple[LabelSet, ...]
    scorers: tuple[PromptScorer, ...]
    space: str | None  # fingerprint of the vectors it can judge


def choose(options: LabelsOptions, store: ModelStore) -> LabelsChoice:
    """CLIP where it is to be had, else the postures alone, with a warning.

    Raises:
        ModelUnavailable: a label set is wrong, or CLIP is missing and the tier is standard.
    """
    sets = load_sets(_folder(options, store), options.sets)
    digest = digest_of(sets)
    try:
        clip = choose_clip(options.clip_model, store)
    except ModelUnavailable as error:
        if options.clip_model or store.tier == "standard":
            raise
        warning = f"{error.cause}, so only restraint is judged, by poses alone; {error.remedy}"
        asked_for = store.tier == "embedded"
        return LabelsChoice("postures", "embedded", digest, warning=None if asked_for else warning, sets=sets)
    digest = hashlib.sha256(f"{clip.digest} {digest}".encode()).hexdigest()
    captions = store.root / ".captions" / f"{_CAPTIONS}-{digest[:24]}.npz"
    return LabelsChoice(clip.name, clip.tier, digest, clip.path, sets=sets, clip=clip, captions=captions)


def _folder(options: LabelsOptions, store: ModelStore) -> Path | None:
    folder = Path(options.folder).expanduser() if options.folder else store.own_folder("label_sets")
    if folder.is_dir():
        return folder
    if options.folder:
        raise ModelUnavailable(f"there is no folder {folder}", "mend the option `folder`, or leave it out")
    return None


def load(choice: ModelChoice, device: str, options: LabelsOptions) -> Labeller:
    """The captions as CLIP read them: out of a file, or read now, which takes seconds the first time."""
    assert isinstance(choice, LabelsChoice)
    if choice.clip is None:
        return Labeller(choice.sets, (), None)
    scorers = kept_scorers(choice.captions) if choice.captions else None
    if scorers is None:
        from media_pipeline.analyzers._clip import load_clip

        scorers = scorers_of(choice.sets, load_clip(choice.clip, device, options.threads))
        if choice.captions:
            keep_scorers(scorers, choice.captions)
    return Labeller(choice.sets, scorers, clip_fingerprint(choice.clip))


def run(model: Labeller, batch: Batch, options: LabelsOptions) -> pa.Table:
    """One row per frame and label that counts."""
    rows = [row for medium in batch for row in _medium_rows(model, medium, options)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _medium_rows(model: Labeller, medium: Medium, options: LabelsOptions) -> Iterator[Row]:
    times, seen = _by_clip(model, medium)
    poses = medium.rows.get("poses")
    postures = held_postures(poses, medium.rows.get("frames")) if poses is not None and options.pose_evidence else []
    times |= {held.frame_index: held.pts_s for held in postures}
    for one in model.sets:
        for label in one.labels:
            least = label.threshold or options.min_score
            opinions = _opinions(label, seen.get((one.name, label.name), {}), postures)
            for frame_index, (score, evidence) in sorted(opinions.items()):
                if score >= least:
                    yield {
                        "media_id": medium.media_id,
                        "frame_index": frame_index,
                        "pts_s": times[frame_index],
                        "label_set": one.name,
                        "label": label.name,
                        "score": score,
                        "evidence": evidence,
                    }


def _by_clip(model: Labeller, medium: Medium) -> tuple[Times, dict[tuple[str, str], dict[int, float]]]:
    """Times of the frames, and the score of each frame by set and label.

    Raises:
        ModelUnavailable: the vectors are those of another model.
    """
    rows = medium.rows.get("image_embeddings")
    if rows is None or rows.num_rows == 0 or model.space is None:
        return {}, {}
    spaces = set(rows["model"].to_pylist())
    if spaces != {model.space}:
        raise ModelUnavailable(
            f"the vectors of this medium are of {', '.join(sorted(spaces))}, the captions of {model.space}",
            "give both the same by MEDIA_PIPELINE_CLIP_MODEL",
        )
    vectors = np.stack(rows["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
    frames = rows["frame_index"].to_pylist()
    scores = {
        (scorer.name, label): dict(zip(frames, column.tolist(), strict=True))
        for scorer in model.scorers
        for label, column in zip(scorer.labels, scorer.scores(vectors).T, strict=True)
    }
    return dict(zip(frames, rows["pts_s"].to_pylist(), strict=True)), scores


def _opinions(label: Label, clip: dict[int, float], postures: list[Held]) -> dict[int, tuple[float, str]]:
    """Score and evidence of every frame of which CLIP or a body says something about this label."""
    found = {frame_index: (score, "clip") for frame_index, score in clip.items()}
    bodies: dict[int, float] = {}
    for held in postures:
        if held.evidence in label.poses:
            bodies[held.frame_index] = max(held.score, bodies.get(held.frame_index, 0.0))
    for frame_index, score in bodies.items():
        known = clip.get(frame_index)
        found[frame_index] = (combined(score, known), "pose" if known is None else "clip+pose")
    return found


def preview(table: pa.Table) -> str:
    """The labels, with the number of frames."""
    counts = table.group_by(["label_set", "label"]).aggregate([("score", "max"), ([], "count_all")])
    ranked = counts.sort_by([("count_all", "descending"), ("label_set", "ascending"), ("label", "ascending")])
    named = [
        f"{row['label_set']}/{row['label']} ({row['count_all']} x, {row['score_max']:.2f})"
        for row in ranked.slice(0, 5).to_pylist()
    ]
    return ", ".join(named) or "no label"


ANALYZER = AnalyzerSpec(
    name="labels",
    version="2",
    needs=("image_embeddings", "poses"),
    schema=SCHEMA,
    options=LabelsOptions,
    choose=choose,
    load=load,
    run=run,
    description="What pictures are about: content, documents, restraint, violence, weapons, and label sets of yours.",
    batch_media=16,
    preview=preview,
    compute_kind="torch",
    reads_frame_times=True,
)
