"""Decoding with scene scores, sampling, JPEG and FLAC, against the bare decode of the same frames and sound."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import av

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.media.worker import make_handler

ROUNDS = 3


def decoding_ratio(folder: Path) -> float:
    """CPU seconds of ours over those of the bare loop, over all videos of the folder; one thread each."""
    videos = sorted(folder.glob("*.mp4"))
    handler = make_handler(
        {"limits": DecodeLimits().model_dump(mode="json"), "sampling": Sampling().model_dump(mode="json")}
    )
    ratios = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for video in videos:
            _bare(video)
        bare = time.process_time() - started
        started = time.process_time()
        for video in videos:
            with tempfile.TemporaryDirectory() as target:
                handler({"path": bytes(video).hex(), "folder": target, "threads": 1}, lambda: None)
        ratios.append((time.process_time() - started) / bare)
    return statistics.median(ratios)


def _bare(path: Path) -> None:
    with av.open(str(path)) as container:
        for stream in container.streams:
            stream.codec_context.thread_count = 1
        for _ in container.decode(container.streams.video[0], container.streams.audio[0]):
            pass
