"""What every command gets as `ctx.obj`: settings and, made when first used, the objects behind them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from media_pipeline.config import Settings, load_settings
from media_pipeline.errors import DiskFull, UsageError

if TYPE_CHECKING:
    from media_pipeline.analyzers._models import ModelStore
    from media_pipeline.execution.pipeline import Pipeline
    from media_pipeline.storage.catalog import Catalog
    from media_pipeline.storage.layout import Layout
    from media_pipeline.storage.tables import Tables


class App:
    def __init__(self, home: str | Path | None = None, debug: bool = False) -> None:
        self._home = home
        self.debug = debug

    @cached_property
    def settings(self) -> Settings:
        return load_settings(home=self._home)

    @cached_property
    def pipeline(self) -> Pipeline:
        from media_pipeline.execution.pipeline import Pipeline
        from media_pipeline.storage.disk import is_disk_full

        try:
            return Pipeline(self.settings)
        except OSError as error:
            home = self.settings.home
            if is_disk_full(error, home.parent):
                raise DiskFull(f"no room left on the device of {home}", "free some space and try again") from error
            raise UsageError(f"{home} cannot be the home: {error.strerror}", "name another with --home") from error

    @property
    def layout(self) -> Layout:
        return self.pipeline.layout

    @property
    def tables(self) -> Tables:
        return self.pipeline.tables

    @property
    def models(self) -> ModelStore:
        return self.pipeline.models

    def catalog(self) -> Catalog:
        return self.pipeline.catalog

    def close(self) -> None:
        if "pipeline" in self.__dict__:
            self.pipeline.close()
