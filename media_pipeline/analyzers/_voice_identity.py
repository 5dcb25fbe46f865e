"""How alike two voices must sound to be one person's. Nothing heavy is imported here.

Cosines of `speakers.embedding`; what each number rests on stands beside it. Numbers of a model must not be applied to
another's vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Two recordings, one vector each. GE2E, 377 recordings of 270 people (LibriSpeech, a speaker on twelve microphones,
# eight single sentences of two people), 528 pairs of one person: cosine 0.73 +- 0.11, 70348 of two: 0.02 +- 0.16.
#     from       0.40    0.45    0.50    0.55    0.60
#     missed     0.2 %   1.1 %   2.7 %   6.1 %   11.6 %
#     mistaken   1.5 %   0.8 %   0.4 %   0.14 %  0.05 %      equal error rate 0.8 % at 0.44
# Where both recordings hold more than about 10 s of speech (126 and 31500 pairs) nothing is missed up to 0.6, where
# 0.08 % are mistaken. Among the eight sentences of 2 to 3 s: one person at least 0.51, two people at most 0.12.
# 244 of the 270 people, none of them in a pair of one person, also made the centre of the vectors.
SAME_VOICE_COSINE: Mapping[str, float] = MappingProxyType({"resemblyzer GE2E": 0.5})
# Two halves of one recording: room and microphone are the same and make different people alike. The halves into which
# one person's speech falls best were at least 0.70 (with heavy noise 0.64), those of an interview of three men 0.62.
SAME_SPEAKER_COSINE: Mapping[str, float] = MappingProxyType({"resemblyzer GE2E": 0.63})
# Networks nobody calibrated here. Publishers of WeSpeaker and 3D-Speaker put their equal error rates on VoxCeleb near
# 0.3 for single utterances; mistaking two people for one is worse than the reverse.
UNCALIBRATED_COSINE = 0.5


def same_voice_cosine(model: str) -> float:
    """From this cosine on two recordings are of one person; ``model`` as in the column: "name@digest"."""
    return SAME_VOICE_COSINE.get(model.rpartition("@")[0] or model, UNCALIBRATED_COSINE)


def same_speaker_cosine(model: str) -> float:
    """From this cosine on two groups of windows of one recording are one speaker."""
    return SAME_SPEAKER_COSINE.get(model.rpartition("@")[0] or model, UNCALIBRATED_COSINE)
