"""Partitions: one per medium, named so that a person recognises it, in the order in which media came."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

MEDIA = dg.DynamicPartitionsDefinition(name="media")
PARTITIONS_NAME = "media"


def announce(instance: dg.DagsterInstance, partition_keys: Sequence[str]) -> None:
    """Make partitions of these keys, in this order; those that exist keep their place."""
    instance.add_dynamic_partitions(PARTITIONS_NAME, list(partition_keys))


def contiguous_ranges(existing: Sequence[str], wanted: Iterable[str]) -> list[list[str]]:
    """The wanted keys in the order of the existing ones, split where another key lies between.

    Dagster's runs take a range of partitions, and ranges follow the order of insertion. Keys that do not exist are
    left out.
    """
    remaining = set(wanted)
    ranges: list[list[str]] = []
    adjacent = False
    for key in existing:
        if key not in remaining:
            adjacent = False
            continue
        if adjacent:
            ranges[-1].append(key)
        else:
            ranges.append([key])
        adjacent = True
    return ranges


def range_tags(partition_keys: Sequence[str]) -> Mapping[str, str]:
    """Tags of one run over adjacent partitions."""
    return {
        ASSET_PARTITION_RANGE_START_TAG: partition_keys[0],
        ASSET_PARTITION_RANGE_END_TAG: partition_keys[-1],
    }


def keys_of_run(existing: Sequence[str], tags: Mapping[str, str]) -> Sequence[str]:
    """The partitions that a run with these tags works on; empty for one without partitions."""
    first = tags.get(ASSET_PARTITION_RANGE_START_TAG, tags.get(PARTITION_NAME_TAG))
    last = tags.get(ASSET_PARTITION_RANGE_END_TAG, first)
    if first not in existing or last not in existing:  # no partitions, or some that were removed meanwhile
        return ()
    return existing[existing.index(first) : existing.index(last) + 1]
