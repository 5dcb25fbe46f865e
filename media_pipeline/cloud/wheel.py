"""The program that is running, as a wheel: what a rented machine computes with is exactly what is here.

Works from a checkout and from an installed copy, without a build tool: the package's files as they lie there, and the
metadata that its installation has. The same files give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import media_pipeline
from media_pipeline.errors import UsageError

DISTRIBUTION = "media-pipeline"
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip file can say
# The least version that has all fields below: installers refuse versions they do not know.
_METADATA_VERSION = "2.1"
_FIELDS = ("Name", "Version", "Summary", "Requires-Python", "Provides-Extra", "Requires-Dist")
_COPIED = ("entry_points.txt", "licenses/LICENSE", "licenses/NOTICE")


@dataclass(frozen=True, slots=True)
class Wheel:
    path: Path
    sha256: str


def build(folder: Path) -> Wheel:
    """Writes the wheel below `folder`, by its digest; one that is there already stays.

    Raises:
        UsageError: the package is not installed, so that nobody knows what it requires.
    """
    found = installed()
    name = f"{DISTRIBUTION.replace('-', '_')}-{found.version}"
    files = {f"media_pipeline/{name_}": content for name_, content in package_files().items()}
    files |= {f"{name}.dist-info/{name_}": content for name_, content in _metadata_files(found).items()}
    record = f"{name}.dist-info/RECORD"
    lines = [f"{path},sha256={_urlsafe(content)},{len(content)}" for path, content in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    content = _zipped(files)
    sha256 = hashlib.sha256(content).hexdigest()
    target = folder / sha256[:16] / f"{name}-py3-none-any.whl"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".partial")
        temporary.write_bytes(content)
        temporary.replace(target)
    return Wheel(target, sha256)


def installed() -> Distribution:
    """Raises UsageError: it runs, but is not installed."""
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise UsageError("media-pipeline runs without being installed", "run `make setup`, or install it") from None


def package_files() -> dict[str, bytes]:
    """Contents of the package's files by their path in it, data files included."""
    root = Path(media_pipeline.__file__).parent
    found = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            found["/".join(parts)] = path.read_bytes()
    return found


def _metadata_files(found: Distribution) -> dict[str, bytes]:
    lines = [f"Metadata-Version: {_METADATA_VERSION}"]
    for field in _FIELDS:
        lines += [f"{field}: {' '.join(value.split())}" for value in found.metadata.get_all(field) or ()]
    wheel = "Wheel-Version: 1.0\nGenerator: media-pipeline\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {"METADATA": "\n".join([*lines, ""]), "WHEEL": wheel}
    copied = {name: text for name in _COPIED if (text := found.read_text(name))}
    return {name: text.encode() for name, text in (files | copied).items()}


def _zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path, _EARLIEST)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return content.getvalue()


def _urlsafe(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
