"""SQL of the file of sources: its tables, and the statements that are too long for the methods they belong to."""

from __future__ import annotations

DDL = """
CREATE TABLE IF NOT EXISTS media (
    seq INTEGER PRIMARY KEY,
    media_id TEXT NOT NULL UNIQUE,
    partition_key TEXT NOT NULL UNIQUE,
    name BLOB NOT NULL,
    path BLOB NOT NULL,
    stored BLOB NOT NULL,          -- below the folder of this file: relative, so that a home can be moved
    linked_mtime_ns INTEGER,       -- null: a copy of ours
    bytes INTEGER NOT NULL,
    added_at INTEGER NOT NULL,     -- microseconds since 1970, as all times here
    announced INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS media_unannounced ON media (added_at, seq) WHERE announced = 0;
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY,
    stamp TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('taken', 'waiting', 'refused')),
    media_id TEXT REFERENCES media (media_id) ON DELETE CASCADE,
    reason TEXT,
    first_seen INTEGER NOT NULL,
    since INTEGER NOT NULL,        -- when this stamp was seen first
    last_seen INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_media ON files (media_id);
CREATE INDEX IF NOT EXISTS files_open ON files (last_seen) WHERE state <> 'taken';
CREATE TABLE IF NOT EXISTS names (
    media_id TEXT NOT NULL REFERENCES media (media_id) ON DELETE CASCADE,
    name BLOB NOT NULL,
    UNIQUE (media_id, name)
);
CREATE TABLE IF NOT EXISTS removed_originals (
    media_id TEXT PRIMARY KEY REFERENCES media (media_id) ON DELETE CASCADE,
    removed_at INTEGER NOT NULL,
    restored_at INTEGER            -- it was taken in again: from then on its term counts anew
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leaving (media_id TEXT PRIMARY KEY REFERENCES media (media_id) ON DELETE CASCADE);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""

MEDIUM = """
media_id, partition_key, name, path, stored, linked_mtime_ns, bytes, added_at, announced, attempts,
(SELECT removed_at FROM removed_originals AS r WHERE r.media_id = media.media_id AND r.restored_at IS NULL)
FROM media
"""
# Settled: its run came to an end, so that nobody has it in hand.
AGES = """
SELECT
    media_id, partition_key, name, bytes, added_at, coalesce(r.restored_at, added_at),
    linked_mtime_ns IS NOT NULL, r.media_id IS NOT NULL AND r.restored_at IS NULL, announced = 1 AND attempts = 0
FROM media LEFT JOIN removed_originals AS r USING (media_id) ORDER BY seq
"""
UPSERT_FILE = """
INSERT INTO files (path, stamp, bytes, modified_at, state, media_id, reason, first_seen, since, last_seen)
VALUES (:path, :stamp, :bytes, :modified_at, :state, :media_id, :reason, :now, :now, :now)
ON CONFLICT (path) DO UPDATE SET
    since = CASE WHEN stamp = excluded.stamp AND since <= excluded.since THEN since ELSE excluded.since END,
    stamp = excluded.stamp, bytes = excluded.bytes, modified_at = excluded.modified_at, state = excluded.state,
    media_id = excluded.media_id, reason = excluded.reason, last_seen = excluded.last_seen
"""
