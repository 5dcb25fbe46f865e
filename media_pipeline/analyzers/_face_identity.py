"""When two faces are the same person's, by the model that made their embeddings.

Light: no model is loaded, so results may import it. Embeddings are L2-normalised, so their inner product is the cosine.

Measured on 33 faces of 12 people (press pictures, mostly from the front: 64 pairs of the same person, 432 of two;
mirrored copies left out), with the embedded detector for dlib-resnet and YuNet for mobilefacenet. So small a sample
cannot show a false accept rate (FAR) below 1/432, and other pictures, ages and groups of people will be harder.

    model          same person      two people         threshold  true accept rate
                   mean   least     mean   greatest               at the threshold, FAR 0
    dlib-resnet    0.975  0.951     0.824  0.919       0.93       1.000
    mobilefacenet  0.783  0.644     0.016  0.322       0.48       1.000
    sface          not measured     not measured       0.40       -

The same faces made smaller, against all at full size: at 40 px of height both models accept every right pair and no
wrong one; at 32 px 98 % of the right ones; at 24 px 84 % (dlib-resnet) and 57 % (mobilefacenet), still no wrong one.

dlib publishes a Euclidean distance of 0.6 between embeddings that are not normalised. Theirs have a norm of 1.49, so
d^2 = 2 * 1.49^2 * (1 - cosine): 0.6 is a cosine of 0.919, as high as the most alike strangers here; 0.93 is 0.557.
OpenCV publishes 0.363 for SFace, for one pair; people are told apart in collections, where every face meets every
other, so it is higher here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Cosine from which two embeddings are one person's, by the model's name.
SAME_PERSON_COSINE: Mapping[str, float] = MappingProxyType({"dlib-resnet": 0.93, "mobilefacenet": 0.48, "sface": 0.40})

# The same where the place speaks for it too: the box goes on from one frame to the next. One pair of strangers in two
# hundred reaches it, but strangers seldom take each other's place between two frames.
SAME_PLACE_COSINE: Mapping[str, float] = MappingProxyType({"dlib-resnet": 0.91, "mobilefacenet": 0.30, "sface": 0.25})


def model_name(model: str) -> str:
    """The name in a row's `model`, which is "name@digest"."""
    return model.partition("@")[0]


def same_person_cosine(model: str) -> float:
    """The threshold for embeddings of that model, given as in a row's `model` or by its name.

    Raises:
        KeyError: nobody has measured that model.
    """
    return SAME_PERSON_COSINE[model_name(model)]
