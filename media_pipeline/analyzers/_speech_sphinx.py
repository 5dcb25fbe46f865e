"""pocketsphinx with its English models: a draft without any download, wrong in about every third word."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import numpy as np

from media_pipeline.analyzers._spec import Audio, Samples
from media_pipeline.analyzers._speech_windows import Segment, Window, Word, phrases
from media_pipeline.analyzers._vad import Span
from media_pipeline.errors import ModelUnavailable

_FRAME_S = 0.01  # pocketsphinx's default of 100 frames a second
# Its language model needs the neighbouring words: cut at every pause of 0.3 s the word error was a third higher.
_MAX_PAUSE_S = 1.0


class Sphinx:
    """A pool of decoders: one decoder serves one thread at a time.

    Raises:
        ModelUnavailable: its models cannot be opened.
    """

    draft = True

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._idle.put(_new_decoder())  # a broken installation shows when it is loaded, not in the middle of a run

    def segments(self, audio: Audio, windows: Iterator[Window], language: str) -> Iterator[Segment]:
        """One segment per phrase. `language` is "en": `choose` sees to it."""
        decoder = self._take()
        try:
            for window in windows:
                for span in phrases(window.spans, _MAX_PAUSE_S):
                    segment = _recognise(decoder, audio.read(span.start_s, span.end_s), span, language)
                    if segment:
                        yield segment
        finally:
            self._idle.put(decoder)

    def _take(self) -> Any:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return _new_decoder()


def _new_decoder() -> Any:
    from pocketsphinx import Decoder

    try:
        return Decoder(samprate=16000, cmn="batch", loglevel="FATAL")
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelUnavailable(
            f"pocketsphinx cannot open its models: {error}", "install the package pocketsphinx again"
        ) from None


def _recognise(decoder: Any, samples: Samples, span: Span, language: str) -> Segment | None:
    # The noise estimate of the last utterance must not colour this one: results may not depend on the order.
    decoder.reinit_feat()
    pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    decoder.start_utt()
    decoder.process_raw(pcm, no_search=False, full_utt=True)
    decoder.end_utt()
    words = tuple(
        Word(
            text=found.word.split("(")[0],  # "the(2)" is the second pronunciation of "the"
            start_s=span.start_s + found.start_frame * _FRAME_S,
            end_s=min(span.end_s, span.start_s + (found.end_frame + 1) * _FRAME_S),
            score=min(1.0, float(found.prob)),  # posterior probability in the word lattice
        )
        for found in decoder.seg() or ()
        if found.word[0] not in "<["  # silence, breath, noise
    )
    if not words:
        return None
    text = " ".join(word.text for word in words)
    score = fmean(word.score or 0.0 for word in words)
    return Segment(words[0].start_s, words[-1].end_s, text, language, score, words)
