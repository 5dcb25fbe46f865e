"""Filters: which media pass, that hostile conditions do not, and that no hit inside the filter is lost."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from media_pipeline.cli.search import search as command
from media_pipeline.config import Settings, SqlLimits
from media_pipeline.errors import QueryRejected, UsageError
from media_pipeline.results.search import Filter, Within, media_within, moment_of
from media_pipeline.storage.conditions import MAX_CONDITION_CHARS, media_where
from media_pipeline.storage.schemas import MEDIA
from media_pipeline_tests._identity_home import VOICES, Face, IdentityHome, identity_home, media_id
from media_pipeline_tests._library import Library

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
LIMITS = SqlLimits(max_seconds=5)


# ---------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T10:30", datetime(2026, 3, 1, 10, 30, tzinfo=UTC)),
        ("2026-03-01T10:30:00+02:00", datetime(2026, 3, 1, 8, 30, tzinfo=UTC)),
        ("7d", NOW - timedelta(days=7)),
        ("2 weeks", NOW - timedelta(weeks=2)),
        ("3 Months ago", NOW - timedelta(days=90)),
        ("12h", NOW - timedelta(hours=12)),
        ("1 year", NOW - timedelta(days=365)),
    ],
)
def test_moments(given: str, expected: datetime) -> None:
    assert moment_of(given, NOW) == expected


def test_the_last_day_is_included() -> None:
    assert moment_of("2026-03-31", NOW, end=True) == datetime(2026, 4, 1, tzinfo=UTC)
    assert moment_of("2026-03-31T10:00", NOW, end=True) == datetime(2026, 3, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize("given", ["", "yesterday", "31.03.2026", "7", "d", "-7d", "999999y", "2026-13-01", "7 d x"])
def test_what_is_no_time_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is no time; give a date"):
        moment_of(given, NOW)


# ---------------------------------------------------------------------- conditions in SQL


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    library = Library(tmp_path_factory.mktemp("conditions") / "home", ["media", "frames"])
    rows = [
        {"media_id": "a", "kind": "video", "duration_s": 90.0, "width": 1920, "name": "O'Hara; --.mp4"},
        {"media_id": "b", "kind": "video", "duration_s": 30.0, "width": 640, "name": "b.mp4"},
        {"media_id": "c", "kind": "image", "duration_s": None, "width": 4000, "name": "c.jpg"},
    ]
    library.put("media", rows)
    library.put("frames", [{"media_id": "b", "frame_index": 0, "pts_s": 0.5}])
    return library


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("duration_s > 60 AND width >= 1920", ["a"]),
        ("true", ["a", "b", "c"]),
        ("duration_s IS NULL OR duration_s < 60", ["b", "c"]),
        ("media_id IN (SELECT media_id FROM frames)", ["b"]),
        ("EXISTS (FROM frames WHERE frames.media_id = media.media_id)", ["b"]),
        ("name LIKE '%; --%' -- a comment", ["a"]),
        ("name = 'O''Hara; --.mp4'", ["a"]),
        ("kind = 'video'\n  AND /* ) */ width < 1000", ["b"]),
        ("name = $$b.mp4$$", ["b"]),
        ("(width) > (100) AND ')' <> '('", ["a", "b", "c"]),
    ],
)
def test_conditions(library: Library, condition: str, expected: list[str]) -> None:
    assert media_where(library.catalog, condition, LIMITS) == expected


@pytest.mark.parametrize(
    "condition",
    [
        "true) OR (true",
        "true) UNION ALL SELECT path FROM sources WHERE (true",
        "true); DROP VIEW media; SELECT (true",
        "true; SELECT 1",
        "1] FROM media; SELECT [1",
        "SELECT 1",
        "DROP VIEW media",
        "true) -- ",
        "true /*",
        "'",
        "",
        "   ",
        "x FOR x IN [true]",
        "ATTACH 'x.db'",
        "media_id IN (DELETE FROM media RETURNING media_id)",
        "media_id IN (SELECT content FROM read_text('/etc/hosts'))",
        "(SELECT count(*) FROM '/etc/hosts') > 0",
        "count(*) > 1",
        "nothing > 1",
        "? = 1",
        "true" + " " * MAX_CONDITION_CHARS,
        "\udcff = 1",
    ],
)
def test_what_is_no_condition_is_refused(library: Library, condition: str) -> None:
    with pytest.raises(QueryRejected):
        media_where(library.catalog, condition, LIMITS)
    assert media_where(library.catalog, "true", LIMITS) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("condition", "place"),
    [
        ("duration > 60", "at line 1, column 1"),
        ("width > 5 AND\n  lenght > 60", "at line 2, column 3"),
        ("width > 5 AND media_id IN (SELECT x FROM frams)", "at line 1, column 42"),
        ("true) OR (true", "at line 1, column 5"),
        ("width >", "at its end"),
        ("width > 0 AND " * 30 + "wdth > 5", "at line 1, column 421"),
    ],
)
def test_errors_name_the_place(library: Library, condition: str, place: str) -> None:
    with pytest.raises(QueryRejected, match=place):
        media_where(library.catalog, condition, LIMITS)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the kernel's limit on data is Linux'")
def test_the_memory_of_a_condition_is_limited(library: Library) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    settings = Settings(home=library.layout.home, sql=SqlLimits(max_memory_bytes=128 * 1024**2))
    app = SimpleNamespace(
        tables=library.tables, layout=library.layout, settings=settings, catalog=lambda: library.catalog
    )
    result = CliRunner().invoke(command, ["--where", "length(repeat('x', 2000000000)) > 0"], obj=app)
    assert isinstance(result.exception, QueryRejected)
    assert "needs more than 128 MiB of memory" in str(result.exception)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_condition_is_bounded(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "(SELECT count(*) FROM range(10000000000) a, range(1000000) b) > 0"
    # To plan it again, for the place of an error, may take as long as to answer it.
    monkeypatch.setattr("media_pipeline.storage.conditions._place_in", lambda *_: pytest.fail("planned again"))
    with pytest.raises(QueryRejected, match=r"longer than 0\.2 s"):
        media_where(library.catalog, endless, SqlLimits(max_seconds=0.2))


def test_many_media_are_more_than_a_query_may_return(library: Library) -> None:
    # The limit on rows is for what users get to see; here they get media.
    assert len(media_where(library.catalog, "true", SqlLimits(max_rows=1))) == 3


# ---------------------------------------------------------------------- filters


@pytest.fixture
def home(tmp_path: Path) -> IdentityHome:
    return identity_home(tmp_path)


def fill(home: IdentityHome, rows: Sequence[dict[str, Any]]) -> None:
    home.tables.ensure("media", MEDIA)
    full = [{"media_id": media_id(row["name"]), "partition_key": row["name"]} | row for row in rows]
    home.tables.replace("media", pa.Table.from_pylist(full, schema=MEDIA), [row["media_id"] for row in full])


def passing(home: IdentityHome, wanted: Filter) -> list[str]:
    """Names, in the order in which they come out."""
    within = media_within(wanted, home.tables, home.layout, home.catalog(), LIMITS)
    assert set(within.newest) == within.media_ids
    names = {row["media_id"]: row["name"] for row in home.tables.read("media").to_pylist()}
    return [names[one] for one in within.newest]


def test_kind_and_time(home: IdentityHome) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    fill(
        home,
        [
            {"name": "old", "kind": "image", "captured_at": day - timedelta(days=900), "added_at": day},
            {"name": "new", "kind": "video", "captured_at": None, "added_at": day},
            {"name": "newest", "kind": "audio", "captured_at": day + timedelta(hours=5), "added_at": day},
        ],
    )
    assert passing(home, Filter()) == ["newest", "new", "old"]
    assert passing(home, Filter(kinds=("image", "audio"))) == ["newest", "old"]
    assert passing(home, Filter(since=day)) == ["newest", "new"]  # the camera's time counts, not the intake's
    assert passing(home, Filter(since=day, until=day + timedelta(hours=5))) == ["new"]
    assert passing(home, Filter(until=day)) == ["old"]
    assert passing(home, Filter(where="kind = 'video'", kinds=("image",))) == []
    assert passing(home, Filter(where="kind <> 'video'", since=day)) == ["newest"]


def test_who_is_in_it(home: IdentityHome) -> None:
    home.show_all({"both": [Face("Anna"), Face("Ben", 1, x=300)], "one": [Face("Anna")], "other": [Face("Ben")]})
    home.update("both", "one", "other")
    home.speak("talk", ("S1", "Anna", 0, 5))
    home.update("talk", kind=VOICES)
    anna = home.of("one")
    with closing(home.identities()) as identities:
        identities.name(anna, "Anna")
    assert sorted(passing(home, Filter(persons=("anna",)))) == ["both.jpg", "one.jpg"]
    assert passing(home, Filter(persons=("anna", home.of("other")))) == ["both.jpg"]
    assert passing(home, Filter(voices=(home.of("talk", "S1", VOICES),))) == ["talk.jpg"]
    assert passing(home, Filter(persons=("anna",), voices=(home.of("talk", "S1", VOICES),))) == []
    with pytest.raises(UsageError, match="there is no person 'Carla'"):
        passing(home, Filter(persons=("Carla",)))


def test_an_empty_home_lets_nothing_through(home: IdentityHome) -> None:
    wanted = Filter(kinds=("video",))
    assert media_within(wanted, home.tables, home.layout, None, LIMITS) == Within(frozenset(), ())


def test_a_filter_is_a_filter_only_when_it_says_something() -> None:
    assert not Filter()
    assert Filter(where="")  # refused later, not overlooked
    assert Filter(kinds=("image",))


def test_paths_are_not_read(library: Library, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("media_id\na\n")
    with pytest.raises(QueryRejected):
        media_where(library.catalog, f"media_id IN (SELECT media_id FROM '{os.fspath(secret)}')", LIMITS)


def test_vectors_are_no_condition(library: Library) -> None:
    assert np.array_equal(media_where(library.catalog, "[1.0, 2.0][1] = 1.0", LIMITS), ["a", "b", "c"])
