"""Making a rented machine a worker. It is somebody else's machine: nothing secret goes there, and nothing is believed.

    probe      nvidia-smi says what was offered
    worker     one of just this program is there, or its wheel is sent, and what it needs is there or installed
    check      it says its digest, and has computed something on the GPU
    models     those that the analyzers use here are pulled there from the public hub, or sent
    timer      runs already, or is started: it destroys the machine when nobody else does

All of it lies in the folder `media-worker` of the home there, and may be repeated: where all is ready, it only looks.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from media_pipeline.analyzers._model_catalog import CATALOG, CatalogEntry
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._registry import registry
from media_pipeline.cloud import wheel
from media_pipeline.cloud.requirements import Requirements, requirements
from media_pipeline.cloud.ssh import Connection, RemoteFailed
from media_pipeline.config import Settings
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import MediaPipelineError, RentalRefused, WorkerLost
from media_pipeline.execution.hello import Hello, code_digest
from media_pipeline.execution.stages import options_for
from media_pipeline.wording import printable

Say = Callable[[str], None]

FOLDER = "media-worker"  # in the home folder there
PUBLIC_HUB = "https://huggingface.co"
_NO_PYTHON = 3  # exit status, see bootstrap.sh
_PROBE_S, _CHECK_S, _UPLOAD_S = 60.0, 240.0, 300.0
_LEAST_MEMORY = 0.9  # of what was offered: some is the driver's
_MOST_THREADS = 16
_LEAST_SILENCE_S = 1800.0
_LEAST_PULLED_BYTES = 4 * 1024**2  # below, asking the hub takes longer than sending
_INET_SHARE = 0.5  # of its nominal bandwidth that a machine gets from the hub
_SLOWER_THAN_MEASURED = 4.0


@dataclass(frozen=True, slots=True)
class _Worker:
    """One that can be started there."""

    python: str
    code: str  # folder with the program; empty: it is installed for this Python
    hello: Hello


def onstart(settings: Settings) -> str:
    """Shell for the container's start: the timer that destroys the machine even if nobody ever reaches it."""
    start = f"setsid nohup sh deadman.sh {_timer(settings)} </dev/null >/dev/null 2>&1 &"
    # Without the file, Vast.ai's shell opens tmux around everything.
    return (
        f'touch ~/.no_auto_tmux\nmkdir -p "$HOME/{FOLDER}" && cd "$HOME/{FOLDER}" && cat >deadman.sh <<\'EOF\'\n'
        f"{_text('deadman.sh')}EOF\n{start}\n"
    )


def prepare(
    connection: Connection, settings: Settings, say: Say, *, gpu: str | None = None, vram_mb: float | None = None
) -> tuple[str, ...]:
    """Makes the machine ready, whatever is there already.

    Args:
        say: told in a few words what takes long
        gpu, vram_mb: that were offered; None: only `settings.gpu` counts

    Returns:
        The command that starts the worker, to be run there.

    Raises:
        RentalRefused: no other machine would do either, with these settings.
        WorkerLost: this one will not do; the cause says why.
    """
    machine = _Machine(connection, settings, say)
    said = machine.look()
    machine.check_gpu(said.get("gpu", ""), gpu, vram_mb)
    worker = machine.worker(said) or machine.bring_worker()
    machine.check_device(worker.hello)
    machine.bring_models(worker)
    cores = said.get("cores", "")
    threads = min(int(cores), _MOST_THREADS) if cores.isdecimal() else 1
    return ("sh", "-c", _start(worker, settings, max(1, threads)))


def needed_models(settings: Settings) -> list[CatalogEntry]:
    """Catalogued models that the analyzers use here, as far as they are here."""
    store = _Asked(settings)
    for spec in registry().values():
        try:
            spec.choose(options_for(spec, settings), store)
        except MediaPipelineError:
            continue  # it will say so itself, when it is to run
    return [CATALOG[name] for name in sorted(store.found)]


