"""What a worker says of itself before it gets work."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import media_pipeline
from media_pipeline.analyzers._device import CPU, report
from media_pipeline.execution.messages import PROTOCOL, BadMessage, Header
from media_pipeline.wording import printable

# Of the disk that is free when a worker starts; the rest is the models' and the system's.
_DISK_SHARE = 0.5
_MAX_CHARS = 300
_MAX_LIBRARIES = 20


@dataclass(frozen=True, slots=True)
class Hello:
    protocol: int
    version: str
    code: str  # `code_digest` there
    device: str  # "cuda" where at least one library computes on a GPU, else "cpu"
    gpu: str | None  # its name
    free_gpu_mb: int | None
    libraries: Mapping[str, str]  # by name: "cuda", or why not
    cores: int
    threads: int  # media it computes at a time
    max_held_bytes: int  # of media it can hold

    @classmethod
    def here(cls, device: str, threads: int, home: Path) -> Hello:
        """
        Args:
            device: "auto", "cpu" or "cuda"
        """
        found = report() if device != CPU else None
        there = next(folder for folder in (home, *home.parents) if folder.exists())
        return cls(
            protocol=PROTOCOL,
            version=media_pipeline.__version__,
            code=code_digest(),
            device=found.device if found else CPU,
            gpu=found.gpu if found else None,
            free_gpu_mb=found.free_vram_mb if found else None,
            libraries=found.libraries if found else {},
            cores=len(os.sched_getaffinity(0)),
            threads=threads,
            max_held_bytes=int(shutil.disk_usage(there).free * _DISK_SHARE),
        )

    @classmethod
    def from_json(cls, values: Any) -> Hello:
        """What came from elsewhere, and whether it is to be believed that far.

        Raises:
            BadMessage: it is none, or of a worker that speaks otherwise.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or set(values) != set(names):
            raise BadMessage("the worker does not say what it is", "install the same release there")
        if values["protocol"] != PROTOCOL:
            raise BadMessage(
                f"the worker speaks protocol {str(values['protocol'])[:20]}, not {PROTOCOL}",
                "install the same release there",
            )
        gpu, free, libraries = values["gpu"], values["free_gpu_mb"], values["libraries"]
        if not isinstance(libraries, dict) or len(libraries) > _MAX_LIBRARIES:
            raise BadMessage("the worker names no libraries", "install the same release there")
        return cls(
            protocol=PROTOCOL,
            version=_text(values["version"]),
            code=_text(values["code"]),
            device=_text(values["device"]),
            gpu=None if gpu is None else _text(gpu),
            free_gpu_mb=None if free is None else _count(free, 0, 2**31),
            libraries={_text(name): _text(said) for name, said in libraries.items()},
            cores=_count(values["cores"], 1, 4096),
            threads=_count(values["threads"], 1, 4096),
            max_held_bytes=_count(values["max_held_bytes"], 0, 2**60),
        )

    def to_json(self) -> Header:
        return asdict(self) | {"libraries": dict(self.libraries)}


def code_digest() -> str:
    """SHA-256 over this program's own modules, as they lie on the disk: results are the same only where the code is."""
    root = Path(media_pipeline.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadMessage(f"the worker says {str(value)[:50]!r} where a text belongs")
    return printable(value[:_MAX_CHARS])


def _count(value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadMessage(f"the worker says {str(value)[:50]!r} where a number from {least} to {most} belongs")
    return value
