"""Which offers will do, and which is the best value.

`suitable` orders by what a typical job is expected to cost on a machine, from nothing to done: getting the software
there over its network, half an hour on a GPU of Vast.ai's benchmark 20 (an RTX 3090), 2 GB of media, traffic and disk;
divided by its reliability, as a job that breaks off is paid twice. Half of the computing time is taken to shrink with a
faster GPU, the other half (decoding pictures, assembling rows) not: a card at twice the price has to be more than
twice as fast. That half is a guess; what machines really do is measured per run and stands in `analyzer_costs`.

The server's own filters are "not always applied" (seen), so that every limit is checked again on what it returns.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable

from media_pipeline.cloud.records import Json, Offer
from media_pipeline.config_gpu import Gpu

HOURS_PER_MONTH = 720  # by which Vast.ai divides the monthly price of disk
_MB_PER_GB = 1000  # nominal: a card "of 24 GB" has 24,564 MB
_DURATION_MARGIN_S = 3600
_CUDA_OF_BLACKWELL = 12.8
# Older ones are not in the CUDA builds of torch 2.13.
_LEAST_CAPABILITY, _BLACKWELL = 7.5, 10.0
# An offer dearer than this many times the median of its GPU is a mistake or a trap.
_MEDIAN_FACTOR, _MEDIAN_OF = 2.0, 5
# The typical job.
SETUP_GB, _BOOT_S, _JOB_S, _JOB_DLPERF, _UNKNOWN_DLPERF = 6.0, 180, 1800, 20.0, 10.0
_JOB_GB_IN, _JOB_GB_OUT, _UPLOAD_MBPS = 2.0, 0.1, 100.0
_PROXY_FACTOR = 1.1  # without an open port all goes through Vast.ai's proxy: slower, one more thing to break


def search_filter(gpu: Gpu, limit: int) -> Json:
    """The limits as Vast.ai's search wants them: cheapest first, priced with our disk."""
    wanted: Json = {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "num_gpus": {"eq": 1},
        "gpu_ram": {"gte": gpu.min_vram_gb * _MB_PER_GB},
        "reliability": {"gte": gpu.min_reliability},
        "cuda_max_good": {"gte": gpu.min_cuda},
        "inet_down": {"gte": gpu.min_inet_mbps},
        "inet_up": {"gte": gpu.min_inet_mbps},
        "disk_space": {"gte": gpu.disk_gb},
        "duration": {"gte": _least_duration_s(gpu)},
        "dph_total": {"lte": gpu.max_usd_per_hour},
        "type": "on-demand",
        "order": [["dph_total", "asc"]],
        "allocated_storage": gpu.disk_gb,
        "limit": limit,
    }
    if gpu.secure_cloud:
        wanted["datacenter"] = {"eq": True}
    if gpu.gpu_names:
        wanted["gpu_name"] = {"in": [name.replace("_", " ") for name in gpu.gpu_names]}
    if gpu.country_codes:
        wanted["geolocation"] = {"in": list(gpu.country_codes)}
    return wanted


def suitable(offers: Iterable[Offer], gpu: Gpu) -> list[Offer]:
    """Those within all limits, the best value first."""
    offers = list(offers)
    dearest = _dearest(offers)
    found = [
        o
        for o in offers
        if not unsuitable(o, gpu) and o.gpu_usd_per_hour <= dearest.get(_name(o.gpu), o.gpu_usd_per_hour)
    ]
    return sorted(found, key=lambda offer: (expected_usd(offer, gpu), offer.offer_id))


