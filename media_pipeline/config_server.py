"""Settings of a server: what docker-compose.yml, the gateway and the backup of an installation need to be told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

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
    run_memory: str = Field("4g", pattern=_SIZE, description="memory of the container of a run, in m or g")
    run_cpus: float = Field(0, ge=0, description="processors that a run may use at most; 0: all")
