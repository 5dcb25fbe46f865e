"""Files of weights: those inside an installed package, which itself is never imported, and the digests of all."""

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


def sha256_of(*files: Path) -> str:
    """Digest over the contents of these files in order.

    Raises:
        ModelUnavailable: one of them cannot be read.
    """
    return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(file)) for file in files)).hexdigest()


def file_sha256(file: Path) -> str:
    """Digest of one file, which is read again only when its size or time of change is another.

    Raises:
        ModelUnavailable: it cannot be read.
    """
    try:
        stat = file.stat()
        return _remembered(file, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error.strerror}", "mend its rights or get it again") from None


@cache
def _remembered(file: Path, _bytes: int, _mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
