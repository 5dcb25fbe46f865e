"""Whether a whole frame is explicit or suggestive, by CLIP: zero-shot, from the vectors of `image_embeddings`.

Scored as `labels` scores, against a background, which here also has what is bare and harmless: beaches, sport,
breastfeeding, statues (`_label_prompts.py` has the formula).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from media_pipeline.analyzers._clip_weights import clip_fingerprint
from media_pipeline.analyzers._label_prompts import PromptScorer, scorer_of
from media_pipeline.analyzers._label_sets import Label, LabelSet, Prompts, shared_background
from media_pipeline.analyzers._spec import ModelChoice
from media_pipeline.errors import ModelUnavailable

_EXPLICIT = Prompts(
    en=(
        "a pornographic photo",
        "an explicit photo of people having sex",
        "a nude photo showing genitals",
        "a photo of a naked woman with bare breasts",
        "a photo of a naked man",
    ),
    de=("ein pornografisches Foto", "ein Foto von Menschen beim Sex", "ein Nacktfoto mit sichtbaren Genitalien"),
)
_SUGGESTIVE = Prompts(
    en=(
        "a photo of a woman in lingerie",
        "a person in underwear posing on a bed",
        "a seductive pose in a revealing outfit",
        "an erotic photo of a person who is not naked",
    ),
    de=("ein Foto einer Frau in Dessous", "eine erotische Pose in Unterwäsche"),
)
_HARMLESS = Prompts(
    en=(
        "a person in a swimsuit at the beach",
        "a man with a bare chest doing sport",
        "a person doing yoga or gymnastics",
        "a mother breastfeeding a baby",
        "a baby in a bath",
        "a medical picture of skin",
        "a statue or a painting in a museum",
        "a close portrait of a face",
        "a person in a tight dress at a party",
    ),
    de=("eine Person im Badeanzug am Strand", "ein Mann mit freiem Oberkörper beim Sport", "eine Statue im Museum"),
)
EXPLICIT = "explicit"
LABELS = (EXPLICIT, "suggestive")


@dataclass(frozen=True, slots=True)
class FrameJudge:
    """The captions as vectors; the network that read them is let go."""

    space: str  # fingerprint of the vectors it can judge
    scorer: PromptScorer

    def scores(self, embeddings: pa.Table) -> npt.NDArray[np.float32]:
        """In [0, 1], shape (rows, labels), of rows of `image_embeddings`; labels in the order of `LABELS`.

        Raises:
            ModelUnavailable: the vectors are those of another model.
        """
        others = sorted(set(embeddings["model"].to_pylist()) - {self.space})
        if others:
            raise ModelUnavailable(
                f"the vectors of this medium are of {others[0]}, the captions of {self.space}",
                "give both the same by MEDIA_PIPELINE_CLIP_MODEL",
            )
        vectors = np.stack(embeddings["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
        return self.scorer.scores(vectors)


def load_frame_judge(choice: ModelChoice, device: str, threads: int) -> FrameJudge:
    """Reads the captions with CLIP, a second or two.

    Raises:
        ModelUnavailable: it is no CLIP model that open_clip can read.
    """
    from media_pipeline.analyzers._clip import load_clip

    return frame_judge(load_clip(choice, device, threads), clip_fingerprint(choice))


def frame_judge(model: Any, space: str) -> FrameJudge:
    """With a model like `_clip.Clip`."""
    scorer = scorer_of(_label_set(), model)
    assert scorer is not None and scorer.labels == LABELS
    return FrameJudge(space, scorer)


def _label_set() -> LabelSet:
    ordinary = shared_background()
    return LabelSet(
        name="nsfw",
        version=1,
        labels=(Label(name=LABELS[0], prompts=_EXPLICIT), Label(name=LABELS[1], prompts=_SUGGESTIVE)),
        background=Prompts(en=ordinary.en + _HARMLESS.en, de=ordinary.de + _HARMLESS.de),
    )
