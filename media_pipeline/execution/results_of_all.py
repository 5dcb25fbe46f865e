"""What is made from all media: brought up to date after a batch, one result after another."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from media_pipeline.results.duplicates import update_duplicates
from media_pipeline.results.identities import update_identities
from media_pipeline.results.search import refresh_image_index, refresh_people_indexes, refresh_text_index

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline


def update_results(pipeline: Pipeline, media_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Duplicates, identities, moderation, search indexes and the warehouse; metadata by result.

    Args:
        media_ids: those of the batch
    """
    tables, layout, settings, models = pipeline.tables, pipeline.layout, pipeline.settings, pipeline.models
    pairs = update_duplicates(tables, media_ids, max_distance=settings.duplicate_max_distance)
    identities = update_identities(tables, layout, media_ids)
    judged = pipeline.moderation.update([*media_ids, *_never_judged(pipeline, besides=media_ids)])
    refresh_text_index(tables, layout, settings, models)
    refresh_image_index(tables, layout, settings, models)
    refresh_people_indexes(tables, layout, settings)
    warehouse = pipeline.catalog.publish()
    freed = pipeline.cache.evict(keep=media_ids)
    return {
        "duplicates": {"pairs": pairs},
        **identities,
        "moderation": pipeline.moderation.facts(judged),
        "search_index": {
            "passages_version": tables.version("text_embeddings"),
            "pictures_version": tables.version("image_embeddings"),
        },
        "warehouse": {"path": str(warehouse), "bytes": warehouse.stat().st_size, "cache_bytes_freed": freed},
    }


def _never_judged(pipeline: Pipeline, besides: Collection[str]) -> list[str]:
    """Media whose run was cut off between their stages and the rules: nothing is left to do that would bring them
    before the rules again."""
    begun = {medium.media_id for medium in pipeline.sources.interrupted()} - set(besides)
    if not begun:
        return []
    decoded = {media_id for media_id, _ in pipeline.ledger.entries(begun, ["media"])}
    judged = pipeline.tables.read("moderation", begun, ["media_id"])["media_id"]
    return sorted(decoded - set(judged.to_pylist()))
