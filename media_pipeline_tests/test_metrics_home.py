from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from media_pipeline.config import Backup, Settings, load_settings
from media_pipeline.errors import UsageError
from media_pipeline.server import metrics_survey
from media_pipeline.server.metrics_home import home_sources
from media_pipeline.server.metrics_survey import COUNTS, PARTS, STALE, survey
from media_pipeline.storage import backup
from media_pipeline.storage.costs import Cost
from media_pipeline.storage.layout import Layout
from media_pipeline.storage.leases import Caps, Leases
from media_pipeline.storage.sources import MAX_ATTEMPTS, Sources
from media_pipeline_tests._metrics import Samples, of, samples
from media_pipeline_tests._reprocess_home import Home
from media_pipeline_tests._retention_home import add, analysed, cached, opened

NOBODY = 65534
CAPS = Caps(5, 5, 5)
TERMS = {
    "offer_id": 1, "machine_id": 1, "gpu": "RTX", "country": None, "image": "i", "usd_per_hour": 1.0,
    "disk_usd_per_hour": 0.1, "usd_per_gb_in": 0.0, "usd_per_gb_out": 0.0, "disk_gb": 1.0, "is_datacenter": True,
}  # fmt: skip


def settings(home: Path, **changes: Any) -> Settings:
    return load_settings(home=home, offline=True, min_free_bytes=0, **changes)


def metrics(home: Path, **changes: Any) -> tuple[Samples, dict[str, str]]:
    """What the sources tell of a home, read as the exporter reads it; and what they could not read."""
    sources, _ = home_sources(settings(home, **changes))
    for source in sources:
        thread = source.refresh()
        assert thread is not None
        thread.join(120)
    problems = {name: p.cause for source in sources for name, p in source.problems().items() if p is not None}
    return samples([metric for source in sources for metric in source.metrics(time.time())]), problems


# --- what is counted ------------------------------------------------------------------------------------------------


