"""What runs inside a sandboxed child: one file in, a folder of frames and sound out."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import LimitExceeded, UnsafePath
from media_pipeline.media import images, sniff, video
from media_pipeline.media.types import MediaFacts, facts_to_json


def make_handler(config: dict[str, Any]) -> Callable[[dict[str, Any], Callable[[], None]], dict[str, Any]]:
    """Loads the decoders, once for all children, and returns the handler of jobs."""
    import av
    import cv2
    import pillow_heif
    from PIL import Image

    import media_pipeline.storage  # noqa: F401  # keeps pyarrow from importing pandas in every child

    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    pillow_heif.register_heif_opener(thumbnails=False)
    pillow_heif.options.DECODE_THREADS = 1
    Image.init()
    warnings.simplefilter("ignore")
    limits, sampling = DecodeLimits(**config["limits"]), Sampling(**config["sampling"])

    def handle(job: dict[str, Any], beat: Callable[[], None]) -> dict[str, Any]:
        path = Path(os.fsdecode(bytes.fromhex(job["path"])))
        facts = decode(path, Path(job["folder"]), sampling, limits, job["threads"], beat)
        return facts_to_json(facts)

    return handle


def decode(
    path: Path, folder: Path, sampling: Sampling, limits: DecodeLimits, threads: int, beat: Callable[[], None]
) -> MediaFacts:
    """Decodes one file into ``folder``.

    Raises:
        InputError: the file cannot be used.
        OSError: it cannot be opened, or writing failed.
    """
    with open_original(path, limits) as file:
        info = os.fstat(file.fileno())
        sniffed = sniff.sniff(file.read(sniff.HEAD_BYTES), info.st_size)
        if sniffed.family == "picture":
            return images.decode_picture(file, sniffed, folder, sampling, limits, beat)
        return video.decode_stream(url_of(file), sniffed, folder, sampling, limits, threads, beat)


def open_original(path: Path, limits: DecodeLimits) -> io.BufferedReader:
    """The file, opened so that nothing else can be meant by it.

    Raises:
        InputError: no regular file, or too large. OSError: it cannot be opened.
    """
    # Non-blocking: opening a named pipe would wait for a writer for ever.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    info = os.fstat(file.fileno())
    try:
        if not stat.S_ISREG(info.st_mode):
            raise UnsafePath("this is not a regular file but a folder, device, pipe or socket")
        if info.st_size > limits.max_file_bytes:
            raise LimitExceeded(
                f"the file has {info.st_size:,} bytes, more than {limits.max_file_bytes:,}",
                "cut it into parts or raise MEDIA_PIPELINE_DECODE__MAX_FILE_BYTES",
            )
    except BaseException:
        file.close()
        raise
    return file


def url_of(file: io.BufferedReader) -> str:
    """The very file that was looked at, under a name that says nothing and means nothing to FFmpeg."""
    return f"file:/proc/self/fd/{file.fileno()}"
