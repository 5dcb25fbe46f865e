"""New contents among many files, found without reading most of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from media_pipeline.media import contents
from media_pipeline.media.walk import Found, walk
from media_pipeline_tests._intake import Home


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files that were read."""
    seen: list[int] = []
    hash_ = contents.content_hash

    def noticed(handle: int, stat: os.stat_result) -> str:
        seen.append(stat.st_size)
        return hash_(handle, stat)

    monkeypatch.setattr(contents, "content_hash", noticed)
    return seen


def distinct(home: Home) -> tuple[list[str], list[str]]:
    """Names of the files with new contents, and the ids of known ones."""
    found = list(contents.distinct(list(walk(str(home.inbox))), home.sources))
    new = [Path(one.path).name for one in found if isinstance(one, Found)]
    return new, [one for one in found if isinstance(one, str)]


def test_only_files_of_one_size_are_read_and_equal_ones_count_once(tmp_path: Path, read: list[int]) -> None:
    home = Home(tmp_path)
    for name, content in {"a": b"1", "b": b"22", "c": b"22", "d": b"33", "e": b"4444"}.items():
        home.drop(name, content)
    assert distinct(home) == (["a", "b", "d", "e"], [])
    assert read == [2, 2, 2]


def test_what_the_home_has_under_another_name_is_known(tmp_path: Path, read: list[int]) -> None:
    home = Home(tmp_path)
    home.drop("before", b"22")
    [medium] = home.take(home.inbox, wait=True).new
    (home.inbox / "before").rename(home.inbox / "after")
    home.drop("copy", b"22")
    home.drop("other", b"33")
    home.drop("longer", b"4444")
    assert distinct(home) == (["longer", "other"], [medium.media_id])
    assert 4 not in read


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_counts_as_new(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.drop("a", b"22")
    home.drop("b", b"22").chmod(0)
    assert distinct(home) == (["a", "b"], [])


def test_what_has_gone_meanwhile_counts_as_new(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in "ab":
        home.drop(name, b"22")
    files = list(walk(str(home.inbox)))
    (home.inbox / "b").unlink()
    assert len(list(contents.distinct(files, home.sources))) == 2
