"""Ten questions as people ask them, over the public views."""

from __future__ import annotations

from benchmarks._scale_data import media_id

MEDIUM = media_id(3)  # an image comes first, this one is among the first hundred
VIDEO = media_id(6)

QUESTIONS = {
    "text on screen": "SELECT media_id, pts_s, text FROM ocr WHERE text ILIKE '%rechnungsnummer%' LIMIT 50",
    "a person's media": """
        SELECT media.name, count(*) AS sightings, min(pts_s) AS first_s
        FROM faces JOIN media USING (media_id) WHERE person_id = 'person-00042'
        GROUP BY media.name ORDER BY sightings DESC LIMIT 50""",
    "a label over time": """
        SELECT date_trunc('month', added_at) AS month, count(DISTINCT media_id) AS media
        FROM labels JOIN media USING (media_id) WHERE label = 'dog' AND labels.score > 0.9
        GROUP BY month ORDER BY month""",
    "moderation": "SELECT verdict, count(*) AS media FROM moderation GROUP BY verdict",
    "who is there when it is said": f"""
        SELECT segment_index, text, list(DISTINCT person_id) AS persons
        FROM transcript JOIN faces USING (media_id)
        WHERE media_id = '{VIDEO}' AND pts_s BETWEEN start_s AND end_s GROUP BY ALL ORDER BY segment_index""",
    "media per day": "SELECT added_at::DATE AS day, kind, count(*) AS media FROM media GROUP BY ALL ORDER BY day DESC",
    "near-duplicates": """
        SELECT name, duplicate_of FROM media WHERE duplicate_of IS NOT NULL ORDER BY added_at DESC LIMIT 50""",
    "what failed": """
        SELECT analyzer, status, reason, count(*) AS media FROM analyses WHERE status <> 'done' GROUP BY ALL""",
    "what it cost": """
        SELECT analyzer, count(*) AS media, sum(seconds) / 60 AS minutes
        FROM analyses GROUP BY analyzer ORDER BY minutes DESC""",
    "everything of one medium": f"""
        SELECT (SELECT count(*) FROM ocr WHERE media_id = '{VIDEO}') AS lines,
            (SELECT string_agg(text, ' ' ORDER BY segment_index) FROM transcript WHERE media_id = '{VIDEO}') AS said,
            (SELECT list(DISTINCT label) FROM labels WHERE media_id = '{VIDEO}' AND score > 0.5) AS labels,
            (SELECT count(*) FROM faces WHERE media_id = '{VIDEO}') AS faces,
            (SELECT list(analyzer) FROM analyses WHERE media_id = '{VIDEO}' AND status = 'done') AS done""",
}
