"""The wheel of the running program, and the list of what it needs."""

from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
import sys
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution, requires, version
from pathlib import Path

import pytest

import media_pipeline
from media_pipeline.cloud import wheel
from media_pipeline.cloud.requirements import requirements
from media_pipeline.errors import UsageError

PACKAGE = Path(media_pipeline.__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> wheel.Wheel:
    return wheel.build(tmp_path_factory.mktemp("wheel"))


def test_it_holds_the_package_and_its_data(made: wheel.Wheel) -> None:
    with zipfile.ZipFile(made.path) as archive:
        names = set(archive.namelist())
        assert archive.read("media_pipeline/errors.py") == (PACKAGE / "errors.py").read_bytes()
        assert all(entry.date_time[0] == 1980 for entry in archive.infolist())
    data = {f"media_pipeline/{p.relative_to(PACKAGE).as_posix()}" for p in PACKAGE.rglob("*.yaml")}
    assert data and data < names
    assert "media_pipeline/cloud/bootstrap.sh" in names
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)
    assert {name.split("/")[0] for name in names} == {
        "media_pipeline",
        f"media_pipeline-{version('media-pipeline')}.dist-info",
    }
    assert hashlib.sha256(made.path.read_bytes()).hexdigest() == made.sha256


def test_it_requires_what_is_required_here(made: wheel.Wheel) -> None:
    info = f"media_pipeline-{version('media-pipeline')}.dist-info"
    with zipfile.ZipFile(made.path) as archive:
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read(f"{info}/licenses/LICENSE")
    assert metadata.get_all("Requires-Dist") == requires("media-pipeline")
    assert metadata["Requires-Python"] == distribution("media-pipeline").metadata["Requires-Python"]
    assert "media-pipeline = media_pipeline.cli:main" in entry_points
    assert not metadata.get_payload()  # nothing of the machine it was made on, no readme


def test_its_record_is_true(made: wheel.Wheel) -> None:
    with zipfile.ZipFile(made.path) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith("/RECORD")]
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert {row[0] for row in rows} == set(archive.namelist())
        for name, digest, size in rows:
            if name != record:
                content = archive.read(name)
                wanted = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={wanted}", len(content))


@pytest.mark.slow
def test_it_is_the_same_again_and_from_an_installed_copy(made: wheel.Wheel, tmp_path: Path) -> None:
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(tmp_path / "installed")
    code = (
        "import sys, pathlib; from media_pipeline.cloud import wheel;"
        "from media_pipeline.execution.hello import code_digest;"
        "made = wheel.build(pathlib.Path(sys.argv[1])); print(wheel.__file__, made.sha256, code_digest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "again")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    file, sha256, digest = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "installed")
    assert sha256 == made.sha256
    with zipfile.ZipFile(made.path) as archive:  # what the worker calls the digest of its code
        ours = hashlib.sha256()
        for name in sorted(n for n in archive.namelist() if n.endswith(".py")):
            ours.update(name.removeprefix("media_pipeline/").encode() + b"\0" + archive.read(name) + b"\0")
    assert digest == ours.hexdigest()


def test_one_that_is_there_is_left_alone(made: wheel.Wheel) -> None:
    before = made.path.stat()
    again = wheel.build(made.path.parent.parent)
    after = again.path.stat()
    assert (again, after.st_ino, after.st_mtime_ns) == (made, before.st_ino, before.st_mtime_ns)


def test_a_package_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wheel, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(UsageError, match="installed"):
        wheel.build(tmp_path)


def test_what_a_worker_needs_is_complete_and_exact() -> None:
    needed = requirements()
    plain = dict(line.split("==") for line in needed.plain)
    for name, wanted in plain.items():
        assert version(name).split("+")[0] == wanted
        assert "+" not in wanted
    # Direct ones, those that others bring, and weights of an extra that is installed here.
    assert {"pyarrow", "numpy", "rapidocr", "timm"} <= plain.keys() - needed.optional
    assert needed.optional <= plain.keys() and needed.optional <= {"nudenet"}
    assert not {"media-pipeline", "dagster", "dagster-graphql", "pytest", "ruff", "sqlalchemy"} & plain.keys()
    assert not {"torch", "torchvision", "onnxruntime"} & plain.keys()


def test_what_has_another_build_for_gpus_stands_apart() -> None:
    needed = requirements()
    torch = f"torch=={version('torch').split('+')[0]}"
    assert torch in needed.cpu and torch in needed.gpu
    assert [line for line in needed.cpu if line.startswith("onnxruntime==")]
    assert [line for line in needed.gpu if line.startswith("onnxruntime-gpu")]
    assert not [line for line in needed.gpu if line.startswith("onnxruntime==")]
    assert not [line for line in (*needed.cpu, *needed.gpu) if "+" in line or ";" in line]
