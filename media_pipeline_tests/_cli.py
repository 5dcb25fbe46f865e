"""Running the real command line in its own process, and comparing what two homes hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa

from media_pipeline.config import load_settings
from media_pipeline.execution.pipeline import Pipeline, table_schemas

REPOSITORY = Path(__file__).resolve().parents[1]
# What legitimately differs between two runs over the same files.
VOLATILE = {"added_at", "at", "seconds", "run_id"}
# Tables of who is who: the column that names a member within its medium, and the one with the identity.
IDENTITIES = {"face_persons": ("track_index", "person_id"), "speaker_voices": ("speaker", "voice_id")}


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child: nothing of this project's settings but what the test names; never a hub."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MEDIA_PIPELINE_", "DAGSTER_"))}
    return clean | {"MEDIA_PIPELINE_OFFLINE": "1", "MEDIA_PIPELINE_MIN_FREE_BYTES": "1", **extra}


def start(home: Path, *args: str | Path, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "media_pipeline", "--home", str(home), *map(str, args)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(**env), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(home: Path, *args: str | Path, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    process = start(home, *args, **env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def contents(home: Path, without: Collection[str] = ()) -> dict[str, list[str]]:
    """Every table's rows without what may differ, in a canonical order.

    Args:
        without: columns that may differ, too
    """
    pipeline = Pipeline(load_settings(home=home))
    try:
        found = {
            name: sorted(_lines(pipeline.tables.read(name), without)) if pipeline.tables.exists(name) else []
            for name in table_schemas()
            if name not in IDENTITIES
        }
        found["analyses"] = [line.replace(str(home), "HOME") for line in found["analyses"]]  # in a remedy
        return found | {name: _identities(pipeline.tables.read(name), *IDENTITIES[name]) for name in IDENTITIES}
    finally:
        pipeline.close()


def embeddings(home: Path) -> dict[str, np.ndarray]:
    """The vectors of each table that has some, rows in an order that does not depend on them."""
    pipeline = Pipeline(load_settings(home=home))
    try:
        tables = {name: pipeline.tables.read(name) for name in table_schemas() if pipeline.tables.exists(name)}
    finally:
        pipeline.close()
    found = {}
    for name, table in tables.items():
        if "embedding" in table.column_names and table.num_rows:
            lines = _lines(table, ["device", "embedding"])
            order = sorted(range(len(lines)), key=lines.__getitem__)
            vectors = table["embedding"].to_pylist()
            found[name] = np.array([vectors[i] for i in order if vectors[i] is not None])
    return found


def _identities(table: pa.Table, member: str, identity: str) -> list[str]:
    """Who belongs together. An id is that of the member who came first, and that is for the kills to decide."""
    groups: dict[str, list[str]] = {}
    for row in table.select(["media_id", member, identity]).to_pylist():
        groups.setdefault(row[identity], []).append(f"{row['media_id']} {row[member]}")
    return sorted(" + ".join(sorted(members)) for members in groups.values())


def _lines(table: pa.Table, without: Collection[str]) -> list[str]:
    stable = [name for name in table.column_names if name not in VOLATILE and name not in without]
    return [repr(row) for row in table.select(stable).to_pylist()]
