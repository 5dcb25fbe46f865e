"""The sections of the settings: bounds, schedules, retention, alerts. `config.py` reads them and all others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from media_pipeline.errors import UsageError

GIB = 1024**3
MIB = 1024**2
ENV_PREFIX = "MEDIA_PIPELINE_"
KINDS_OF_MEDIA = ("image", "video", "audio")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _known_time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("not a time zone of the IANA list") from None
    return value


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


class Reprocess(_Section):
    """Making stale results anew at night, and what happens to those they replace."""

    enabled: bool = Field(True, description="make stale results anew every night")
    at: str = Field("02:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="time of day at which the night begins")
    timezone: str = Field("UTC", description="in which this time is told: IANA name, e.g. Europe/Berlin")
    window_minutes: int = Field(240, gt=0, le=1440, description="minutes after which no further batch is started")
    max_cpu_minutes: float | None = Field(
        None, gt=0, description="computing minutes per night after which no further batch is started; empty: no limit"
    )
    batch_media: int = Field(16, gt=0, description="media per batch: few, so that fresh uploads soon have their turn")
    keep_superseded: bool = Field(
        True, description="keep the result before the present one, so that going back to it costs nothing"
    )
    gpu_usd_per_hour: float | None = Field(None, ge=0, description="price of a GPU, to be shown with what is stale")
    gpu_speedup: float = Field(
        1.0, gt=0, description="how many times faster than one CPU core that GPU is; 1: an upper bound of the price"
    )

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return _known_time_zone(value)


class Terms(_Section):
    """For how many days something stays, by kind of medium; 0: for ever."""

    default: int = Field(0, ge=0, description="days, for every kind")
    image: int | None = Field(None, ge=0, description="days; empty: as the default")
    video: int | None = Field(None, ge=0, description="days; empty: as the default")
    audio: int | None = Field(None, ge=0, description="days; empty: as the default")

    def of(self, kind: str | None) -> int | None:
        """Days that this kind stays; None: for ever. Media that could not be decoded have no kind."""
        own = getattr(self, kind) if kind in KINDS_OF_MEDIA else None
        return (self.default if own is None else own) or None

    @property
    def is_forever(self) -> bool:
        """Whether nothing ever goes."""
        return all(self.of(kind) is None for kind in (None, *KINDS_OF_MEDIA))


class Retention(_Section):
    """How long things stay. A term counts from the day on which a medium was added."""

    originals_days: Terms = Field(Terms(), description="our copies of the originals; results stay")
    results_days: Terms = Field(Terms(), description="everything of a medium: results, original and history")
    cache_days: Terms = Field(Terms(), description="decoded frames and sound, from their last use")
    kept_days: int = Field(30, ge=0, description="days of superseded results, from when they were; 0: for ever")
    runs_days: int = Field(30, ge=1, description="days of finished Dagster runs")
    runs_keep: int = Field(2_000, ge=0, description="finished Dagster runs of at most these days that stay")
    hot_partitions: int = Field(20_000, gt=0, description="media that Dagster shows; above 40,000 its pages freeze")
    at: str = Field("03:30", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="time of day of the nightly maintenance")
    timezone: str = Field("UTC", description="in which this time is told: IANA name, e.g. Europe/Berlin")

    @field_validator("originals_days", "results_days", "cache_days", mode="before")
    @classmethod
    def _by_kind(cls, value: object) -> object:
        if isinstance(value, int | str):  # a number for all would hide what is said of one kind
            raise ValueError("say for which kind: __DEFAULT, __IMAGE, __VIDEO or __AUDIO at the end of the name")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return _known_time_zone(value)


class Backup(_Section):
    """A snapshot of the home every night, and how long snapshots stay."""

    to: Path | None = Field(None, description="folder on another disk, for a snapshot every night; none when empty")
    at: str = Field("01:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="time of day of the snapshot")
    timezone: str = Field("UTC", description="in which this time is told: IANA name, e.g. Europe/Berlin")
    keep_daily: int = Field(7, ge=0, description="days that keep their last snapshot")
    keep_weekly: int = Field(4, ge=0, description="weeks that keep their last snapshot")
    keep_monthly: int = Field(6, ge=0, description="months that keep their last snapshot")

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return _known_time_zone(value)


class IndexLimits(_Section):
    """How vectors are indexed for search: one index each of texts, pictures, faces and voices."""

    exact_up_to: int = Field(100_000, ge=0, description="vectors of an index up to which all are compared")
    max_memory_bytes: int = Field(
        1 * GIB, gt=0, description="memory one index may take; the more vectors, the coarser their codes in it"
    )
    min_recall: float = Field(
        0.995,
        gt=0,
        le=1,
        description="share of the true ten nearest that a large index must find, measured on its data",
    )


class Moderation(_Section):
    """Rules that judge media, and what they look for."""

    rules: Path | None = Field(None, description="folder with rule files of yours; `<home>/rules` when empty")
    blocked_words_file: Path | None = Field(
        None, description="text file with a word or phrase per line that must be neither said nor shown; # for remarks"
    )
    blocked_persons: str = Field("", description="names or ids of persons who must not be seen, separated by commas")
    thresholds: dict[str, float] = Field(
        default_factory=dict, description='thresholds in place of those of the rules, e.g. {"nudity": 0.8}'
    )
    unchecked: Literal["allow", "review"] = Field(
        "allow", description="verdict on media that some rule could not look at, where no other rule objects"
    )
    max_evidence: int = Field(5, ge=1, le=100, description="pieces of evidence kept per rule and medium")
    max_seconds: float = Field(10, gt=0, description="seconds one rule may look at one portion of media")

    @property
    def persons(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.blocked_persons.split(",") if part.strip())


class Alerts(_Section):
    """Who is told of newly blocked media, and how. Nobody when empty."""

    webhook_url: SecretStr | None = Field(None, description="address that gets a POST with JSON")
    webhook_url_file: Path | None = Field(None, description="file that holds this address, instead of the variable")
    webhook_secret: SecretStr | None = Field(None, description="key that signs what is posted (HMAC-SHA256)")
    webhook_secret_file: Path | None = Field(None, description="file that holds this key, instead of the variable")
    email_to: str = Field("", description="addresses that get an e-mail, separated by commas")
    email_from: str = Field("", description="sender of the e-mails; the first receiver when empty")
    smtp_host: str = Field("", description="mail server; needed for e-mails")
    smtp_port: int = Field(587, gt=0, lt=65536, description="its port")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="how the connection is encrypted; none only without a password or on this machine"
    )
    smtp_ca_file: Path | None = Field(None, description="certificate of a mail server that no public authority knows")
    smtp_user: str = Field("", description="user at the mail server, where it wants one")
    smtp_password: SecretStr | None = Field(None, description="password of this user")
    smtp_password_file: Path | None = Field(None, description="file that holds this password, instead of the variable")
    timeout_s: float = Field(10, gt=0, description="seconds a server may take")
    retries: int = Field(2, ge=0, le=10, description="further attempts at once; the next batch tries again anyway")

    def secret(self, name: str) -> SecretStr | None:
        """`webhook_url`, `webhook_secret` or `smtp_password`, from the variable or the file.

        Raises:
            UsageError: the file cannot be read.
        """
        return secret_of(getattr(self, name), getattr(self, f"{name}_file"), f"ALERTS__{name.upper()}")

    @property
    def receivers(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.email_to.split(",") if part.strip())


def secret_of(value: SecretStr | None, file: Path | None, name: str) -> SecretStr | None:
    """A secret, from its variable or its file.

    Raises:
        UsageError: the file cannot be read.
    """
    if value is not None or file is None:
        return value
    try:
        return SecretStr(file.expanduser().read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"{ENV_PREFIX}{name}_FILE: {file} cannot be read", "name a text file that holds nothing but the secret"
        ) from None
