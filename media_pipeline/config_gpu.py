"""Settings of renting GPUs: read with all others by `config.py`, which alone reads the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TARGETS = ("auto", "cpu", "gpu")
Target = Literal["auto", "cpu", "gpu"]


class Gpu(BaseModel):
    """Where analyzers run, and what may be rented from Vast.ai for it. Nothing is while `target` is cpu."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target = Field(
        "cpu",
        description="cpu: nothing leaves this machine; gpu: rent if at all possible; auto: rent where it is worth it",
    )
    # --- money, in the account's currency (Vast.ai: US dollars)
    max_usd_per_run: float = Field(1.0, ge=0, description="a run may spend; then its rest goes on as at_cap says")
    max_usd_per_day: float = Field(3.0, ge=0, description="all runs of a day (UTC) may spend")
    max_usd_per_month: float = Field(20.0, ge=0, description="all runs of a calendar month (UTC) may spend")
    max_usd_per_hour: float = Field(0.6, gt=0, description="price of one machine, disk included")
    at_cap: Literal["cpu", "wait"] = Field(
        "cpu", description="what is left when a limit is reached: cpu goes on here, wait leaves it for a later run"
    )
    eur_per_usd: float | None = Field(None, gt=0, description="to show prices in EUR as well")
    # --- when `auto` rents
    min_cpu_minutes: float = Field(20, ge=0, description="work below which auto never rents: a machine takes minutes")
    usd_per_hour_saved: float = Field(0.5, ge=0, description="what an hour earlier is worth; auto rents for less")
    deadline_minutes: float | None = Field(
        None,
        gt=0,
        description="a run should be done by then: auto rents, whatever an hour is worth, if only so it can",
    )
    speedup: float = Field(
        10, gt=0, description="how many times as fast as this machine a GPU is taken for until one was measured"
    )
    # --- which machines
    max_machines: int = Field(1, ge=1, le=16, description="machines rented at once, for a long queue")
    names: str = Field("", description="GPUs that will do, e.g. RTX 3090,RTX 4090; any when empty")
    countries: str = Field("", description="where machines may stand: ISO 3166 codes, e.g. DE,SE; any when empty")
    secure_cloud: bool = Field(True, description="only machines in data centres that Vast.ai has checked")
    min_vram_gb: float = Field(10, gt=0, description="memory of the GPU")
    min_reliability: float = Field(0.97, ge=0, le=1, description="share of time a machine was up")
    min_inet_mbps: float = Field(100, ge=0, description="its network, both ways")
    min_cuda: float = Field(13.0, gt=0, description="CUDA version its driver must support: torch's and onnxruntime's")
    disk_gb: float = Field(40, ge=8, description="disk rented with it")
    # --- what runs on them
    image: str = Field(
        "nvidia/cuda:13.0.2-base-ubuntu24.04",
        description="container image: a stock CUDA image, or yours made of deploy/Dockerfile, target gpu",
    )
    python: str = Field("python3", description="Python of the image, 3.11 or 3.12")
    needs_cuda: bool = Field(True, description="a machine whose GPU cannot compute is given back at once")
    # --- time
    boot_timeout_s: float = Field(600, gt=0, description="a machine must be running and reachable by then")
    setup_timeout_s: float = Field(900, gt=0, description="installing what the worker needs may take")
    heartbeat_timeout_s: float = Field(60, gt=0, description="silence after which a worker counts as lost")
    idle_s: float = Field(300, ge=0, description="a machine waits so long for a next run of the daemon; 0: not at all")
    max_hours: float = Field(12, gt=0, description="a machine destroys itself after that, whatever happens here")
    # --- trust
    recheck_share: float = Field(
        0.02, ge=0, le=1, description="share of media computed here as well, to compare with what came from outside"
    )

    @property
    def gpu_names(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.names.split(",") if part.strip())

    @property
    def country_codes(self) -> tuple[str, ...]:
        return tuple(part.strip().upper() for part in self.countries.split(",") if part.strip())
