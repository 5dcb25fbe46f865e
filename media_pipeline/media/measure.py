"""How long media are, by their headers alone: for saying beforehand what analysing them will take.

What a header says of foreign media is a claim. It is read in the same sandbox as decoding, and decides nothing but an
estimate.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from media_pipeline.config import DecodeLimits
from media_pipeline.errors import CorruptMedia, InputError, MediaPipelineError
from media_pipeline.media import probe, sniff, video, worker
from media_pipeline.media.sandbox import Child, Message, Sandbox, error_of
from media_pipeline.media.types import Kind

_MAX_WALL_S = 20.0
_MAX_CPU_S = 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What the header of one file claims."""

    kind: Kind
    duration_s: float  # 0 for pictures, and where the header does not say
    has_audio: bool
    bytes: int


def measure(paths: Iterable[Path], limits: DecodeLimits) -> Iterator[tuple[Path, Measured | MediaPipelineError]]:
    """Each file with its measure, or why it has none, in the order given."""
    sandbox = Sandbox(
        "media_pipeline.media.measure:make_handler", limits.model_dump(mode="json"), limits.max_memory_bytes
    )
    child: Child | None = None
    try:
        for path in paths:
            child = child or sandbox.spawn()
            reply = _ask(child, path)
            if reply is None:  # it crashed or hangs
                sandbox.bury(child)
                child = None
            yield path, _understood(reply)
    finally:
        if child is not None:
            sandbox.bury(child)
        sandbox.close()


def _ask(child: Child, path: Path) -> Message | None:
    job: Message = {"path": os.fsencode(path.absolute()).hex(), "max_cpu_s": _MAX_CPU_S, "max_output_bytes": 0}
    try:
        child.send(job)
    except OSError:
        return None
    waiting = select.poll()  # select() knows no descriptors above 1023
    waiting.register(child, select.POLLIN)
    return child.receive() if waiting.poll(_MAX_WALL_S * 1000) else None


def _understood(reply: Message | None) -> Measured | MediaPipelineError:
    if reply is None:
        return CorruptMedia("its header cannot be read", "copy it again from its source")
    if "error" in reply:
        return error_of(reply)
    try:
        found = Measured(**reply["result"])
        if found.kind in get_args(Kind) and 0 <= float(found.duration_s) < float("inf"):
            return found
    except (KeyError, TypeError, ValueError):
        pass
    return CorruptMedia("the reader was taken over or broken by this file")


# ---- in the sandbox ---------------------------------------------------------------------------------------------


def make_handler(config: dict[str, Any]) -> Callable[[dict[str, Any], Callable[[], None]], dict[str, Any]]:
    """Loads the demuxers, once for all children, and returns the handler of jobs."""
    import av

    av.logging.set_level(av.logging.PANIC)
    limits = DecodeLimits(**config)

    def handle(job: dict[str, Any], _beat: Callable[[], None]) -> dict[str, Any]:
        with worker.open_original(Path(os.fsdecode(bytes.fromhex(job["path"]))), limits) as file:
            size = os.fstat(file.fileno()).st_size
            sniffed = sniff.sniff(file.read(sniff.HEAD_BYTES), size)
            if sniffed.family == "picture":
                return {"kind": "image", "duration_s": 0.0, "has_audio": False, "bytes": size}
            return {**_stream(worker.url_of(file), sniffed), "bytes": size}

    return handle


def _stream(url: str, sniffed: sniff.Sniffed) -> dict[str, Any]:
    with video.open_container(url, sniffed) as container:
        streams = [s for s in container.streams if not probe.is_attached_picture(s)]
        kinds = {stream.type for stream in streams}
        if not kinds & {"video", "audio"}:
            raise InputError("the container holds neither picture nor sound")
        return {
            "kind": "video" if "video" in kinds else "audio",
            "duration_s": probe.header_duration_s(container) or 0.0,
            "has_audio": "audio" in kinds,
        }
