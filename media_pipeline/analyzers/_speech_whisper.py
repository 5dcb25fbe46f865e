"""faster-whisper (CTranslate2) as a recogniser of windows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from media_pipeline.analyzers._device import CUDA, resolved
from media_pipeline.analyzers._gpu_memory import in_brief
from media_pipeline.analyzers._spec import Audio, Samples
from media_pipeline.analyzers._speech_windows import Segment, Window, Word, clip_to_speech, interpolated_words
from media_pipeline.errors import ModelUnavailable, UsageError

# A folder without tokenizer.json would make faster-whisper ask the network for one.
REQUIRED_FILES = ("model.bin", "config.json", "tokenizer.json")

# Whisper's own limits (https://github.com/openai/whisper, transcribe.py): text that compresses better than this repeats
# itself, a mean log probability below this is guessing, and guessing with this much silence is invention.
_MAX_COMPRESSION = 2.4
_MIN_LOGPROB = -1.0
_MAX_NO_SPEECH = 0.6
# Ours: whatever Silero heard, this is no language.
_GIBBERISH_LOGPROB = -1.5
_SURE_LANGUAGE = 0.5
_MAX_EMPTY_WORDS = 0.2  # share of words without duration above which an alignment is worthless


@dataclass(frozen=True, slots=True)
class _Heard:
    """What one decoding of a window gave; times in seconds of the window."""

    segments: list[Any]
    language: str
    language_probability: float


class Whisper:
    """A loaded model. Safe for threads: CTranslate2 queues the calls.

    Raises:
        ModelUnavailable: the folder does not hold one, or a file in it is damaged.
    """

    draft = False

    def __init__(self, folder: Path, device: str, beam_size: int, threads: int) -> None:
        check_folder(folder)
        from faster_whisper import WhisperModel

        device = "cuda" if resolved("ctranslate2", device).startswith(CUDA) else "cpu"
        self._beam_size = beam_size
        try:
            self._model = WhisperModel(
                str(folder),
                device=device,
                compute_type=_compute_type(device),
                cpu_threads=threads or len(os.sched_getaffinity(0)),
            )
        except Exception as error:  # of CTranslate2 and tokenizers, which name the file at best
            raise ModelUnavailable(
                f"{folder} cannot be opened as a Whisper model: {in_brief(error)}",
                "get its files again (`media-pipeline models pull` does for those of the catalogue), or set "
                "MEDIA_PIPELINE_OPTIONS__TRANSCRIPT__MODEL to another folder",
            ) from None

    def segments(self, audio: Audio, windows: Iterator[Window], language: str) -> Iterator[Segment]:
        """What is said, window by window; `language` is an ISO 639-1 code or auto.

        Raises:
            UsageError: the model does not know the language.
        """
        if language != "auto" and language not in self._model.supported_languages:
            raise UsageError(f"Whisper does not know the language {language!r}", "set MEDIA_PIPELINE_LANGUAGE=auto")
        before: str | None = None
        for window in windows:
            samples = audio.read(window.start_s, window.end_s)
            heard = self._hear_in_language(samples, None if language == "auto" else language, before)
            before = heard.language
            yield from _placed(heard, window)

    def _hear_in_language(self, samples: Samples, language: str | None, before: str | None) -> _Heard:
        heard = self._hear(samples, language)
        # A few words are often taken for another language; then the one spoken just before is the better guess.
        if language is None and before and heard.language != before and heard.language_probability < _SURE_LANGUAGE:
            return self._hear(samples, before)
        return heard

    def _hear(self, samples: Samples, language: str | None) -> _Heard:
        heard = self._decode(samples, language, words=True)
        if _alignment_failed(heard):
            # faster-whisper takes a segment's times from its words and drops segments whose words have no duration.
            heard = self._decode(samples, language, words=False)
        if any(_repeats_itself(s) for s in heard.segments):
            heard = self._decode(samples, language, words=heard.segments[0].words is not None, no_repeat_ngram_size=3)
        return heard

    def _decode(self, samples: Samples, language: str | None, *, words: bool, **how: Any) -> _Heard:
        segments, info = self._model.transcribe(
            samples,
            language=language,
            beam_size=self._beam_size,
            # Whisper's way out of a loop is sampling at a higher temperature: another text on every run. Ours is `how`.
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=words,
            vad_filter=False,
            **how,
        )
        return _Heard(list(segments), info.language, float(info.language_probability))


def _compute_type(device: str) -> str:
    """What weights and activations are computed in: 8-bit weights wherever the hardware has an arithmetic for them."""
    if device == "cpu":
        return "int8"
    import ctranslate2

    # Old cards have no quick float16, the newest (compute capability 12) no 8-bit products in cuBLAS.
    possible = ctranslate2.get_supported_compute_types("cuda")
    return next((kind for kind in ("int8_float16", "float16", "int8_float32") if kind in possible), "float32")


def check_folder(folder: Path) -> None:
    """Raises:
    ModelUnavailable: the folder does not hold a CTranslate2 Whisper model.
    """
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if not any(folder.glob("vocabulary.*")):
        missing.append("vocabulary.*")
    if missing:
        raise ModelUnavailable(
            f"{folder} holds no CTranslate2 Whisper model ({', '.join(missing)} missing)",
            "give a folder as `ct2-transformers-converter --copy_files tokenizer.json` writes it",
        )


def _placed(heard: _Heard, window: Window) -> Iterator[Segment]:
    """Plausible segments on the medium's timeline, without the silence at their ends."""
    for segment in heard.segments:
        text = segment.text.strip()
        span = clip_to_speech(window.start_s + segment.start, window.start_s + segment.end, window.spans)
        # Words where Silero heard nobody are Whisper's inventions ("Thanks for watching!").
        if not text or span is None or not _is_plausible(segment):
            continue
        words = (
            tuple(
                Word(
                    text=word.word.strip(),
                    start_s=window.start_s + float(word.start),
                    end_s=window.start_s + float(word.end),
                    score=min(1.0, max(0.0, float(word.probability))),
                )
                for word in segment.words
            )
            if segment.words
            else interpolated_words(text, span, window.spans)
        )
        score = min(1.0, math.exp(segment.avg_logprob))
        yield Segment(span.start_s, span.end_s, text, heard.language, score, words)


def _alignment_failed(heard: _Heard) -> bool:
    """Nothing came back from a window with speech in it, or the words have no duration."""
    words = [word for segment in heard.segments for word in segment.words or ()]
    empty = sum(word.end <= word.start for word in words)
    return empty > _MAX_EMPTY_WORDS * len(words) or not words


def _repeats_itself(segment: Any) -> bool:
    return bool(segment.compression_ratio > _MAX_COMPRESSION)


def _is_plausible(segment: Any) -> bool:
    invented = segment.no_speech_prob > _MAX_NO_SPEECH and segment.avg_logprob < _MIN_LOGPROB
    return not (invented or _repeats_itself(segment) or segment.avg_logprob < _GIBBERISH_LOGPROB)
