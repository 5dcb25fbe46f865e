"""What Vast.ai says, as types. Every answer is foreign input: a record holds checked values or is not made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from media_pipeline.errors import ProviderUnreachable
from media_pipeline.wording import printable

Json = dict[str, Any]
Endpoint = tuple[str, int]  # host, port

_MAX_TEXT = 300
_GB_PER_TB = 1024  # of the fields *_cost_per_tb
# Also keeps a host's name from being read as an option of ssh.
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,252}")
_NEVER_BOOTS = ("OCI runtime create failed", "manifest unknown", "pull access denied", "unauthorized",
                "failed to resolve reference")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine that may be rented, with one GPU unless `gpus` says otherwise. Prices in US dollars."""

    offer_id: int
    machine_id: int
    host_id: int
    gpu: str
    vram_mb: float  # of one GPU
    usd_per_hour: float  # running, with the disk that was asked for
    gpu_usd_per_hour: float  # the same without disk
    disk_usd_per_gb_month: float
    usd_per_gb_in: float  # sent to the machine, or fetched by it
    usd_per_gb_out: float
    inet_down_mbps: float
    inet_up_mbps: float
    reliability: float  # share of time it was up
    cuda: float  # newest CUDA version its driver supports
    country: str | None  # ISO 3166
    is_verified: bool
    is_datacenter: bool
    disk_gb: float  # that could be rented
    duration_s: float  # for which it could be rented
    direct_ports: int
    cores: float | None  # our share of them
    is_bid: bool  # may be taken away when somebody pays more
    is_external: bool = False  # of a market that Vast.ai only passes on
    gpus: int = 1
    compute_capability: float | None = None  # of the GPU, e.g. 8.6
    dlperf: float | None = None  # Vast.ai's benchmark of deep learning: an RTX 3090 has about 20

    @classmethod
    def from_json(cls, row: object) -> Offer:
        """Raises ProviderUnreachable: a value is missing or odd."""
        data = _Row(row, "offer")
        place = re.search(r"\b([A-Z]{2})$", data.text("geolocation") or "")
        capability = data.optional_number("compute_cap", 0)
        return cls(
            offer_id=data.count("id", 1),
            machine_id=data.count("machine_id", 0),
            host_id=data.count("host_id", 0),
            gpu=data.text("gpu_name") or data.odd("gpu_name"),
            vram_mb=data.number("gpu_ram", 0),
            usd_per_hour=data.number("dph_total", 0),
            gpu_usd_per_hour=data.number("dph_base", 0),
            disk_usd_per_gb_month=data.number("storage_cost", 0),
            usd_per_gb_in=data.traffic("down"),
            usd_per_gb_out=data.traffic("up"),
            inet_down_mbps=data.number("inet_down", 0),
            inet_up_mbps=data.number("inet_up", 0),
            reliability=data.number("reliability2" if "reliability2" in data.row else "reliability", 0),
            cuda=data.number("cuda_max_good", 0),
            country=place[1] if place else None,
            is_verified=data.row.get("verification") == "verified",
            is_datacenter=data.optional_number("hosting_type", 0) == 1,
            disk_gb=data.number("disk_space", 0),
            duration_s=data.number("duration", 0),
            direct_ports=int(data.optional_number("direct_port_count", 0) or 0),
            cores=data.optional_number("cpu_cores_effective", 0),
            # Anything but a clear no is a yes: both would be worse than what was asked for.
            is_bid=data.row.get("is_bid") not in (False, None, 0),
            is_external=data.row.get("external") not in (False, None, 0),
            gpus=data.count("num_gpus", 1),
            compute_capability=None if capability is None else capability / 100,
            dlperf=data.optional_number("dlperf", 0) or None,
        )


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine of the account, ours or not."""

    instance_id: int
    label: str | None
    actual_status: str | None  # None: being provisioned; then created, loading, running; see `failure` for the others
    intended_status: str | None  # running | stopped | frozen: what the account wishes
    cur_state: str | None  # running | stopped | unloaded: of the contract
    next_state: str | None
    status_msg: str | None  # the host's words
    machine_id: int | None
    gpu: str | None
    usd_per_hour: float | None  # disk included
    started_at: float | None  # seconds since 1970, the provider's clock
    ssh_direct: Endpoint | None  # to the machine itself; None until it runs, or where it has no open port
    ssh_proxy: Endpoint | None  # through Vast.ai

    @classmethod
    def from_json(cls, row: object) -> Instance:
        """Only id and label must be there: they decide whether a machine is ours. Anything else odd is None.

        Raises:
            ProviderUnreachable: one of the two is missing or odd.
        """
        data = _Row(row, "instance")
        label = data.row.get("label", ...)
        if label is not None and not isinstance(label, str):
            data.odd("label")
        status = data.text("actual_status")
        ports = data.row.get("ports")
        port = _first_port(ports.get("22/tcp")) if isinstance(ports, dict) and status == "running" else None
        return cls(
            instance_id=data.count("id", 1),
            label=label,
            actual_status=status,
            intended_status=data.text("intended_status"),
            cur_state=data.text("cur_state"),
            next_state=data.text("next_state"),
            status_msg=data.text("status_msg"),
            machine_id=data.optional_count("machine_id"),
            gpu=data.text("gpu_name"),
            usd_per_hour=data.optional_number("dph_total", 0),
            started_at=data.optional_number("start_date", 0),
            ssh_direct=_endpoint(data.row.get("public_ipaddr"), port),
            ssh_proxy=_endpoint(data.row.get("ssh_host"), data.row.get("ssh_port")),
        )

    @property
    def is_running(self) -> bool:
        return self.actual_status == "running"

    @property
    def ssh(self) -> tuple[Endpoint, ...]:
        """Where to reach it, what is faster first."""
        return tuple(dict.fromkeys(e for e in (self.ssh_direct, self.ssh_proxy) if e is not None))

    @property
    def failure(self) -> str | None:
        """Why it does not run and will not by itself, for people; None while it may.

        A machine that ran and is `offline` or `unknown` may come back: who waits for one decides how long.
        """
        said = f": {self.status_msg}" if self.status_msg else ""
        if self.actual_status in ("exited", "unknown", "offline", "stopped", "frozen"):
            return f"it is {self.actual_status}{said}"
        if self.cur_state == self.next_state == self.intended_status == "stopped":
            return f"it was stopped{said}"
        if not self.is_running and self.status_msg and any(text in self.status_msg for text in _NEVER_BOOTS):
            return f"it cannot start{said}"
        return None


@dataclass(frozen=True, slots=True)
class Charge:
    """What one machine has cost so far, by the provider's books; times in seconds since 1970."""

    instance_id: int
    label: str | None
    usd: float
    start: float
    end: float

    @classmethod
    def from_json(cls, row: object) -> Charge:
        """Raises ProviderUnreachable: a value is missing or odd."""
        data = _Row(row, "charge")
        source = re.fullmatch(r"instance-(\d{1,18})", data.text("source") or "") or data.odd("source")
        metadata = data.row.get("metadata")
        label = metadata.get("label") if isinstance(metadata, dict) else None
        return cls(
            instance_id=int(source[1]),
            label=label if isinstance(label, str) else None,
            usd=_exact(data.number("amount"), data.row.get("items")),  # negative where something was given back
            start=data.number("start", 0),
            end=data.number("end", 0),
        )