def unsuitable(offer: Offer, gpu: Gpu) -> str | None:
    """The first limit that an offer breaks, for people; None when it is within all."""
    price = hourly_usd(offer, gpu.disk_gb)
    capability = offer.compute_capability
    names = {_name(name) for name in gpu.gpu_names}
    limits = (
        (offer.is_bid, "an interruptible machine"),
        (not offer.is_verified or offer.is_external, "not verified by Vast.ai"),
        (gpu.secure_cloud and not offer.is_datacenter, "not in a data centre"),
        (offer.gpus != 1, f"{offer.gpus} GPUs"),
        (bool(names) and _name(offer.gpu) not in names, f"a {offer.gpu}"),
        (
            bool(gpu.country_codes) and offer.country not in gpu.country_codes,
            f"in {offer.country or 'no known country'}",
        ),
        (max(price, offer.usd_per_hour) > gpu.max_usd_per_hour, f"{max(price, offer.usd_per_hour):.3f} USD per hour"),
        # With room for rounding: more than GPU and disk must not be in it.
        (offer.usd_per_hour > price * 1.02 + 0.002, "a price that is more than its parts"),
        (offer.vram_mb < gpu.min_vram_gb * _MB_PER_GB, f"{offer.vram_mb:.0f} MB of GPU memory"),
        (capability is not None and capability < _LEAST_CAPABILITY, f"compute capability {capability}"),
        (offer.cuda < gpu.min_cuda, f"a driver for CUDA {offer.cuda}"),
        (_is_blackwell(offer) and offer.cuda < _CUDA_OF_BLACKWELL, f"a driver too old for its GPU (CUDA {offer.cuda})"),
        (not gpu.min_reliability <= offer.reliability <= 1, f"reliability {offer.reliability:.3f}"),
        (min(offer.inet_down_mbps, offer.inet_up_mbps) < gpu.min_inet_mbps, "a slow network"),
        (offer.disk_gb < gpu.disk_gb, f"{offer.disk_gb:.0f} GB of disk"),
        (offer.duration_s < _least_duration_s(gpu), f"to be had for {offer.duration_s / 3600:.1f} hours only"),
    )
    return next((text for is_broken, text in limits if is_broken), None)


def usd(offer: Offer, *, running_s: float, existing_s: float, gb_in: float, gb_out: float, disk_gb: float) -> float:
    """What a machine costs: its GPU while it runs, its disk from creation to destruction, and its traffic."""
    disk = offer.disk_usd_per_gb_month * disk_gb / HOURS_PER_MONTH
    return (
        offer.gpu_usd_per_hour * running_s / 3600
        + disk * existing_s / 3600
        + offer.usd_per_gb_in * gb_in
        + offer.usd_per_gb_out * gb_out
    )


def hourly_usd(offer: Offer, disk_gb: float) -> float:
    """Of a running machine with so much disk."""
    return usd(offer, running_s=3600, existing_s=3600, gb_in=0, gb_out=0, disk_gb=disk_gb)


def expected_usd(offer: Offer, gpu: Gpu) -> float:
    """What the typical job is expected to cost there; see the module."""
    down = max(offer.inet_down_mbps, 1.0)
    setup_s = _seconds(SETUP_GB, down)
    compute_s = _JOB_S * (0.5 + 0.5 * _JOB_DLPERF / (offer.dlperf or _UNKNOWN_DLPERF))
    running_s = setup_s + _seconds(_JOB_GB_IN, min(down, _UPLOAD_MBPS)) + compute_s
    cost = usd(
        offer,
        running_s=running_s,
        existing_s=running_s + _BOOT_S,
        gb_in=SETUP_GB + _JOB_GB_IN,
        gb_out=_JOB_GB_OUT,
        disk_gb=gpu.disk_gb,
    )
    return cost / max(offer.reliability, 0.01) * (1.0 if offer.direct_ports else _PROXY_FACTOR)


def _dearest(offers: Iterable[Offer]) -> dict[str, float]:
    """USD per hour that a GPU may cost, by its name, where there are enough offers of it to know the market."""
    prices = defaultdict(list)
    for offer in offers:
        prices[_name(offer.gpu)].append(offer.gpu_usd_per_hour)
    return {name: _MEDIAN_FACTOR * statistics.median(all_) for name, all_ in prices.items() if len(all_) >= _MEDIAN_OF}


def _least_duration_s(gpu: Gpu) -> float:
    return gpu.max_hours * 3600 + _DURATION_MARGIN_S


def _is_blackwell(offer: Offer) -> bool:
    if offer.compute_capability is not None:
        return offer.compute_capability >= _BLACKWELL
    return re.search(r"RTX (PRO|50\d\d)|B[23]00", offer.gpu) is not None


def _name(gpu: str) -> str:
    return " ".join(gpu.replace("_", " ").casefold().split())


def _seconds(gb: float, mbps: float) -> float:
    return gb * 8000 / mbps
