"""Results over all media: made anew after every batch, or by hand from the UI."""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from media_pipeline.assets.checks import NEW_BLOCKS, new_blocks_result
from media_pipeline.engine.batch_run import BatchRun
from media_pipeline.engine.partitions import PARTITIONS_NAME

RESULTS_POOL = "results"


@dataclass(frozen=True, slots=True)
class ResultInfo:
    """One asset without partitions."""

    name: str
    needs: tuple[str, ...]
    code_version: str
    description: str
    kinds: frozenset[str]


RESULTS = (
    ResultInfo(
        "duplicates",
        ("media",),
        "1",
        "Pairs of media that look the same, over several frames, from their perceptual hashes; "
        "`media.duplicate_of` names the older one.",
        frozenset({"deltalake"}),
    ),
    ResultInfo(
        "persons",
        ("faces",),
        "1",
        "Who is who: tracks of faces gathered into persons across all media; names come from you, "
        "with `media-pipeline persons`.",
        frozenset({"deltalake", "faiss"}),
    ),
    ResultInfo(
        "voices",
        ("speakers",),
        "1",
        "Whose voice it is: speakers of single recordings gathered into voices across all media; names come from you, "
        "with `media-pipeline voices`.",
        frozenset({"deltalake", "faiss"}),
    ),
    ResultInfo(
        "moderation",
        ("media", "ocr", "transcript", "nsfw", "labels", "persons", "voices"),
        "1",
        "Verdict of the rules on every medium, with evidence; people's decisions stand above it, "
        "with `media-pipeline moderate`.",
        frozenset({"deltalake", "duckdb"}),
    ),
    ResultInfo(
        "search_index",
        ("text_embeddings", "image_embeddings"),
        "1",
        "Indexes of what was written, said and shown, by meaning: behind `media-pipeline search`.",
        frozenset({"faiss"}),
    ),
    ResultInfo(
        "warehouse",
        ("media", "duplicates", "persons", "voices", "moderation"),
        "1",
        "DuckDB file with a view of every table, for your own SQL tools; replaced as a whole, safe to keep open.",
        frozenset({"duckdb"}),
    ),
)


@dg.multi_asset(
    name="results",
    specs=[
        dg.AssetSpec(
            result.name,
            deps=list(result.needs),
            description=result.description,
            code_version=result.code_version,
            group_name="results",
            kinds=set(result.kinds),
            owners=["team:media"],
            skippable=True,
        )
        for result in RESULTS
    ],
    check_specs=[NEW_BLOCKS],
    can_subset=True,
    required_resource_keys={"batch"},
    pool=RESULTS_POOL,
)
def results(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
    """All of them from all media; they belong together and cost seconds."""
    batch: BatchRun = context.resources.batch
    finished = batch.runner.finish(context.instance.get_dynamic_partitions(PARTITIONS_NAME))
    selected = {key.to_user_string() for key in context.selected_asset_keys}
    for name in (result.name for result in RESULTS if result.name in selected):  # each after what it needs
        checks = [new_blocks_result(finished[name])] if NEW_BLOCKS.key in _checks_of(context, name) else []
        yield dg.MaterializeResult(asset_key=name, metadata=finished[name], check_results=checks)


def _checks_of(context: dg.AssetExecutionContext, name: str) -> set[dg.AssetCheckKey]:
    return {key for key in context.selected_asset_check_keys if key.asset_key == dg.AssetKey(name)}
