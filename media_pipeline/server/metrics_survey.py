"""What a monitor wants to know of a home, read by a process of its own that ends afterwards.

    python -m media_pipeline.server.metrics_survey counts|stale        JSON on stdout; the home is that of the settings

Table libraries take 100 MB and a long list of media as much again: the exporter, which lives for months, stays free of
both, and of a library that hangs or crashes. Nothing is written, and a home that can only be read will do. Each part is
looked at for itself: one that cannot be read says why and takes no other with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from media_pipeline.config import Settings, load_settings
from media_pipeline.errors import DamagedBackup, MediaPipelineError
from media_pipeline.execution.stages import stage_infos
from media_pipeline.media.cache import Cache
from media_pipeline.server.metrics_reasons import reason_class
from media_pipeline.storage.costs import Costs
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Leases, day
from media_pipeline.storage.ledger import Ledger
from media_pipeline.storage.sources import MAX_ATTEMPTS, Sources
from media_pipeline.storage.tables import Tables

COUNTS, STALE = "counts", "stale"
_SNAPSHOTS_READ = 5  # of which one that cannot be read is passed over
_PORTION = 20_000  # media whose results are judged at once: a plan of 100,000 takes half a gigabyte


def survey(settings: Settings, which: str) -> dict[str, dict[str, Any]]:
    """By name of the part what was found, or `error` and `remedy`."""
    return {name: _guarded(read, settings) for name, read in PARTS[which].items()}


def _guarded(read: Callable[[Settings], dict[str, Any]], settings: Settings) -> dict[str, Any]:
    try:
        return read(settings)
    except MediaPipelineError as error:
        return {"error": error.cause, "remedy": error.remedy or ""}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "remedy": ""}


# --- counts: seconds ------------------------------------------------------------------------------------------------


def _media(settings: Settings) -> dict[str, Any]:
    """Media, and how many of them wait: without a word in the ledger yet, or in the hands of a run."""
    layout = Layout(settings.home)
    if not layout.sources.exists():
        return {"media": 0, "given_up": 0, "waiting": 0, "oldest_waiting_at": None, "first_at": None, "refused": {}}
    with closing(Sources(layout.sources)) as sources:
        ids = sources.newest_ids()
        attempts = {medium.media_id: medium.attempts for medium in sources.interrupted()}
        given_up = {media_id for media_id, count in attempts.items() if count >= MAX_ATTEMPTS}
        waiting, oldest = _waiting(layout, ids, attempts.keys() - given_up, given_up)
        known = sources.by_id([media_id for media_id in {oldest, *ids[-1:]} if media_id is not None])
        refused = Counter(reason_class(reason) for _, reason in sources.refused())
    return {
        "media": len(ids),
        "given_up": len(given_up),
        "waiting": waiting,
        "oldest_waiting_at": known[oldest].added_at.timestamp() if oldest else None,
        "first_at": known[ids[-1]].added_at.timestamp() if ids else None,
        "refused": dict(refused),
    }


def _waiting(
    layout: Layout, newest: list[str], in_hand: Collection[str], given_up: Collection[str]
) -> tuple[int, str | None]:
    """How many wait, and which of them waits longest."""
    ids = pa.array(newest, pa.string())
    finished = np.zeros(len(ids), bool)
    for part in _ledger(layout).parts(("media_id", "analyzer")):
        decoded = part.filter(pc.equal(part["analyzer"], "media"))["media_id"].cast(pa.string())
        finished |= _marks(ids, decoded)
    waiting = (~finished | _marks(ids, pa.array(list(in_hand), pa.string()))) & ~_marks(
        ids, pa.array(list(given_up), pa.string())
    )
    at = np.flatnonzero(waiting)
    return len(at), newest[at[-1]] if len(at) else None


def _marks(ids: pa.Array, wanted: pa.Array) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.is_in(ids, value_set=wanted).to_numpy(zero_copy_only=False)
    return found


def _pairs(settings: Settings) -> dict[str, Any]:
    """Pairs of media and stages by status, failures by the class of their reason."""
    stages = [info.name for info in stage_infos()]
    pairs: dict[str, Counter[str]] = {stage: Counter(done=0, failed=0, unavailable=0) for stage in stages}
    failures: dict[str, Counter[str]] = {stage: Counter() for stage in stages}
    for part in _ledger(Layout(settings.home)).parts(("analyzer", "status", "reason")):
        for stage, status, count in _counted(part, "analyzer", "status"):
            if stage in pairs and status in pairs[stage]:
                pairs[stage][status] += count
        for stage, reason, count in _counted(part.filter(pc.equal(part["status"], "failed")), "analyzer", "reason"):
            if stage in failures:
                failures[stage][reason_class(reason)] += count
    return {"pairs": pairs, "failures": failures}


def _counted(rows: pa.Table, *names: str) -> Iterator[tuple[str, str, int]]:
    found = rows.select(names).unify_dictionaries().group_by(names).aggregate([([], "count_all")])
    return zip(*(found[name].to_pylist() for name in (*names, "count_all")), strict=True)


def _costs(settings: Settings) -> dict[str, Any]:
    """Seconds of each analyzer; of several machines with a GPU the one measured last."""

    file = Layout(settings.home).costs
    if not file.exists():
        return {"costs": []}
    with closing(Costs(file)) as costs:
        rows = costs.table().sort_by("updated_at").to_pylist()
    latest = {(row["analyzer"], row["device"]): row for row in rows}
    wanted = ("analyzer", "device", "cpu_s_per_medium", "wall_s_per_frame", "wall_s_per_audio_s")
    return {"costs": [{name: row[name] for name in wanted} for row in latest.values()]}


def _gpu(settings: Settings) -> dict[str, Any]:
    """Money of today and this month (UTC), and the machines that are rented now."""

    file = Layout(settings.home).leases
    if not file.exists():
        return {"day_usd": 0.0, "month_usd": 0.0, "reserved_usd": 0.0, "opened_at": []}
    with closing(Leases(file)) as leases:
        found, today = leases.open(), day(time.time())
        return {
            "day_usd": leases.spent(period=today),
            "month_usd": leases.spent(period=today[:7]),
            "reserved_usd": sum(max(0.0, lease.reserved_usd - lease.spent_usd) for lease in found),
            "opened_at": [lease.opened_at for lease in found],
        }


def _home_backup(settings: Settings) -> dict[str, Any]:
    """The newest snapshot of `media-pipeline backup`, where a folder is set for them."""
    from media_pipeline.storage.backup import Repository

    if settings.backup.to is None:
        return {"is_set": False}
    if not settings.backup.to.exists():
        return {"is_set": True}  # none has been taken yet
    repository = Repository.open(settings.backup.to)
    for snapshot_id in sorted(repository.snapshots(), reverse=True)[:_SNAPSHOTS_READ]:
        try:
            head = repository.head(snapshot_id)
        except DamagedBackup:
            continue
        return {"is_set": True, "finished_at": head.created_at.timestamp(), "bytes_added": head.new_bytes}
    return {"is_set": True}


def _ledger(layout: Layout) -> Ledger:

    return Ledger(Tables(layout.tables, layout.locks))


# --- stale: up to a minute, rarely ----------------------------------------------------------------------------------


def _stale(settings: Settings) -> dict[str, Any]:
    """Results that are not what would be made now, and the model that each analyzer has now."""
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.execution.recompute import plan

    if not (settings.home / "sources.sqlite").exists():
        return {"stale": {}, "models": []}
    stale: Counter[str] = Counter()
    with closing(Pipeline(settings)) as pipeline:
        ids = pipeline.sources.newest_ids()
        for start in range(0, max(len(ids), 1), _PORTION):
            stale.update(plan(pipeline, media_ids=ids[start : start + _PORTION]).counts)
        choices = {name: stage.choice for name, stage in pipeline.judge.stages.items() if hasattr(stage, "spec")}
    models = [
        {"analyzer": name, "tier": choice.tier if choice else "none", "model": choice.name if choice else ""}
        for name, choice in choices.items()
    ]
    return {"stale": {name: stale[name] for name in pipeline.judge.stages}, "models": models}


def _storage(settings: Settings) -> dict[str, Any]:
    """Bytes of the home by what they are."""

    layout = Layout(settings.home)
    folders = {"tables": layout.tables, "indexes": layout.indexes, "kept": layout.kept, "originals": layout.originals}
    return {"bytes": {"cache": Cache(layout.cache, 0).size()} | {name: _bytes(path) for name, path in folders.items()}}


def _bytes(folder: Path) -> int:
    total, pending = 0, [folder]
    while pending:
        try:
            for path in pending.pop().iterdir():
                info = path.lstat()
                if path.is_dir() and not path.is_symlink():
                    pending.append(path)
                else:
                    total += info.st_size
        except OSError:  # another process was faster
            continue
    return total


PARTS: dict[str, dict[str, Callable[[Settings], dict[str, Any]]]] = {
    COUNTS: {"media": _media, "ledger": _pairs, "costs": _costs, "gpu": _gpu, "home_backup": _home_backup},
    STALE: {"stale": _stale, "storage": _storage},
}


def main() -> None:
    json.dump(survey(load_settings(), sys.argv[1]), sys.stdout)


if __name__ == "__main__":
    main()
