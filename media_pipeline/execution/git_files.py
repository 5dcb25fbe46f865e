"""Files of a folder as they were at a revision of the Git repository that the folder lies in."""

from __future__ import annotations

import subprocess
from pathlib import Path

from media_pipeline.errors import UsageError

_TIMEOUT_S = 30
_MAX_FILES, _MAX_BYTES = 1000, 250_000


def files_at(folder: Path, revision: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Text by file name, of the files directly in the folder; nothing of the repository is changed or run.

    Raises:
        UsageError: no repository, no such revision, or a file that is no text.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "back-test against a file, or make the folder")
    # `--end-of-options`: a revision that begins with a dash is no option.
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise UsageError(
            f"{revision!r} is neither a file nor a revision of the Git repository of {folder}",
            "name a rule file, or keep the folder in Git",
        )
    listed = _git(folder, "ls-tree", "-z", "--long", commit.decode().strip(), "./") or b""
    found: dict[str, str] = {}
    for entry in listed.split(b"\0")[:-1]:
        facts, _, path = entry.partition(b"\t")
        _, kind, blob, size = facts.split()
        name = Path(path.decode(errors="replace")).name
        if kind != b"blob" or not name.endswith(suffixes) or name.startswith("."):
            continue
        if int(size) > _MAX_BYTES or len(found) >= _MAX_FILES:
            raise UsageError(f"{revision}:{name} is too large, or one of too many files", "name a rule file instead")
        found[name] = _text(revision, name, _git(folder, "cat-file", "blob", blob.decode()))
    return found


def _text(revision: str, name: str, content: bytes | None) -> str:
    try:
        return (content or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{revision}:{name} is not UTF-8", "name a rule file instead") from None


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What Git prints; None where it refuses. Objects are read raw: no filter or hook of the repository runs."""
    command = ["git", "-C", str(folder), "--no-pager", "--no-replace-objects", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False)  # noqa: S603
    except FileNotFoundError:
        raise UsageError("git is not installed", "install it, or back-test against a file") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"git did not answer in {_TIMEOUT_S} s", "back-test against a file") from None
    return done.stdout if done.returncode == 0 else None
