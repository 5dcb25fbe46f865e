"""This machine or a rented one: what is weighed, and what tips the scales."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from media_pipeline.cloud.offers import SETUP_GB
from media_pipeline.cloud.records import Offer
from media_pipeline.config import Batching
from media_pipeline.config_gpu import Gpu
from media_pipeline.errors import UsageError
from media_pipeline.execution.placement import Expectations, Option, decide, here, rented
from media_pipeline.execution.rates import AROUND, STARTING, Rates
from media_pipeline.execution.wish import Wish
from media_pipeline.execution.workload import Habits, Load, Workload
from media_pipeline.storage.costs import machine

GPU = Gpu()
OFFER = Offer(
    offer_id=1,
    machine_id=11,
    host_id=111,
    gpu="RTX 4090",
    vram_mb=24_564,
    usd_per_hour=0.4,
    gpu_usd_per_hour=0.39,
    disk_usd_per_gb_month=0.18,
    usd_per_gb_in=0.01,
    usd_per_gb_out=0.01,
    inet_down_mbps=900,
    inet_up_mbps=500,
    reliability=0.99,
    cuda=12.8,
    country="SE",
    is_verified=True,
    is_datacenter=True,
    disk_gb=100,
    duration_s=864_000,
    direct_ports=10,
    cores=16,
    is_bid=False,
)


def measured(
    analyzer: str, wall_s: float, *, where: str | None = None, model: str = "m", **units: float
) -> dict[str, Any]:
    return {
        "analyzer": analyzer,
        "model": "m",
        "machine": where or machine(),
        "media": units.get("media", 10.0),
        "frames": units.get("frames", 0.0),
        "audio_s": units.get("audio_s", 0.0),
        "wall_s": wall_s,
        "cpu_s": 2 * wall_s,
        "load_s": units.get("load_s"),
    }


def rates(*rows: dict[str, Any], speedup: float = 10, **more: Any) -> Rates:
    """Of one large run, unless a batch is given."""
    habits = Habits(decode_still_s=0.1, decode_second_s=0.05)
    models = dict.fromkeys(("ocr", "faces", "transcript", "nsfw"), "m")
    more = {"per_run": Batching(max_media=1_000_000, max_duration_s=1e9), **more}
    return Rates(rows, models, habits, cores=2, speedup=speedup, **more)


def seconds(option: Option, stage: str) -> float:
    return next(took.seconds for took in option.parts if took.stage == stage)


def load(**units: float) -> Load:
    return Load(**{"media": 10.0, **units})


OCR = measured("ocr", 100.0, frames=100.0)  # a second per frame


def pictures(count: float) -> Workload:
    each = Load(media=count, stills=count, frames=count)
    return Workload({"media": each, "ocr": each}, each, frame_bytes=count * 250_000)


def test_what_was_measured_here_is_scaled_by_what_drives_it() -> None:
    transcript = measured("transcript", 50.0, audio_s=200.0, load_s=4.0)
    stages = {"media": load(stills=20, duration_s=100), "ocr": load(frames=50), "transcript": load(audio_s=400)}
    work = Workload(stages, total=Load(media=30))
    found = {took.stage: took for took in rates(OCR, transcript).here(work)}
    assert found["ocr"].seconds == pytest.approx(50)
    assert found["transcript"].seconds == pytest.approx(104)  # the model is loaded once
    assert found["media"].seconds == pytest.approx(20 * 0.1 + 100 * 0.05)
    assert found[STARTING].seconds > 0
    assert found[AROUND].seconds > 0
    assert {took.basis for took in found.values()} == {"measured", "usual"}


def test_what_runs_take_beside_their_analyzers_is_counted_for_each_once_it_was_measured() -> None:
    batch = Batching(max_media=64, max_duration_s=600)

    def around(**units: float) -> float:
        work = Workload({"ocr": load(frames=1)}, Load(**units))
        return seconds(here(work, rates(per_run=batch, around_a_run_s=5.0)), AROUND)

    assert around(media=64) == 5
    assert around(media=65) == 10
    assert around(media=3, duration_s=1900) == 20, "long videos are few to a run"


def test_another_model_or_machine_tells_nothing_of_this_one() -> None:
    work = Workload({"ocr": load(frames=50)})
    for row in (OCR | {"model": "another"}, OCR | {"machine": "another processor"}):
        [took] = (took for took in rates(row).here(work) if took.stage == "ocr")
        assert took.basis == "estimated"


def test_a_gpu_is_taken_for_faster_until_it_was_measured() -> None:
    work = pictures(1000)
    [guess] = rates(OCR, speedup=20).on_gpu(work, "RTX 4090", ["ocr"])
    assert (guess.seconds, guess.basis) == (pytest.approx(50), "estimated")
    [known] = rates(OCR, measured("ocr", 3.0, where="RTX 4090", frames=100)).on_gpu(work, "RTX 4090", ["ocr"])
    assert (known.seconds, known.basis) == (pytest.approx(30), "measured")


def test_a_rented_option_counts_boot_setup_disk_traffic_and_what_stays_here() -> None:
    work = pictures(3600)
    expected = Expectations(loading_s=100, setup_s=200, upload_bytes_per_s=3_000_000, is_measured=True)
    gpu = measured("ocr", 10.0, where="RTX 4090", frames=100)
    [option] = rented(work, rates(OCR, gpu), [OFFER], {"ocr"}, GPU, expected, usd_left=10)
    decode_s, ocr_s, around_s = 360, 360, seconds(option, AROUND)
    assert seconds(option, "ocr") == ocr_s, "300 s of sending, meanwhile"
    assert option.seconds == pytest.approx(seconds(option, STARTING) + max(300, decode_s) + ocr_s + around_s)
    hours = (decode_s + ocr_s + around_s / 2) / 3600
    gpu_hours = hours - 100 / 3600  # it is set up at the full price
    disk = 0.18 * GPU.disk_gb / 720
    assert option.usd == pytest.approx(0.39 * gpu_hours + disk * hours + 0.01 * (SETUP_GB + 0.9), rel=1e-6)
    assert option.is_measured
    assert here(work, rates(OCR, gpu)).seconds == pytest.approx(seconds(option, STARTING) + 3600 + decode_s + around_s)


def test_over_a_slow_line_the_first_stage_that_sees_waits_for_the_frames() -> None:
    each = load(media=100, frames=100)
    work = Workload({"faces": each, "ocr": each}, each, frame_bytes=50e6, sound_bytes=1e12)
    costs = [measured(name, 20.0, where="RTX 4090", frames=100, load_s=5.0) for name in ("faces", "ocr")]
    slow = Expectations(upload_bytes_per_s=1e6)
    [option] = rented(work, rates(*costs), [OFFER], {"faces", "ocr"}, GPU, slow, usd_left=10)
    assert (seconds(option, "faces"), seconds(option, "ocr")) == (5 + 50, 5 + 20)
    quick = Expectations(upload_bytes_per_s=1e9)
    [limited] = rented(work, rates(*costs), [replace(OFFER, inet_down_mbps=4)], {"faces"}, GPU, quick, usd_left=10)
    assert seconds(limited, "faces") == 5 + 100, "its own line is slower than ours"


def test_in_several_runs_the_machine_waits_for_what_is_done_here_but_for_the_last() -> None:
    work = pictures(128)
    costs = [OCR, measured("ocr", 10.0, where="RTX 4090", frames=100)]
    at_once = Expectations(loading_s=0, setup_s=0)

    def option(size: int) -> Option:
        given = rates(*costs, per_run=Batching(max_media=size), around_a_run_s=100.0)
        [found] = rented(work, given, [replace(OFFER, disk_usd_per_gb_month=0.0)], {"ocr"}, GPU, at_once, usd_left=10)
        return found

    one, four = option(128), option(32)
    assert four.seconds - one.seconds == pytest.approx(300)
    # Three more runs as a whole, and half of the last, in place of half of the only one.
    assert four.usd - one.usd == pytest.approx(300 / 3600 * 0.39, rel=0.01)


def test_the_machine_costs_while_stages_between_its_own_run_here() -> None:
    each = load(media=600, stills=600, frames=600)
    costs = [measured(name, 60.0, frames=600) for name in ("nsfw", "ocr", "transcript")]

    def usd(*order: str) -> float:
        work = Workload({"media": each, **dict.fromkeys(order, each)}, each)
        [option] = rented(work, rates(*costs), [OFFER], {"ocr", "transcript"}, GPU, Expectations(), usd_left=10)
        return option.usd

    waits = usd("ocr", "nsfw", "transcript") - usd("ocr", "transcript", "nsfw")
    assert waits == pytest.approx(60 / 3600 * (OFFER.gpu_usd_per_hour + 0.18 * GPU.disk_gb / 730), rel=0.05)
    assert usd("nsfw", "ocr", "transcript") == pytest.approx(usd("ocr", "nsfw", "transcript"))


def test_a_small_budget_covers_a_share_and_none_at_all_no_machine() -> None:
    work = pictures(36_000)
    full = rented(work, rates(OCR), [OFFER], {"ocr"}, GPU, Expectations(), usd_left=100)[0]
    half = rented(work, rates(OCR), [OFFER], {"ocr"}, GPU, Expectations(), usd_left=full.usd / 2)[0]
    assert half.share == pytest.approx(0.5)
    assert half.usd == pytest.approx(full.usd / 2)
    assert full.seconds < half.seconds < here(work, rates(OCR)).seconds
    assert rented(work, rates(OCR), [OFFER], {"ocr"}, GPU, Expectations(), usd_left=0.001) == []


def test_a_long_queue_gets_several_machines_that_share_the_line() -> None:
    def option(count: float, machines: int, bytes_per_s: float) -> Option:
        line, gpu = Expectations(upload_bytes_per_s=bytes_per_s), replace_gpu(max_machines=machines)
        return rented(pictures(count), rates(OCR), [OFFER], {"ocr"}, gpu, line, usd_left=100)[0]

    one, three = option(360_000, 1, 1e9), option(360_000, 3, 1e9)
    assert (one.machines, three.machines) == (1, 3)
    assert seconds(three, "ocr") == pytest.approx(seconds(one, "ocr") / 3)
    assert three.seconds < one.seconds
    assert seconds(option(360_000, 3, 3e6), "ocr") == pytest.approx(90e9 / 3e6), "not faster than it is fed"
    assert option(100, 3, 1e9).machines == 1


def replace_gpu(**changes: Any) -> Gpu:
    return Gpu(**{**GPU.model_dump(), **changes})


CPU = Option("cpu", "this machine", 3 * 3600, 0.0)
FAST = Option("gpu", "RTX 4090 in SE", 1800, 0.5, OFFER)


@pytest.mark.parametrize(
    ("wish", "gpus", "settings", "target", "reason"),
    [
        (Wish("cpu", 1), [FAST], {}, "cpu", "asked for"),
        (Wish("gpu", 1), [FAST], {}, "gpu", "asked for"),
        (Wish("gpu", 1), [], {}, "cpu", "nobody offers"),
        (Wish("auto", 1), [FAST], {}, "gpu", "150 minutes faster"),
        (Wish("auto", 1), [FAST], {"usd_per_hour_saved": 0.1}, "cpu", "more than 0.1 USD an hour"),
        (Wish("auto", 1), [FAST], {"min_cpu_minutes": 500}, "cpu", "nothing is rented below"),
        (Wish("auto", 1, 3600), [FAST], {"usd_per_hour_saved": 0.1}, "gpu", "only so it is done"),
        (Wish("auto", 1, 60), [FAST], {"usd_per_hour_saved": 0.1}, "cpu", "more than"),  # too late either way
        (Wish("auto", 1), [replace(FAST, seconds=4 * 3600)], {}, "cpu", "would not be faster"),
        (Wish("gpu", 1), [replace(FAST, share=0.25)], {}, "gpu", "25% of it"),
    ],
)
def test_the_decision_says_why(wish: Wish, gpus: list[Option], settings: Any, target: str, reason: str) -> None:
    found = decide(wish, CPU, gpus, replace_gpu(**settings), no_gpu="nobody offers any")
    assert found.target == target
    assert reason in found.reason
    assert len(found.alternatives) == len(gpus)
    assert found.chosen not in found.alternatives


def test_a_decision_is_told_in_both_currencies() -> None:
    found = decide(Wish("gpu", 1), CPU, [FAST], GPU)
    assert "expected_eur" not in found.facts()
    facts = found.facts(eur_per_usd=0.9)
    assert (facts["expected_usd"], facts["expected_eur"], facts["expected_minutes"]) == (0.5, 0.45, 30)
    assert facts["alternatives"][0]["minutes"] == 180
    assert found.tags()["media_pipeline/placed"] == "RTX 4090 in SE"


@pytest.mark.parametrize(
    "said", [{"target": "gpuu"}, {"max_usd": "a lot"}, {"max_usd": -1}, {"deadline_minutes": "nan"}]
)
def test_a_misspelt_wish_is_refused(said: Any) -> None:
    with pytest.raises(UsageError):
        Wish.of(GPU, **said)


def test_what_is_said_for_a_run_goes_before_the_settings() -> None:
    settings = replace_gpu(target="auto", max_usd_per_run=2, deadline_minutes=30)
    assert Wish.of(settings) == Wish("auto", 2, 1800)
    assert Wish.of(settings, target="gpu", max_usd="0.5", deadline_minutes=10) == Wish("gpu", 0.5, 600)
    assert Wish.of(settings, max_usd=0).max_usd == 0
