"""Views over several tables, where these are empty, missing, or full."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from media_pipeline.config import SqlLimits
from media_pipeline.results.identities import identity_table
from media_pipeline.storage.catalog import Catalog
from media_pipeline.storage.query import run_query
from media_pipeline_tests._identity_home import ADDED, TABLES, VOICES, Face, IdentityHome, identity_home, media_id

pytestmark = pytest.mark.slow  # seconds in all; the unit suite stays under a minute

CONTRACT = {
    "faces": "media_id, frame_index, pts_s, face_index, score, x1, y1, x2, y2, embedding, person_id",
    "speakers": "media_id, turn_index, start_s, end_s, speaker, voice_id, embedding",
    "transcript": "media_id, segment_index, start_s, end_s, text, speaker",
    "persons": "person_id, name, members, media, first_seen, last_seen",
    "voices": "voice_id, name, members, media, first_seen, last_seen",
}


@pytest.fixture
def home(tmp_path: Path) -> IdentityHome:
    return identity_home(tmp_path / "home")


def say(home: IdentityHome, name: str, *segments: tuple[float, float, str | None, int | None]) -> None:
    """A transcript: (start_s, end_s, speaker, channel) each."""
    rows = [
        {
            "media_id": media_id(name),
            "segment_index": number,
            "start_s": start,
            "end_s": end,
            "speaker": who,
            "channel": channel,
        }
        for number, (start, end, who, channel) in enumerate(segments)
    ]
    home.put("transcript", [name], rows)


def speakers_of(home: IdentityHome, name: str) -> list[str | None]:
    sql = f"SELECT speaker FROM transcript WHERE media_id = '{media_id(name)}' ORDER BY segment_index"
    return [speaker for (speaker,) in home.ask(sql)]


@pytest.mark.parametrize("view", CONTRACT)
@pytest.mark.parametrize("made", [False, True])
def test_views_of_empty_and_missing_tables(home: IdentityHome, view: str, made: bool) -> None:
    if made:
        for name, schema in TABLES.items():
            home.tables.ensure(name, schema)
    assert home.ask(f"SELECT {CONTRACT[view]} FROM {view}") == []
    types = [str(kind) for _, kind, *_ in home.ask(f"DESCRIBE SELECT {CONTRACT[view]} FROM {view}")]
    home.show("a", Face("a"))
    home.speak("r", ("S1", "a", 0, 9))
    say(home, "r", (0, 9, None, None))
    home.update("a")
    home.update("r", kind=VOICES)
    assert len(home.ask(f"SELECT {CONTRACT[view]} FROM {view}")) == 1
    assert [str(kind) for _, kind, *_ in home.ask(f"DESCRIBE SELECT {CONTRACT[view]} FROM {view}")] == types


def test_faces_say_who_they_are(home: IdentityHome) -> None:
    home.show("a", Face("a", 0), Face("b", 1, x=300))
    assert home.ask("SELECT person_id FROM faces") == [(None,), (None,)]
    home.update("a")
    assert home.ask("SELECT person_id FROM faces ORDER BY face_index") == [(home.of("a", 0),), (home.of("a", 1),)]


def test_persons_count_tracks_and_media_and_know_first_and_last(home: IdentityHome) -> None:
    home.show("one", Face("a", 0, frames=(0,)), Face("a", 1, frames=(9,)))
    home.show("two", Face("a"))
    home.put("media", ["one"], [{"media_id": media_id("one"), "captured_at": datetime(2001, 2, 3), "added_at": ADDED}])
    home.put("media", ["two"], [{"media_id": media_id("two"), "added_at": ADDED}])
    home.update("one", "two")
    assert home.ask("SELECT name, members, media, first_seen::DATE::VARCHAR, last_seen FROM persons") == [
        (None, 3, 2, "2001-02-03", ADDED)
    ]
    home.identities().name(home.of("one"), "Ada")
    assert home.ask("SELECT name FROM persons") == [("Ada",)]


def test_the_transcript_names_who_speaks_longest(home: IdentityHome) -> None:
    home.speak("call", ("S1", "a", 0, 10), ("S2", "b", 10, 20), ("S1", "a", 20, 22))
    say(home, "call", (0, 9, None, None), (8, 13, None, None), (19.5, 22, None, None), (30, 31, None, None))
    assert speakers_of(home, "call") == ["S1", "S2", "S1", None]
    home.update("call", kind=VOICES)
    assert speakers_of(home, "call") == ["S1", "S2", "S1", None]  # nobody has a name
    home.identities(VOICES).name(home.of("call", "S2", VOICES), "Bea")
    assert speakers_of(home, "call") == ["S1", "Bea", "S1", None]


def test_a_speaker_of_the_transcript_itself_gives_way_to_a_name_only(home: IdentityHome) -> None:
    home.speak("call", ("S1", "a", 0, 10), ("S2", "b", 10, 20))
    say(home, "call", (0, 9, "caller", None), (10, 20, "agent", None))
    home.update("call", kind=VOICES)
    home.identities(VOICES).name(home.of("call", "S2", VOICES), "Bea")
    assert speakers_of(home, "call") == ["caller", "Bea"]


def test_each_channel_has_its_own_speaker(home: IdentityHome) -> None:
    rows = [("S1", 0, 0.0, 30.0), ("S2", 1, 0.0, 30.0)]
    home.put(
        "speakers",
        ["call"],
        [
            {"media_id": media_id("call"), "turn_index": n, "speaker": s, "channel": c, "start_s": a, "end_s": b}
            for n, (s, c, a, b) in enumerate(rows)
        ],
    )
    say(home, "call", (0, 9, None, 0), (0, 9, None, 1), (5, 6, None, 1))
    assert speakers_of(home, "call") == ["S1", "S2", "S2"]


def test_other_recordings_do_not_speak(home: IdentityHome) -> None:
    home.speak("other", ("S9", "a", 0, 100))
    say(home, "call", (0, 9, None, None))
    assert speakers_of(home, "call") == [None]


@pytest.mark.parametrize("missing", ["speakers", "speaker_voices", "faces", "face_persons"])
def test_without_a_table_its_views_show_what_there_is(home: IdentityHome, missing: str) -> None:
    home.show("a", Face("a"))
    say(home, "a", (0, 9, "me", None))
    catalog = home.catalog([name for name in TABLES if name != missing])
    with catalog.connect() as connection:
        assert connection.execute("SELECT speaker FROM transcript").fetchall() == [("me",)]
        shown = {
            name for (name,) in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        }
    assert missing not in catalog.names and missing not in shown
    assert ("persons" in catalog.names) == (missing != "face_persons")
    assert ("voices" in catalog.names) == (missing != "speaker_voices")
    assert set(catalog.names) <= shown


def test_a_stranger_may_ask_them(home: IdentityHome) -> None:
    home.show("a", Face("a"))
    home.speak("a", ("S1", "a", 0, 9))
    say(home, "a", (0, 9, None, None))
    home.update("a")
    home.update("a", kind=VOICES)
    home.identities().name(home.of("a"), "Ada")
    sql = """
        SELECT DISTINCT persons.name, transcript.speaker
        FROM faces JOIN persons USING (person_id) JOIN transcript USING (media_id)
        WHERE faces.pts_s BETWEEN transcript.start_s AND transcript.end_s
    """
    assert run_query(home.catalog(), sql, SqlLimits()).to_pylist() == [{"name": "Ada", "speaker": "S1"}]


def test_the_published_warehouse_has_them(home: IdentityHome) -> None:
    home.show("a", Face("a"))
    home.update("a")
    home.identities().name(home.of("a"), "Ada")
    home.catalog().publish()
    with duckdb.connect(home.layout.warehouse, read_only=True) as connection:
        assert connection.execute("SELECT name, members FROM persons").fetchall() == [("Ada", 1)]
        assert connection.execute("SELECT person_id FROM faces").fetchall() == [(home.of("a"),)]
        assert connection.execute("SELECT * FROM voices").fetchall() == []


def test_names_come_from_the_decisions(home: IdentityHome) -> None:
    catalog = Catalog(home.layout, home.tables, {}, {"identities": lambda: identity_table(home.layout)})
    with catalog.connect() as connection:
        assert connection.execute("FROM identities").fetchall() == []


def test_the_join_with_turns_stays_within_a_recording(home: IdentityHome) -> None:
    """Its cost must grow with the recordings, not with their square."""
    plan = "\n".join(row[1] for row in home.ask("EXPLAIN SELECT speaker FROM transcript"))
    assert "NESTED_LOOP" not in plan and "CROSS_PRODUCT" not in plan and "IE_JOIN" not in plan
    names = [f"r{n}" for n in range(300)]
    turns = [("S1", 0.0, 5.0), ("S2", 5.0, 9.0)] * 20
    home.put(
        "speakers",
        names,
        [
            {"media_id": media_id(name), "turn_index": n, "speaker": s, "start_s": 10 * n + a, "end_s": 10 * n + b}
            for name in names
            for n, (s, a, b) in enumerate(turns)
        ],
    )
    home.put(
        "transcript",
        names,
        [
            {"media_id": media_id(name), "segment_index": n, "start_s": 10.0 * n, "end_s": 10.0 * n + 9, "text": "x"}
            for name in names
            for n in range(40)
        ],
    )
    assert home.ask("SELECT speaker, count(*) FROM transcript GROUP BY 1 ORDER BY 1") == [("S1", 6000), ("S2", 6000)]
