"""The command `export`: what goes where, and what is there after an interruption."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click import UsageError as ClickUsageError

from media_pipeline.errors import LimitExceeded, StorageConflict, UsageError
from media_pipeline.results.exports import FORMATS
from media_pipeline.results.exports._library import Library
from media_pipeline.results.exports._target import Folder, file_name, whole_file
from media_pipeline.results.media import resolve, resolve_all
from media_pipeline_tests import _cli
from media_pipeline_tests._export_home import ExportHome, box, export_home, frame, key, media_id, segment

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute

NAMES = ("a", "b", "c")


def filled(folder: Path) -> Iterator[ExportHome]:
    home = export_home(folder)
    for name in NAMES:
        home.add(
            name,
            frames=[frame()],
            ocr=[box(0, 0, 9, 9, text=f"text of {name}", line_index=0)],
            transcript=[segment(0, 1, f"said in {name}", segment_index=0)],
        )
    yield home
    home.app.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportHome]:
    yield from filled(tmp_path_factory.mktemp("export") / "home")


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[ExportHome]:
    """One to change."""
    yield from filled(tmp_path / "home")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# -- which media -------------------------------------------------------------------------------------------------


def test_media_are_named_by_id_its_beginning_or_partition_key(home: ExportHome) -> None:
    whole = media_id("a")
    tables = home.pipeline.tables
    given = [whole, whole[:8], whole[:20].upper(), key("a"), key("b")]
    assert resolve_all(tables, given) == [whole] * 4 + [media_id("b")]


@pytest.mark.parametrize("given", ["1234567", "f" * 64, "", "a", "%", "nobody~0123456789ab"])
def test_what_names_no_medium_is_refused(home: ExportHome, given: str) -> None:
    with pytest.raises(UsageError, match="no medium is called"):
        resolve(home.pipeline.tables, given)


@pytest.mark.slow
def test_what_names_several_media_is_refused(own_home: ExportHome) -> None:
    twins = ["ab" * 10 + "0" * 44, "ab" * 10 + "1" * 44]
    own_home.replace("media", [{"media_id": twin, "partition_key": f"x~{twin}"} for twin in twins])
    with pytest.raises(UsageError, match="2 media begin with abababab"):
        resolve(own_home.pipeline.tables, "abababab")
    assert resolve(own_home.pipeline.tables, twins[1]) == twins[1]


def test_an_unknown_medium_stops_everything(home: ExportHome, tmp_path: Path) -> None:
    result = home.export(key("a"), "nobody~123456789012", "--format", "json", "-o", tmp_path / "out")
    assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_home_without_media(tmp_path: Path) -> None:
    home = export_home(tmp_path / "empty")
    for format_ in FORMATS:
        result = home.export("--all", "--format", format_, "-o", tmp_path / format_)
        assert result.return_value == 0, result.exception
        assert "no media yet" in result.stderr
    home.app.close()


# -- where to ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_medium_goes_to_standard_output_and_nothing_else(home: ExportHome) -> None:
    for format_ in ("srt", "vtt", "json", "coco"):
        assert home.export(key("a"), "--format", format_).stdout, format_
    assert json.loads(home.export(media_id("a")[:8], "--format", "json").stdout)["media_id"] == media_id("a")


def test_several_media_go_to_a_folder(home: ExportHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = home.export(key("a"), key("b"), "--format", "srt")
    assert (result.return_value, result.stdout) == (0, "")
    assert result.stderr == "written to export\n"
    assert files(tmp_path / "export") == {f"{key('a')}.srt", f"{key('b')}.srt"}


def test_one_medium_goes_to_a_file_or_into_a_folder(home: ExportHome, tmp_path: Path) -> None:
    home.export(key("a"), "--format", "json", "-o", tmp_path / "deep" / "x.json")
    (tmp_path / "folder").mkdir()
    home.export(key("a"), "--format", "json", "-o", tmp_path / "folder")
    assert files(tmp_path / "deep") == {"x.json"}
    assert files(tmp_path / "folder") == {f"{key('a')}.json"}
    home.export(key("a"), "--format", "json", "-o", f"{tmp_path}/new/")
    assert files(tmp_path / "new") == {f"{key('a')}.json"}


@pytest.mark.slow
def test_all_media_go_to_one_file_where_the_format_allows(home: ExportHome, tmp_path: Path) -> None:
    home.export("--all", "--format", "json", "-o", tmp_path / "x.ndjson")
    lines = (tmp_path / "x.ndjson").read_text("utf-8").splitlines()
    assert [json.loads(line)["media_id"] for line in lines] == sorted(map(media_id, NAMES))
    home.export("--all", "--format", "csv", "--tables", "ocr", "-o", tmp_path / "x.csv")
    assert len((tmp_path / "x.csv").read_text("utf-8").splitlines()) == 1 + len(NAMES)


@pytest.mark.parametrize(
    "args",
    [
        ["--all", "--format", "srt", "-o", "-"],
        ["--all", "--format", "srt", "-o", "export/all.srt"],
        ["--all", "--format", "json", "-o", "export/all.json"],
        ["--all", "--format", "csv", "-o", "-"],
        ["--all", "--format", "coco", "--frames", "-o", "-"],
        ["--all", "--format", "srt", "--embeddings"],
        ["--all", "--format", "json", "--frames"],
        ["--all", "--format", "json", "--boxes", "faces"],
        ["--all", "--format", "coco", "--boxes", "hands"],
        ["--all", "--format", "coco", "--boxes", ""],
        ["--all", "--format", "csv", "--tables", "no_such"],
        ["--all", "--format", "json", "--no-defuse"],
    ],
)
def test_wishes_that_make_no_sense_are_refused(
    home: ExportHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(home.export(*args).exception, UsageError)
    assert files(tmp_path) == set()


def test_either_media_or_all(home: ExportHome) -> None:
    for args in ((), (key("a"), "--all")):
        assert isinstance(home.export(*args, "--format", "srt").exception, ClickUsageError)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", ".hidden", "nul\x00", "x" * 400, "C:\\x"])
def test_a_hostile_partition_key_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    safe = file_name(name, "ab" * 32)
    assert (tmp_path / f"{safe}.json").resolve().parent == tmp_path.resolve()
    assert not safe.startswith(".")
    assert len(safe) < 200
    assert safe.endswith("~abababababab")


# -- interruptions -----------------------------------------------------------------------------------------------


def test_a_file_is_whole_or_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("before")
    with pytest.raises(KeyError), whole_file(path) as sink:
        sink.write(b"half")
        raise KeyError
    assert files(tmp_path) == {"x.json"}
    assert path.read_text() == "before"


def test_a_place_that_cannot_be_written_is_named(home: ExportHome, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "x.json", tmp_path / "file" / "out"):
        result = home.export(key("a"), "--format", "json", "-o", output)
        assert isinstance(result.exception, UsageError), result.exception
        assert "cannot be written" in str(result.exception)


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, portions: int) -> list[str]:
    """Ends the reading of portions, of one medium each; returns what is read meanwhile."""
    read: list[str] = []
    real = Library.read

    def counting(self: Library, view: str, portion: Any, *args: Any, **more: Any) -> Any:
        if view == "transcript":
            if len(read) == portions:
                raise KeyboardInterrupt
            read.append(portion.media[0].media_id)
        return real(self, view, portion, *args, **more)

    monkeypatch.setattr("media_pipeline.results.exports._library.PORTION_MEDIA", 1)
    monkeypatch.setattr(Library, "read", counting)
    return read


@pytest.mark.slow
def test_an_interrupted_export_goes_on_where_it_stopped(
    home: ExportHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, wanted = tmp_path / "out", sorted(map(media_id, NAMES))
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        home.export("--all", "--format", "srt", "-o", out)
    assert len([name for name in files(out) if name.endswith(".srt")]) == 2
    with monkeypatch.context() as patch:
        assert _interrupt_after(patch, 9) == []
        read = _interrupt_after(patch, 9)
        assert home.export("--all", "--format", "srt", "-o", out).return_value == 0
    assert read == wanted[2:]
    assert files(out) == {f"{key(name)}.srt" for name in NAMES}


@pytest.mark.slow
def test_after_a_change_an_export_begins_anew(
    own_home: ExportHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 2)
        own_home.export("--all", "--format", "srt", "-o", out)
    for name in NAMES:
        own_home.put("transcript", {name: [segment(0, 1, "said anew", segment_index=0)]})
    assert own_home.export("--all", "--format", "srt", "-o", out).return_value == 0
    assert all("said anew" in path.read_text("utf-8") for path in out.iterdir())
    assert len(list(out.iterdir())) == len(NAMES)


@pytest.mark.slow
def test_files_that_vanish_meanwhile_are_explained(own_home: ExportHome) -> None:
    with Library(own_home.app.catalog()) as library:
        (portion,) = library.portions()
        for file in own_home.pipeline.tables.files("ocr"):
            Path(file).unlink()
        with pytest.raises(StorageConflict, match="run it again"):
            library.read("ocr", portion)


@pytest.mark.slow
def test_a_portion_that_needs_too_much_memory_is_explained(own_home: ExportHome) -> None:
    rows = [box(0, 0, 9, 9, text=f"{n}" * 400, line_index=n) for n in range(20_000)]
    own_home.put("ocr", {"a": rows})
    with Library(own_home.app.catalog(), max_memory_bytes=16 * 1024**2) as library:
        (portion,) = library.portions()
        with pytest.raises(LimitExceeded, match="MAX_MEMORY_BYTES"):
            library.read("ocr", portion, order="text")


def test_two_exports_do_not_share_a_folder(tmp_path: Path) -> None:
    with Folder(tmp_path, "csv", 1), pytest.raises(UsageError, match="another export"):
        Folder(tmp_path, "json", 1)
    with Folder(tmp_path, "json", 1):
        pass
    assert files(tmp_path) == set()


def test_a_journal_of_another_export_is_not_followed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Folder(tmp_path, "csv", ["state", 1]) as folder:
        folder.finish("ocr")
        raise KeyError
    with pytest.raises(KeyError), Folder(tmp_path, "csv", ["state", 1]) as folder:
        assert folder.finished == "ocr"
        raise KeyError
    with Folder(tmp_path, "csv", ["state", 2]) as folder:
        assert folder.finished == ""


@pytest.mark.slow
def test_a_killed_export_leaves_no_half_file(own_home: ExportHome, tmp_path: Path) -> None:
    rows = [box(0, 0, 9, 9, text="x" * 50, line_index=n) for n in range(60_000)]
    own_home.put("ocr", {"a": rows})
    out = tmp_path / "out"
    process = _cli.start(tmp_path / "home", "export", "--all", "--format", "csv", "-o", out)
    deadline = time.monotonic() + 60
    while not list(out.glob(".*.part")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    complete = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    again = _cli.run(tmp_path / "home", "export", "--all", "--format", "csv", "-o", out)
    assert again.returncode == 0, again.stderr
    assert {name: (out / name).read_bytes() for name in complete} == complete
    assert len((out / "ocr.csv").read_text("utf-8").splitlines()) == 1 + len(rows) + 2
    assert not [name for name in files(out) if name.startswith(".")]
