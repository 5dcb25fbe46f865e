"""The views that put several tables together. Every other table is shown as it is.

Tables stand in the schema `library`, under their own names; views are what users see. A view is made only where the
tables and columns it reads are known: a home whose analyzers have no `speakers` shows the transcript as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

# `duplicate_of`: the earliest-added near-duplicate that is older than the medium itself; null where none is.
_MEDIA = """
    WITH pairs AS (
        SELECT media_id, other_id FROM library.duplicate_pairs
        UNION ALL SELECT other_id, media_id FROM library.duplicate_pairs
    ), found AS (
        SELECT own.media_id, arg_min(other.media_id, (other.added_at, other.media_id)) AS duplicate_of
        FROM pairs
        JOIN library.media AS own ON own.media_id = pairs.media_id
        JOIN library.media AS other ON other.media_id = pairs.other_id
        WHERE (other.added_at, other.media_id) < (own.added_at, own.media_id)
        GROUP BY own.media_id
    )
    SELECT media.*, found.duplicate_of FROM library.media AS media LEFT JOIN found USING (media_id)
"""

_FACES = """
    SELECT faces.*, identified.person_id
    FROM library.faces AS faces
    LEFT JOIN library.face_persons AS identified USING (media_id, track_index)
"""

_SPEAKERS = """
    SELECT speakers.*, identified.voice_id
    FROM library.speakers AS speakers
    LEFT JOIN library.speaker_voices AS identified USING (media_id, speaker)
"""

# `speaker`: the name of the voice heard longest during the segment; without a name what the transcript itself says,
# else the recording's label. The join is by medium, so that its cost grows with recordings, not with their square.
_TRANSCRIPT = """
    WITH heard AS (
        SELECT
            segments.media_id, segments.segment_index, turns.speaker,
            sum(least(segments.end_s, turns.end_s) - greatest(segments.start_s, turns.start_s)) AS seconds
        FROM library.transcript AS segments
        JOIN library.speakers AS turns
            ON turns.media_id = segments.media_id
            AND turns.start_s < segments.end_s AND turns.end_s > segments.start_s
            AND (turns.channel IS NULL OR segments.channel IS NULL OR turns.channel = segments.channel)
        GROUP BY ALL
    ), longest AS (
        SELECT media_id, segment_index, arg_max(speaker, (seconds, speaker)) AS speaker
        FROM heard GROUP BY ALL
    ), called AS (
        SELECT longest.*, voices.name
        FROM longest
        LEFT JOIN library.speaker_voices AS identified USING (media_id, speaker)
        LEFT JOIN library.identities AS voices
            ON voices.kind = 'voice' AND voices.identity_id = identified.voice_id
    )
    SELECT segments.* REPLACE (coalesce(called.name, segments.speaker, called.speaker) AS speaker)
    FROM library.transcript AS segments
    LEFT JOIN called USING (media_id, segment_index)
"""


def _identities(kind: str, table: str, column: str) -> str:
    """One row per person or voice, those included that were enrolled and not met yet."""
    return f"""
        WITH met AS (
            SELECT
                identified.{column}, count(*) AS members, count(DISTINCT identified.media_id) AS media,
                min(coalesce(media.captured_at, media.added_at)) AS first_seen,
                max(coalesce(media.captured_at, media.added_at)) AS last_seen
            FROM library.{table} AS identified LEFT JOIN library.media AS media USING (media_id)
            WHERE identified.{column} IS NOT NULL
            GROUP BY identified.{column}
        ), said AS (
            SELECT identity_id AS {column}, name, samples FROM library.identities WHERE kind = '{kind}'
        )
        SELECT
            {column}, said.name, coalesce(met.members, 0) AS members, coalesce(met.media, 0) AS media,
            met.first_seen, met.last_seen, coalesce(said.samples, 0) AS samples
        FROM met FULL JOIN said USING ({column})
    """  # noqa: S608 - all constants of this module


@dataclass(frozen=True, slots=True)
class View:
    """A view over tables of the schema `library`.

    Attributes:
        needs: tables it reads, and those of their columns that some may lack
    """

    name: str
    select: str
    needs: Mapping[str, frozenset[str]]

    def possible(self, tables: Mapping[str, Collection[str]]) -> bool:
        """Whether there is all it reads. `tables`: name -> columns."""
        return all(name in tables and columns <= set(tables[name]) for name, columns in self.needs.items())


def _view(name: str, select: str, **needs: str) -> View:
    return View(name, select, {table: frozenset(columns.split()) for table, columns in needs.items()})


# The worst frame of each medium by label.
_NSFW_MEDIA = """
    SELECT
        media_id, label, source, any_value(explicit) AS explicit, max(score) AS score,
        arg_max(frame_index, score) AS frame_index, arg_max(pts_s, score) AS pts_s,
        count(DISTINCT frame_index) AS frames
    FROM library.nsfw GROUP BY media_id, label, source
