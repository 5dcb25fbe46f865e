"""Weights that lie inside an installed package, read as files: the package itself is never imported."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from media_pipeline.errors import ModelUnavailable

_REMEDY = "run `make setup`"


def packaged_file(package: str, path: str, remedy: str = _REMEDY) -> Path:
    """The file at that path below the package's folder.

    Raises:
        ModelUnavailable: the package is not installed, or this version of it has no such file.
    """
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ModelUnavailable(f"the package {package} is not installed", remedy)
    file = Path(folders[0]) / path
    if not file.is_file():
        raise ModelUnavailable(f"the installed package {package} has no {path}", remedy)
    return file


@cache
def sha256_of(*files: Path) -> str:
    """Digest over these files in order; each is read once per process."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
