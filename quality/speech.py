"""Speech: where somebody speaks, what is said, in which language, and when each word."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from media_pipeline.analyzers import Audio
from media_pipeline.analyzers._vad import Gate, SileroVad
from media_pipeline.errors import CorruptMedia
from media_pipeline.media.decode import decode_fingerprint
from quality import metrics
from quality.area import Bench
from quality.collection import Item
from quality.home import Cost, Home
from quality.metrics import Span
from quality.report import Maker, Measurement, absent

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

# A Whisper that was trained on these very clips; such a folder shows that the path through faster-whisper works.
BY_HEART = "memorised"
BY_HEART_REMARK = "this model knows these clips by heart: it shows that the path works and says nothing about accuracy"
DRAFT_REMARK = "the embedded draft, to find a place by"


class Speech:
    """Transcripts of the whole collection, by the model that is configured."""

    name = "speech"
    analyzers = ("transcript",)

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        yield from _scores(bench.home, bench.collection.knowing("transcript"), "configured model")


class Draft:
    """The English clips once more, by the embedded recogniser, whatever is configured."""

    name = "draft"
    analyzers: tuple[str, ...] = ()

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        english = [i for i in bench.collection.knowing("transcript") if i.truth.get("language") == "en"]
        env = {"MEDIA_PIPELINE_LANGUAGE": "en", "MEDIA_PIPELINE_TIER": "embedded"}
        home = bench.extra_home("speech-draft", bench.collection.root, env)
        home.analyze([bench.collection.path(item.file) for item in english], ["transcript"])
        yield from _scores(home, english, "English draft")
        home.close()


class VoiceActivity:
    """The gate before every speech analyzer, on a clip whose speech was marked by hand."""

    name = "vad"
    analyzers: tuple[str, ...] = ()

    def measure(self, bench: Bench) -> Iterator[Measurement]:
        marked = bench.collection.knowing("speech_segments_s_per_2s_window")
        silent = [item for item in bench.collection if item.truth.get("speech") is False]
        started, seconds = time.process_time(), 0.0
        found: dict[str, list[Span]] = {}
        detector, gate = SileroVad(), Gate()
        for item in [*marked, *silent]:
            audio = _sound(bench.home, item.file)
            found[item.file] = [(span.start_s, span.end_s) for span in detector.spans(audio, gate)]
            seconds += audio.duration_s
        if not found:
            yield absent("VAD", "the collection has no recording whose speech is known")
            return
        maker = Maker("Silero VAD v6", Cost("audio_s", seconds, time.process_time() - started).shown)
        for item in marked:
            truth, length_s = _marked(item)
            overlap, wrong = metrics.span_error(truth, _until(found[item.file], length_s), length_s)
            remark = f"{gate.pad_s:g} s are kept on each side of speech on purpose"
            yield Measurement(
                "VAD: overlap with marked speech (IoU)", overlap, n=1, of="clip", maker=maker, remark=remark
            )
            yield Measurement("VAD: time judged wrong", wrong, n=1, of="clip", maker=maker, remark=f"of {length_s:g} s")
        false_alarms = sum(bool(found[item.file]) for item in silent)
        yield Measurement(
            "VAD: recordings without speech in which some is heard",
            false_alarms / len(silent) if silent else None,
            n=len(silent),
            of="recordings",
            interval=metrics.wilson(false_alarms, len(silent)),
            at_most=0.0,
            maker=maker,
        )


def _scores(home: Home, items: Sequence[Item], which: str) -> Iterator[Measurement]:
    rows = home.rows("transcript", "text, language, words", order="media_id, segment_index")
    maker = home.maker("transcript")
    remark = BY_HEART_REMARK if BY_HEART in maker.model else DRAFT_REMARK if "draft" in maker.model else ""
    spoken = [item for item in items if item.truth["transcript"]]
    edits = [_best_edits(item, " ".join(row["text"] for row in rows[item.file])) for item in spoken]
    yield Measurement(
        f"speech: word error, {which}",
        metrics.pooled_error(edits),
        n=len(edits),
        of="clips",
        interval=metrics.bootstrap(edits, metrics.pooled_error),
        maker=maker,
        remark=remark,
    )
    languages = [
        (item.truth["language"], row["language"])
        for item in spoken
        if item.truth.get("language")
        for row in rows[item.file]
    ]
    right = sum(truth == found for truth, found in languages)
    if len({truth for truth, _ in languages}) > 1:  # told beforehand, it is no finding
        yield Measurement(
            f"speech: language told rightly, {which}",
            right / len(languages),
            n=len(languages),
            of="segments",
            interval=metrics.wilson(right, len(languages)),
            maker=maker,
            remark=remark,
        )
    yield _word_times(rows, items, maker, which)


def _word_times(rows: Rows, items: Sequence[Item], maker: Maker, which: str) -> Measurement:
    """How far the beginnings of the words that were understood lie from the true ones."""
    metric = f"speech: error of a word's start, median, {which}"
    timed = [item for item in items if "word_times" in item.truth]
    errors = [error for item in timed for error in _start_errors(item, rows[item.file])]
    if not errors:
        return absent(metric, "no measured word time could be compared")
    return Measurement(
        metric,
        statistics.median(errors),
        "s",
        n=len(errors),
        of=f"words of {len(timed)} clip{'s' * (len(timed) != 1)}",
        interval=metrics.bootstrap(errors, statistics.median),
        maker=maker,
    )


def _start_errors(item: Item, segments: Sequence[Mapping[str, Any]]) -> list[float]:
    found = [word for segment in segments for word in segment["words"] or () if word["score"] is not None]
    truth = [("".join(metrics.words(text)), start) for text, start, _ in item.truth["word_times"]]
    spoken = ["".join(metrics.words(word["word"])) for word in found]
    matcher = SequenceMatcher(None, [word for word, _ in truth], spoken, autojunk=False)
    return [
        abs(truth[block.a + k][1] - found[block.b + k]["start_s"])
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    ]


def _best_edits(item: Item, found: str) -> metrics.Edits:
    """Against the transcript or the spelling that is accepted too."""
    accepted = {item.truth["transcript"], item.truth.get("transcript_also_accept", item.truth["transcript"])}
    return min(metrics.edits(metrics.words(text), metrics.words(found)) for text in accepted)


def _marked(item: Item) -> tuple[list[Span], float]:
    """The speech marked in consecutive windows, as spans of the recording, and how far the marking goes."""
    window_s = item.truth["window_s"]
    windows = item.truth["speech_segments_s_per_2s_window"]
    spans = [(n * window_s + a, n * window_s + b) for n, window in enumerate(windows) for a, b in window]
    return spans, window_s * len(windows)


def _until(spans: Sequence[Span], end_s: float) -> list[Span]:
    return [(start, min(end, end_s)) for start, end in spans if start < end_s]


def _sound(home: Home, file: str) -> Audio:
    """What the analyzers heard, from the home's cache.

    Raises:
        CorruptMedia: nothing was decoded.
    """
    pipeline = home.pipeline
    entry = pipeline.cache.get(home.files()[file], decode_fingerprint(pipeline.settings.sampling))
    if entry is None or entry.audio is None:
        raise CorruptMedia(f"there is no decoded sound of {file}", "analyse the collection anew")
    return entry.audio
