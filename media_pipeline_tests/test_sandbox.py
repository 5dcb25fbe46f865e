"""What happens to a child happens to nothing else: killed, hung, out of memory, out of disk, without a parent."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from media_pipeline.config import DecodeLimits, Sampling
from media_pipeline.errors import CorruptMedia, DiskFull, LimitExceeded, MediaPipelineError, WorkerLost
from media_pipeline.media.cache import Cache
from media_pipeline.media.decode import Decoded, DecodeJob, Decoder
from media_pipeline_tests import _synth

pytestmark = pytest.mark.slow  # real processes that are killed, hang and run out of memory

MIB = 1 << 20


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "a.png"
    Image.fromarray(_synth.scene(1, 0)).save(path)
    return path


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes long enough to be interrupted."""
    frames = [_synth.scene(i, 0, 640, 480) for i in range(8)]
    return _synth.movie(tmp_path_factory.mktemp("v") / "v.mp4", frames * 200, video_codec="mpeg4")


def job(path: Path, name: str) -> DecodeJob:
    return DecodeJob(hashlib.sha256(name.encode()).hexdigest(), path)


def decoding_children() -> list[psutil.Process]:
    nurseries = [p for p in psutil.Process().children() if "media_pipeline.media.sandbox" in p.cmdline()]
    return [child for nursery in nurseries for child in nursery.children()]


def strike_when_busy(blow: signal.Signals) -> threading.Thread:
    """Sends a signal to the first child that has been at work for a moment."""

    def wait_and_strike() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for child in decoding_children():
                if child.cpu_times().user > 0.15:
                    child.send_signal(blow)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=wait_and_strike)
    thread.start()
    return thread


def decode_with_blow(
    tmp_path: Path, movie: Path, picture: Path, blow: signal.Signals, limits: DecodeLimits
) -> list[Decoded]:
    cache = Cache(tmp_path / "cache", 1 << 30)
    with Decoder(cache, limits, Sampling(), 1) as decoder:
        striker = strike_when_busy(blow)
        results = list(decoder.decode([job(movie, "movie"), job(picture, "a"), job(picture, "b")]))
        striker.join()
    assert not list((cache.root / ".incoming").iterdir())
    return results


@pytest.mark.parametrize(
    ("blow", "expected", "says"),
    [
        (signal.SIGKILL, WorkerLost, "SIGKILL"),
        (signal.SIGSEGV, CorruptMedia, "crashed (SIGSEGV)"),
        (signal.SIGABRT, CorruptMedia, "crashed (SIGABRT)"),
        (signal.SIGXCPU, LimitExceeded, "CPU seconds"),
        (signal.SIGSTOP, LimitExceeded, "no progress"),
    ],
)
def test_a_child_that_dies_or_hangs_costs_its_own_file_only(
    tmp_path: Path, movie: Path, picture: Path, blow: signal.Signals, expected: type[MediaPipelineError], says: str
) -> None:
    lost, *others = decode_with_blow(tmp_path, movie, picture, blow, DecodeLimits(max_stall_s=1.5))
    assert type(lost.error) is expected
    assert says in lost.error.cause
    assert lost.cpu_s > 0
    assert [other.error for other in others] == [None, None]


@pytest.mark.slow
def test_cpu_time_is_limited_by_the_kernel(tmp_path: Path) -> None:
    # The kernel counts whole seconds: this needs a medium that takes more than two.
    frames = [_synth.scene(i, 0, 1280, 960) for i in range(8)]
    path = _synth.movie(tmp_path / "v.mkv", frames * 200, video_codec="mpeg4")
    with Decoder(Cache(tmp_path / "c", 1 << 30), DecodeLimits(max_cpu_s=0.1), Sampling(), 1) as decoder:
        (result,) = decoder.decode([job(path, "long")])
    assert isinstance(result.error, LimitExceeded)
    assert "CPU seconds" in result.error.cause


def test_wall_time_is_limited(tmp_path: Path, movie: Path, picture: Path) -> None:
    with Decoder(Cache(tmp_path, 1 << 30), DecodeLimits(max_wall_s=0.3), Sampling(), 1) as decoder:
        list(decoder.decode([job(picture, "warm")]))
        (result,) = decoder.decode([job(movie, "long")])
    assert isinstance(result.error, LimitExceeded)
    assert "longer than 0.3 s" in result.error.cause


