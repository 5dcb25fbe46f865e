"""Settings: the only reader of the environment.

Every setting is `MEDIA_PIPELINE_<NAME>`; nested ones join their names with two underscores
(`MEDIA_PIPELINE_DECODE__MAX_PIXELS`). Units are part of the names. Unknown or wrong settings fail at
start, wrong options of analyzers with the first command that needs an analyzer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from media_pipeline.config_gpu import Gpu
from media_pipeline.config_sections import (
    ENV_PREFIX,
    GIB,
    MIB,
    Alerts,
    Backup,
    Batching,
    DecodeLimits,
    IndexLimits,
    Moderation,
    Reprocess,
    Retention,
    Sampling,
    SqlLimits,
    Terms,
    secret_of,
)
from media_pipeline.config_server import Server
from media_pipeline.errors import UsageError

__all__ = [
    "ENV_PREFIX",
    "GIB",
    "MIB",
    "Alerts",
    "Backup",
    "Batching",
    "DecodeLimits",
    "IndexLimits",
    "Moderation",
    "Reprocess",
    "Retention",
    "Sampling",
    "Settings",
    "SqlLimits",
    "Terms",
    "child_environment",
    "load_settings",
    "postgres_access",
    "set_environment_default",
    "setting_error",
    "vast_key_variable",
]
_VAST_KEY_VARIABLES = ("MEDIA_PIPELINE_VAST_API_KEY", "VAST_API_KEY")
_POSTGRES_PASSWORD_FILE = Path("/run/secrets/postgres_password")
_SECRET_WORDS = ("KEY", "PASS", "SECRET", "TOKEN", "WEBHOOK")


class Settings(BaseSettings):
    """All settings of one installation."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
        populate_by_name=True,
    )

    home: Path = Field(Path("data"), description="folder that holds originals, tables, indexes and Dagster's storage")
    inboxes: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="watched folders, separated by ':'; `<home>/inbox` when empty"
    )
    ui_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="names, separated by ',', under which the UI may be opened beside localhost and `serve --host`; "
        "*: any, where a sign-in stands before it",
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
    vast_api_key: SecretStr | None = Field(
        None,
        # The name that Vast.ai's own tools read.
        validation_alias=AliasChoices(*_VAST_KEY_VARIABLES),
        description="key of your account at Vast.ai; the variable VAST_API_KEY will do",
    )
    vast_api_key_file: Path | None = Field(None, description="file that holds this key, instead of the variable")
    vast_url: str = Field(
        "https://console.vast.ai",
        validation_alias=AliasChoices("MEDIA_PIPELINE_VAST_URL", "VAST_URL"),
        description="address of the API of Vast.ai; the variable VAST_URL will do",
    )
    worker_process: bool = Field(
        False, description="run analyzers in a process of their own: a crash costs one batch, not the run; takes 0.3 GB"
    )
    low_memory: bool = Field(False, description="unload each model before the next: slower, fits a server with 4 GB")
    workers: int = Field(0, ge=0, description="threads per analyzer and decoding processes; 0: one per core")
    cache_max_bytes: int = Field(20 * GIB, ge=0, description="size limit of the cache of frames and audio")
    min_free_bytes: int = Field(1 * GIB, ge=0, description="free disk below which nothing new is started")
    duplicate_max_distance: int = Field(
        4, ge=0, le=32, description="Hamming distance of 64-bit perceptual hashes up to which frames are the same"
    )
    decode: DecodeLimits = DecodeLimits()
    sampling: Sampling = Sampling()
    backup: Backup = Backup()
    batch: Batching = Batching()
    sql: SqlLimits = SqlLimits()
    moderation: Moderation = Moderation()
    alerts: Alerts = Alerts()
    index: IndexLimits = IndexLimits()
    gpu: Gpu = Gpu()
    reprocess: Reprocess = Reprocess()
    retention: Retention = Retention()
    server: Server = Server()
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

    @field_validator("ui_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return [name for name in re.split(r"[,\s]+", value) if name] if isinstance(value, str) else value

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
        key = secret_of(self.summary_api_key, self.summary_api_key_file, "SUMMARY_API_KEY")
        return {} if key is None else {"summary_api_key": key}

    @property
    def vast_key(self) -> SecretStr | None:
        """The key of the account at Vast.ai.

        Raises:
            UsageError: its file cannot be read.
        """
        return secret_of(self.vast_api_key, self.vast_api_key_file, "VAST_API_KEY")

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
        raise UsageError(setting_error(error.errors()[0])[1], "mend this setting") from None


def setting_error(detail: Mapping[str, Any]) -> tuple[str, str]:
    """Variable and message of an error that pydantic found. Names no value that may be a secret."""
    name = ENV_PREFIX + "__".join(str(part).upper() for part in detail["loc"])
    # Of a misspelt secret neither: it would stand on the screen and in logs.
    is_secret = detail["type"] == "extra_forbidden" or any(word in name for word in _SECRET_WORDS)
    got = "" if is_secret else f" (got {detail.get('input')!r})"
    return name, f"{name}: {detail['msg']}{got}"


def vast_key_variable() -> str | None:
    """The variable that holds the key of Vast.ai, where one does."""
    return next((name for name in _VAST_KEY_VARIABLES if os.environ.get(name)), None)


def set_environment_default(name: str, value: str) -> None:
    """Set a variable that a library reads from the environment, unless the user has set it."""
    os.environ.setdefault(name, value)


def postgres_access() -> tuple[str, str]:
    """Host and password of Dagster's database on a server; the password from its file where the variable is not set.

    Raises:
        UsageError: neither is there.
    """
    host = os.environ.get("DAGSTER_POSTGRES_HOST", "")
    password = os.environ.get("DAGSTER_POSTGRES_PASSWORD", "")
    if not password and _POSTGRES_PASSWORD_FILE.is_file():
        password = _POSTGRES_PASSWORD_FILE.read_text(encoding="utf-8").strip()
    if not host or not password:
        raise UsageError(
            "nobody said where PostgreSQL is", "set DAGSTER_POSTGRES_HOST and DAGSTER_POSTGRES_PASSWORD, as on a server"
        )
    return host, password


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of this process for one that is to work on the same home, whatever `--home` said."""
    return {
        **os.environ,
        f"{ENV_PREFIX}HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_home),
        "PYTHONUNBUFFERED": "1",
    }