@dataclass(frozen=True, slots=True)
class Account:
    credit_usd: float  # prepaid money that is left; negative: owed

    @classmethod
    def from_json(cls, row: object) -> Account:
        """Raises ProviderUnreachable: the credit is missing or odd."""
        return cls(credit_usd=_Row(row, "account").number("credit"))


class _Row:
    """One JSON object; each reading returns a checked value or raises."""

    def __init__(self, row: object, what: str) -> None:
        if not isinstance(row, dict):
            raise ProviderUnreachable(f"Vast.ai sent {_shown(row)} in place of an {what}", "try again later")
        self.row: Json = row
        self._what = what

    def odd(self, name: str) -> NoReturn:
        value = _shown(self.row[name]) if name in self.row else "missing"
        raise ProviderUnreachable(f"Vast.ai sent an {self._what} whose {name} is {value}", "try again later")

    def number(self, name: str, least: float = -math.inf) -> float:
        value = self.optional_number(name, least)
        return self.odd(name) if value is None else value

    def optional_number(self, name: str, least: float = -math.inf) -> float | None:
        value = self.row.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if abs(value) < 1e15 and value >= least else None  # no NaN either

    def count(self, name: str, least: int) -> int:
        value = self.optional_count(name)
        return self.odd(name) if value is None or value < least else value

    def optional_count(self, name: str) -> int | None:
        value = self.row.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None

    def text(self, name: str) -> str | None:
        value = self.row.get(name)
        return printable(value.strip())[:_MAX_TEXT] or None if isinstance(value, str) else None

    def traffic(self, way: str) -> float:
        """Dollars per GB; a price that is not said could be any, so the offer is not one."""
        price = self.optional_number(f"inet_{way}_cost", 0)
        per_tb = self.optional_number(f"internet_{way}_cost_per_tb", 0)
        if price is None and per_tb is not None:
            return per_tb / _GB_PER_TB
        return self.odd(f"inet_{way}_cost") if price is None else price


def _exact(amount: float, items: object) -> float:
    """The sum of the items where the amount is that sum, rounded (seen: to a tenth of a cent)."""
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        return amount
    amounts = [float(a) for item in items if isinstance(a := item.get("amount"), int | float)]
    total = sum(amounts)
    return total if len(amounts) == len(items) and abs(total - amount) <= 0.0006 else amount


def _first_port(mappings: object) -> object:
    first = mappings[0] if isinstance(mappings, list) and mappings else None
    return first.get("HostPort") if isinstance(first, dict) else None


def _endpoint(host: object, port: object) -> Endpoint | None:
    host = host.strip() if isinstance(host, str) else ""
    number = int(port) if isinstance(port, int) or (isinstance(port, str) and re.fullmatch(r"\d{1,5}", port)) else 0
    return (host, number) if _HOST.fullmatch(host) and 0 < number < 65536 else None


def _shown(value: object) -> str:
    # Of what holds more than one value only the kind: a row of ours may hold the key of its machine.
    return printable(repr(value))[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
