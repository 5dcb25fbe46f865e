"""Where a run computes: this machine, or one rented from Vast.ai."""

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Optional

import dagster as dg

from media_pipeline.config import Settings, load_settings
from media_pipeline.engine.tags import DEADLINE_TAG, MAX_USD_TAG, TARGET_TAG

if TYPE_CHECKING:
    from media_pipeline.execution.wish import Wish


class Where(enum.Enum):
    """`auto` rents where it is worth it; `gpu` if at all possible, else the CPU says why; `cpu` never."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class VastResource(dg.ConfigurableResource[None]):
    """What one run may do, where that differs from the settings (`MEDIA_PIPELINE_GPU__*`).

    A run's configuration goes first (`resources: {vast: {config: {target: gpu, max_usd: 0.5}}}`), then its tags
    `media_pipeline/target`, `media_pipeline/max_usd` and `media_pipeline/deadline_minutes`, then the settings. A value
    that there is not fails the run before anything is computed.
    """

    # Dagster reads these annotations, and knows no `X | None`.
    target: Optional[Where] = None  # noqa: UP045
    max_usd: Optional[float] = None  # noqa: UP045
    deadline_minutes: Optional[float] = None  # noqa: UP045
    api_key: Optional[str] = None  # noqa: UP045  # dg.EnvVar("VAST_API_KEY"); else as the settings have it

    def settings(self) -> Settings:
        """Those of the environment, with the key of this resource."""
        return load_settings(vast_api_key=self.api_key)

    def wish(self, settings: Settings, tags: Mapping[str, str]) -> "Wish":
        """What a run with these tags asks for.

        Raises:
            UsageError: a tag has a value that there is not.
        """
        from media_pipeline.execution.wish import Wish

        return Wish.of(
            settings.gpu,
            target=self.target.value if self.target else tags.get(TARGET_TAG),
            max_usd=tags.get(MAX_USD_TAG) if self.max_usd is None else self.max_usd,
            deadline_minutes=tags.get(DEADLINE_TAG) if self.deadline_minutes is None else self.deadline_minutes,
        )