class _Asked(ModelStore):
    """Remembers which models were asked for and found; downloads nothing."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings.models,
            offline=True,
            hub_url=settings.hub_url,
            tier=settings.tier,
            fetch=False,
            home=settings.home,
            secrets=settings.secrets,
        )
        self.found: set[str] = set()

    def find(self, name: str) -> Path | None:
        folder = super().find(name)
        if folder is not None and name in CATALOG:
            self.found.add(name)
        return folder


class _Machine:
    def __init__(self, connection: Connection, settings: Settings, say: Say) -> None:
        self._connection, self._settings, self._say = connection, settings, say
        self._digest = code_digest()
        self._script = _text("bootstrap.sh")

    def look(self) -> dict[str, str]:
        """What is there; starts the timer where it does not run."""
        call = (
            f"probe\nfind_worker {self._digest} {shlex.quote(self._settings.gpu.python)}\n"
            f"guard {_timer(self._settings)} <<'EOF'\n{_text('deadman.sh')}EOF"
        )
        said = self._step(call, _PROBE_S + _CHECK_S)
        if said.get("guard") == "none":
            self._say("the machine has no key of its own: it cannot give itself back")
        return said

    def check_gpu(self, found: str, gpu: str | None, vram_mb: float | None) -> None:
        """Compares what nvidia-smi said with what was offered."""
        name, _, rest = found.partition(",")
        memory = re.search(r"([\d.]+)\s*MiB", rest)
        if memory is None:
            raise WorkerLost(f"nvidia-smi there knows no GPU ({found or 'nothing'})")
        least = max(self._settings.gpu.min_vram_gb * 1000, vram_mb or 0) * _LEAST_MEMORY
        if (gpu and not is_same_gpu(gpu, name)) or float(memory[1]) < least:
            raise WorkerLost(f"the machine has {name} with {memory[1]} MB, not {gpu or 'a GPU'} with {least:.0f} MB")

    def worker(self, said: Mapping[str, str]) -> _Worker | None:
        """The one that spoke, if it is of just this program."""
        try:
            hello = Hello.from_json(json.loads(said.get("worker", "")))
        except (ValueError, RecursionError, WorkerLost):
            return None  # none, or one of another release
        is_ours = hello.code == self._digest and bool(said.get("python"))
        return _Worker(said["python"], said.get("code", ""), hello) if is_ours else None

    def bring_worker(self) -> _Worker:
        """Sends the program, and has installed what it needs where that is not there."""
        with tempfile.TemporaryDirectory() as folder:
            made = wheel.build(Path(folder))
            self._upload(made.path, f"{FOLDER}/{made.path.name}", made.sha256, _UPLOAD_S)
        needed = requirements()
        sent = f"{self._digest} {shlex.quote(made.path.name)}"
        wanted = map(_named, needed.plain + self._special(needed))
        names = _lines(name for name in wanted if name not in needed.optional)
        said = self._step(f"use_python {sent} {shlex.quote(self._settings.gpu.python)} <<'EOF'\n{names}EOF", _CHECK_S)
        worker = self.worker(said)
        if worker is None and "python" not in said:
            name = self._install(needed)
            worker = self.worker(self._step(f'use_worker {sent} "$PWD/{name}/bin/python"', _CHECK_S))
        if worker is None:
            raise WorkerLost(
                "the worker there is not the program that was sent",
                "if files of media-pipeline have changed since it was started, start it anew",
            )
        return worker

    def check_device(self, hello: Hello) -> None:
        slow = "; ".join(f"{name}: {why}" for name, why in hello.libraries.items() if why != "cuda")[:400]
        if self._settings.gpu.needs_cuda and hello.device != "cuda":
            raise WorkerLost(f"nothing can be computed on the GPU there ({slow or 'no reason given'})")
        if slow and hello.device == "cuda":
            self._say(f"computed on the CPU there: {slow}")

    def bring_models(self, worker: _Worker) -> None:
        wanted = needed_models(self._settings)
        if not wanted:
            return
        lines = [f"{file.sha256} {entry.name}/{file.path}" for entry in wanted for file in entry.files]
        missing = self._listed(f"missing_models <<'EOF'\n{_lines(lines)}EOF", _CHECK_S)
        for entry in wanted:
            files_ = [file for file in entry.files if f"{entry.name}/{file.path}" in missing]
            size = sum(file.bytes for file in files_)
            if not files_ or (self._is_pulled(size) and self._pull(entry, worker)):
                continue
            self._say(f"sending the model {entry.name} ({size / 1e6:.0f} MB)")
            for file in files_:
                source = self._settings.models / entry.name / file.path
                limit_s = _UPLOAD_S + _SLOWER_THAN_MEASURED * file.bytes / (self._connection.upload_bytes_per_s or 1e6)
                self._upload(source, f"{FOLDER}/home/models/{entry.name}/{file.path}", file.sha256, limit_s)

    def _is_pulled(self, size: int) -> bool:
        """Whether the machine is to fetch a model by itself: when that is quicker than sending, and it may."""
        settings = self._settings
        if size < _LEAST_PULLED_BYTES or settings.offline or settings.hub_url.rstrip("/") != PUBLIC_HUB:
            return False
        rate = self._connection.upload_bytes_per_s or self._connection.measure_upload()
        return rate < settings.gpu.min_inet_mbps * 1e6 / 8 * _INET_SHARE

    def _pull(self, entry: CatalogEntry, worker: _Worker) -> bool:
        self._say(f"the machine fetches the model {entry.name} ({entry.bytes / 1e6:.0f} MB)")
        limit_s = _UPLOAD_S + _SLOWER_THAN_MEASURED * entry.bytes / (self._settings.gpu.min_inet_mbps * 1e6 / 8 + 1)
        call = f"pull_model {shlex.quote(worker.python)} {shlex.quote(worker.code)} {entry.name}"
        try:
            self._step(call, limit_s)
        except RemoteFailed as error:
            self._say(f"it could not: {error.cause}")
            return False
        return True

    def _special(self, needed: Requirements) -> tuple[str, ...]:
        return needed.gpu if self._settings.gpu.needs_cuda else needed.cpu

    def _install(self, needed: Requirements) -> str:
        """Makes an environment with all that is needed; its name."""
        gpu, special = self._settings.gpu, self._special(needed)
        self._say(f"installing {len(needed.plain) + len(special)} packages there")
        name = f"venv-{_short(needed.plain + special)}"
        written = "".join(
            f"cat >{file} <<'EOF'\n{_lines(lines)}EOF\n"
            for file, lines in (("plain.txt", needed.plain), ("special.txt", special))
        )
        build = "" if gpu.needs_cuda else " --torch-backend cpu"  # its own choice is the one for GPUs
        start = time.monotonic()
        try:
            self._step(f"{written}install {shlex.quote(gpu.python)} {name}{build}", gpu.setup_timeout_s)
        except RemoteFailed as error:
            if error.status == _NO_PYTHON:
                raise RentalRefused(
                    "the image has no Python 3.11 or 3.12, and none could be had",
                    "name another in MEDIA_PIPELINE_GPU__IMAGE or __PYTHON",
                ) from None
            raise WorkerLost(f"what the worker needs could not be installed there ({error.cause})") from None
        self._say(f"installed in {time.monotonic() - start:.0f} s")
        return name

    def _upload(self, source: Path, target: str, sha256: str, timeout_s: float) -> None:
        self._connection.upload(source, target, timeout_s=timeout_s, sha256=sha256, staging=f"{FOLDER}/incoming")

    def _step(self, call: str, timeout_s: float) -> dict[str, str]:
        """What a step says, NAME VALUE; of several with one name the last."""
        return dict(self._said(call, timeout_s))

    def _listed(self, call: str, timeout_s: float) -> set[str]:
        return {value for _, value in self._said(call, timeout_s)}

    def _said(self, call: str, timeout_s: float) -> Iterable[tuple[str, str]]:
        out = self._connection.run("sh -s", timeout_s=timeout_s, stdin=f"{self._script}{call}\n".encode())
        for line in out.splitlines():
            name, _, value = line.partition(" ")
            yield name, printable(value.strip())


def is_same_gpu(offered: str, found: str) -> bool:
    """Whether nvidia-smi's name can be the GPU that Vast.ai names: RTX 4070S Ti is NVIDIA GeForce RTX 4070 Ti SUPER."""
    model = re.search(r"[a-z]*\d+", re.sub(r"\b(rtx|gtx|tesla|quadro|nvidia|geforce|q)\b", " ", offered.lower()))
    return model is None or re.search(rf"{model[0]}(?!\d)", re.sub(r"[^a-z0-9]", "", found.lower())) is not None


