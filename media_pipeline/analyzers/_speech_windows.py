"""From speech spans to the windows a recogniser hears, and from its times back to the speech."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from media_pipeline.analyzers._vad import Span

WINDOW_S = 30.0  # what Whisper hears at once
_LEAD_S = 0.3  # silence before and after the speech of a window: recognisers miss words that begin with the sound


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    start_s: float
    end_s: float
    score: float | None  # [0, 1]; None: the time was interpolated, nothing was measured


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said in [start_s, end_s) of the medium."""

    start_s: float
    end_s: float
    text: str
    language: str | None  # ISO 639-1
    score: float | None  # [0, 1]
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the medium of at most `WINDOW_S` and the speech in it."""

    start_s: float
    end_s: float
    spans: tuple[Span, ...]


def windows(spans: Sequence[Span], duration_s: float) -> Iterator[Window]:
    """Windows that hold all speech and are cut in pauses only.

    A recording that fits one window is heard whole: a recogniser profits from what surrounds the speech, and the cost
    of a Whisper window does not depend on how full it is.
    """
    if spans and duration_s <= WINDOW_S:
        yield Window(0.0, duration_s, tuple(spans))
        return
    first = 0
    while first < len(spans):
        last = _last_of_window(spans, first)
        # At most to the middle of the pause, so that no window hears another's words.
        before_s = spans[first - 1].end_s if first else -spans[0].start_s
        after_s = spans[last + 1].start_s if last + 1 < len(spans) else 2 * duration_s - spans[last].end_s
        lead_s = min(_LEAD_S, (spans[first].start_s - before_s) / 2)
        tail_s = min(_LEAD_S, (after_s - spans[last].end_s) / 2)
        yield Window(spans[first].start_s - lead_s, spans[last].end_s + tail_s, tuple(spans[first : last + 1]))
        first = last + 1


def _last_of_window(spans: Sequence[Span], first: int) -> int:
    """The span after which to cut: the longest pause in the later half of the window."""
    start_s = spans[first].start_s
    fitting, longest_s = first, WINDOW_S - 2 * _LEAD_S
    while fitting + 1 < len(spans) and spans[fitting + 1].end_s - start_s <= longest_s:
        fitting += 1
    if fitting + 1 == len(spans):
        return fitting
    late = [n for n in range(first, fitting + 1) if spans[n].end_s - start_s >= WINDOW_S / 2]
    return max(late or [fitting], key=lambda n: (spans[n + 1].start_s - spans[n].end_s, n))


def phrases(spans: Sequence[Span], max_pause_s: float) -> list[Span]:
    """Spans joined across pauses of at most that length."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.start_s - joined[-1].end_s <= max_pause_s:
            span = Span(joined.pop().start_s, span.end_s)
        joined.append(span)
    return joined


def clip_to_speech(start_s: float, end_s: float, spans: Sequence[Span]) -> Span | None:
    """[start_s, end_s) without the silence at its ends; None where nobody speaks in it."""
    inside = [s for s in spans if s.start_s < end_s and s.end_s > start_s]
    if not inside:
        return None
    return Span(max(start_s, inside[0].start_s), min(end_s, inside[-1].end_s))


def interpolated_words(text: str, span: Span, spans: Sequence[Span]) -> tuple[Word, ...]:
    """Words spread over the speech in `span` by their length: times to find a place by, not measurements."""
    texts = text.split()
    speech = [
        Span(max(s.start_s, span.start_s), min(s.end_s, span.end_s))
        for s in spans
        if s.start_s < span.end_s and s.end_s > span.start_s
    ] or [span]
    per_letter = sum(s.duration_s for s in speech) / max(1, sum(map(len, texts)))
    words = []
    spoken = 0.0
    for word in texts:
        start_s, end_s = _on_timeline(spoken, speech), _on_timeline(spoken + len(word) * per_letter, speech, end=True)
        words.append(Word(word, start_s, end_s, None))
        spoken += len(word) * per_letter
    return tuple(words)


def _on_timeline(spoken_s: float, speech: Sequence[Span], *, end: bool = False) -> float:
    """The moment at which that much speech has passed; at a border the end of a word belongs to the earlier span."""
    for span in speech:
        if spoken_s < span.duration_s - 1e-6 or (end and spoken_s <= span.duration_s + 1e-6):
            return span.start_s + spoken_s
        spoken_s -= span.duration_s
    return speech[-1].end_s
