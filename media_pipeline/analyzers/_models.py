"""The model store: weights on disk, verified, and how they get there.

`find` looks on the disk only; `obtain` may download once, when the tier allows it; `pull` downloads because a user said
so. A model's folder appears under its name only when every file in it has the pinned digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock
from pydantic import SecretStr

from media_pipeline.analyzers._model_catalog import CATALOG, CatalogEntry
from media_pipeline.config import Settings
from media_pipeline.errors import DiskFull, ModelUnavailable

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # (bytes that are there, bytes of the whole model)

# What this process learned about a hub, by address: None, or why it cannot be reached. Asked once.
_unreachable: dict[str, str | None] = {}
_unreachable_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of `media-pipeline models list`."""

    name: str
    purpose: str
    analyzer: str
    tier: str
    bytes: int
    licence: str
    source: str  # repository@revision on the hub
    path: Path | None  # folder of the complete, verified model, or None


class ModelStore:
    """The folder `root` with one folder per downloaded model. Safe for threads and for concurrent processes."""

    def __init__(
        self,
        root: Path,
        *,
        offline: bool,
        hub_url: str,
        tier: str,
        catalog: Mapping[str, CatalogEntry] = CATALOG,
        probe_s: float = 5.0,
        fetch: bool = True,
        home: Path | None = None,
        secrets: Mapping[str, SecretStr] = MappingProxyType({}),
    ) -> None:
        self.root = root
        self.tier = tier  # auto | embedded | standard
        self._offline = offline
        self._hub_url = hub_url.rstrip("/")
        self._catalog = catalog
        self._probe_s = probe_s
        self._fetch = fetch  # whether obtain() may download; pull() always may
        self._digests = _DigestCache(root / ".digests.json")
        self._failures: dict[str, str] = {}
        self._lock = threading.Lock()
        self._home = home or root.parent
        self._secrets = secrets

    @classmethod
    def of(cls, settings: Settings, *, fetch: bool = True) -> ModelStore:
        """The store of a home; without `fetch` it only looks, and `obtain` downloads nothing."""
        return cls(
            settings.models,
            offline=settings.offline,
            hub_url=settings.hub_url,
            tier=settings.tier,
            fetch=fetch,
            home=settings.home,
            secrets=settings.secrets,
        )

    def own_folder(self, name: str) -> Path:
        """Where the user keeps material of their own for an analyzer (logos, label sets); it may not exist."""
        return self._home / name

    def secret(self, name: str) -> SecretStr | None:
        """A key or password of the settings, for a model behind a door; hand it on in `ModelChoice.secret`."""
        return self._secrets.get(name)

    def find(self, name: str) -> Path | None:
        """The folder of a complete, verified model, or a local folder given by its path. Never asks the network.

        Raises:
            ModelUnavailable: the name is neither catalogued nor a path.
        """
        if name not in self._catalog:
            folder = Path(name).expanduser()
            if folder.is_dir():
                return folder.absolute()
            if os.sep in name:
                return None
        entry = self._entry(name)
        folder = self.root / name
        return folder if self._is_complete(folder, entry) else None

    def obtain(self, name: str) -> Path | None:
        """`find`, else a download where tier and settings allow one; None when there is none to be had.

        A hub that does not answer costs `probe_s` seconds once per process. `reason(name)` says why None came back.

        Raises:
            ModelUnavailable: the name is neither catalogued nor a path.
        """
        with self._lock:
            folder = self.find(name)
            if folder is not None or name not in self._catalog or name in self._failures:
                return folder
            if not self._may_download():
                return None
            unreachable = self._ask_hub(self._catalog[name])
            if unreachable:
                self._failures[name] = unreachable
                return None
            return self._download_quietly(self._catalog[name])

    def reason(self, name: str) -> str:
        """Why the model is not here: the cause of the last failed `obtain`, one sentence without a full stop."""
        cause = self._failures.get(name, f"the model {name} is not on this machine")
        return f"{cause} and MEDIA_PIPELINE_OFFLINE is set" if self._offline else cause

    def remedy(self, name: str) -> str:
        """The command that mends it."""
        if name not in self._catalog:
            return "give the path of a folder"
        # With the setting on, the command alone would be refused.
        allowed = "MEDIA_PIPELINE_OFFLINE=0 " if self._offline else ""
        return f"run `{allowed}media-pipeline models pull {name}`"

    def pull(self, name: str, progress: Progress | None = None) -> Path:
        """Download a catalogued model, continue where an earlier attempt stopped, and return its folder.

        Raises:
            ModelUnavailable: unknown name, offline, hub unreachable, refused, or other bytes than the pinned ones.
            DiskFull: no room; what was downloaded so far is kept.
        """
        entry = self._entry(name)
        if self._offline:
            raise ModelUnavailable("MEDIA_PIPELINE_OFFLINE is set", "unset it, or copy the model's folder here by hand")
        report = progress or _silent
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{name}.lock"):
                return self.find(name) or self._download(entry, report)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"no room for {name} in {self.root}", "free space and pull again: it goes on") from error
            raise ModelUnavailable(f"cannot write {self.root}: {error.strerror}", "mend the folder's rights") from error

    def digest(self, folder: Path, files: Iterable[Path] | None = None) -> str:
        """SHA-256 over the names and contents of a model folder: part of the fingerprint of what it computes.

        Args:
            files: those below it that count; all but hidden ones when None

        Raises:
            ModelUnavailable: one of them cannot be read.
        """
        if files is None:
            files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
        try:
            return _digest_of((p.relative_to(folder).as_posix(), self._digests.sha256(p)) for p in files)
        except OSError as error:
            why = f"{error.filename or folder} cannot be read: {error.strerror}"
            raise ModelUnavailable(why, "mend its rights or get it again") from None

    def list(self) -> tuple[ModelStatus, ...]:
        """Every catalogued model and whether it is here."""
        return tuple(
            ModelStatus(
                name=entry.name,
                purpose=entry.purpose,
                analyzer=entry.analyzer,
                tier=entry.tier,
                bytes=entry.bytes,
                licence=entry.licence,
                source=f"{entry.repository}@{entry.revision[:12]}",
                path=self.find(entry.name),
            )
            for entry in self._catalog.values()
        )

    def _entry(self, name: str) -> CatalogEntry:
        if name not in self._catalog:
            raise ModelUnavailable(
                f"no model is called {name!r}", "see `media-pipeline models list`, or give the path of a folder"
            )
        return self._catalog[name]

    def _is_complete(self, folder: Path, entry: CatalogEntry) -> bool:
        # Sizes first: they are free, and an incomplete copy is not worth hashing.
        try:
            if any((folder / f.path).stat().st_size != f.bytes for f in entry.files):
                return False
            return all(self._digests.sha256(folder / f.path) == f.sha256 for f in entry.files)
        except OSError:
            return False

    def _may_download(self) -> bool:
        return self._fetch and not self._offline and self.tier != "embedded"

    def _ask_hub(self, entry: CatalogEntry) -> str | None:
        """Why the hub cannot be reached, or None; asked and said once per process, whatever model is wanted."""
        from media_pipeline.analyzers._model_download import probe  # httpx, only when there is something to ask

        with _unreachable_lock:
            if self._hub_url not in _unreachable:
                smallest = min(entry.files, key=lambda f: f.bytes)
                _unreachable[self._hub_url] = why = probe(self._url(entry, smallest.path), self._probe_s)
                if why:
                    log.warning("%s; %s when there is a network", why, self.remedy(entry.name))
            return _unreachable[self._hub_url]

    def _download_quietly(self, entry: CatalogEntry) -> Path | None:
        log.warning("downloading %s once (%.0f MB) from %s", entry.name, entry.bytes / 1e6, self._hub_url)
        try:
            return self.pull(entry.name)
        except (ModelUnavailable, DiskFull) as error:
            self._failures[entry.name] = error.cause
            log.warning("%s; %s", error.cause, error.remedy)
            return None

    def _download(self, entry: CatalogEntry, report: Progress) -> Path:
        from media_pipeline.analyzers._model_download import HubUnreachable, download_file

        partial = self.root / ".partial" / f"{entry.name}-{entry.revision[:12]}"
        partial.mkdir(parents=True, exist_ok=True)
        self._check_room(entry, partial)
        done = 0
        for file in entry.files:
            before = done

            def on_bytes(count: int, before: int = before) -> None:
                report(before + count, entry.bytes)

            try:
                download_file(self._url(entry, file.path), partial / file.path, file, on_bytes)
            except HubUnreachable as error:
                raise ModelUnavailable(
                    str(error), f"check the network and run `media-pipeline models pull {entry.name}` again: it goes on"
                ) from error
            done += file.bytes
        return self._publish(partial, entry)

    def _publish(self, partial: Path, entry: CatalogEntry) -> Path:
        folder = self.root / entry.name
        if folder.exists():  # an incomplete copy or an older revision; readers hold their files open
            shutil.rmtree(folder)
        partial.rename(folder)
        with contextlib.suppress(OSError):
            partial.parent.rmdir()
        if not self._is_complete(folder, entry):
            raise ModelUnavailable(f"{folder} changed while it was written", "look for another writer and pull again")
        return folder

    def _check_room(self, entry: CatalogEntry, partial: Path) -> None:
        have = sum(p.stat().st_size for p in partial.rglob("*") if p.is_file())
        free = shutil.disk_usage(self.root).free
        if free < entry.bytes - have:
            raise DiskFull(
                f"{entry.name} needs {(entry.bytes - have) / 1e6:.0f} MB, {self.root} has {free / 1e6:.0f} MB",
                "free space and pull again",
            )

    def _url(self, entry: CatalogEntry, path: str) -> str:
        return f"{self._hub_url}/{entry.repository}/resolve/{entry.revision}/{path}"


class _DigestCache:
    """SHA-256 of files, remembered by path, size and time of change: 1.6 GB are not hashed at every start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[object]] | None = None
        self._lock = threading.Lock()

    def sha256(self, file: Path) -> str:
        stat = file.stat()
        key, stamp = str(file.absolute()), [stat.st_size, stat.st_mtime_ns]
        with self._lock:
            if self._known is None:
                self._known = self._read()
            known = self._known.get(key)
            if known is not None and known[:2] == stamp:
                return str(known[2])
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            self._known[key] = [*stamp, digest]
            self._write(self._known)
            return digest

    def _read(self) -> dict[str, list[object]]:
        try:
            known = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _write(self, known: dict[str, list[object]]) -> None:
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        # A store that cannot be written is slower, not broken.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(known))
            temporary.replace(self._path)


def _digest_of(files: Iterable[tuple[str, str]]) -> str:
    lines: Iterator[str] = (f"{sha256}  {path}\n" for path, sha256 in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _silent(_done: int, _total: int) -> None:
    pass
