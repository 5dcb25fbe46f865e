"""What the demo asks, in SQL: each of these is a question a newcomer can change and ask again."""

READ = """SELECT m.name AS file, string_agg(o.text, ' / ' ORDER BY o.line_index) AS text
FROM ocr o JOIN media m USING (media_id) WHERE m.kind = 'image' GROUP BY file ORDER BY file"""

SUMMARY = """SELECT m.name AS file, s.text AS key_sentence
FROM summary s JOIN media m USING (media_id) ORDER BY file, s.row_index"""

TWINS = """SELECT m.name AS file, o.name AS nearly_the_same_as
FROM media m JOIN media o ON m.duplicate_of = o.media_id ORDER BY file"""

LOGOS = """SELECT m.name AS file, CASE m.kind WHEN 'video' THEN l.pts_s END AS at_s, l.logo, l.score
FROM logos l JOIN media m USING (media_id) ORDER BY file, l.pts_s"""

SCENES = """SELECT s.scene_index AS scene, s.start_s, s.end_s, t.kind, replace(t.text, chr(10), ', ') AS title
FROM scenes s JOIN media m USING (media_id)
LEFT JOIN titles t ON t.media_id = s.media_id AND t.start_s >= s.start_s AND t.start_s < s.end_s
WHERE m.kind = 'video' ORDER BY scene"""

# The face and the voice met while a lower third stands on the screen are those of the one it names.
CAPTIONED = """SELECT DISTINCT split_part(t.text, chr(10), 1) AS caption, f.person_id, s.voice_id
FROM titles t JOIN faces f USING (media_id) JOIN speakers s USING (media_id)
WHERE t.kind = 'lower_third' AND f.pts_s >= t.start_s AND f.pts_s < t.end_s
AND f.pts_s >= s.start_s AND f.pts_s < s.end_s"""

WHO = """SELECT
    coalesce(p.name, person_id) AS who, 'seen' AS how, string_agg(DISTINCT m.name, ', ' ORDER BY m.name) AS "where"
FROM persons p JOIN faces USING (person_id) JOIN media m USING (media_id) GROUP BY ALL
UNION ALL
SELECT coalesce(v.name, voice_id), 'heard', string_agg(DISTINCT m.name, ', ' ORDER BY m.name)
FROM voices v JOIN speakers USING (voice_id) JOIN media m USING (media_id) GROUP BY ALL
ORDER BY who LIKE '_-%', who, how DESC"""

SAID = """SELECT m.name AS file, t.start_s, t.speaker, t.text
FROM transcript t JOIN media m USING (media_id) ORDER BY file, t.start_s"""

# Words, the shots they fall into, and who is seen in these shots.
SEEN_WHILE_SAID = """WITH spoken AS (SELECT media_id, speaker, unnest(words) AS said FROM transcript)
SELECT DISTINCT
    m.name AS file, said.word, said.start_s AS from_s, said.end_s AS to_s, w.speaker AS said_by, p.name AS on_screen
FROM spoken w JOIN media m USING (media_id)
JOIN scenes s ON s.media_id = w.media_id AND said.start_s >= s.start_s AND said.start_s < s.end_s
JOIN faces f ON f.media_id = w.media_id AND f.pts_s >= s.start_s AND f.pts_s < s.end_s
JOIN persons p USING (person_id)
WHERE p.name = 'Anna Berg' AND said.word = 'concert'"""
