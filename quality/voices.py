"""Speakers within a recording, voices across recordings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from media_pipeline.results._identity_kinds import VOICES
from media_pipeline.results.identities import threshold_of
from quality import metrics
from quality.area import Bench
from quality.collection import Item
from quality.conversations import Conversation, Sentence, one_microphone, two_microphones
from quality.grouping import grouping
from quality.report import Maker, Measurement, absent

_READ_ALOUD = "sentences read aloud without overlap: easier than people who talk to each other"


class Speakers:
    """Who speaks when, on conversations put together here."""

    name = "speakers"
    analyzers = ("speakers",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        conversations = _conversations(bench)
        if not conversations:
            yield absent("speakers: diarization error", "the collection has no sentences of two speakers")
            return
        folder = bench.scratch / "conversations"
        home = bench.extra_home("speakers", folder.resolve())
        home.analyze([folder], ["speakers"], bench.options)
        rows = home.rows("speakers", "start_s, end_s, speaker", order="media_id, start_s")
        maker = home.maker("speakers")
        home.close()
        for talk in conversations:
            found = [(row["start_s"], row["end_s"], row["speaker"]) for row in rows[talk.file.name]]
            error = metrics.diarization_error(talk.turns, found)
            speakers = [len({name for _, _, name in turns}) for turns in (found, talk.turns)]
            yield Measurement(
                f"speakers: diarization error, {talk.name.replace('-', ' ')}",
                error.total,
                n=len(talk.turns),
                of="turns",
                maker=maker,
                remark=f"missed {error.missed:.1%}, invented {error.invented:.1%}, confused {error.confused:.1%}; "
                f"{speakers[0]} of {speakers[1]} speakers; {_READ_ALOUD}",
            )


class Voices:
    """Whether a voice is known again in another recording."""

    name = "voices"
    analyzers = ("speakers",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        items = bench.collection.of_kind("speaker_id")
        rows = bench.home.rows("speakers", "start_s, end_s, voice_id, embedding, model", order="media_id, start_s")
        maker = bench.home.maker("speakers")
        vectors = {item.file: vector for item in items if (vector := _voice(rows[item.file])) is not None}
        same, different = _scores(items, vectors)
        if same and different:
            yield _equal_error(same, different, maker)
            model = next(row["model"] for file in vectors for row in rows[file] if row["embedding"] is not None)
            yield from _at_threshold(same, different, threshold_of(VOICES, model), maker)
        truth = {item.file: item.truth["speaker_id"] for item in items}
        clusters = {file: _longest_voice(rows[file]) for file in truth}
        yield from grouping(
            "voices: recordings of two people in one voice",
            "voices: recordings of one person that are together",
            truth,
            clusters,
            maker,
        )


def _equal_error(same: list[float], different: list[float], maker: Maker) -> Measurement:
    error, at = metrics.equal_error_rate(same, different)
    return Measurement(
        "voices: equal error rate",
        error,
        n=len(same) + len(different),
        of="pairs",
        at_most=0.0,
        maker=maker,
        remark=f"at {at:.3f}; least alike of one voice {min(same):.3f}, most alike of two {max(different):.3f}",
    )


def _at_threshold(same: list[float], different: list[float], threshold: float, maker: Maker) -> Iterator[Measurement]:
    for what, scores, of in (("true", same, "pairs of one voice"), ("false", different, "pairs of two voices")):
        hits = sum(score >= threshold for score in scores)
        yield Measurement(
            f"voices: {what} accept rate at the threshold of {threshold:g}",
            hits / len(scores),
            n=len(scores),
            of=of,
            interval=metrics.wilson(hits, len(scores)),
            maker=maker,
        )


def _conversations(bench: Bench) -> list[Conversation]:
    """Two that take turns, two with a microphone each, one alone."""
    by_speaker: dict[str, list[Sentence]] = {}
    for item in bench.collection.of_kind("speaker_id"):
        speaker = item.truth["speaker_id"]
        by_speaker.setdefault(speaker, []).append(Sentence(bench.collection.path(item.file), speaker))
    if len(by_speaker) < 2:
        return []
    one, two, *_ = by_speaker.values()
    turns = [sentence for pair in zip(one, two, strict=False) for sentence in pair]
    blocks = [*one[:2], *two[:3], *one[2:], *two[3:]]
    folder = bench.scratch / "conversations"
    return [
        one_microphone(folder / "turn-by-turn.wav", turns),
        one_microphone(folder / "several-sentences-each.wav", blocks),
        two_microphones(folder / "a-microphone-each.wav", turns),
        one_microphone(folder / "one-speaker-alone.wav", one),
    ]


def _voice(rows: list[dict[str, Any]]) -> npt.NDArray[np.float64] | None:
    """Mean embedding of a recording's turns, weighted by their length."""
    usable = [row for row in rows if row["embedding"] is not None]
    if not usable:
        return None
    weights = [row["end_s"] - row["start_s"] for row in usable]
    mean = np.average(np.array([row["embedding"] for row in usable], np.float64), axis=0, weights=weights)
    return np.asarray(mean / np.linalg.norm(mean))


def _scores(items: list[Item], vectors: dict[str, npt.NDArray[np.float64]]) -> tuple[list[float], list[float]]:
    truth = {item.file: item.truth["speaker_id"] for item in items}
    same: list[float] = []
    different: list[float] = []
    for left, right in combinations(sorted(vectors), 2):
        cosine = float(vectors[left] @ vectors[right])
        (same if truth[left] == truth[right] else different).append(cosine)
    return same, different


def _longest_voice(rows: list[dict[str, Any]]) -> str | None:
    seconds: dict[str, float] = {}
    for row in rows:
        if row["voice_id"] is not None:
            seconds[row["voice_id"]] = seconds.get(row["voice_id"], 0.0) + row["end_s"] - row["start_s"]
    return max(seconds, key=lambda voice: seconds[voice], default=None)