"""

# What rules say of each medium, and above it what people decided: of approvals and blocks that were not undone the
# newest counts. A medium on which somebody decided has a row, whatever became of what rules said.
_MODERATION = """
    WITH undone AS (
        SELECT undoes AS decision_id FROM library.moderation_decisions WHERE undoes IS NOT NULL
    ), standing AS (
        SELECT media_id, max_by(decisions, decision_id) AS newest
        FROM library.moderation_decisions AS decisions ANTI JOIN undone USING (decision_id)
        WHERE action IN ('approve', 'block') GROUP BY media_id
    ), decided AS (
        SELECT
            media_id, if(newest.action = 'approve', 'allow', 'block') AS verdict, newest.decided_by AS decided_by,
            newest.decided_at AS decided_at, newest.reason AS reason
        FROM standing
    )
    SELECT
        media_id, coalesce(decided.verdict, rules.verdict) AS verdict, rules.reasons, rules.rules_version,
        coalesce(decided.decided_by, 'rules') AS decided_by, coalesce(decided.decided_at, rules."at") AS decided_at,
        rules.verdict AS rule_verdict, rules.unchecked, decided.reason AS decision_reason
    FROM library.moderation AS rules FULL JOIN decided USING (media_id)
"""

VIEWS = (
    _view("media", _MEDIA, media="added_at", duplicate_pairs="other_id"),
    _view("faces", _FACES, faces="track_index", face_persons="person_id"),
    _view("speakers", _SPEAKERS, speakers="speaker", speaker_voices="voice_id"),
    _view(
        "transcript",
        _TRANSCRIPT,
        transcript="segment_index start_s end_s speaker channel",
        speakers="speaker start_s end_s channel",
        speaker_voices="voice_id",
        identities="",
    ),
    _view(
        "persons",
        _identities("person", "face_persons", "person_id"),
        face_persons="person_id",
        media="captured_at added_at",
        identities="",
    ),
    _view(
        "voices",
        _identities("voice", "speaker_voices", "voice_id"),
        speaker_voices="voice_id",
        media="captured_at added_at",
        identities="",
    ),
    _view("nsfw_media", _NSFW_MEDIA, nsfw="label score explicit"),
    _view("moderation", _MODERATION, moderation="unchecked", moderation_decisions=""),
)

# Tables whose rows of other media are needed to tell what one medium is: a duplicate of which other.
SHARED = frozenset({"media", "duplicate_pairs"})


def views_of_media() -> tuple[View, ...]:
    """The views as they are when only some media are looked at: without what counts over all, and without verdicts."""
    known = "SELECT identity_id AS {}, name, samples FROM library.identities WHERE kind = '{}'"
    plain = {
        "persons": _view("persons", known.format("person_id", "person"), identities=""),
        "voices": _view("voices", known.format("voice_id", "voice"), identities=""),
    }
    return tuple(plain.get(view.name, view) for view in VIEWS if view.name != "moderation")
