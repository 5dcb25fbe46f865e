"""The pipeline of one home as Dagster resources."""

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

import dagster as dg
from dagster._config.pythonic_config import ConfigurableResourceFactory

from media_pipeline.config import Settings, load_settings
from media_pipeline.engine.batch_run import BatchRun, handed_over
from media_pipeline.engine.instance import sign_run
from resources.vast import VastResource

if TYPE_CHECKING:
    from media_pipeline.execution.pipeline import Pipeline


class PipelineResource(dg.ConfigurableResource[None]):
    """Opens the home that the environment names (`MEDIA_PIPELINE_HOME`)."""

    def open(self, settings: Settings | None = None) -> "Pipeline":
        """A fresh pipeline: cheap, no model is loaded before it is needed. Close it when done."""
        # Table and index libraries take seconds to import, and definitions are loaded by every process of Dagster.
        from media_pipeline.execution.pipeline import Pipeline

        return Pipeline(settings or load_settings())


class BatchResource(ConfigurableResourceFactory[BatchRun]):
    """What the ops of one run share. The run is signed with the process that works on it."""

    pipeline: PipelineResource
    vast: VastResource

    def create_resource(self, context: dg.InitResourceContext) -> BatchRun:
        if context.instance is not None and context.run is not None:
            sign_run(context.instance, context.run.run_id)
        settings = self.vast.settings()
        wish = self.vast.wish(settings, context.run.tags if context.run else {})
        return BatchRun(self.pipeline.open(settings), wish=wish)

    @contextlib.contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[BatchRun, None, None]:
        if (batch := handed_over()) is not None:  # its owner signs the run and closes it
            yield batch
            return
        with contextlib.closing(self.create_resource(context)) as batch:
            yield batch
