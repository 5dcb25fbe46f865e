"""What a server holds against what an undisturbed command line made of the same files: lost, doubled, different."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from media_pipeline_tests import _cli
from media_pipeline_tests._server import Server

# The last digits of an embedding depend on how many threads add them up; they are compared with a tolerance.
_VECTORS = ("embedding",)
_TOLERANCE = 1e-3
_ID = re.compile(r"\b[0-9a-f]{64}\b")
_PAIR = re.compile(r"'media_id': '([0-9a-f]{64})', 'analyzer': '(\w+)'.*?'status': '(\w+)'")

Rows = Mapping[str, Counter[str]]


@dataclass(frozen=True)
class Verdict:
    """Rows of all tables, by table and row, that are not as they should be."""

    lost: frozenset[str] = frozenset()
    doubled: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()  # no such row was expected, or a vector differs
    unseen: frozenset[str] = field(default=frozenset())  # done, but Dagster does not show it

    def __sub__(self, before: Verdict) -> Verdict:
        return Verdict(
            self.lost - before.lost,
            self.doubled - before.doubled,
            self.foreign - before.foreign,
            self.unseen - before.unseen,
        )

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.foreign or self.unseen)


def media_id(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undisturbed(server: Server, files: Sequence[Path], folder: Path) -> Reference:
    """What one `analyze` makes of the files, beside the server: by its image and its settings, so by its models.

    Args:
        folder: gets the tables
    """
    name = f"{server.project}-reference"
    image = server.docker("inspect", "--format", "{{.Config.Image}}", server.container("code")).strip()
    server.docker("rm", "--force", "--volumes", name, check=False)
    server.docker(
        *("create", "--name", name, "--network", "none", "--env-file", str(server.folder / ".env")),
        *("--volume", "/data", "--entrypoint", "media-pipeline", image, "analyze", "/data/inbox"),
    )
    try:
        put(server, name, files)
        server.docker("start", name)
        code = server.docker("wait", name, timeout_s=7200).strip()
        assert code in ("0", "3"), server.docker("logs", "--tail", "20", name)
        server.docker("cp", f"{name}:/data/tables", str(folder / "tables"))
    finally:
        server.docker("rm", "--force", "--volumes", name, check=False)
    return Reference(folder)


class Reference:
    """An undisturbed home."""

    def __init__(self, home: Path) -> None:
        self.rows = rows_of(home)
        self._vectors = _cli.embeddings(home)

    def expected(self, media: Collection[str]) -> int:
        """Entries of `analyses` on these media."""
        return sum(among(self.rows, media)["analyses"].values())

    def judge(self, home: Path, media: Collection[str], seen: Collection[str]) -> Verdict:
        """
        Args:
            media: ids of all that were delivered until now
            seen: `ASSET PARTITION` of what Dagster has as materialized
        """
        expected = among(self.rows, media)
        lost, doubled, foreign = compared(expected, among(rows_of(home), media))
        if self.media() <= set(media):
            foreign |= self._different_vectors(home)
        shown = {tuple(line.split(" ", 1)) for line in seen}
        by_digits = {(asset.strip('[]"'), partition.rpartition("~")[2]) for asset, partition in shown}
        unseen = {
            f"{analyzer} {medium}"
            for row in expected["analyses"]
            if (match := _PAIR.search(row)) and match[3] == "done"
            for medium, analyzer in [(match[1], match[2])]
            if (analyzer, medium[:12]) not in by_digits
        }
        return Verdict(frozenset(lost), frozenset(doubled), frozenset(foreign), frozenset(unseen))

    def media(self) -> set[str]:
        return {i for row in self.rows["analyses"] for i in _ID.findall(row)[:1]}

    def _different_vectors(self, home: Path) -> set[str]:
        found = _cli.embeddings(home)
        return {
            f"{table}: vectors"
            for table, vectors in self._vectors.items()
            if table in found and not _agree(found[table], vectors)
        }


def compared(expected: Rows, found: Rows) -> tuple[set[str], set[str], set[str]]:
    """Rows that are lacking, that are there too often, and that nobody expected, each after the name of its table."""
    lost, doubled, foreign = set(), set(), set()
    for table, should in expected.items():
        has = found.get(table, Counter())
        lost |= {f"{table} {row}" for row in should - has}
        extra = has - should
        doubled |= {f"{table} {row}" for row in extra if row in should}
        foreign |= {f"{table} {row}" for row in extra if row not in should}
    return lost, doubled, foreign


def _agree(some: np.ndarray, others: np.ndarray) -> bool:
    """Where one is lacking, a row is lost; that is said elsewhere."""
    return some.shape != others.shape or bool(np.allclose(some, others, atol=_TOLERANCE))


def rows_of(home: Path) -> dict[str, Counter[str]]:
    return {table: Counter(lines) for table, lines in _cli.contents(home, without=_VECTORS).items()}


def among(rows: Rows, media: Collection[str]) -> dict[str, Counter[str]]:
    """What concerns these media only. Of who belongs together, those who are among them."""
    found: dict[str, Counter[str]] = {}
    for table, lines in rows.items():
        if table in _cli.IDENTITIES:
            groups = (" + ".join(m for m in line.split(" + ") if m.split()[0] in media) for line in lines)
            found[table] = Counter(group for group in groups if group)
        else:
            kept = {line: n for line, n in lines.items() if all(i in media for i in _ids(table, line))}
            found[table] = Counter(kept)
    return found


def _ids(table: str, line: str) -> list[str]:
    """Of media: the first is the row's own, in pairs of duplicates the second is the other's; others are digests."""
    return _ID.findall(line)[: 2 if table == "duplicate_pairs" else 1]


def put(server: Server, container: str, files: Sequence[Path], inbox: str = "/data/inbox") -> None:
    """Into a folder of a container as a person would move them in: hidden until they are complete."""
    is_running = server.docker("inspect", "--format", "{{.State.Running}}", container).strip() == "true"
    hidden = ".put-" if is_running else ""
    command = ["tar", "--create", "--owner=1000", "--group=1000", f"--transform=s,^,{hidden},"]
    command += ["--directory", str(files[0].parent), *(path.name for path in files)]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    into = ["docker", "cp", "-", f"{container}:{inbox}"]
    environment = os.environ | {"DOCKER_HOST": server.engine}
    copied = subprocess.run(into, input=archive, env=environment, capture_output=True)
    assert copied.returncode == 0, copied.stderr
    if is_running:
        rename = f'cd {inbox} && for f in {hidden}*; do mv "$f" "${{f#{hidden}}}"; done'
        server.docker("exec", container, "sh", "-c", rename)
