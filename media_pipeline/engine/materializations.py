"""Hand-logged materializations: one event per (medium, asset), written in batches, that Dagster reads as fresh.

Dagster takes an event for fresh only with the tags it would have set itself: code version, data version, and for each
input a data version and a pointer into the event log up to which the input was seen.
"""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, DagsterEventBatchMetadata
from dagster._core.instance import RUNLESS_RUN_ID
from PIL import Image

from media_pipeline.execution.outcome import Outcome, StageInfo

_MAX_THUMBNAIL_BYTES = 12_000  # every event is kept in two databases
_STAMP_STEPS = ((96, 25), (96, 5), (64, 5), (32, 5))  # side in pixels, quality; the first that is small enough
_MAX_STAMP_BYTES = 700  # with base64 and its frame below the 1000 characters that the UI shows at once
_MAX_PREVIEW_CHARS = 600
_UNKNOWN_VERSION = "none"


def materialization(
    asset: str,
    *,
    code_version: str,
    data_version: str,
    inputs: Mapping[str, str],
    pointers: Mapping[str, int | None],
    partition_key: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dg.AssetMaterialization:
    """An event that reads as fresh as long as neither code nor inputs change.

    Args:
        inputs: data version by upstream asset.
        pointers: storage id of the newest event of each upstream asset, None when it has none.
    """
    tags = {
        CODE_VERSION_TAG: code_version,
        DATA_VERSION_TAG: data_version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    for name, version in inputs.items():
        key, pointer = dg.AssetKey(name), pointers.get(name)
        tags[get_input_data_version_tag(key)] = version
        tags[get_input_event_pointer_tag(key)] = NULL_EVENT_POINTER if pointer is None else str(pointer)
    return dg.AssetMaterialization(asset, partition=partition_key, metadata=dict(metadata or {}), tags=tags)


def outcome_materialization(
    stage: StageInfo, outcome: Outcome, inputs: Mapping[str, str | None], pointers: Mapping[str, int | None]
) -> dg.AssetMaterialization:
    """The event of one medium that is done in one stage."""
    return materialization(
        stage.name,
        partition_key=outcome.partition_key,
        code_version=stage.code_version,
        data_version=outcome.fingerprint,
        inputs={name: version or _UNKNOWN_VERSION for name, version in inputs.items()},
        pointers=pointers,
        metadata=outcome_metadata(outcome),
    )


def outcome_metadata(outcome: Outcome) -> dict[str, Any]:
    """What a person wants to see of it, a few KB at most; details are in the tables."""
    metadata: dict[str, Any] = {}
    if outcome.thumbnail_jpeg and len(outcome.thumbnail_jpeg) <= _MAX_THUMBNAIL_BYTES:
        metadata["thumbnail"] = _picture("image/webp", _stamp_sized(outcome.thumbnail_jpeg))
        metadata["larger"] = _picture("image/jpeg", outcome.thumbnail_jpeg)
    if outcome.preview:
        metadata["preview"] = dg.MetadataValue.md(_shortened(outcome.preview))
    facts = {
        "rows": outcome.rows,
        "seconds": round(outcome.seconds, 3),
        "model": outcome.model,
        "tier": outcome.tier,
        "device": outcome.device,
        "media_id": outcome.media_id,
        **outcome.details,
    }
    return metadata | {name: value for name, value in facts.items() if value is not None}


def _picture(mime: str, data: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![](data:{mime};base64,{base64.b64encode(data).decode('ascii')})")


def _stamp_sized(jpeg: bytes) -> bytes:
    """A WebP so small that the UI shows it at once; longer Markdown is hidden behind a link."""
    with Image.open(io.BytesIO(jpeg)) as image:
        for side_px, quality in _STAMP_STEPS:
            image.thumbnail((side_px, side_px))
            out = io.BytesIO()
            image.save(out, "WEBP", quality=quality)
            if out.tell() <= _MAX_STAMP_BYTES:
                break
    return out.getvalue()


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_PREVIEW_CHARS else text[: _MAX_PREVIEW_CHARS - 1] + "…"


def newest_event_ids(instance: dg.DagsterInstance, assets: Iterable[str]) -> dict[str, int | None]:
    """Storage id of the newest materialization of each asset: how far a reader of it has seen."""
    keys = [dg.AssetKey(name) for name in assets]
    found: dict[str, int | None] = {key.to_user_string(): None for key in keys}
    for record in instance.get_asset_records(keys) if keys else ():
        found[record.asset_entry.asset_key.to_user_string()] = record.asset_entry.last_materialization_storage_id
    return found


def log_materializations(context: dg.OpExecutionContext, events: Sequence[dg.AssetMaterialization]) -> None:
    """Log these events of the running op, adjacent ones of one asset in one transaction per database."""
    step_context = context.get_step_execution_context()
    # PostgreSQL's storage notes the newest event of an asset for the last one of a batch only.
    for _, group in groupby(events, key=lambda event: event.asset_key):
        same_asset, batch_id = list(group), uuid.uuid4().hex
        for position, event in enumerate(same_asset, start=1):
            batch = DagsterEventBatchMetadata(batch_id, is_end=position == len(same_asset))
            DagsterEvent.asset_materialization(step_context, event, batch)


def withdraw_plans(instance: dg.DagsterInstance, job_name: str, asset: str, partition_keys: Sequence[str]) -> None:
    """Let these partitions read as missing although their run will fail.

    Dagster shows what a failed run planned and did not materialize as failed. An analyzer without a model has not
    failed: nobody tried. The newest plan of a partition counts, so a plan that belongs to no run takes it back.
    """
    batch_id = uuid.uuid4().hex
    for position, key in enumerate(partition_keys, start=1):
        event = DagsterEvent.build_asset_materialization_planned_event(
            job_name,
            step_key="",
            asset_materialization_planned_data=AssetMaterializationPlannedData(dg.AssetKey(asset), partition=key),
        )
        batch = DagsterEventBatchMetadata(batch_id, is_end=position == len(partition_keys))
        instance.report_dagster_event(event, run_id=RUNLESS_RUN_ID, batch_metadata=batch)
