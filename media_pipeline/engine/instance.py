"""The one Dagster instance of a home, shared by `serve`, `analyze` and `dagster dev`.

A home on one server has our `dagster.yaml`, kept up to date. A home that several servers share has one of its own, with
a storage that they all reach: `<home>/dagster/dagster.yaml` that names another storage than ours is left as it is, so
no server needs to be told which it is (docs/several-servers.md).
"""

from __future__ import annotations

import contextlib
import time
from datetime import UTC
from importlib.resources import files
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.event_log import SqliteEventLogStorage
from filelock import FileLock

from media_pipeline.config import Settings, postgres_access, set_environment_default
from media_pipeline.engine.event_storage import EVENTS_PER_TRANSACTION
from media_pipeline.engine.partitions import PARTITIONS_NAME
from media_pipeline.engine.tags import COMMAND_LINE, SOURCE_TAG
from media_pipeline.errors import UsageError
from media_pipeline.storage import processes

PROCESS_TAG = "media_pipeline/process"
# A run says which process works on it within seconds of its start; one that never did has died before.
_UNSIGNED_RUN_DEAD_AFTER_S = 600.0
_CREATE_TIMEOUT_S = 60.0
_OUR_STORAGE = {"module": "media_pipeline.engine.event_storage", "class": "MediaPipelineStorage"}


def instance_template() -> str:
    """The text of `dagster.yaml`; the same for every home."""
    return (files("media_pipeline.engine") / "dagster.yaml").read_text(encoding="utf-8")


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The instance of this home, made if there is none. Close it (`with`) when done.

    Two processes that open a new home at the same instant collide while SQLite's tables are made, so the first one
    makes them under a lock. Our `dagster.yaml` is brought up to date; own settings belong in the environment.

    Raises:
        UsageError: the home has a `dagster.yaml` that is no YAML.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".create.lock", timeout=_CREATE_TIMEOUT_S):
        if _has_storage_of_its_own(home / "dagster.yaml"):
            return _open_shared(home)
        _write_if_changed(home / "dagster.yaml", instance_template())
        # This home, whatever the environment says: `--home` need not be in it.
        return _open(home, {"storage": {"custom": {**_OUR_STORAGE, "config": {"base_dir": str(home)}}}})


def _open(home: Path, overrides: dict[str, Any] | None = None) -> dg.DagsterInstance:
    instance = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides))
    instance.get_dynamic_partitions(PARTITIONS_NAME)  # storages are made lazily: make them before anyone else can
    return instance


def _open_shared(home: Path) -> dg.DagsterInstance:
    # Dagster hands events over in batches only when told so in the environment of each of its processes.
    set_environment_default("DAGSTER_EVENT_BATCH_SIZE", str(EVENTS_PER_TRANSACTION))
    with contextlib.suppress(UsageError):  # the file may name another database, and its variables are its own
        set_environment_default("DAGSTER_POSTGRES_PASSWORD", postgres_access()[1])
    try:
        return _open(home)
    except Exception as error:  # of whatever database is named there
        cause = " ".join(str(error.__cause__ or error).split("(Background on this error")[0].split())
        raise UsageError(
            f"the storage that {home / 'dagster.yaml'} names cannot be opened ({cause})",
            "start its database, and set the variables that the file names",
        ) from error


def _has_storage_of_its_own(file: Path) -> bool:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is no YAML ({' '.join(str(error).split())})", "mend it, or delete it") from None
    storage = found.get("storage") if isinstance(found, dict) else None
    return isinstance(storage, dict) and storage.get("custom", {}).get("module") != _OUR_STORAGE["module"]


def _write_if_changed(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


# --- runs whose process is gone -------------------------------------------------------------------------------------


def sign_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Note on a run which process works on it."""
    instance.add_run_tags(run_id, {PROCESS_TAG: processes.signature()})


def reconcile_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process was killed, so that what they left undone is asked for again.

    Dagster notices the death of processes its code server started, not that of an `analyze` or of a whole machine.
    Where several servers share the home, each tells of its own processes, and Dagster's monitoring of what a launcher
    started.

    Returns:
        the ids of these runs.
    """
    shared = not isinstance(instance.event_log_storage, SqliteEventLogStorage)
    watched = instance.run_launcher.supports_check_run_worker_health
    dead = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(IN_PROGRESS_RUN_STATUSES))):
        run = record.dagster_run
        if watched and run.tags.get(SOURCE_TAG) != COMMAND_LINE:
            continue
        signature = run.tags.get(PROCESS_TAG)
        if signature is None:
            # From its start, not from when it was asked for: runs may wait in the queue for hours.
            began = record.start_time or record.create_timestamp.replace(tzinfo=UTC).timestamp()
            age_s = time.time() - began
            if run.status == dg.DagsterRunStatus.STARTED and age_s > _UNSIGNED_RUN_DEAD_AFTER_S:
                dead.append((run, "it never said which process works on it"))
        elif not _is_alive(signature, elsewhere=shared):
            dead.append((run, f"its process {signature.split(':')[-2]} is gone (killed, or a restart)"))
    for run, cause in dead:
        instance.report_run_failed(
            run, f"The run was cut off: {cause}. What it had finished is kept; the rest will be done by another run."
        )
    return [run.run_id for run, _ in dead]


def _is_alive(signature: str, *, elsewhere: bool) -> bool:
    """`elsewhere`: what to say of a process of another host, which on a single server is a container that is gone."""
    try:
        alive = processes.is_alive(signature)
    except ValueError:  # signed by a version before hosts were part of it
        return False
    return elsewhere if alive is None else alive
