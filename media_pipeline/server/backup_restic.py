"""restic as a program: encryption, deduplication, S3 and retention of the backups of an installation.

Keys are handed over as files or in the environment of this one child, never as arguments: everybody on a machine sees
those. What restic says is turned into our errors, each with what to do.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from media_pipeline.config import Settings, child_environment
from media_pipeline.errors import (
    DamagedBackup,
    DiskFull,
    MediaPipelineError,
    StorageConflict,
    TransientError,
    UsageError,
)
from media_pipeline.server.backup_child import Tick, run_child

KEY_FILE = "restic_password"
MOMENTARY = ".incoming"  # folders of what is being written just now
TAG = "media-pipeline"
HOST = "installation"  # of all snapshots: containers change their names
_S3_FILES = {"AWS_ACCESS_KEY_ID": "s3_access_key", "AWS_SECRET_ACCESS_KEY": "s3_secret_key"}
_PASSED_ON = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_OPEN_TIMEOUT_S = 300.0  # for a store that neither answers nor refuses
_TELLING = re.compile(r"error|hash|verif|not found|missing|damag|unable|does not", re.IGNORECASE)


class _NoRepositoryError(UsageError):
    """There is no repository there (yet)."""


@dataclass(frozen=True, slots=True)
class ResticSnapshot:
    """One snapshot as restic lists it."""

    id: str
    time: str  # ISO 8601 with the zone of whoever took it
    tags: tuple[str, ...]


def chosen(snapshots: Sequence[ResticSnapshot], given: str | None) -> ResticSnapshot:
    """The one whose id begins so; the newest where none is given.

    Raises:
        UsageError: there is none, or there are several.
    """
    if given is None:
        return snapshots[-1]
    found = [snapshot for snapshot in snapshots if snapshot.id.startswith(given)]
    if len(found) != 1:
        near = ", ".join(snapshot.id[:8] for snapshot in snapshots[-3:])
        raise UsageError(f"{len(found)} snapshots begin with {given!r}", f"the newest are {near}")
    return found[0]


@dataclass(frozen=True, slots=True)
class Stored:
    """What one backup did."""

    snapshot_id: str
    files_new: int
    files_changed: int
    files_unmodified: int  # not read again
    bytes_total: int
    bytes_added: int  # encrypted and written
    errors: Mapping[str, str] = field(repr=False)  # by path: what could not be read


class Restic:
    """One repository. Nothing here keeps it open between two calls.

    Args:
        tick: called every few seconds while restic works
    """

    def __init__(self, settings: Settings, tick: Tick = lambda: None) -> None:
        self._settings, self._server, self._tick = settings, settings.server, tick
        self.repository = self._server.backup_repository
        self.key_file = self._server.backup_keys / KEY_FILE

    @property
    def is_local(self) -> bool:
        return not self.repository.startswith("s3:")

    def create(self) -> None:
        if self.is_local:
            try:
                Path(self.repository).mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"{self.repository} cannot hold backups: {error.strerror}", "name another folder, or give access"
                ) from error
        self._checked(["init"], timeout_s=_OPEN_TIMEOUT_S)

    def unlock_stale(self) -> None:
        """Removes the locks of processes that are dead or silent for half an hour; never those of living ones."""
        self._checked(["unlock"], timeout_s=_OPEN_TIMEOUT_S)

    def look(self) -> list[ResticSnapshot] | None:
        """Our snapshots, the oldest first; None where there is no repository.

        Raises:
            UsageError: there is one, and the key is not its own; or no key, or none for the store.
            TransientError: the store cannot be reached.
        """
        args = ["snapshots", "--json", "--tag", TAG, "--no-lock"]
        try:
            found = json.loads(self._checked(args, timeout_s=_OPEN_TIMEOUT_S)) or []
        except _NoRepositoryError:
            return None
        listed = [ResticSnapshot(s["id"], s["time"], tuple(s.get("tags") or ())) for s in found]
        return sorted(listed, key=lambda snapshot: snapshot.time)

    def snapshots(self) -> list[ResticSnapshot]:
        """Likewise.

        Raises:
            UsageError: there is no repository, or no snapshot in it.
        """
        found = self.look()
        if found is None:
            raise UsageError(f"there is no repository at {self.repository}", "look at BACKUP_REPOSITORY in .env")
        if not found:
            raise UsageError(f"{self.repository} holds no snapshot", "run `installation backup` first")
        return found

    def back_up(self, folder: Path, targets: Sequence[str], *, parent: str | None, tags: Sequence[str] = ()) -> Stored:
        """A snapshot of these files and folders, by name below `folder`.

        Raises:
            MediaPipelineError: there is no new snapshot. What was sent already is found by the next backup.
        """
        # A change time changes with every hard link, so it tells nothing here; size, time and inode do.
        args = ["backup", "--json", "--ignore-ctime", "--host", HOST, "--files-from-raw", "-"]
        args += ["--exclude", MOMENTARY]
        for tag in (TAG, *tags):
            args += ["--tag", tag]
        if parent is not None:  # restic itself compares the targets, and these change with the first folder more
            args += ["--parent", parent]
        done = self._run(args, folder=folder, stdin=b"".join(os.fsencode(target) + b"\0" for target in targets))
        # 3: a snapshot was made, but something could not be read.
        if done.returncode not in (0, 3):
            raise self._error(done)
        summary: dict[str, Any] = {}
        for message in _messages(done.stdout):
            if message.get("message_type") == "summary":
                summary = message
        errors = {m.get("item", ""): _reason(m) for m in _messages(done.stderr) if m.get("message_type") == "error"}
        if "snapshot_id" not in summary or (done.returncode == 3 and not errors):
            raise self._error(done)
        return Stored(
            snapshot_id=summary["snapshot_id"],
            files_new=summary["files_new"],
            files_changed=summary["files_changed"],
            files_unmodified=summary["files_unmodified"],
            bytes_total=summary["total_bytes_processed"],
            bytes_added=summary["data_added"],
            errors=errors,
        )

    def forget(self, *, daily: int, weekly: int, monthly: int) -> int:
        """Forgets by age, and removes what no snapshot needs; the number forgotten. The newest always stays."""
        kept = {"--keep-daily": daily, "--keep-weekly": weekly, "--keep-monthly": monthly}
        args = ["forget", "--json", "--tag", TAG, "--group-by", "", "--keep-last", "1"]
        for option, count in kept.items():
            args += [option, str(count)] if count else []
        out = self._checked(args)
        forgotten = sum(len(group.get("remove") or ()) for group in json.loads(out.strip().splitlines()[0] or "[]"))
        if forgotten:
            self._checked(["prune"])
        return forgotten

    def remove(self, ids: Sequence[str]) -> None:
        """Forgets these, and removes every byte that no other snapshot needs."""
        if ids:
            self._checked(["forget", *ids])
        # Without the limit up to 5 % of the repository may stay unused: not what is meant by erasing.
        self._checked(["prune", "--max-unused", "0"])

    def check(self, subset: str | None) -> None:
        """Looks at the structure, and reads a part of the data ("3/13", "100%").

        Raises:
            DamagedBackup: something is not what was written; says what.
        """
        args = ["check"] + (["--read-data-subset", subset] if subset else [])
        done = self._run(args)
        if done.returncode == 0:
            return
        error = self._error(done)
        if type(error) not in (MediaPipelineError, DamagedBackup):
            raise error
        raise _damaged(done)

    def restore(self, snapshot_id: str, target: Path, *, without: Sequence[str] = (), verify: bool = True) -> None:
        """Writes a snapshot below this folder, decrypting and checking each part of it.

        Args:
            without: folders at the top of the snapshot
            verify: read what was written once more
        """
        args = ["restore", snapshot_id, "--target", str(target)] + (["--verify"] if verify else [])
        for name in without:
            args += ["--exclude", f"/{name}"]
        done = self._run(args)
        if done.returncode != 0:
            error = self._error(done)
            raise error if type(error) is not MediaPipelineError else _damaged(done)

    def names(self, snapshot_id: str, folder: str) -> list[str]:
        """The paths of a snapshot below a folder at its top."""
        listed = _messages(self._checked(["ls", "--json", "--no-lock", snapshot_id, f"/{folder}"]))
        return [node["path"].lstrip("/") for node in listed if node.get("type") == "file"]

    def size(self, snapshot_id: str) -> int:
        """Bytes of a snapshot when it is restored."""
        return int(json.loads(self._checked(["stats", "--json", "--no-lock", snapshot_id]))["total_size"])

    # ------------------------------------------------------------------ inner workings

    def _checked(self, args: Sequence[str], *, timeout_s: float | None = None) -> str:
        done = self._run(args, timeout_s=timeout_s)
        if done.returncode != 0:
            raise self._error(done)
        return done.stdout

    def _run(
        self,
        args: Sequence[str],
        *,
        folder: Path | None = None,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        limit = self._server.backup_upload_kib_s
        region = self._server.backup_s3_region
        command = ["restic", *(["--limit-upload", str(limit)] if limit else [])]
        command += ["-o", f"s3.region={region}"] if region and not self.is_local else []
        return run_child([*command, *args], self._environment(), self._tick, folder, stdin, timeout_s)

    def _environment(self) -> dict[str, str]:
        everything = child_environment(self._settings)
        wanted = {*_PASSED_ON, *_PROXIES, *(name.upper() for name in _PROXIES)}
        env = {name: value for name, value in everything.items() if name in wanted}
        if not self.key_file.is_file():
            raise UsageError(
                f"there is no key for the backups at {self.key_file}",
                "make one with `installation init`, and keep a copy",
            )
        state = self._server.backup_state
        temporary = state / "tmp"  # /tmp of a container is memory
        try:
            temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{state} cannot be written: {error.strerror}", "give this user access") from error
        env |= {
            "RESTIC_REPOSITORY": self.repository,
            "RESTIC_PASSWORD_FILE": str(self.key_file),
            "RESTIC_CACHE_DIR": str(state / "cache"),
            "RESTIC_PROGRESS_FPS": "0.1",
            "TMPDIR": str(temporary),
            "GOGC": "40",  # less memory for a little more computing
        }
        if not self.is_local:
            env |= {name: self._s3_secret(file) for name, file in _S3_FILES.items()}
        return env

    def _s3_secret(self, file: str) -> str:
        path = self._server.backup_keys / file
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise UsageError(
                f"the key of the S3 store cannot be read from {path}", "put it there, one line, for this user only"
            ) from None

    def _error(self, done: subprocess.CompletedProcess[str]) -> MediaPipelineError:
        said = _said(done)
        low = said.lower()

        def has(*words: str) -> bool:
            return any(word in low for word in words)

        where = self.repository
        if has("wrong password or no key found"):
            return UsageError(
                f"{self.key_file} does not open {where}", "put the key there that this repository was made with"
            )
        if has("no space left on device", "disk quota exceeded", "quotaexceeded"):
            return DiskFull(
                f"no room left at {where}",
                "make room, or keep fewer backups; former ones are whole, and the next goes on",
            )
        if has("already locked", "unable to create lock"):
            held = re.search(r"locked (?:exclusively )?by .*", said)
            return StorageConflict(
                f"another backup, prune or check works on {where} ({held[0] if held else said})",
                "let it finish; the lock of one that was killed is removed half an hour after it",
            )
        if has("accessdenied", "access denied", "signaturedoesnotmatch", "invalidaccesskeyid", "access key id"):
            return UsageError(
                f"{where} refuses these keys ({said})",
                f"look at {', '.join(_S3_FILES.values())} in {self._server.backup_keys}",
            )
        if has("connection refused", "no such host", "timeout", "unreachable", "connection reset", "deadline exceeded"):
            return TransientError(
                f"{where} cannot be reached ({said})", "the next attempt goes on where this one ended"
            )
        if has("is there a repository at the following location", "does not exist"):
            return _NoRepositoryError(f"there is no repository at {where}", "make one with `installation init`")
        if has("permission denied"):
            return UsageError(f"{where} cannot be used ({said})", "give this user access")
        if has("ciphertext verification failed", "hash mismatch", "invalid data returned", "unable to load index"):
            return _damaged(done)
        return MediaPipelineError(f"restic {done.args[1]} failed: {said}", "see docs/operations-backup.md")


def make_key() -> str:
    """A new key: 40 characters that a person can copy by hand."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    groups = ["".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(8)]
    return "-".join(groups)


def _messages(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _reason(message: Mapping[str, Any]) -> str:
    error = message.get("error")
    if isinstance(error, dict) and isinstance(error.get("Err"), int):
        return os.strerror(error["Err"])
    # restic keeps errors of its own to itself. The one there is: its parts were lost from the repository, and the file
    # was read and stored anew.
    return str(error) if error else "its content was no longer in the repository, and has been stored anew"


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """The last thing it complained about, on one line."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("{")]
    fatal = [line.removeprefix("Fatal: ") for line in lines if line.startswith("Fatal: ")]
    text = " ".join(fatal or lines[-3:]) or f"exit code {done.returncode}"
    rest = " ".join(line for line in lines if "Is there a repository" in line or "locked" in line)
    return f"{text} {rest}".strip() if rest and rest not in text else text


def _damaged(done: subprocess.CompletedProcess[str]) -> DamagedBackup:
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines()]
    telling = [line for line in lines if _TELLING.search(line)]
    return DamagedBackup(
        f"the repository is damaged: {' / '.join(list(dict.fromkeys(telling))[:3]) or _said(done)}",
        "its disk fails or somebody changed it; docs/operations-backup.md, Damage, says what to do",
    )
