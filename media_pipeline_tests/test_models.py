from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from click.testing import CliRunner

from media_pipeline.analyzers import _model_download, speakers
from media_pipeline.analyzers._model_catalog import CATALOG, ModelFile
from media_pipeline.analyzers._models import ModelStore
from media_pipeline.analyzers._packaged import sha256_of
from media_pipeline.cli.models import models as models_command
from media_pipeline.config import Settings
from media_pipeline.errors import DiskFull, ModelUnavailable
from media_pipeline_tests._hub import CONFIG, WEIGHTS, Hub, entry, serving


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def store(root: Path, hub_url: str, **settings: object) -> ModelStore:
    defaults: dict[str, object] = {"offline": False, "tier": "auto", "catalog": {"toy": entry()}, "probe_s": 2.0}
    return ModelStore(root, hub_url=hub_url, **{**defaults, **settings})  # type: ignore[arg-type]


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_pull_brings_the_pinned_files(tmp_path: Path, hub: Hub) -> None:
    seen: list[tuple[int, int]] = []
    folder = store(tmp_path, hub.url).pull("toy", lambda done, total: seen.append((done, total)))
    assert folder == tmp_path / "toy"
    assert (folder / "config.json").read_bytes() == CONFIG
    assert (folder / "onnx/weights.bin").read_bytes() == WEIGHTS
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONFIG) + len(WEIGHTS), len(CONFIG) + len(WEIGHTS))
    assert not list(tmp_path.rglob("*.part"))


def test_pull_of_a_model_that_is_here_asks_nothing(tmp_path: Path, hub: Hub) -> None:
    store(tmp_path, hub.url).pull("toy")
    hub.asked.clear()
    assert store(tmp_path, hub.url).pull("toy") == tmp_path / "toy"
    assert hub.asked == []


@pytest.mark.slow
def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path, hub: Hub) -> None:
    hub.cut_after = [300_000, 200_000]
    folder = store(tmp_path, hub.url).pull("toy")
    assert (folder / "onnx/weights.bin").read_bytes() == WEIGHTS
    ranges = [range_ for path, range_ in hub.asked if path == "onnx/weights.bin"]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_slow_line_is_waited_for_and_shown(tmp_path: Path, hub: Hub) -> None:
    hub.pause_s = 0.02
    seen: list[int] = []
    folder = store(tmp_path, hub.url).pull("toy", lambda done, _total: seen.append(done))
    assert (folder / "onnx/weights.bin").read_bytes() == WEIGHTS
    assert len(hub.asked) == 2, "nothing was asked twice"
    assert len(set(seen)) >= 8
    assert seen == sorted(seen)


@pytest.mark.slow
def test_a_line_that_falls_silent_is_given_up_and_the_download_goes_on(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_model_download, "_TIMEOUT", httpx.Timeout(0.3))
    hub.stalls = [1.0]
    folder = store(tmp_path, hub.url).pull("toy")
    assert (folder / "onnx/weights.bin").read_bytes() == WEIGHTS
    ranges = [range_ for path, range_ in hub.asked if path == "onnx/weights.bin"]
    assert ranges == [None, f"bytes={len(WEIGHTS) // 2}-"]


def test_a_later_pull_goes_on_where_a_killed_one_stopped(tmp_path: Path, hub: Hub) -> None:
    part = tmp_path / ".partial" / f"toy-{entry().revision[:12]}" / "onnx" / "weights.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(WEIGHTS[:777_777])
    folder = store(tmp_path, hub.url).pull("toy")
    assert (folder / "onnx/weights.bin").read_bytes() == WEIGHTS
    assert ("onnx/weights.bin", "bytes=777777-") in hub.asked


@pytest.mark.slow
def test_a_hub_without_ranges_starts_over(tmp_path: Path, hub: Hub) -> None:
    hub.ignores_ranges = True
    hub.cut_after = [300_000]
    assert (store(tmp_path, hub.url).pull("toy") / "onnx/weights.bin").read_bytes() == WEIGHTS


@pytest.mark.slow
def test_a_server_error_is_tried_again(tmp_path: Path, hub: Hub) -> None:
    hub.statuses = [503]
    assert store(tmp_path, hub.url).pull("toy").is_dir()


@pytest.mark.parametrize("wrong", [WEIGHTS[:-1] + b"x", WEIGHTS + b"more"], ids=["changed", "longer"])
def test_other_bytes_than_the_pinned_ones_are_refused(tmp_path: Path, hub: Hub, wrong: bytes) -> None:
    hub.files["onnx/weights.bin"] = wrong
    with pytest.raises(ModelUnavailable, match=r"other bytes than the pinned ones.*HUB_URL"):
        store(tmp_path, hub.url).pull("toy")
    assert store(tmp_path, hub.url).find("toy") is None
    assert not list(tmp_path.rglob("weights.bin*"))