def test_a_new_home_has_nothing_and_nothing_is_made_in_it(tmp_path: Path) -> None:
    for which in (COUNTS, STALE):
        found = survey(settings(tmp_path), which)
        assert set(found) == set(PARTS[which])
        assert not [part for part in found.values() if "error" in part]
    assert survey(settings(tmp_path), COUNTS)["media"]["media"] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_queue(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as pipeline:
        add(pipeline, "done.jpg", "running.jpg", "lost.jpg")
        by_name = {medium.name: medium.media_id for medium in pipeline.sources.all_media()}
        pipeline.sources.start_attempt([by_name["running.jpg"]])
        for _ in range(MAX_ATTEMPTS):
            pipeline.sources.start_attempt([by_name["lost.jpg"]])
        for name in ("fresh.jpg", "fresher.jpg"):
            path = pipeline.layout.inbox / name
            path.write_bytes(name.encode())
            pipeline.sources.add(path, path.stat(), media_id=name, partition_key=name, stored=path)
        pipeline.sources.refuse("/x/a.txt", None, "this is a text, not a picture, video or recording; leave it out")
        oldest = next(m.added_at for m in pipeline.sources.all_media() if m.name == "running.jpg")
    found = survey(settings(tmp_path), COUNTS)["media"]
    assert found.pop("first_at") <= found["oldest_waiting_at"]
    assert found == {
        "media": 5,
        "waiting": 3,
        "given_up": 1,
        "oldest_waiting_at": oldest.timestamp(),
        "refused": {"unsupported": 1},
    }


def test_failures_have_classes_and_no_names(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as pipeline:
        media = add(pipeline, "Geheim-1.jpg", "Geheim-2.jpg", "Geheim-3.jpg")
        analysed(pipeline, media[:2], failed=["ocr"])
        reason = "ocr failed on this medium: ValueError: /srv/Geheim-1.jpg; report this with the file"
        entries = pipeline.ledger.entries([media[0].media_id], ["ocr"])
        pipeline.ledger.record([replace(entry, reason=reason) for entry in entries.values()])
    found = survey(settings(tmp_path), COUNTS)
    assert found["ledger"]["pairs"]["ocr"] == {"done": 1, "failed": 2, "unavailable": 0}
    assert found["ledger"]["pairs"]["labels"] == {"done": 0, "failed": 0, "unavailable": 0}
    assert found["ledger"]["failures"]["ocr"] == {"analyzer_error": 1, "other": 1}
    assert "Geheim" not in str(found)


@pytest.mark.slow
def test_stale_results_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path, monkeypatch)
    home.run().close()
    given = settings(home.home, workers=1)
    found = survey(given, STALE)["stale"]
    assert {name: found["stale"][name] for name in ("media", "first", "second")} == {
        "media": 0,
        "first": 0,
        "second": 0,
    }
    assert found["models"] == [{"analyzer": name, "tier": "embedded", "model": "scale"} for name in ("first", "second")]
    found = survey(settings(home.home, workers=1, options={"first": {"scale": 2.0}}), STALE)["stale"]["stale"]
    assert (found["first"], found["second"], found["media"]) == (3, 3, 0)


@pytest.mark.slow
def test_stale_results_are_counted_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As all at once; nobody has the memory for a plan of 100,000 media."""
    with closing(opened(tmp_path)) as pipeline:
        add(pipeline, *(f"{number}.jpg" for number in range(7)))
        analysed(pipeline, add(pipeline, "b.mp4", "c.wav"), failed=["media"])
    whole = survey(settings(tmp_path), STALE)["stale"]
    assert whole["stale"]["media"] > 0
    monkeypatch.setattr(metrics_survey, "_PORTION", 2)
    assert survey(settings(tmp_path), STALE)["stale"] == whole


def test_money_and_machines(tmp_path: Path) -> None:
    clock = time.time() - 7200
    Layout(tmp_path).create()
    with closing(Leases(Layout(tmp_path).leases, lambda: clock)) as leases:
        lease = leases.reserve(CAPS, 2.0, run_id="r", owner="o", **TERMS)
        clock = time.time()
        leases.renew("o", {lease.lease_id: 0.75})
    found = survey(settings(tmp_path), COUNTS)["gpu"]
    assert found == {"day_usd": 0.75, "month_usd": 0.75, "reserved_usd": 1.25, "opened_at": [lease.opened_at]}


def test_snapshots_of_the_home(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "home")) as pipeline:
        add(pipeline, "a.jpg")
    to = Backup(to=tmp_path / "snapshots")
    given = settings(tmp_path / "home", backup=to)
    assert survey(settings(tmp_path / "home"), COUNTS)["home_backup"] == {"is_set": False}
    assert survey(given, COUNTS)["home_backup"] == {"is_set": True}
    repository = backup.create(Layout(tmp_path / "home"), tmp_path / "snapshots")
    backup.back_up(Layout(tmp_path / "home"), repository)
    found = survey(given, COUNTS)["home_backup"]
    assert time.time() - 60 < found["finished_at"] <= time.time()
    assert found["bytes_added"] > 0


@pytest.mark.slow
def test_bytes_by_what_they_are(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as pipeline:
        (medium,) = add(pipeline, "four.jpg")
        cached(pipeline, medium, 1000)
    found = survey(settings(tmp_path), STALE)["storage"]["bytes"]
    assert (found["cache"], found["originals"], found["indexes"]) == (1000, len("four.jpg"), 0)
    assert found["tables"] > 1000


# --- through the exporter -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_metrics_of_a_home(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as pipeline:
        analysed(pipeline, add(pipeline, "a.jpg", "b.jpg", "c.mp4"), failed=["ocr"])
        pipeline.costs.record(Cost("ocr", "PP", "cpu", 3, 6, 0.0, 12.0, 6.0))
    found, problems = metrics(tmp_path)
    assert problems == {}
    assert (of(found, "media"), of(found, "media_waiting"), of(found, "media_finished_total")) == (3, 0, 0)
    assert of(found, "pairs", stage="ocr", status="failed") == 3
    assert of(found, "failures", stage="ocr", reason="other") == 3
    assert of(found, "failures", stage="transcript", reason="damaged") == 0
    assert of(found, "analyzer_cpu_seconds_per_medium", analyzer="ocr", device="cpu") == 4
    assert of(found, "analyzer_wall_seconds_per_frame", analyzer="ocr", device="cpu") == 1
    assert of(found, "gpu_limit_usd", period="day") == settings(tmp_path).gpu.max_usd_per_day
    assert of(found, "pairs_stale", stage="media") == 3  # its fingerprint is of no real decoder
    assert 0 < of(found, "disk_free_bytes") < of(found, "disk_size_bytes")
    assert len(found) < 1000


@pytest.mark.slow
def test_one_broken_file_takes_no_other_number_with_it(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as pipeline:
        add(pipeline, "a.jpg")
    (tmp_path / "gpu.sqlite").write_bytes(b"this is no database " * 100)
    found, problems = metrics(tmp_path)
    assert set(problems) == {"gpu"}
    assert "not a database" in problems["gpu"]
    assert of(found, "media") == 1
    shutil.rmtree(tmp_path / "tables" / "analyses" / "_delta_log")
    (tmp_path / "tables" / "analyses" / "_delta_log").mkdir()
    (tmp_path / "tables" / "analyses" / "_delta_log" / f"{0:020}.json").write_text("{")
    _, problems = metrics(tmp_path)
    assert {"gpu", "ledger"} <= set(problems) and "costs" not in problems


@pytest.mark.slow
def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    found, problems = metrics(tmp_path / "gone")
    assert "is not there" in problems["media"]
    assert found == {}


@pytest.mark.slow
def test_a_home_at_rest_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from media_pipeline.server import metrics_home

    asked: list[str] = []
    ask = metrics_home.Surveyor._ask
    monkeypatch.setattr(metrics_home.Surveyor, "_ask", lambda self: asked.append("x") or ask(self))
    with closing(opened(tmp_path)) as pipeline:
        add(pipeline, "a.jpg")
        surveyor = metrics_home.Surveyor(settings(tmp_path), COUNTS, 3600)
        assert surveyor.read()["media"]["media"] == 1
        assert surveyor.read()["media"]["media"] == 1
        assert asked == ["x"]
        add(pipeline, "b.jpg")
        assert surveyor.read()["media"]["media"] == 2
        assert asked == ["x", "x"]


# --- a home that can only be read -----------------------------------------------------------------------------------


@contextmanager
def without_rights() -> Iterator[None]:
    """Whoever runs the tests is an ordinary user for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that `seal` takes the right to write from; everybody may look into it."""
    folder = Path(tempfile.mkdtemp(prefix="media-pipeline-"))
    folder.chmod(0o755)
    yield folder
    _rights(folder, 0o755, 0o644)
    shutil.rmtree(folder)


def seal(folder: Path) -> None:
    _rights(folder, 0o555, 0o444)


def _rights(folder: Path, of_folders: int, of_files: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(of_folders if path.is_dir() else of_files)


@pytest.mark.slow
def test_a_home_that_can_only_be_read_is_read(read_only: Path) -> None:
    """Nobody has it open: there are no write-ahead logs, and none can be made."""
    with closing(opened(read_only)) as pipeline:
        add(pipeline, "a.jpg", "b.jpg")
        pipeline.costs.record(Cost("ocr", "PP", "cpu", 1, 1, 0.0, 1.0, 1.0))
        with closing(Leases(pipeline.layout.leases)) as leases:
            leases.reserve(CAPS, 1.0, run_id="r", owner="o", **TERMS)
        pipeline.sources.close()
        pipeline.costs.close()
    assert not list(read_only.glob("*-wal"))
    seal(read_only)
    with without_rights():
        found = survey(settings(read_only), COUNTS)
        stale = survey(settings(read_only), STALE)
    assert not [part for part in (*found.values(), *stale.values()) if "error" in part]
    assert (found["media"]["media"], len(found["costs"]["costs"]), len(found["gpu"]["opened_at"])) == (2, 1, 1)
    assert stale["stale"]["stale"]["media"] == 2


def test_a_home_that_can_only_be_read_shows_what_its_writer_has_just_written(read_only: Path) -> None:
    with closing(Sources(read_only / "sources.sqlite")) as writer:
        path = read_only / "a"
        path.write_bytes(b"a")
        for number in range(3):
            read_only.chmod(0o755)
            writer.add(path, path.stat(), media_id=str(number), partition_key=str(number), stored=path)
            assert (read_only / "sources.sqlite-wal").stat().st_size > 0  # not in the file itself yet
            seal(read_only)
            with without_rights(), closing(Sources(read_only / "sources.sqlite")) as reader:
                assert reader.count() == number + 1
                with pytest.raises(Exception, match="readonly"):
                    reader.mark_announced(["0"])


def test_a_file_that_cannot_be_made_says_so(read_only: Path) -> None:
    seal(read_only)
    with without_rights(), pytest.raises(UsageError, match="cannot be made"):
        Sources(read_only / "sources.sqlite")
