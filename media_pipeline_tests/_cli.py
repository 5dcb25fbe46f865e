"""Running the real command line in its own process, and comparing what two homes hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from media_pipeline.config import load_settings
from media_pipeline.execution.pipeline import Pipeline, table_schemas

REPOSITORY = Path(__file__).resolve().parents[1]
# What legitimately differs between two runs over the same files.
VOLATILE = {"added_at", "at", "seconds", "run_id"}


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


def contents(home: Path) -> dict[str, list[str]]:
    """Every table's rows without what may differ, in a canonical order."""
    pipeline = Pipeline(load_settings(home=home))
    try:
        return {
            name: sorted(_lines(pipeline.tables.read(name))) if pipeline.tables.exists(name) else []
            for name in table_schemas()
        }
    finally:
        pipeline.close()


def _lines(table: pa.Table) -> list[str]:
    stable = [name for name in table.column_names if name not in VOLATILE]
    return [repr(row) for row in table.select(stable).to_pylist()]