def test_a_file_that_is_not_on_the_hub_is_named(tmp_path: Path, hub: Hub) -> None:
    del hub.files["onnx/weights.bin"]
    with pytest.raises(ModelUnavailable, match=r"onnx/weights.bin answered 404.*by hand"):
        store(tmp_path, hub.url).pull("toy")


def test_pull_from_a_hub_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_pipeline.analyzers._model_download._ATTEMPTS", 1)
    with pytest.raises(ModelUnavailable, match=r"refused.*models pull toy"):
        store(tmp_path, closed_port()).pull("toy")


def test_a_disk_without_room_is_seen_before_the_download(tmp_path: Path, hub: Hub) -> None:
    huge = entry(files=(ModelFile("weights.bin", 10**18, "0" * 64),))
    with pytest.raises(DiskFull, match=re.escape("toy needs 1000000000000 MB")):
        store(tmp_path, hub.url, catalog={"toy": huge}).pull("toy")
    assert hub.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_disk_that_fills_up_is_said_and_the_rest_kept(tmp_path: Path, hub: Hub) -> None:
    partial = tmp_path / ".partial" / f"toy-{entry().revision[:12]}"
    (partial / "onnx").mkdir(parents=True)
    (partial / "onnx" / "weights.bin.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=r"no room for toy.*pull again"):
        store(tmp_path, hub.url).pull("toy")
    assert (partial / "config.json").read_bytes() == CONFIG


def test_find_refuses_an_incomplete_or_changed_folder(tmp_path: Path, hub: Hub) -> None:
    folder = store(tmp_path, hub.url).pull("toy")
    (folder / "onnx/weights.bin").write_bytes(WEIGHTS[::-1])
    hub.asked.clear()
    assert store(tmp_path, hub.url).find("toy") is None
    (folder / "config.json").unlink()
    assert store(tmp_path, hub.url).find("toy") is None
    assert hub.asked == []
    assert (store(tmp_path, hub.url).pull("toy") / "onnx/weights.bin").read_bytes() == WEIGHTS


def test_a_folder_copied_by_hand_counts(tmp_path: Path) -> None:
    (tmp_path / "toy/onnx").mkdir(parents=True)
    (tmp_path / "toy/config.json").write_bytes(CONFIG)
    (tmp_path / "toy/onnx/weights.bin").write_bytes(WEIGHTS)
    assert store(tmp_path, closed_port(), offline=True).find("toy") == tmp_path / "toy"


def test_a_local_folder_is_taken_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    models = store(tmp_path / "store", closed_port(), offline=True)
    assert models.find(str(tmp_path / "mine")) == tmp_path / "mine"
    assert models.obtain(str(tmp_path / "missing")) is None


def test_an_unknown_name_is_an_error_that_names_the_list(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"'toi'.*models list"):
        store(tmp_path, closed_port()).obtain("toi")


def test_digest_follows_names_and_contents(tmp_path: Path) -> None:
    models = store(tmp_path / "store", closed_port())
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    first = models.digest(folder)
    assert first == models.digest(folder)
    (folder / "a").write_bytes(b"22")
    second = models.digest(folder)
    (folder / "a").rename(folder / "b")
    assert len({first, second, models.digest(folder)}) == 3


def test_weights_replaced_in_place_are_other_weights(tmp_path: Path) -> None:
    weights = tmp_path / "weights.onnx"
    weights.write_bytes(b"1")
    chosen = speakers.choose(speakers.SpeakersOptions(model=str(weights)), store(tmp_path, closed_port()))
    first = sha256_of(weights)
    assert sha256_of(weights, weights) != first
    weights.write_bytes(b"2")
    os.utime(weights, ns=(0, 0))  # the clock of the file system may be too coarse for a test
    assert sha256_of(weights) != first
    again = speakers.choose(speakers.SpeakersOptions(model=str(weights)), store(tmp_path, closed_port()))
    assert again.digest != chosen.digest


def test_weights_that_cannot_be_read_are_unavailable_and_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone.onnx"
    with pytest.raises(ModelUnavailable, match=r"gone\.onnx cannot be read: No such file.*; mend its rights"):
        sha256_of(gone)
    with pytest.raises(ModelUnavailable, match=r"gone\.onnx cannot be read: No such file.*; mend its rights"):
        store(tmp_path, closed_port()).digest(tmp_path, [gone])


def test_obtain_downloads_what_is_missing_once(tmp_path: Path, hub: Hub) -> None:
    models = store(tmp_path, hub.url)
    assert models.obtain("toy") == tmp_path / "toy"
    asked = len(hub.asked)
    assert models.obtain("toy") == tmp_path / "toy"
    assert len(hub.asked) == asked


@pytest.mark.parametrize("settings", [{"offline": True}, {"tier": "embedded"}], ids=["offline", "embedded"])
def test_offline_and_embedded_never_ask(
    tmp_path: Path, hub: Hub, settings: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    models = store(tmp_path, hub.url, **settings)
    assert models.obtain("toy") is None
    assert "not on this machine" in models.reason("toy")
    assert hub.asked == []
    assert caplog.records == []


def test_the_remedy_is_a_command_that_works_in_these_settings(tmp_path: Path, hub: Hub) -> None:
    assert store(tmp_path, hub.url).remedy("toy") == "run `media-pipeline models pull toy`"
    offline = store(tmp_path, hub.url, offline=True).remedy("toy")
    assert offline == "run `MEDIA_PIPELINE_OFFLINE=0 media-pipeline models pull toy`"


def test_offline_refuses_to_pull(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(ModelUnavailable, match="MEDIA_PIPELINE_OFFLINE is set"):
        store(tmp_path, hub.url, offline=True).pull("toy")
    assert hub.asked == []


def test_a_silent_hub_costs_its_time_once_and_is_said_once(
    tmp_path: Path, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.silence_s = 5.0
    two = {"toy": entry(), "other": entry("other")}
    first, second = (store(tmp_path, hub.url, catalog=two, probe_s=0.2) for _ in range(2))
    with caplog.at_level(logging.WARNING):
        assert first.obtain("toy") is None
        asked = len(hub.asked)
        assert first.obtain("toy") is None
        assert first.obtain("other") is None
        assert second.obtain("toy") is None
    assert len(hub.asked) == asked == 1
    assert "did not answer in 0.2 s" in first.reason("toy")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, said
    assert "models pull toy" in said[0]


def test_a_hub_that_refuses_connections_costs_nothing(tmp_path: Path) -> None:
    models = store(tmp_path, closed_port())
    assert models.obtain("toy") is None
    assert "cannot be reached" in models.reason("toy")


@pytest.mark.slow
def test_processes_that_pull_at_once_download_once(tmp_path: Path, hub: Hub) -> None:
    hub.silence_s = 0.3
    code = (
        "import sys; from pathlib import Path; from media_pipeline.analyzers._models import ModelStore;"
        "from media_pipeline_tests._hub import entry;"
        "root, hub = Path(sys.argv[1]), sys.argv[2];"
        "models = ModelStore(root, offline=False, hub_url=hub, tier='auto', catalog={'toy': entry()});"
        "print(models.pull('toy'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), hub.url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert answers == [str(tmp_path / "toy")] * 2
    assert sorted(path for path, _ in hub.asked) == ["config.json", "onnx/weights.bin"]


def test_the_catalogue_pins_everything() -> None:
    assert "faster-whisper-small" in CATALOG
    assert "multilingual-e5-small" in CATALOG
    for item in CATALOG.values():
        assert re.fullmatch(r"[0-9a-f]{40}", item.revision), item.name
        assert len({file.sha256 for file in item.files}) == len(item.files), item.name
        for file in item.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256), file
            assert file.bytes > 0
            assert not Path(file.path).is_absolute()
            assert ".." not in Path(file.path).parts


def run_command(home: Path, *arguments: str, **settings: object) -> tuple[int, str]:
    context = SimpleNamespace(settings=Settings(home=home, **settings))  # type: ignore[arg-type]
    result = CliRunner().invoke(models_command, list(arguments), obj=context)
    return result.exit_code, result.output if result.exception is None else f"{result.output}{result.exception}"


def test_models_list_for_people_and_machines(tmp_path: Path) -> None:
    code, text = run_command(tmp_path, "list", offline=True)
    assert code == 0
    assert "faster-whisper-small" in text
    code, text = run_command(tmp_path, "list", "--format", "json", offline=True)
    listed = {item["name"]: item for item in json.loads(text)}
    assert code == 0
    assert listed["faster-whisper-small"]["path"] is None
    assert listed["faster-whisper-small"]["bytes"] == 486_212_372
    assert listed["multilingual-e5-small"]["analyzer"] == "text_embeddings"


def test_models_pull_prints_the_folder(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOG, "faster-whisper-tiny", entry("faster-whisper-tiny"))
    monkeypatch.delenv("MEDIA_PIPELINE_OFFLINE")
    code, text = run_command(tmp_path, "pull", "faster-whisper-tiny", hub_url=hub.url)
    assert code == 0, text
    assert str(tmp_path / "models" / "faster-whisper-tiny") in text.replace(os.linesep, "")


def test_models_pull_of_an_unknown_name_is_a_usage_error(tmp_path: Path) -> None:
    code, text = run_command(tmp_path, "pull", "nonsense")
    assert code == 2
    assert "faster-whisper-small" in text
