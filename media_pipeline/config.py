"""Settings: the only reader of the environment.

Every setting is `MEDIA_PIPELINE_<NAME>`; nested ones join their names with two underscores
(`MEDIA_PIPELINE_DECODE__MAX_PIXELS`). Units are part of the names. Unknown or wrong settings fail at
start, wrong options of analyzers with the first command that needs an analyzer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from media_pipeline.errors import UsageError

GIB = 1024**3
MIB = 1024**2
ENV_PREFIX = "MEDIA_PIPELINE_"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DecodeLimits(_Section):
    """What one medium may cost while its foreign bytes are decoded. The defaults fit a server with 8 GB."""

    max_memory_bytes: int = Field(2 * GIB, gt=0, description="address space a decoding process may add to its own")
    max_cpu_s: float = Field(3600, gt=0, description="CPU seconds per medium")
    max_wall_s: float = Field(7200, gt=0, description="seconds per medium")
    max_stall_s: float = Field(120, gt=0, description="seconds without progress after which a decoder counts as hung")
    max_pixels: int = Field(200_000_000, gt=0, description="pixels of one picture or video frame")
    max_frames: int = Field(5_000_000, gt=0, description="video frames decoded per medium")
    max_output_bytes: int = Field(2 * GIB, gt=0, description="bytes of cached frames and audio per medium")
    max_file_bytes: int = Field(64 * GIB, gt=0, description="bytes of one original")


class Sampling(_Section):
    """Which frames of a video the analyzers see."""

    max_gap_s: float = Field(5.0, gt=0, description="longest time without a sampled frame")
    max_frames: int = Field(300, gt=0, description="sampled frames per medium, spread over its whole length")
    max_side_px: int = Field(2560, ge=64, description="longer side of a cached frame; boxes are in displayed pixels")
    jpeg_quality: int = Field(95, ge=50, le=100, description="JPEG quality of cached frames")


class Batching(_Section):
    """How many new media one run takes."""

    max_media: int = Field(64, gt=0, description="media per run")
    max_bytes: int = Field(4 * GIB, gt=0, description="bytes of originals per run")
    max_duration_s: float = Field(2 * 3600, gt=0, description="seconds of audio and video per run, where known")


class SqlLimits(_Section):
    """Bounds of a query given by a user."""

    max_seconds: float = Field(30, gt=0, description="seconds a query may run")
    max_memory_bytes: int = Field(1 * GIB, gt=0, description="memory a query may use")
    max_rows: int = Field(1_000_000, gt=0, description="rows a query may return")


class Settings(BaseSettings):
    """All settings of one installation."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    home: Path = Field(Path("data"), description="folder that holds originals, tables, indexes and Dagster's storage")
    inboxes: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="watched folders, separated by ':'; `<home>/inbox` when empty"
    )
    settle_s: float = Field(3.0, ge=0, description="seconds a file must stay unchanged before it is taken")
    link_originals: bool = Field(False, description="leave originals where they are instead of copying them")
    language: str = Field(
        "auto", pattern=r"^(auto|[a-z]{2,3})$", description="language of the speech: ISO 639-1 code or auto"
    )
    tier: Literal["auto", "embedded", "standard"] = Field(
        "auto", description="auto: standard models where they are on disk or can be had, else embedded"
    )
    clip_model: str | None = Field(
        None,
        description="CLIP model of image_embeddings, labels and nsfw: catalogued name, or folder or file of open_clip",
    )
    offline: bool = Field(False, description="never ask a model hub for anything")
    models_dir: Path | None = Field(None, description="folder of downloaded models; `<home>/models` when empty")
    hub_url: str = Field("https://huggingface.co", description="where `models pull` downloads from")
    summary_api_key: SecretStr | None = Field(
        None, description="key of the endpoint that writes summaries, where one is configured"
    )
    summary_api_key_file: Path | None = Field(None, description="file that holds this key, instead of the variable")
    low_memory: bool = Field(False, description="unload each model before the next: slower, fits a server with 4 GB")
    workers: int = Field(0, ge=0, description="threads per analyzer and decoding processes; 0: one per core")
    cache_max_bytes: int = Field(20 * GIB, ge=0, description="size limit of the cache of frames and audio")
    min_free_bytes: int = Field(1 * GIB, ge=0, description="free disk below which nothing new is started")
    duplicate_max_distance: int = Field(
        4, ge=0, le=32, description="Hamming distance of 64-bit perceptual hashes up to which frames are the same"
    )
    decode: DecodeLimits = DecodeLimits()
    sampling: Sampling = Sampling()
    batch: Batching = Batching()
    sql: SqlLimits = SqlLimits()
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="analyzer options: MEDIA_PIPELINE_OPTIONS__<ANALYZER>__<OPTION>"
    )

    @field_validator("home", "models_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(value).expanduser().absolute()

    @field_validator("inboxes", mode="before")
    @classmethod
    def _split_inboxes(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part for part in value.split(os.pathsep) if part]
        if isinstance(value, (list, tuple)):
            return tuple(Path(part).expanduser().absolute() for part in value)
        return value

    @field_validator("options", mode="before")
    @classmethod
    def _lower_option_names(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            str(k).lower(): {str(o).lower(): x for o, x in v.items()} if isinstance(v, dict) else v
            for k, v in value.items()
        }

    @property
    def secrets(self) -> dict[str, SecretStr]:
        """Keys and passwords by the name of their setting.

        Raises:
            UsageError: the file of a key cannot be read.
        """
        if self.summary_api_key is not None:
            return {"summary_api_key": self.summary_api_key}
        if self.summary_api_key_file is None:
            return {}
        try:
            key = self.summary_api_key_file.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise UsageError(
                f"{ENV_PREFIX}SUMMARY_API_KEY_FILE: {self.summary_api_key_file} cannot be read",
                "name a text file that holds nothing but the key",
            ) from None
        return {"summary_api_key": SecretStr(key)}

    @property
    def watched(self) -> tuple[Path, ...]:
        return self.inboxes or (self.home / "inbox",)

    @property
    def models(self) -> Path:
        return self.models_dir or self.home / "models"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def thread_count(self) -> int:
        # The cores this process may use, not those of the machine: containers and taskset narrow them.
        return self.workers or len(os.sched_getaffinity(0))


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with overrides from the command line.

    Raises:
        UsageError: a setting is unknown or has a wrong value; names the environment variable.
    """
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name.upper().split("__")[0] not in known:
            raise UsageError(f"unknown setting {name}", "see .env.example for the settings there are")
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ENV_PREFIX + "__".join(str(part).upper() for part in first["loc"])
        raise UsageError(f"{name}: {first['msg']} (got {first.get('input')!r})", "mend this setting") from None


def set_environment_default(name: str, value: str) -> None:
    """Set a variable that a library reads from the environment, unless the user has set it."""
    os.environ.setdefault(name, value)


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of this process for one that is to work on the same home, whatever `--home` said."""
    return {
        **os.environ,
        f"{ENV_PREFIX}HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_home),
        "PYTHONUNBUFFERED": "1",
    }