def test_memory_is_limited(tmp_path: Path, picture: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("RGB", (6000, 6000)).save(large, compress_level=1)  # 144 MB once decoded
    with Decoder(Cache(tmp_path / "c", 1 << 30), DecodeLimits(max_memory_bytes=64 * MIB), Sampling(), 1) as decoder:
        first, second = decoder.decode([job(large, "large"), job(picture, "small")])
    assert isinstance(first.error, LimitExceeded)
    assert "memory" in first.error.cause
    assert second.error is None


def test_output_is_limited(tmp_path: Path) -> None:
    noise = tmp_path / "noise.bmp"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (800, 800, 3), np.uint8)).save(noise)
    with Decoder(Cache(tmp_path / "c", 1 << 30), DecodeLimits(max_output_bytes=100_000), Sampling(), 1) as decoder:
        (result,) = decoder.decode([job(noise, "noise")])
    assert isinstance(result.error, LimitExceeded)
    assert "cache" in result.error.cause


def test_long_sound_is_stopped_by_the_output_limit(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.9, 0.9, 48_000 * 20).astype(np.float32)
    path = _synth.movie(tmp_path / "a.wav", sound=noise, audio_codec="pcm_s16le")
    with Decoder(Cache(tmp_path / "c", 1 << 30), DecodeLimits(max_output_bytes=100_000), Sampling(), 1) as decoder:
        (result,) = decoder.decode([job(path, "noise")])
    assert isinstance(result.error, LimitExceeded), result.error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_behind(small_disk: Path, tmp_path: Path, picture: Path) -> None:
    noise = np.random.default_rng(1)
    pictures = []
    for i in range(2):
        pictures.append(tmp_path / f"{i}.bmp")
        Image.fromarray(noise.integers(0, 256, (600, 600, 3), np.uint8)).save(pictures[-1])
    sound = noise.uniform(-0.9, 0.9, 48_000 * 20).astype(np.float32)
    pictures.append(_synth.movie(tmp_path / "a.wav", sound=sound, audio_codec="pcm_s16le"))
    cache = Cache(small_disk / "cache", 1 << 30)
    with Decoder(cache, DecodeLimits(), Sampling(), 1) as decoder:
        results = list(decoder.decode(job(p, p.name) for p in pictures))
        assert [type(r.error) for r in results] == [DiskFull] * 3
        assert all(r.error is not None and r.error.retryable for r in results)
        (small,) = decoder.decode([job(picture, "small")])
    assert small.error is None  # what failed gave its room back


def test_children_have_neither_our_environment_nor_our_files(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "x")
    with (tmp_path / "open").open("w"), Decoder(Cache(tmp_path, 1 << 30), DecodeLimits(), Sampling(), 1) as decoder:
        list(decoder.decode([job(picture, "a")]))
        (child,) = decoding_children()
        assert "SECRET_KEY" not in child.environ()
        assert not [f for f in child.open_files() if f.path.startswith(str(tmp_path))]
        status = Path(f"/proc/{child.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert child.rlimit(psutil.RLIMIT_AS)[0] < 8 << 30
        assert child.num_threads() == 1


def test_children_are_reused(tmp_path: Path, picture: Path) -> None:
    with Decoder(Cache(tmp_path, 1 << 30), DecodeLimits(), Sampling(), 2) as decoder:
        list(decoder.decode(job(picture, str(i)) for i in range(6)))
        pids = {child.pid for child in decoding_children()}
        results = list(decoder.decode(job(picture, f"again{i}") for i in range(20)))
        assert {child.pid for child in decoding_children()} == pids
    assert max(r.seconds for r in results) < 1.0


def test_idle_children_that_were_killed_are_replaced(tmp_path: Path, picture: Path) -> None:
    with Decoder(Cache(tmp_path, 1 << 30), DecodeLimits(), Sampling(), 1) as decoder:
        list(decoder.decode([job(picture, "a")]))
        (child,) = decoding_children()
        child.kill()
        time.sleep(0.2)
        (result,) = decoder.decode([job(picture, "b")])
        assert result.error is None
        psutil.Process(decoding_children()[0].ppid()).kill()
        time.sleep(0.2)
        (result,) = decoder.decode([job(picture, "c")])
    assert result.error is None


def test_killing_the_parent_leaves_nothing_running(tmp_path: Path, movie: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from media_pipeline.config import *\n"
        "from media_pipeline.media.decode import *; from media_pipeline.media.cache import Cache\n"
        "with Decoder(Cache(Path(sys.argv[2]), 1 << 30), DecodeLimits(), Sampling(), 2) as d:\n"
        "    list(d.decode(DecodeJob(f'{i:064x}', Path(sys.argv[1])) for i in range(1000)))\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, "-c", program, str(movie), str(tmp_path)], env=env)
    family: list[psutil.Process] = []
    deadline = time.monotonic() + 30
    while len(family) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
        family = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    assert len(family) == 3
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
