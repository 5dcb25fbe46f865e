"""Installing: what is pinned, what ends up in the environment, what the Makefile offers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import check_constraints, check_install

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = """
[project]
name = "example"
dependencies = ["Some_Package>=2", "other==1.0"]
[project.optional-dependencies]
dev = ["example[more]"]
more = ["third"]
"""


def test_constraints_meet_the_project() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")]
    assert list(check_constraints.problems(*texts)) == []


@pytest.mark.parametrize(
    ("constraints", "problem"),
    [
        ("some-package==1.9\nother==1.0\nthird==3", "pins Some_Package==1.9, pyproject.toml asks for >=2"),
        ("some-package==2\nother==1.0", "does not pin third"),
        ("some-package==2\nother==1.0\nthird @ https://example.org/third.whl", "is not a plain pin"),
        ("--index-url https://example.org/\nsome-package==2\nother==1.0\nthird==3", "is not a plain pin"),
        ("some-package==2\nother==1.0+cpu\nthird==3", "is not a plain pin"),
    ],
)
def test_constraints_problems_are_named(constraints: str, problem: str) -> None:
    found = list(check_constraints.problems(PYPROJECT, constraints))
    assert any(problem in line for line in found), found
    assert list(check_constraints.problems(PYPROJECT, "some-package==2\nother==1.0\nthird==3")) == []


def test_one_opencv_and_no_cuda_here() -> None:
    assert check_install.problems() == []


def install(folder: Path, name: str, files: dict[str, str]) -> None:
    """A distribution as an installer leaves it: files and the record of them."""
    record = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (record / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file, text in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)


def test_wrong_builds_are_seen(tmp_path: Path) -> None:
    install(tmp_path, "opencv-python-headless", {"cv2/__init__.py": ""})
    install(tmp_path, "opencv-contrib-python", {})  # a stand-in that owns no files is no second build
    install(tmp_path, "torch", {"torch/version.py": "cuda: Optional[str] = None\n"})
    assert check_install.problems([str(tmp_path)]) == []
    install(tmp_path, "opencv-python", {"cv2/__init__.py": ""})
    install(tmp_path, "nvidia-cublas-cu12", {})
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '12.8'\n")
    found = check_install.problems([str(tmp_path)])
    assert [any(word in line for line in found) for word in ("opencv-python'", "nvidia-cublas", "CUDA build")] == [
        True
    ] * 3


def test_setup_without_python_says_what_is_missing(tmp_path: Path) -> None:
    """Nothing but a shell: one line with the remedy, and nothing left behind."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "rm"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", checkout / "scripts")
    command = [str(tools / "bash"), str(checkout / "scripts" / "setup.sh")]
    done = subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Python 3.11 or 3.12" in done.stderr
    assert sorted(p.name for p in checkout.iterdir()) == ["scripts"]


def test_makefile_explains_its_targets() -> None:
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=True)
    explained = {line.split()[1] for line in done.stdout.splitlines()}
    assert explained >= {"setup", "demo", "test", "test-all", "lint", "format", "bench", "serve", "clean", "help"}
    for target in sorted(explained):
        subprocess.run(["make", "-n", target], cwd=ROOT, env=environment, capture_output=True, timeout=30, check=True)
