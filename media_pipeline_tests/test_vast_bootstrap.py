"""A rented machine becomes a worker, and gives itself back: what it is asked, what it gets, and what it never sees."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from pydantic import SecretStr

from media_pipeline.analyzers._model_catalog import CATALOG, CatalogEntry, ModelFile
from media_pipeline.analyzers._spec import ModelChoice, Options
from media_pipeline.cloud import bootstrap
from media_pipeline.cloud.ssh import Connection, RemoteFailed
from media_pipeline.config import Settings, load_settings
from media_pipeline.errors import ModelUnavailable, RentalRefused, WorkerLost
from media_pipeline.execution.hello import code_digest
from media_pipeline.execution.messages import PROTOCOL
from media_pipeline_tests._rented import Rented, needs_sshd, rented
from media_pipeline_tests.vast_standin import StandIn

needed_models = bootstrap.needed_models
CLOUD = Path(bootstrap.__file__).parent
SCRIPT = (CLOUD / "bootstrap.sh").read_text()
KEY = "test-key"
OWN_KEY = "instance-key"  # of a machine


@pytest.fixture(autouse=True)
def _no_models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking every analyzer takes a second; one test does."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(bootstrap, "needed_models", lambda _settings: [])


def settings_of(home: Path, **gpu: Any) -> Settings:
    vast = {key: gpu.pop(key) for key in ("vast_url", "offline", "hub_url") if key in gpu}
    given = {"needs_cuda": False, "python": sys.executable, **gpu}
    return load_settings(home=home, vast_api_key=SecretStr(KEY), gpu=given, **{"offline": False, **vast})


def hello(**other: Any) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "version": "0.1.0",
        "code": code_digest(),
        "device": "cuda",
        "gpu": "NVIDIA GeForce RTX 3090",
        "free_gpu_mb": 24000,
        "libraries": {"torch": "cuda"},
        "cores": 64,
        "threads": 8,
        "max_held_bytes": 10**9,
        **other,
    }


class Machine:
    """Answers as bootstrap.sh would; an answer may be an error."""

    def __init__(self, rate: float = 1e6, **answers: Any) -> None:
        self.upload_bytes_per_s: float | None = None
        self.rate, self.asked, self.uploads = rate, list[str](), list[str]()
        looks = "gpu NVIDIA GeForce RTX 3090, 24576 MiB, 570.1\ncores 8\nguard started"
        self.answers: dict[str, Any] = {"probe": f"{looks}\n{worker()}", **answers}

    def run(self, remote: str, *, timeout_s: float, stdin: bytes) -> str:
        assert remote == "sh -s" and timeout_s > 0
        call = stdin.decode().removeprefix(SCRIPT)
        name = "install" if "\ninstall " in call else call.split()[0]
        self.asked.append(name)
        answer = self.answers.get(name, "")
        if isinstance(answer, Exception):
            raise answer
        return cast(str, answer(call) if callable(answer) else answer)

    def upload(self, source: Path, target: str, *, timeout_s: float, sha256: str, staging: str) -> None:
        assert hashlib.sha256(source.read_bytes()).hexdigest() == sha256
        self.uploads.append(target)

    def measure_upload(self) -> float:
        self.upload_bytes_per_s = self.rate
        return self.rate

    def prepare(self, settings: Settings, **offered: Any) -> tuple[str, ...]:
        self.said: list[str] = []
        return bootstrap.prepare(cast(Connection, self), settings, self.said.append, **offered)


def worker(python: str = "/usr/bin/python3", folder: str = "", **says: Any) -> str:
    return f"python {python}\ncode {folder}\nworker {json.dumps(hello(**says))}"


# ---- what is decided


def test_a_machine_that_is_ready_is_only_looked_at(tmp_path: Path) -> None:
    machine = Machine()
    command = machine.prepare(settings_of(tmp_path), gpu="RTX 3090", vram_mb=24576)
    assert machine.asked == ["probe"] and machine.uploads == []
    assert command[:2] == ("sh", "-c")
    assert "/usr/bin/python3 -m media_pipeline.execution.worker --device auto --threads 8 " in command[2]
    assert "PYTHONPATH" not in command[2]


@pytest.mark.parametrize(
    ("found", "offered", "words"),
    [
        ("NVIDIA GeForce RTX 3060, 12288 MiB, 1", {"gpu": "RTX 3090"}, "RTX 3060"),
        ("NVIDIA L40S, 46068 MiB, 1", {"gpu": "L4"}, "L40S"),
        ("NVIDIA GeForce RTX 3090, 12288 MiB, 1", {"gpu": "RTX 3090", "vram_mb": 24576}, "12288 MB"),
        ("NVIDIA GeForce RTX 3070, 8192 MiB, 1", {}, "8192 MB"),
        ("No devices were found", {}, "No devices"),
        ("", {}, "knows no GPU"),
    ],
)
def test_another_gpu_than_offered(tmp_path: Path, found: str, offered: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkerLost, match=words):
        Machine(probe=f"gpu {found}\n{worker()}").prepare(settings_of(tmp_path), **offered)


@pytest.mark.parametrize(
    ("offered", "found"),
    [
        ("RTX 4070S Ti", "NVIDIA GeForce RTX 4070 Ti SUPER"),
        ("A100 SXM4", "NVIDIA A100-SXM4-40GB"),
        ("Tesla T4", "Tesla T4"),
        ("Q RTX 8000", "Quadro RTX 8000"),
        ("RTX 6000Ada", "NVIDIA RTX 6000 Ada Generation"),
        ("RTX A6000", "NVIDIA RTX A6000"),
        ("L4", "NVIDIA L4"),
        ("Titan V", "NVIDIA TITAN V"),
    ],
)
def test_names_of_one_gpu(offered: str, found: str) -> None:
    assert bootstrap.is_same_gpu(offered, found)


def test_a_gpu_that_cannot_compute_is_of_no_use(tmp_path: Path) -> None:
    looks = "gpu NVIDIA GeForce RTX 3090, 24576 MiB, 1"
    machine = Machine(probe=f"{looks}\n{worker(device='cpu', libraries={'torch': 'the driver is too old'})}")
    with pytest.raises(WorkerLost, match="driver is too old"):
        machine.prepare(settings_of(tmp_path, needs_cuda=True))
    assert machine.prepare(settings_of(tmp_path, needs_cuda=False))
    partly = Machine(probe=f"{looks}\n{worker(libraries={'torch': 'cuda', 'ctranslate2': 'needs cuBLAS 12'})}")
    partly.prepare(settings_of(tmp_path, needs_cuda=True))
    assert "needs cuBLAS 12" in partly.said[0]


LOOKS = "gpu NVIDIA GeForce RTX 3090, 24576 MiB, 1\ncores 200\nguard none"


@pytest.mark.slow
@pytest.mark.parametrize("there", ["", "worker nonsense", worker(code="0" * 64)])
def test_another_program_is_replaced(tmp_path: Path, there: str) -> None:
    machine = Machine(probe=f"{LOOKS}\n{there}", use_python=worker("/x/python", "code-1"))
    command = machine.prepare(settings_of(tmp_path))
    assert machine.asked == ["probe", "use_python"]
    assert [Path(target).suffix for target in machine.uploads] == [".whl"]
    assert "PYTHONPATH=code-1 /x/python" in command[2] and "--threads 16" in command[2]
    assert any("cannot give itself back" in text for text in machine.said)


def test_what_is_missing_is_installed(tmp_path: Path) -> None:
    machine = Machine(probe=LOOKS, use_python="missing torch onnxruntime", use_worker=worker("/venv/python", "code-1"))
    assert "/venv/python" in machine.prepare(settings_of(tmp_path))[2]
    assert machine.asked == ["probe", "use_python", "install", "use_worker"]
    assert machine.said[1].startswith("installing 1")


@pytest.mark.slow
def test_what_is_installed_is_what_is_here(tmp_path: Path) -> None:
    calls: dict[bool, str] = {}
    for needs_cuda in (True, False):

        def install(call: str, needs_cuda: bool = needs_cuda) -> str:
            calls[needs_cuda] = call
            return ""

        Machine(probe=LOOKS, install=install, use_worker=worker()).prepare(settings_of(tmp_path, needs_cuda=needs_cuda))
    assert "\nonnxruntime-gpu==" in calls[True] and "\nonnxruntime==" not in calls[True]
    assert "\nonnxruntime==" in calls[False] and "onnxruntime-gpu" not in calls[False]
    assert all("\nnumpy==" in call and "dagster" not in call for call in calls.values())


@pytest.mark.slow
def test_why_nothing_can_be_installed(tmp_path: Path) -> None:
    no_python = Machine(probe=LOOKS, install=RemoteFailed("no Python", status=3))
    with pytest.raises(RentalRefused, match="MEDIA_PIPELINE_GPU__IMAGE"):  # no other machine has one either
        no_python.prepare(settings_of(tmp_path))
    no_disk = Machine(probe=LOOKS, install=RemoteFailed("127.0.0.1 answered: No space left on device"))
    with pytest.raises(WorkerLost, match="No space left"):
        no_disk.prepare(settings_of(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("says", ["", worker(code="0" * 64), "python x\ncode y\nworker [1]", worker(protocol=99)])
def test_what_was_sent_must_be_what_runs(tmp_path: Path, says: str) -> None:
    with pytest.raises(WorkerLost, match="not the program"):
        Machine(probe=LOOKS, use_worker=says).prepare(settings_of(tmp_path))


# ---- models


@pytest.fixture
def model(_no_models: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CatalogEntry:
    """A catalogued model of two files, 6 MB, that is in the home and used."""
    folder = tmp_path / "home" / "models" / "tiny"
    files = []
    for name, size in (("config.json", 100), ("deep/model.bin", 6_000_000)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(size))
        files.append(ModelFile(name, size, hashlib.sha256((folder / name).read_bytes()).hexdigest()))
    entry = CatalogEntry("tiny", "x", "x", "standard", "MIT", "a/b", "0" * 40, tuple(files))
    monkeypatch.setitem(CATALOG, "tiny", entry)
    monkeypatch.setattr(bootstrap, "needed_models", lambda _settings: [entry])
    return entry


def both(_call: str) -> str:
    return "missing tiny/config.json\nmissing tiny/deep/model.bin"


TARGETS = ["media-worker/home/models/tiny/config.json", "media-worker/home/models/tiny/deep/model.bin"]


@pytest.mark.parametrize(
    ("rate", "settings", "pulled"),
    [
        (1e6, {}, True),  # 8 Mbit/s from here, at least 100 there
        (1e8, {}, False),
        (1e6, {"offline": True}, False),
        (1e6, {"hub_url": "https://models.example.org"}, False),  # it may be one of ours
    ],
)
def test_a_model_takes_the_quicker_way(
    tmp_path: Path, model: CatalogEntry, rate: float, settings: dict[str, Any], pulled: bool
) -> None:
    machine = Machine(rate, missing_models=both)
    machine.prepare(settings_of(tmp_path / "home", **settings))
    assert ("pull_model" in machine.asked) == pulled
    assert machine.uploads == ([] if pulled else TARGETS)


def test_a_hub_that_does_not_answer_costs_nothing_but_time(tmp_path: Path, model: CatalogEntry) -> None:
    machine = Machine(missing_models=both, pull_model=RemoteFailed("no network"))
    machine.prepare(settings_of(tmp_path / "home"))
    assert machine.uploads == TARGETS


def test_only_missing_files_are_sent(tmp_path: Path, model: CatalogEntry) -> None:
    machine = Machine(missing_models="missing tiny/config.json\nmissing /etc/passwd")
    machine.prepare(settings_of(tmp_path / "home"))
    assert machine.uploads == TARGETS[:1]
    nothing = Machine(missing_models="")
    nothing.prepare(settings_of(tmp_path / "home"))
    assert nothing.uploads == [] and nothing.said == []


def test_needed_are_the_models_that_analyzers_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {}
    for name in ("used", "unused", "not-here"):
        content = name.encode()
        file = ModelFile("weights", len(content), hashlib.sha256(content).hexdigest())
        entries[name] = CatalogEntry(name, "x", "x", "standard", "MIT", "a/b", "0" * 40, (file,))
        monkeypatch.setitem(CATALOG, name, entries[name])
        if name != "not-here":
            (tmp_path / "models" / name).mkdir(parents=True)
            (tmp_path / "models" / name / "weights").write_bytes(content)

    class Spec:
        options = Options

        def __init__(self, name: str) -> None:
            self.name = name

        def choose(self, _options: Options, store: Any) -> ModelChoice:
            if store.obtain(self.name) is None:
                raise ModelUnavailable("not here")
            return ModelChoice(self.name, "standard", "0")

    monkeypatch.setattr(bootstrap, "registry", lambda: {name: Spec(name) for name in ("used", "not-here")})
    assert needed_models(settings_of(tmp_path)) == [entries["used"]]


# ---- the script


def shell(home: Path, call: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a step here; its folder is below `home`."""
    return subprocess.run(
        ["/bin/sh", "-s"],
        input=f"{SCRIPT}{call}" + (f" <<'EOF'\n{stdin}EOF\n" if stdin else "\n"),
        env={"PATH": os.defpath, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def tools(folder: Path, *names: str) -> str:
    """A PATH with nothing but these."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name, path=os.defpath)
        assert found, name
        (folder / name).symlink_to(found)
    return str(folder)


def test_models_are_compared_by_their_digests(tmp_path: Path) -> None:
    models = tmp_path / "media-worker" / "home" / "models"
    models.mkdir(parents=True)
    (models / "good").write_bytes(b"good")
    (models / "bad").write_bytes(b"changed")
    lines = [f"{hashlib.sha256(n.encode()).hexdigest()} {n}" for n in ("good", "bad", "with a blank")]
    done = shell(tmp_path, "missing_models", "\n".join(lines) + "\n")
    assert done.stdout.splitlines() == ["missing bad", "missing with a blank"]


def test_a_machine_without_python_says_so(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", "mkdir", "touch", "id", "cat", "env")
    done = shell(tmp_path, "install no-such-python venv", PATH=path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "no Python 3.11 or 3.12 here, and none could be had"


def test_a_broken_gpu_ends_the_look(tmp_path: Path) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    path = tools(smi.parent, "mkdir", "touch", "timeout", "head", "nproc")
    smi.write_text("#!/bin/sh\necho 'Driver/library version mismatch' >&2\nexit 18\n")
    smi.chmod(0o755)
    done = shell(tmp_path, "probe", PATH=path)
    assert done.returncode == 1 and "version mismatch" in done.stderr
    smi.write_text("#!/bin/sh\necho 'A, 1 MiB, 5'\necho 'B, 1 MiB, 5'\n")
    assert shell(tmp_path, "probe", PATH=path).stdout.splitlines()[0] == "gpu A, 1 MiB, 5"


@pytest.mark.slow
def test_the_python_that_has_everything_is_found(tmp_path: Path) -> None:
    assert (
        shell(tmp_path, f"find_python {sys.executable}", "numpy\nno-such|pyarrow\n").stdout
        == f"python {sys.executable}\n"
    )
    lacks = shell(tmp_path, f"find_python {sys.executable}", "numpy\nno-such|neither\n").stdout
    assert lacks == "missing no-such|neither\n"
    assert shell(tmp_path, "find_python no-such-python", "numpy\n").stdout == ""


# ---- the timer


def test_the_start_of_a_container_fits_and_has_no_secret(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, vast_url="https://" + "a" * 200 + ".example/")
    text = bootstrap.onstart(settings)
    assert len(text) < 4096
    assert "no_auto_tmux" in text
    assert KEY not in text and str(tmp_path) not in text
    assert subprocess.run(["/bin/sh", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_pause_that_is_meant_is_survived(tmp_path: Path) -> None:
    for gpu in ({"idle_s": 4000}, {"setup_timeout_s": 4000}, {"boot_timeout_s": 4000}):
        chosen = settings_of(tmp_path, **gpu).gpu
        assert bootstrap.silence_after_s(chosen) > max(4000, chosen.idle_s, chosen.setup_timeout_s)


@pytest.fixture
def market() -> Iterator[StandIn]:
    with StandIn(speed=60, api_keys=(KEY, OWN_KEY)) as running:
        yield running


def an_instance(market: StandIn) -> int:
    from media_pipeline_tests.vast_standin import do_create

    with market.market.lock:
        created = do_create(market.market, next(iter(market.market.offers)), {"image": "x", "label": "x"})
    return int(created["new_contract"])


def until(what: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


@pytest.mark.slow
@pytest.mark.parametrize("client", ["curl", "wget", "python3"])
def test_a_machine_gives_itself_back_at_its_limit(tmp_path: Path, market: StandIn, client: str) -> None:
    if not shutil.which(client, path=os.defpath):
        pytest.skip(f"no {client} here")
    path = tools(
        tmp_path / "bin", "date", "touch", "grep", "rm", "stat", "sort", "tail", "sleep", "tr", "sed", "cat", client
    )
    (tmp_path / "w").mkdir()
    instance_id = an_instance(market)
    process = subprocess.Popen(
        ["/bin/sh", CLOUD / "deadman.sh", "2", "1000", "1", market.url],
        cwd=tmp_path / "w",
        env={"PATH": path, "CONTAINER_API_KEY": OWN_KEY, "CONTAINER_ID": str(instance_id)},
    )
    try:
        assert until(lambda: market.live() == [])
        shutil.rmtree(tmp_path / "w")
        assert until(lambda: process.poll() is not None)  # it goes with its folder
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_machine_without_a_worker_gives_itself_back(tmp_path: Path, market: StandIn) -> None:
    instance_id = an_instance(market)
    argv = [sys.executable, "-c", "import time; time.sleep(60)", "media_pipeline.execution.worker"]
    a_worker = subprocess.Popen(argv)
    (tmp_path / f"worker.{a_worker.pid}.pid").touch()
    (tmp_path / "worker.1.pid").touch()  # of a process that is no worker
    timer = subprocess.Popen(
        ["/bin/sh", CLOUD / "deadman.sh", "1000", "3", "1", market.url],
        cwd=tmp_path,
        env={"PATH": os.defpath, "CONTAINER_API_KEY": OWN_KEY, "CONTAINER_ID": str(instance_id)},
    )
    try:
        assert until(lambda: not (tmp_path / "worker.1.pid").exists())
        time.sleep(6)
        assert len(market.live()) == 1
        a_worker.kill()
        a_worker.wait()
        assert until(lambda: market.live() == [])
        assert {r["method"] for r in market.market.requests} == {"DELETE"}
    finally:
        for process in (a_worker, timer):
            process.kill()
            process.wait()


@needs_sshd
@pytest.mark.slow
def test_a_machine_that_nobody_reaches_gives_itself_back(tmp_path: Path) -> None:
    """The orchestrator dies right after renting: nothing but the text given at creation is left."""
    with StandIn() as other:
        url = other.url  # its own is not known before it is there
    settings = settings_of(tmp_path, max_hours=3 / 3600, vast_url=url)
    text = bootstrap.onstart(settings)
    port = int(url.rpartition(":")[2])
    machine = {"onstart": text, "env": {"CONTAINER_API_KEY": OWN_KEY}, "run_onstart": True, "port": port}
    with rented(tmp_path / "lease", **machine, api_keys=(KEY, OWN_KEY)) as there:
        assert (there.root / ".no_auto_tmux").exists() or until((there.root / ".no_auto_tmux").exists)
        assert until(lambda: there.standin.live() == [])
        assert "destroyed" in {event["kind"] for event in there.standin.market.events}


# ---- on a machine

PLAIN_PYTHON = """#!/bin/sh
# An image whose Python has all that is needed, and not the program: paths are not searched for installed projects.
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}%s"
exec %s -S "$@"
"""


@pytest.fixture
def plain_python(tmp_path: Path) -> str:
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    (tmp_path / "python").write_text(PLAIN_PYTHON % (packages, sys.executable))
    (tmp_path / "python").chmod(0o755)
    return str(tmp_path / "python")


def beats(machine: Rented, connection: Connection, command: tuple[str, ...]) -> None:
    """The worker lives, leaves its process id, and ends with its input."""
    process = subprocess.Popen(
        connection.command(shlex.join(command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stderr and process.stdout
    try:
        assert any(b'"beat"' in line for line in process.stderr)
        (file,) = (machine.root / "media-worker").glob("worker.*.pid")
        there = psutil.Process(int(file.name.split(".")[1]))
        assert "media_pipeline.execution.worker" in there.cmdline()
        environment = there.environ()
        assert not [name for name in environment if name.startswith(("VAST_API", "MEDIA_PIPELINE_HOME", "DAGSTER"))]
        assert KEY not in environment.values()
        process.stdin.close()
        assert process.wait(30) == 0
        assert until(lambda: not there.is_running())
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def assert_nothing_of_ours(machine: Rented, settings: Settings) -> None:
    secrets = [KEY, str(settings.home), machine.key.private.read_text().splitlines()[2]]
    files = [path for path in machine.root.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path


@needs_sshd
@pytest.mark.slow
def test_an_image_that_has_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAST_API_KEY", KEY)
    settings = settings_of(tmp_path / "home of Erika")
    with rented(tmp_path / "lease") as machine:
        connection, said = machine.connect(), list[str]()
        vram = machine.offer.vram_mb
        command = bootstrap.prepare(connection, settings, said.append, gpu=machine.offer.gpu, vram_mb=vram)
        assert sys.executable in command[2] and "PYTHONPATH" not in command[2]
        assert not list(machine.root.rglob("*.whl"))
        beats(machine, connection, command)
        assert_nothing_of_ours(machine, settings)


@needs_sshd
@pytest.mark.slow
def test_an_image_that_has_all_but_the_program(tmp_path: Path, plain_python: str) -> None:
    settings = settings_of(tmp_path / "home of Erika", python=plain_python)
    with rented(tmp_path / "lease", env={"CONTAINER_API_KEY": OWN_KEY}) as machine:
        connection = machine.connect()
        command = bootstrap.prepare(connection, settings, lambda _: None)
        sent_there = re.search(r"PYTHONPATH=(code-[0-9a-f]{64})", command[2])
        assert sent_there
        unpacked = machine.root / "media-worker" / sent_there[1] / "media_pipeline" / "errors.py"
        assert unpacked.read_bytes() == (CLOUD.parent / "errors.py").read_bytes()
        beats(machine, connection, command)
        assert_nothing_of_ours(machine, settings)
        timer = (machine.root / "media-worker" / "deadman.pid").read_text()
        sent = machine.gate.rx
        assert bootstrap.prepare(connection, settings, lambda _: None) == command
        assert machine.gate.rx - sent < 100_000  # nothing is sent again
        assert (machine.root / "media-worker" / "deadman.pid").read_text() == timer
        # A program that somebody changed there is not started.
        unpacked.write_text("# changed\n")
        bootstrap.prepare(connection, settings, lambda _: None)
        assert unpacked.read_bytes() == (CLOUD.parent / "errors.py").read_bytes()


@needs_sshd
@pytest.mark.slow
def test_machines_that_will_not_do(tmp_path: Path) -> None:
    with rented(tmp_path / "lease", plan={"gpu": "broken"}) as machine:
        connection = machine.connect()
        with pytest.raises(WorkerLost, match="version mismatch"):
            bootstrap.prepare(connection, settings_of(tmp_path), print)
    with rented(tmp_path / "other") as machine, pytest.raises(WorkerLost, match=r"not RTX 9999"):
        bootstrap.prepare(machine.connect(), settings_of(tmp_path), print, gpu="RTX 9999")


@needs_sshd
@pytest.mark.slow
def test_models_are_copied_whole_across_cuts(tmp_path: Path, model: CatalogEntry) -> None:
    settings = settings_of(tmp_path / "home", offline=True)
    with rented(tmp_path / "lease") as machine:
        connection = machine.connect()
        models = machine.root / "media-worker" / "home" / "models" / "tiny"
        models.mkdir(parents=True)
        (models / "config.json").write_bytes(b"something else")
        machine.gate.cut_after = machine.gate.rx + machine.gate.tx + 4_000_000
        with pytest.raises(WorkerLost):
            bootstrap.prepare(connection, settings, print)
        assert not (models / "deep" / "model.bin").exists()  # never half a model
        machine.gate.cut_after = None
        bootstrap.prepare(connection, settings, print)
        for file in model.files:
            assert hashlib.sha256((models / file.path).read_bytes()).hexdigest() == file.sha256
        sent = machine.gate.rx
        bootstrap.prepare(connection, settings, print)
        assert machine.gate.rx - sent < 100_000
