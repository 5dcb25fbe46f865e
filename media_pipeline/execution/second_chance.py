"""A medium may be what kills its worker, or may only have been beside one that does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from media_pipeline.errors import WorkerLost
from media_pipeline.execution.stages import Result, Stage
from media_pipeline.storage.sources import KnownMedium


def second_chance(stage: Stage, media: Sequence[KnownMedium]) -> Iterator[Result]:
    """Results of all; those whose worker died are tried again, one at a time, when the others are through.

    Without company there is more memory. A medium that kills its worker twice has failed, and takes no other down.

    Raises:
        WorkerLost: not one of several media kept its worker: it is not the media.
    """
    lost: list[Result] = []
    for result in stage.compute(media):
        if isinstance(result.error, WorkerLost):
            lost.append(result)
        else:
            yield result
    if len(lost) == len(media) > 1 and lost[0].error is not None:
        raise lost[0].error
    again = {result.media_id for result in lost}
    for known in media:
        if known.media_id in again:
            yield from stage.compute([known])
