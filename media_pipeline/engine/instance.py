"""The one Dagster instance of a home, shared by `serve`, `analyze` and `dagster dev`."""

from __future__ import annotations

import os
import time
from datetime import UTC
from functools import cache
from importlib.resources import files
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from filelock import FileLock

from media_pipeline.config import Settings
from media_pipeline.engine.partitions import PARTITIONS_NAME

PROCESS_TAG = "media_pipeline/process"
# A run says which process works on it within seconds of its start; one that never did has died before.
_UNSIGNED_RUN_DEAD_AFTER_S = 600.0
_CREATE_TIMEOUT_S = 60.0


def instance_template() -> str:
    """The text of `dagster.yaml`; the same for every home."""
    return (files("media_pipeline.engine") / "dagster.yaml").read_text(encoding="utf-8")


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance of this home, made if there is none. Close it (`with`) when done.

    Two processes that open a new home at the same instant collide while SQLite's tables are made, so the first one
    makes them under a lock. `dagster.yaml` is brought up to date; own settings belong in the environment.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".create.lock", timeout=_CREATE_TIMEOUT_S):
        _write_if_changed(home / "dagster.yaml", instance_template())
        # This home, whatever the environment says: `--home` need not be in it.
        storage = {"module": "media_pipeline.engine.event_storage", "class": "MediaPipelineStorage"}
        overrides = {"storage": {"custom": {**storage, "config": {"base_dir": str(home)}}}}
        instance = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides))
        instance.get_dynamic_partitions(PARTITIONS_NAME)  # storages are made lazily: make them before anyone else can
    return instance


def _write_if_changed(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


# --- runs whose process is gone -------------------------------------------------------------------------------------


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_signature(pid: int | None = None) -> str:
    """A process in a way that no later process shares: boot, process id and its start in clock ticks.

    Raises:
        ProcessLookupError: there is no such process, or only what its parent has not buried yet.
    """
    pid = os.getpid() if pid is None else pid
    try:
        # Fields 3 and 22 of proc(5); the name before them may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    state, start_ticks = fields[0], fields[19]
    if state in "ZX":
        raise ProcessLookupError(pid)
    return f"{_boot_id()}:{pid}:{start_ticks}"


def sign_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Note on a run which process works on it."""
    instance.add_run_tags(run_id, {PROCESS_TAG: process_signature()})


def is_alive(signature: str) -> bool:
    """Whether the process that signed so still runs."""
    boot, pid, _ = signature.split(":")
    try:
        return boot == _boot_id() and process_signature(int(pid)) == signature
    except ProcessLookupError:
        return False


def reconcile_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process was killed, so that what they left undone is asked for again.

    Dagster notices the death of processes its code server started, not that of an `analyze` or of a whole machine.

    Returns:
        the ids of these runs.
    """
    dead = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(IN_PROGRESS_RUN_STATUSES))):
        signature = record.dagster_run.tags.get(PROCESS_TAG)
        if signature is None:
            age_s = time.time() - record.create_timestamp.replace(tzinfo=UTC).timestamp()
            if record.dagster_run.status == dg.DagsterRunStatus.STARTED and age_s > _UNSIGNED_RUN_DEAD_AFTER_S:
                dead.append((record.dagster_run, "it never said which process works on it"))
        elif not is_alive(signature):
            dead.append((record.dagster_run, f"its process {signature.split(':')[1]} is gone (killed, or a restart)"))
    for run, cause in dead:
        instance.report_run_failed(
            run, f"The run was cut off: {cause}. What it had finished is kept; the rest will be done by another run."
        )
    return [run.run_id for run, _ in dead]
