"""Media in files like those of the cache, and tiny analyzers that worker processes see as well."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from media_pipeline.analyzers import _registry
from media_pipeline.analyzers._spec import AnalyzerSpec, Medium, ModelChoice
from media_pipeline.config import DecodeLimits, Sampling, Settings, load_settings
from media_pipeline.execution.places import FleetState, Place
from media_pipeline.execution.worker_process import local_place
from media_pipeline.media.audio import AUDIO_FILE, SAMPLE_RATE, SIDE_FILE, AudioReader, AudioSink
from media_pipeline.media.cache import FrameReader
from media_pipeline.media.frames import FRAMES_FILE, FrameSink
from media_pipeline_tests import _synth

CHOICE = ModelChoice("tiny", "embedded", "0")

# What a medium makes `tiny` do is told by the width of its pictures: they are all that a worker sees of it.
KILL, STOP, FAIL, SLOW, PRINT = 131, 132, 133, 134, 135

_PLUGIN = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
import pyarrow as pa
from pydantic import Field
from media_pipeline.analyzers._spec import AnalyzerSpec, ModelChoice, Options

KILL, STOP, FAIL, SLOW, PRINT = 131, 132, 133, 134, 135
PICTURES = pa.schema([
    ("media_id", pa.string()), ("frame_index", pa.int64()), pa.field("pts_s", pa.float64(), metadata={"unit": "s"}),
    ("label", pa.string()), ("score", pa.float32()),
    ("x1", pa.float32()), ("y1", pa.float32()), ("x2", pa.float32()), ("y2", pa.float32()),
    pa.field("embedding", pa.list_(pa.float32()), metadata={"unit": "L2-normalised"}),
])
SOUNDS = pa.schema([
    ("media_id", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string()),
    ("score", pa.float32()),
])
COUNTS = pa.schema([
    ("media_id", pa.string()), ("scores", pa.int64()), ("pictures", pa.int64()), ("kind", pa.string()),
    ("threads", pa.int64()), ("process", pa.int64()),
])

class TinyOptions(Options):
    slow_s: float = 0.3
    flag: str = ""  # a file: who finds it does not die
    model: str = "tiny"
    threads: int = Field(1, exclude=True)

def choose(options, store):
    return ModelChoice(options.model, "embedded", "0")

def load(choice, device, options):
    print("a library prints as it loads")
    if choice.name == "broken":
        raise OSError("libcudart.so.12: cannot open shared object file")
    return choice

def act(width, options):
    if width == PRINT:
        print("MPW1 and more that a library prints"); os.write(1, b"and more from C")
    if width == FAIL:
        raise ValueError("a picture it cannot bear")
    if width == SLOW:
        time.sleep(options.slow_s)
    if options.flag:
        if Path(options.flag).exists():
            return
        if width in (KILL, STOP):
            Path(options.flag).touch()
    if width == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if width == STOP:
        os.kill(os.getpid(), signal.SIGSTOP)

def see(model, batch, options):
    rows = []
    for medium in batch:
        for frame in medium.frames:
            act(frame.width, options)
            image = frame.image().astype(np.float64)
            vector = image[::16, ::16].ravel()[:64] - image.mean() + 1e-3
            vector /= np.linalg.norm(vector)
            rows.append({
                "media_id": medium.media_id, "frame_index": frame.frame_index, "pts_s": frame.pts_s,
                "label": "bright" if image.mean() > 100 else "dark", "score": float(image.mean() / 255),
                "x1": 1.0, "y1": 2.0, "x2": frame.width - 1.0, "y2": frame.height - 2.0,
                "embedding": vector.astype(np.float32).tolist(),
            })
    return pa.Table.from_pylist(rows, schema=PICTURES)

def hear(model, batch, options):
    rows = []
    for medium in batch:
        for number, block in enumerate(medium.audio.blocks(1.0) if medium.audio else ()):
            for channel in range(medium.audio.channels):
                peak = float(abs(medium.audio.read(number, number + 1, channel)).max())
                rows.append({
                    "media_id": medium.media_id, "start_s": float(number), "end_s": number + len(block) / 16000,
                    "text": f"channel {channel} " + "la " * round(peak * 10), "score": peak,
                })
    return pa.Table.from_pylist(rows, schema=SOUNDS)

def count(model, batch, options):
    rows = [
        {"media_id": m.media_id, "kind": m.kind, "scores": m.frame_scores.num_rows if m.frame_scores else 0,
         "pictures": m.rows["tiny"].num_rows if "tiny" in m.rows else 0,
         "threads": options.threads, "process": os.getpid()}
        for m in batch
    ]
    return pa.Table.from_pylist(rows, schema=COUNTS)

def spec(name, needs, schema, run, **more):
    return AnalyzerSpec(name, "1", needs, schema, TinyOptions, choose, load, run, "Tiny.", **more)

tiny = spec("tiny", ("frames",), PICTURES, see)
tiny_pairs = spec("tiny_pairs", ("frames",), PICTURES, see, batch_media=2)
tiny_sound = spec("tiny_sound", ("audio",), SOUNDS, hear)
tiny_counts = spec("tiny_counts", ("frames", "tiny"), COUNTS, count, reads_scores=True)
"""
_NAMES = ("tiny", "tiny_pairs", "tiny_sound", "tiny_counts")


