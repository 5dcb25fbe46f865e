"""What the resolver cannot promise about the installed environment: one OpenCV, a CPU torch.

Reads package metadata only, so it takes a fraction of a second and works where a broken library would not import.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path


def problems(search_path: list[str] = sys.path) -> list[str]:
    """One sentence each with cause and remedy; empty when the environment is right."""
    installed = list(distributions(path=search_path))
    return [*_opencv_problems(installed), *_torch_problems(installed)]


def _opencv_problems(installed: list[Distribution]) -> list[str]:
    # Distributions that only carry the name (metadata stand-ins) do not matter: who owns cv2's files does.
    owners = sorted({d.name for d in installed for f in d.files or () if str(f) == "cv2/__init__.py"})
    if owners == ["opencv-python-headless"]:
        return []
    return [f"cv2 comes from {owners}, not only from opencv-python-headless; remove .venv and run `make setup`"]


def _torch_problems(installed: list[Distribution]) -> list[str]:
    found = []
    cuda = sorted(d.name for d in installed if d.name.startswith(("nvidia-cu", "nvidia-nccl")))
    if cuda:
        found.append(f"CUDA libraries are installed ({cuda[0]} …); remove .venv and run `make setup`")
    torch = next((d for d in installed if d.name == "torch"), None)
    if torch is None:
        return [*found, "torch is not installed; run `make setup`"]
    # Its version number tells the build on one index only; the file that torch itself reads tells it everywhere.
    version_file = Path(str(torch.locate_file("torch/version.py")))
    build = re.search(r"^cuda\b[^=]*= *(.+)$", version_file.read_text(encoding="utf-8"), re.MULTILINE)
    if build is None or build[1].strip() != "None":
        found.append("torch is a CUDA build; remove .venv and run `make setup`")
    return found


def main() -> int:
    found = problems()
    for problem in found:
        print(f"setup: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
