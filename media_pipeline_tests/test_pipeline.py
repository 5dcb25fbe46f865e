"""The product without Dagster: what is current, what is stale, what is blocked, and what a failure takes down."""

from __future__ import annotations

import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from media_pipeline.analyzers import _registry
from media_pipeline.analyzers._spec import AnalyzerSpec, Batch, ModelChoice, Options
from media_pipeline.config import Settings, load_settings
from media_pipeline.errors import BudgetReached, DiskFull, ModelUnavailable, StorageConflict, UsageError, WorkerLost
from media_pipeline.execution import pipeline as pipeline_module
from media_pipeline.execution import stages as stages_module
from media_pipeline.execution.decoded import DecodedMedia
from media_pipeline.execution.executor import AnalyzerResult
from media_pipeline.execution.in_process import InProcessExecutor
from media_pipeline.execution.outcome import Outcome
from media_pipeline.execution.pipeline import Pipeline
from media_pipeline.execution.stages import stage_infos
from media_pipeline.media.cache import Cache
from media_pipeline.media.intake import Intake

SCHEMA = pa.schema([("media_id", pa.string()), ("brightness", pa.float64())])


class BrightnessOptions(Options):
    scale: float = 1.0
    reject_darker_than: float = 0.0


def brightness(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
    rows = []
    for medium in batch:
        for frame in medium.frames:
            value = float(frame.image().mean()) * options.scale
            if value < options.reject_darker_than:
                raise ValueError("too dark")
            rows.append({"media_id": medium.media_id, "brightness": value})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def spec(name: str = "brightness", **changes: object) -> AnalyzerSpec:
    given = {
        "name": name,
        "version": "1",
        "needs": ("frames",),
        "schema": SCHEMA,
        "options": BrightnessOptions,
        "choose": lambda options, store: ModelChoice("mean", "embedded", "0" * 64),
        "load": lambda choice, device, options: object(),
        "run": brightness,
        "description": "How bright the frames are.",
        "batch_media": 4,
    }
    return AnalyzerSpec(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Put analyzers in the place of the real ones."""

    def put(*specs: AnalyzerSpec) -> None:
        found = _registry.ordered(specs)
        monkeypatch.setattr(stages_module, "registry", lambda: found)
        monkeypatch.setattr(pipeline_module, "registry", lambda: found)

    yield put


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DecodedMedia]:
    """One pool of sandboxes and one cache for all tests: to start one takes longer than any test."""
    shared = DecodedMedia(Cache(tmp_path_factory.mktemp("cache"), 1 << 40), load_settings(workers=2))
    yield shared
    shared.close()


@pytest.fixture(autouse=True)
def _share(decoded: DecodedMedia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "_decoded", decoded)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for level in (40, 120, 200):
        Image.new("RGB", (64, 48), (level, level, 255 - level)).save(folder / f"grey {level}.png")
    (folder / "text.png").write_text("no picture")
    return folder


def settings(tmp_path: Path, **changes: object) -> Settings:
    return load_settings(home=tmp_path / "home", offline=True, min_free_bytes=0, workers=2, settle_s=0.0, **changes)


def opened(tmp_path: Path, pictures: Path, **changes: object) -> tuple[Pipeline, list[str]]:
    pipeline = Pipeline(settings(tmp_path, **changes))
    report = Intake(pipeline.layout, pipeline.sources, pipeline.settings).take([pictures], wait=True)
    pipeline.sources.mark_announced([m.media_id for m in report.new])  # as a run does when it begins
    return pipeline, [m.partition_key for m in sorted([*report.new, *report.known], key=lambda m: m.name)]


def run_all(pipeline: Pipeline, keys: list[str], **how: Any) -> dict[str, dict[str, Outcome]]:
    return {
        info.name: {
            o.partition_key.partition("~")[0]: o for o in pipeline.run_stage(info.name, keys, run_id="r", **how)
        }
        for info in stage_infos()
    }


def test_a_bad_file_fails_alone_and_blocks_only_itself(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    pipeline, keys = opened(tmp_path, pictures)
    found = run_all(pipeline, keys)
    assert {key: o.status for key, o in found["media"].items()} == {
        "grey-40": "done",
        "grey-120": "done",
        "grey-200": "done",
        "text": "failed",
    }
    assert found["brightness"]["text"].status == "blocked"
    assert found["brightness"]["text"].reason == "media failed"
    rows = pipeline.tables.read("brightness")
    assert sorted(rows["brightness"].to_pylist()) == pytest.approx([98, 125, 152], abs=3)


def test_rows_of_frames_are_read_without_the_frames(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    seen = []

    def look(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
        seen.extend((len(list(medium.frames)), sorted(medium.rows)) for medium in batch)
        frames = [medium.rows["frames"] for medium in batch if "frames" in medium.rows]
        rows = [{"media_id": row["media_id"], "brightness": row["pts_s"]} for t in frames for row in t.to_pylist()]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    use(spec(), spec("after", needs=("brightness",), run=look, reads_frame_times=True))
    pipeline, keys = opened(tmp_path, pictures)
    run_all(pipeline, keys)
    assert seen == [(0, ["brightness", "frames"])] * 3
    assert pipeline.tables.read("after")["brightness"].to_pylist() == [0.0] * 3


def test_what_is_current_is_not_computed_again(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    calls = []

    def counted(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
        calls.append(len(batch))
        return brightness(model, batch, options)

    use(spec(run=counted))
    pipeline, keys = opened(tmp_path, pictures)
    ids = [m.media_id for m in pipeline.sources.all_media()]
    assert set(pipeline.pending(ids)) == set(ids)
    run_all(pipeline, keys)
    assert sum(calls) == 3
    again = run_all(pipeline, keys)
    assert sum(calls) == 3
    assert all(o.current for o in again["brightness"].values() if o.status == "done")
    assert pipeline.pending(ids) == []  # the failed one is finished too, until somebody asks
    assert len(pipeline.pending(ids, retry_failed=True)) == 1
    run_all(pipeline, keys, redo=keys)
    assert sum(calls) == 6
    one = [key for key in keys if key.startswith("grey-40")]
    found = run_all(pipeline, keys, redo=one)["brightness"]
    assert sum(calls) == 7, "the others stand"
    assert {name: o.current for name, o in found.items() if o.status == "done"} == {
        "grey-120": True, "grey-200": True, "grey-40": False,
    }  # fmt: skip


def test_a_run_that_was_cut_off_after_its_stages_is_still_to_be_ended(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    pipeline, keys = opened(tmp_path, pictures)
    ids = [m.media_id for m in pipeline.sources.all_media()]
    pipeline.begin(keys)
    run_all(pipeline, keys)
    assert set(pipeline.pending(ids)) == set(ids)  # the results over all media have not heard of them
    pipeline.end(keys)
    assert pipeline.pending(ids) == []
    pipeline.begin(keys)
    pipeline.release(keys, because="no room left")  # the disk was full when the results over all media were made
    assert set(pipeline.pending(ids)) == set(ids)


def test_frames_that_another_process_removes_are_decoded_again_and_blamed_on_nobody(
    tmp_path: Path,
    pictures: Path,
    use,
    decoded: DecodedMedia,  # type: ignore[no-untyped-def]
) -> None:
    gone: list[str] = []

    def interrupted(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
        if not gone:
            gone.append(batch[0].media_id)
            decoded.cache.discard(batch[0].media_id)
        return brightness(model, batch, options)

    use(spec(run=interrupted, batch_media=1))
    pipeline, keys = opened(tmp_path, pictures)
    for stage in ("media", "frames", "audio"):
        pipeline.run_stage(stage, keys, run_id="r")
    with pytest.raises(StorageConflict, match="decoded again"):
        pipeline.run_stage("brightness", keys, run_id="r")
    found = pipeline.run_stage("brightness", keys, run_id="r")
    assert sorted(o.status for o in found) == ["blocked", "done", "done", "done"]


@pytest.mark.slow
def test_what_a_run_takes_beside_its_analyzers_is_learnt(tmp_path: Path, pictures: Path) -> None:
    pipeline, keys = opened(tmp_path, pictures)
    began = time.monotonic()
    pipeline.begin(keys)
    found = {name: pipeline.run_stage(name, keys, run_id="r") for name in ("media", "frames", "audio", "ocr")}
    time.sleep(0.3)
    pipeline.finish(keys)
    took_s = time.monotonic() - began
    [cost] = pipeline.costs.table().to_pylist()
    decoding_s = sum(outcome.seconds for outcome in found["media"]) / 2
    assert cost["load_s"] > 0.1
    around_s = took_s - cost["load_s"] - cost["wall_s"] - decoding_s
    assert pipeline.costs.overhead("run") == pytest.approx(around_s, abs=0.1)


def test_a_changed_option_makes_exactly_its_analyzer_stale(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    follower = spec("contrast", needs=("brightness",), run=lambda model, batch, options: SCHEMA.empty_table())
    use(spec(), follower)
    pipeline, keys = opened(tmp_path, pictures)
    run_all(pipeline, keys)
    changed, _ = opened(tmp_path, pictures, options={"brightness": {"scale": 0.5}})
    found = run_all(changed, keys)
    recomputed = {
        name for name, outcomes in found.items() if any(o.status == "done" and not o.current for o in outcomes.values())
    }
    assert recomputed == {"brightness", "contrast"}  # what was made from it, too
    assert max(changed.tables.read("brightness")["brightness"].to_pylist()) < 90
    assert changed.tables.read("brightness").num_rows == 3  # replaced, not added


def test_the_guilty_medium_of_a_batch_is_found(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    pipeline, keys = opened(tmp_path, pictures, options={"brightness": {"reject_darker_than": 115.0}})
    found = run_all(pipeline, keys)["brightness"]
    assert {key for key, o in found.items() if o.status == "failed"} == {"grey-40"}
    assert "ValueError: too dark" in (found["grey-40"].reason or "")
    assert {o.rows for key, o in found.items() if o.status == "done"} == {1}
    reasons = {e.reason for e in pipeline.ledger.entries().values() if e.analyzer == "brightness" and e.reason}
    assert len(reasons) == 1


@pytest.mark.slow
def test_rows_that_break_the_contract_are_refused(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    def other_columns(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
        return pa.table({"media_id": [m.media_id for m in batch], "light": [1.0 for _ in batch]})

    use(spec(run=other_columns))
    pipeline, keys = opened(tmp_path, pictures)
    found = run_all(pipeline, keys)["brightness"]
    assert "light" in (found["grey-40"].reason or "")
    assert pipeline.tables.read("brightness").num_rows == 0


@pytest.mark.slow
def test_without_a_model_nothing_fails_and_old_results_stay(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    def nothing(options: object, store: object) -> ModelChoice:
        raise ModelUnavailable("no weights", "media-pipeline models pull brightness")

    use(spec(choose=nothing))
    pipeline, keys = opened(tmp_path, pictures)
    found = run_all(pipeline, keys)["brightness"]
    assert {found[k].status for k in ("grey-40", "grey-120", "grey-200")} == {"unavailable"}
    assert "models pull brightness" in (found["grey-40"].reason or "")
    ids = [m.media_id for m in pipeline.sources.all_media()]
    assert pipeline.pending(ids) == []
    use(spec())
    pipeline, keys = opened(tmp_path, pictures)
    assert len(pipeline.pending(ids)) == 3  # the model came: exactly what was missing
    run_all(pipeline, keys)
    use(spec(choose=nothing))
    pipeline, keys = opened(tmp_path, pictures)
    assert {o.status for o in run_all(pipeline, keys)["brightness"].values()} == {"done", "blocked"}


def damaged(choice: ModelChoice, device: str, options: BrightnessOptions) -> object:
    raise KeyError("character")


def half_there(choice: ModelChoice, device: str, options: BrightnessOptions) -> object:
    raise ModelUnavailable("mean.onnx cannot be run", "get it again")


def echo(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
    return pa.Table.from_pylist([{"media_id": m.media_id, "brightness": 1.0} for m in batch], schema=SCHEMA)


def test_a_model_that_cannot_be_opened_costs_its_analyzer_only(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    others = (spec("after", needs=("brightness", "contrast"), run=echo), spec("beside", run=echo))
    use(spec(load=damaged), spec("contrast", load=half_there), *others)
    (pictures / "text.png").unlink()
    pipeline, keys = opened(tmp_path, pictures)
    found = run_all(pipeline, keys)
    for name, why in (("brightness", "KeyError: 'character'"), ("contrast", "cannot be run; get it again")):
        assert {o.status for o in found[name].values()} == {"unavailable"}
        assert all(why in (o.reason or "") for o in found[name].values())
    assert {o.status for name in ("after", "beside") for o in found[name].values()} == {"done"}
    entries = pipeline.ledger.entries(None, ["brightness", "contrast"])
    assert [e.status for e in entries.values()] == ["unavailable"] * 6
    ids = [m.media_id for m in pipeline.sources.all_media()]
    assert len(pipeline.pending(ids)) == 3, "the next run tries again"
    run_all(pipeline, keys)
    assert pipeline.ledger.entries(None, ["brightness", "contrast"]) == entries, "which says nothing new"
    use(spec(run=echo), spec("contrast", run=echo), *others)
    mended, _ = opened(tmp_path, pictures)
    assert {o.status for o in run_all(mended, keys)["brightness"].values()} == {"done"}
    assert mended.pending(ids) == []


def test_results_stand_while_the_model_that_renews_them_cannot_be_opened(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    (pictures / "text.png").unlink()
    pipeline, keys = opened(tmp_path, pictures)
    run_all(pipeline, keys)
    before = pipeline.tables.read("brightness")
    use(spec(load=half_there))
    changed, _ = opened(tmp_path, pictures, options={"brightness": {"scale": 0.5}})
    assert {o.status for o in run_all(changed, keys)["brightness"].values()} == {"unavailable"}
    assert changed.tables.read("brightness").equals(before)
    assert {e.status for e in changed.ledger.entries(None, ["brightness"]).values()} == {"done"}


def test_of_a_model_that_fails_on_the_way_what_was_computed_is_kept(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    def fails_on_light(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
        if any(frame.image().mean() > 140 for medium in batch for frame in medium.frames):
            raise ModelUnavailable("a second interpreter cannot be opened", "get the file again")
        return brightness(model, batch, options)

    use(spec(run=fails_on_light))
    (pictures / "text.png").unlink()
    pipeline, keys = opened(tmp_path, pictures)
    found = run_all(pipeline, keys)["brightness"]
    assert {k: o.status for k, o in found.items()} == {
        "grey-40": "done",
        "grey-120": "done",
        "grey-200": "unavailable",
    }
    assert pipeline.tables.read("brightness").num_rows == 2


def test_media_a_broken_model_says_nothing_about_are_done_and_not_decoded(  # type: ignore[no-untyped-def]
    tmp_path: Path, pictures: Path, use, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wave.open(str(pictures / "a recording.wav"), "wb") as sound:
        sound.setparams((1, 2, 16_000, 16_000, "NONE", ""))
        sound.writeframes(b"\x10\x10" * 16_000)
    (pictures / "text.png").unlink()
    hears = {"needs": ("frames", "audio"), "kinds": frozenset({"audio", "video"}), "load": half_there}
    use(spec("hears", **hears))
    pipeline, keys = opened(tmp_path, pictures)
    for name in ("media", "frames", "audio"):
        pipeline.run_stage(name, keys, run_id="r")
    read: list[str] = []
    entries = DecodedMedia.entries

    def counted(self: DecodedMedia, media: object) -> Iterator[object]:
        for known, entry in entries(self, media):  # type: ignore[arg-type]
            read.append(known.name)
            yield known, entry

    monkeypatch.setattr(DecodedMedia, "entries", counted)
    found = {o.partition_key.partition("~")[0]: o.status for o in pipeline.run_stage("hears", keys, run_id="r")}
    assert found == {"a-recording": "unavailable", "grey-40": "done", "grey-120": "done", "grey-200": "done"}
    assert read == ["a recording.wav"]


def test_a_run_cut_off_before_it_said_unavailable_is_taken_up_again(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    def nothing(options: object, store: object) -> ModelChoice:
        raise ModelUnavailable("no weights", "pull them")

    use(spec("speech", choose=nothing), spec("after", needs=("speech",), run=echo))
    pipeline, keys = opened(tmp_path, pictures)
    for name in ("media", "frames"):  # and then it was killed
        pipeline.run_stage(name, keys, run_id="r")
    ids = [m.media_id for m in pipeline.sources.all_media()]
    assert len(pipeline.pending(ids)) == 3
    assert run_all(pipeline, keys)["after"]["grey-40"].status == "done"
    assert pipeline.pending(ids) == []


def test_a_medium_that_kills_its_worker_takes_no_other_down(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    tries: list[int] = []

    def deadly(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
        if any(frame.image().mean() > 140 for medium in batch for frame in medium.frames):
            tries.append(len(batch))
            raise WorkerLost("the worker was killed", "look for a lack of memory")
        return brightness(model, batch, options)

    use(spec(run=deadly, batch_media=1))
    pipeline, keys = opened(tmp_path, pictures)
    found = run_all(pipeline, keys)["brightness"]
    assert {k: o.status for k, o in found.items() if k != "text"} == {
        "grey-40": "done",
        "grey-120": "done",
        "grey-200": "failed",
    }
    assert len(tries) == 2  # once in company, once alone
    assert "lack of memory" in (found["grey-200"].reason or "")


def test_when_every_worker_dies_no_medium_is_blamed(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    def dead(model: object, batch: Batch, options: BrightnessOptions) -> pa.Table:
        raise WorkerLost("the worker was killed", "look for a lack of memory")

    use(spec(run=dead))
    pipeline, keys = opened(tmp_path, pictures)
    with pytest.raises(WorkerLost):
        run_all(pipeline, keys)
    assert not [entry for entry in pipeline.ledger.failures() if entry.analyzer == "brightness"]


def test_media_without_input_are_done_without_a_model(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    def nothing(options: object, store: object) -> ModelChoice:
        raise ModelUnavailable("no weights", "pull them")

    use(spec("speech", needs=("audio",), choose=nothing))
    pipeline, keys = opened(tmp_path, pictures)
    found = run_all(pipeline, keys)["speech"]
    assert {found[k].status for k in ("grey-40", "grey-120", "grey-200")} == {"done"}


def test_frames_are_decoded_again_when_the_cache_let_them_go(  # type: ignore[no-untyped-def]
    tmp_path: Path, pictures: Path, decoded: DecodedMedia, use
) -> None:
    use(spec())
    pipeline, keys = opened(tmp_path, pictures)
    run_all(pipeline, keys)
    for medium in pipeline.sources.all_media():
        decoded.cache.discard(medium.media_id)
    changed, _ = opened(tmp_path, pictures, options={"brightness": {"scale": 2.0}})
    assert {o.status for o in run_all(changed, keys)["brightness"].values()} == {"done", "blocked"}


def test_a_lower_tier_is_told_with_what_it_made(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec(choose=lambda options, store: ModelChoice("mean", "embedded", "0" * 64, warning="a smaller one")))
    pipeline, keys = opened(tmp_path, pictures)
    outcomes = run_all(pipeline, keys)["brightness"].values()
    assert {(o.status, o.tier, o.warning) for o in outcomes} == {
        ("done", "embedded", "a smaller one"),
        ("blocked", None, None),
    }
    again = run_all(pipeline, keys)["brightness"].values()
    assert {o.warning for o in again} == {None}  # nothing was made


def test_a_good_result_that_lacks_something_stands_until_asked_for_again(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    missing = ["the server did not answer"]
    use(spec(incomplete=lambda rows: missing[0] if missing else None))
    pipeline, keys = opened(tmp_path, pictures)
    first = [o for o in run_all(pipeline, keys)["brightness"].values() if o.status == "done"]
    assert first
    assert {(o.rows > 0, o.reason, o.warning) for o in first} == {(True, missing[0], missing[0])}
    ids = [o.media_id for o in first]
    assert pipeline.pending(ids) == []
    assert pipeline.pending(ids, retry_failed=True) == ids
    missing.clear()
    run_all(pipeline, keys, retry_failed=True)
    assert pipeline.pending(ids, retry_failed=True) == []


def test_a_full_disk_stops_the_run_and_nothing_is_recorded(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    _, keys = opened(tmp_path, pictures)
    pipeline = Pipeline(load_settings(home=tmp_path / "home", offline=True, min_free_bytes=1 << 60))
    with pytest.raises(DiskFull, match="make room"):
        pipeline.run_stage("media", keys, run_id="r")
    assert pipeline.ledger.entries() == {}


def test_a_wrong_option_is_a_usage_error_that_names_the_setting(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    pipeline, keys = opened(tmp_path, pictures, options={"brightness": {"scael": 1}})
    with pytest.raises(UsageError, match="MEDIA_PIPELINE_OPTIONS__BRIGHTNESS__SCAEL"):
        pipeline.run_stage("media", keys, run_id="r")


def test_options_of_an_analyzer_there_is_not_are_a_usage_error(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    pipeline, keys = opened(tmp_path, pictures, options={"brigthness": {"scale": 1}})
    with pytest.raises(UsageError, match="MEDIA_PIPELINE_OPTIONS__BRIGTHNESS"):
        pipeline.run_stage("media", keys, run_id="r")


class SpentExecutor(InProcessExecutor):
    """The money ends after so many media."""

    def __init__(self, media: int) -> None:
        super().__init__(1)
        self.left = media

    def run(self, spec, choice, options, media):  # type: ignore[no-untyped-def]
        for medium in media:
            if self.left == 0:
                yield AnalyzerResult(medium.media_id, None, BudgetReached("the day's budget is used up"), 0.0)
            else:
                self.left -= 1
                yield from super().run(spec, choice, options, [medium])


def test_what_the_budget_did_not_cover_waits_for_a_later_run(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    (pictures / "text.png").unlink()
    pipeline, keys = opened(tmp_path, pictures)
    pipeline._executor.to = SpentExecutor(1)
    found = run_all(pipeline, keys)["brightness"]
    assert sorted(o.status for o in found.values()) == ["done", "unavailable", "unavailable"]
    assert {o.reason for o in found.values()} == {None, "the day's budget is used up"}
    waiting = pipeline.pending([m.media_id for m in pipeline.sources.all_media()])
    assert len(waiting) == 2
    pipeline._executor.to = pipeline._executor.here
    assert {o.status for o in run_all(pipeline, keys)["brightness"].values()} == {"done"}
    assert pipeline.pending(waiting) == []
    assert pipeline.tables.read("brightness").num_rows == 3


def test_a_result_whose_renewal_has_to_wait_goes_on_standing(tmp_path: Path, pictures: Path, use) -> None:  # type: ignore[no-untyped-def]
    use(spec())
    (pictures / "text.png").unlink()
    pipeline, keys = opened(tmp_path, pictures)
    run_all(pipeline, keys)
    before = pipeline.tables.read("brightness")
    changed, _ = opened(tmp_path, pictures, options={"brightness": {"scale": 0.5}})
    changed._executor.to = SpentExecutor(0)
    assert {o.status for o in run_all(changed, keys)["brightness"].values()} == {"unavailable"}
    assert changed.tables.read("brightness").equals(before)
    assert {e.status for e in changed.ledger.entries(None, ["brightness"]).values()} == {"done"}
    assert len(changed.pending([m.media_id for m in changed.sources.all_media()])) == 3
