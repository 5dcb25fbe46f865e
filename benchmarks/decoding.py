"""Decoding with scene scores, sampling, JPEG and FLAC, against the bare decode of the same frames and sound."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.media.worker import make_handler

ROUNDS = 5


def decoding_ratio(folder: Path) -> float:
    """CPU seconds of ours over those of the bare loop, over all videos of the folder; one thread each."""
    videos = sorted(folder.glob("*.mp4"))
    handler = make_handler(
        {"limits": DecodeLimits().model_dump(mode="json"), "sampling": Sampling().model_dump(mode="json")}
    )

    def ours(video: Path) -> None:
        with tempfile.TemporaryDirectory() as target:
            handler({"path": bytes(video).hex(), "folder": target, "threads": 1}, lambda: None)

    for first_use in (_bare, ours):  # imports and tables that are built once per process
        first_use(videos[0])
    ratios = []
    for _ in range(ROUNDS):
        bare = sum(_cpu_s(_bare, video) for video in videos)
        ratios.append(sum(_cpu_s(ours, video) for video in videos) / bare)
    return statistics.median(ratios)


def _cpu_s(work: Callable[[Path], None], video: Path) -> float:
    started = time.process_time()
    work(video)
    return time.process_time() - started


def _bare(path: Path) -> None:
    with av.open(str(path)) as container:
        for stream in container.streams:
            stream.codec_context.thread_count = 1
        for _ in container.decode(container.streams.video[0], container.streams.audio[0]):
            pass
