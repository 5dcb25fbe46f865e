"""Settings of a server: what docker-compose.yml, the gateway and the backup of an installation need to be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

_TIME_OF_DAY = r"^([01]\d|2[0-3]):[0-5]\d$"
_SIZE = r"^[1-9]\d*(\.\d+)?[mg]$"


class Server(BaseModel):
    """One machine with Docker; docs/operations.md. Without one none of these has an effect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str = Field("localhost", description="name under which the server is reached, without https://")
    tls: Literal["own", "acme", "files"] = Field(
        "own",
        description="certificate: own makes one that browsers warn of, acme has Let's Encrypt make one, "
        "files takes yours from secrets/gateway/tls",
    )
    acme_email: str = Field("", description="address that Let's Encrypt writes to when a certificate is about to end")
    acme_url: str = Field(
        "https://acme-v02.api.letsencrypt.org/directory", description="directory of the ACME server, with tls=acme"
    )
    http_port: int = Field(80, gt=0, lt=65536, description="port that sends browsers to the next one")
    https_port: int = Field(443, gt=0, lt=65536, description="port with everything")
    monitoring: bool = Field(
        False, description="with Prometheus, Alertmanager and Grafana, which take half a gigabyte of memory"
    )
    run_memory: str = Field("4g", pattern=_SIZE, description="memory of the container of a run, in m or g")
    run_cpus: float = Field(0, ge=0, description="processors that a run may use at most; 0: all")
    backup_repository: str = Field(
        "/backups/repository",
        pattern=r"^(/|s3:https?://).+",
        description="where encrypted backups of the installation go: a folder, or s3:https://HOST/BUCKET/PATH",
    )
    backup_at: str = Field("01:00", pattern=_TIME_OF_DAY, description="time of day of this backup")
    backup_timezone: str = Field("UTC", description="in which this time is told: IANA name, e.g. Europe/Berlin")
    backup_keep_daily: int = Field(7, ge=0, description="days that keep their last backup")
    backup_keep_weekly: int = Field(4, ge=0, description="weeks that keep their last backup")
    backup_keep_monthly: int = Field(6, ge=0, description="months that keep their last backup")
    backup_state: Path = Field(Path("/backups/state"), description="folder of the backup's own notes and caches")
    backup_configuration: Path = Field(
        Path("/configuration"), description="folder with .env and what else is to be backed up as configuration"
    )
    backup_secrets: bool = Field(
        False, description="its folder `secrets` too: encrypted like all else, but then one key opens everything"
    )
    backup_keys: Path = Field(
        Path("/run/secrets"),
        description="folder with the files restic_password, and s3_access_key and s3_secret_key for an S3 store",
    )
    backup_s3_region: str = Field("", description="region of the S3 store, where it wants one")
    backup_upload_kib_s: int = Field(0, ge=0, description="KiB per second that a backup may send; 0: no limit")
    oidc_proxy: str = Field(
        "",
        pattern=r"^([A-Za-z0-9_.-]+:\d{1,5})?$",
        description="HOST:PORT of an oauth2-proxy, for sign-in by OpenID Connect; without: names and passwords",
    )
    oidc_operators: str = Field(
        "media-operators",
        pattern=r"^[^\s,\"'\\$;{}]{1,200}$",
        description="group of the OpenID provider whose members are operators; all others are viewers",
    )

    @field_validator("backup_timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("not a time zone of the IANA list") from None
        return value