def _start(worker: _Worker, settings: Settings, threads: int) -> str:
    """The remote command. Its process id is what the timer looks at."""
    variables = {"PYTHONUNBUFFERED": "1", "MEDIA_PIPELINE_TIER": settings.tier, "LANG": "C.UTF-8"}
    if worker.code:
        variables["PYTHONPATH"] = worker.code
    env = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return (
        f'cd "$HOME/{FOLDER}" && echo >worker.$$.pid && exec env {env} {shlex.quote(worker.python)}'
        f" -m media_pipeline.execution.worker --device auto --threads {threads} --home home"
    )


def _timer(settings: Settings) -> str:
    """Arguments of deadman.sh."""
    limit_s, silence_s = settings.gpu.max_hours * 3600, silence_after_s(settings.gpu)
    period_s = max(1, min(30, int(min(limit_s, silence_s) / 4)))
    return f"{max(1, int(limit_s))} {int(silence_s)} {period_s} {shlex.quote(settings.vast_url.rstrip('/'))}"


def silence_after_s(gpu: Gpu) -> float:
    """Seconds without a worker after which a machine gives itself back: longer than any pause that is meant."""
    return max(_LEAST_SILENCE_S, 2 * gpu.idle_s, gpu.boot_timeout_s + gpu.setup_timeout_s)


def _named(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match[0] if match else requirement


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _short(lines: Iterable[str]) -> str:
    return hashlib.sha256(_lines(lines).encode()).hexdigest()[:12]


def _text(name: str) -> str:
    return (files("media_pipeline.cloud") / name).read_text(encoding="utf-8")