@pytest.fixture(name="tiny", scope="module")
def tiny_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AnalyzerSpec]]:
    """The tiny analyzers by name, published as another package would publish its own."""
    folder = tmp_path_factory.mktemp("plugin")
    information = folder / "tiny_analyzers-1.dist-info"
    information.mkdir(parents=True)
    (folder / "tiny_analyzers.py").write_text(_PLUGIN)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-analyzers\nVersion: 1\n")
    points = "\n".join(f"{name} = tiny_analyzers:{name}" for name in _NAMES)
    (information / "entry_points.txt").write_text(f"[media_pipeline.analyzers]\n{points}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        _registry.registry.cache_clear()
        yield {name: _registry.registry()[name] for name in _NAMES}
    _registry.registry.cache_clear()
    sys.modules.pop("tiny_analyzers", None)


@pytest.fixture(name="settings", scope="module")
def settings_fixture(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    gpu = {"needs_cuda": False, "heartbeat_timeout_s": 30}
    return load_settings(home=tmp_path_factory.mktemp("home"), offline=True, workers=2, gpu=gpu)


Make = Callable[..., Medium]


@pytest.fixture(name="make")
def make_fixture(tmp_path: Path) -> Make:
    """Makes media: `make("a", frames=3, width=160, seconds=2.0)`."""

    def made(
        media_id: str, *, frames: int = 1, width: int = 160, seconds: float = 0.0, channels: int = 1, level: int = 0
    ) -> Medium:
        folder = tmp_path / "media" / media_id
        folder.mkdir(parents=True)
        sink = FrameSink(folder, Sampling(), DecodeLimits())
        kept = []
        for number in range(frames):
            image = Image.fromarray(_synth.scene(level or len(media_id) + number, number, width, 96))
            kept.append(sink.add(image, index=number, size=(width, 96), scene_index=number, pts=number * 500))
        sink.finish(kept)
        audio = _sound(folder, seconds, channels) if seconds else None
        kind = "audio" if not frames else "image" if frames == 1 and audio is None else "video"
        reader = FrameReader(folder / FRAMES_FILE)
        duration_s = None if kind == "image" else max(seconds, frames * 0.5)
        return Medium(media_id, kind, reader if frames else (), audio, None, duration_s)

    return made


def _sound(folder: Path, seconds: float, channels: int) -> AudioReader:
    left = _synth.tone(seconds, 300.0, SAMPLE_RATE, 0.5)
    right = _synth.tone(seconds, 700.0, SAMPLE_RATE, 0.2)
    if channels == 2:  # each speaks while the other is silent, so that they are kept apart
        half = (np.arange(len(left)) // 4000) % 2 == 0
        left, right = np.where(half, left, 0), np.where(half, 0, right)
    sink = AudioSink(folder)
    planes = np.stack([left, right][:channels])
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray((planes * 32767).astype(np.int16)),
        format="s16p",
        layout="stereo" if channels == 2 else "mono",
    )
    frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
    sink.add(frame, 0.0)
    sink.close()
    side = folder / SIDE_FILE
    assert side.exists() == (channels == 2)
    return AudioReader(folder / AUDIO_FILE, sink.duration_s, side if side.exists() else None)


def foreign_place(settings: Settings, name: str = "RTX 4090 of lease 1", *arguments: str) -> Place:
    """Somebody else's machine, played by a process of this one."""
    place = local_place(settings)
    return Place(name, (*place.command, *arguments), place.environment, is_foreign=True, machine="RTX 4090")


class Places:
    """A fleet under the test's command."""

    def __init__(self, *places: Place, is_starting: bool = False, reason: str | None = "there is no machine") -> None:
        self.places, self.is_starting, self.reason = list(places), is_starting, reason
        self.losses: list[tuple[str, str]] = []
        self.moved_bytes = [0, 0]  # there and back
        self.waits = False
        self._changed = threading.Condition()

    def state(self) -> FleetState:
        with self._changed:
            reason = None if self.places else self.reason
            return FleetState(tuple(self.places), self.is_starting, reason, waits=self.waits and not self.places)

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait(timeout_s)

    def moved(self, place: Place, sent_bytes: int, received_bytes: int) -> None:
        self.moved_bytes = [self.moved_bytes[0] + sent_bytes, self.moved_bytes[1] + received_bytes]

    def lost(self, place: Place, why: str) -> None:
        self.losses.append((place.name, why))
        self.change(places=[p for p in self.places if p.name != place.name])

    def change(self, *, places: list[Place] | None = None, is_starting: bool | None = None) -> None:
        with self._changed:
            self.places = self.places if places is None else places
            self.is_starting = self.is_starting if is_starting is None else is_starting
            self._changed.notify_all()

    def close(self) -> None:
        pass
